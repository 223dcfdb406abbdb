"""Create the JetStream stream and bucket that the actors expect. The actors themselves may not."""

from pathlib import Path

from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from mcpctl.bus.connection import connect_nats
from mcpctl.bus.contracts import audit
from mcpctl.bus.identity import believing
from mcpctl.bus.nats_config import PROVISIONER
from mcpctl.bus.permissions import OWNERS_BUCKET, SESSIONS_BUCKET

SESSION_IDLE_SECONDS = 24 * 3600
AUDIT_BYTES = 4 * 1024**3
DUPLICATE_WINDOW_SECONDS = 120


async def provision(url: str, keys: Path, *, replicas: int = 1, ca: Path | None = None) -> None:
    """Create what is missing; what is there stays as it is. Raises `Unavailable` without a server."""
    client = await connect_nats(
        url,
        on_closed=lambda: None,
        nkeys_seed=str(keys / f"{PROVISIONER}.nk"),
        inbox_prefix=f"_INBOX.{PROVISIONER}".encode(),
        **believing(ca),
    )
    try:
        jetstream = client.jetstream()
        try:
            await jetstream.stream_info(audit.STREAM)
        except NotFoundError:
            await jetstream.add_stream(
                StreamConfig(
                    name=audit.STREAM,
                    subjects=[f"{audit.APPEND}.*"],
                    retention=RetentionPolicy.WORK_QUEUE,  # what the ledger has is let go
                    discard=DiscardPolicy.NEW,  # what it has not is never let go: a full stream refuses instead
                    max_bytes=AUDIT_BYTES,
                    duplicate_window=DUPLICATE_WINDOW_SECONDS,
                    num_replicas=replicas,
                    deny_delete=True,
                )
            )
        try:
            await jetstream.stream_info(f"KV_{SESSIONS_BUCKET}")
        except NotFoundError:
            await jetstream.create_key_value(
                KeyValueConfig(bucket=SESSIONS_BUCKET, ttl=SESSION_IDLE_SECONDS, replicas=replicas)
            )
        try:
            await jetstream.stream_info(f"KV_{OWNERS_BUCKET}")
        except NotFoundError:
            # A bucket like any other, but for messages that last as long as they say: a lease, or a claim.
            await jetstream.add_stream(
                StreamConfig(
                    name=f"KV_{OWNERS_BUCKET}",
                    subjects=[f"$KV.{OWNERS_BUCKET}.>"],
                    storage=StorageType.FILE,  # kept over a restart of the server: routers go on in the meantime
                    max_msgs_per_subject=1,
                    discard=DiscardPolicy.NEW,
                    allow_msg_ttl=True,
                    allow_rollup_hdrs=True,
                    deny_delete=True,
                    num_replicas=replicas,
                )
            )
    finally:
        await client.close()
