"""Create the JetStream stream and buckets that the actors expect. The actors themselves may not."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, KeyValueConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NotFoundError, ServiceUnavailableError

from mcpctl.bus.connection import connect_nats
from mcpctl.bus.contracts import audit
from mcpctl.bus.errors import Unavailable
from mcpctl.bus.identity import believing
from mcpctl.bus.nats_config import PROVISIONER
from mcpctl.bus.permissions import OWNERS_BUCKET, SESSIONS_BUCKET

SESSION_IDLE_SECONDS = 24 * 3600
AUDIT_BYTES = 4 * 1024**3
DUPLICATE_WINDOW_SECONDS = 120

PATIENCE = 45.0
"""Seconds for a cluster to choose its leaders (each up to nine) and for new copies to be current."""

AGAIN = 0.2

NO_PEERS = 10005
"""JetStream's error code: fewer servers than copies, which may be on their way."""

Make = Callable[[JetStreamContext, int], Awaitable[object]]


async def provision(url: str, keys: Path, *, replicas: int = 1, ca: Path | None = None) -> list[str]:
    """Create what is missing, and bring what has fewer copies to `replicas`; else what is there stays as it is.

    Returns what each stream has now, one line each, once all copies are current. Raises `Unavailable` without a server,
    or where that takes too long.
    """
    client = await connect_nats(
        url,
        on_closed=lambda: None,
        nkeys_seed=str(keys / f"{PROVISIONER}.nk"),
        inbox_prefix=f"_INBOX.{PROVISIONER}".encode(),
        **believing(ca),
    )
    try:
        return [await _provide(client, stream, make, replicas) for stream, make in STREAMS.items()]
    finally:
        await client.close()


async def _provide(client: Client, stream: str, make: Make, replicas: int) -> str:
    give_up = asyncio.get_running_loop().time() + PATIENCE
    done, wrong = "there already", "no answer"
    while asyncio.get_running_loop().time() < give_up:
        try:
            found = await _found(client, stream)
            if found is None:
                await make(client.jetstream(timeout=PATIENCE), replicas)
                done = "created"
                continue
            had = found["config"].get("num_replicas", 1)
            if had < replicas:
                await _ask(client, f"STREAM.UPDATE.{stream}", found["config"] | {"num_replicas": replicas})
                done = f"raised from {had}"
                continue
            current = _current(found)
            if current >= had:
                return f"{stream}: {_copies(had)}, {done}"
            wrong = f"{current} of {_copies(had)} current"
        except (NatsTimeoutError, ServiceUnavailableError, NoRespondersError) as error:
            wrong = str(error)
        except APIError as error:
            wrong = error.description or str(error)
            if error.err_code != NO_PEERS:
                raise Unavailable(f"the stream {stream} cannot be made: {wrong}") from error
        await asyncio.sleep(AGAIN)
    raise Unavailable(f"the stream {stream} is not there after {PATIENCE:.0f} s ({wrong}): are all servers up?")


async def _found(client: Client, stream: str) -> dict[str, Any] | None:
    try:
        return await _ask(client, f"STREAM.INFO.{stream}", {})
    except NotFoundError:
        return None


def _current(found: dict[str, Any]) -> int:
    """Return how many copies are whole: the leader's, and those that follow it. A server alone has no cluster."""
    cluster = found.get("cluster")
    if cluster is None or (not cluster.get("replicas") and "raft_group" not in cluster):
        return 1
    following = sum(1 for each in cluster.get("replicas") or () if each.get("current") and not each.get("offline"))
    return following + bool(cluster.get("leader"))


def _copies(count: int) -> str:
    return "1 copy" if count == 1 else f"{count} copies"


async def _ask(client: Client, verb: str, request: dict[str, Any]) -> dict[str, Any]:
    reply = await client.request(f"$JS.API.{verb}", json.dumps(request).encode(), timeout=2)
    answer: dict[str, Any] = json.loads(reply.data)
    if "error" in answer:
        APIError.from_error(answer["error"])
    return answer


async def _make_audit(jetstream: JetStreamContext, replicas: int) -> None:
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


async def _make_sessions(jetstream: JetStreamContext, replicas: int) -> None:
    await jetstream.create_key_value(
        KeyValueConfig(bucket=SESSIONS_BUCKET, ttl=SESSION_IDLE_SECONDS, replicas=replicas)
    )


async def _make_owners(jetstream: JetStreamContext, replicas: int) -> None:
    """Make a bucket like any other, but for messages that last as long as they say: a lease, or a claim."""
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


STREAMS: dict[str, Make] = {
    audit.STREAM: _make_audit,
    f"KV_{SESSIONS_BUCKET}": _make_sessions,
    f"KV_{OWNERS_BUCKET}": _make_owners,
}
