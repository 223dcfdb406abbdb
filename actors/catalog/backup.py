"""The Catalog's rows as a backup, and back: secrets sealed as they are, or left out."""

from sqlmodel import Session, select

from mcpctl.actors import dumps
from mcpctl.actors.catalog import pins, projects, prompts, sealed_secrets, servers
from mcpctl.actors.catalog.rows import TABLES, PinRow, ProjectRow, PromptRow, SecretRow, ServerRow
from mcpctl.actors.catalog.sealing import Keyring
from mcpctl.actors.changes import ChangeFeed, Changing
from mcpctl.actors.dumps import Row
from mcpctl.actors.storage import Store
from mcpctl.bus.actor import Caller, handles
from mcpctl.bus.contract import Backup, Done, Dump, Restore
from mcpctl.bus.contracts import catalog
from mcpctl.bus.errors import BadRequest, Conflict, Unavailable

SECRET_TABLES = frozenset({"secrets", "server_secrets"})


class Backups:
    """Hands all projects, servers, prompts and secrets out, and takes them back."""

    def __init__(self, store: Store, feed: ChangeFeed, keyring: Keyring) -> None:
        self._store, self._feed, self._keyring = store, feed, keyring

    @handles(catalog.backup)
    async def backup(self, request: Backup, _caller: Caller) -> Dump:
        left_out = frozenset() if request.secrets else SECRET_TABLES
        return await dumps.dump(self._store, TABLES, keep=lambda table, _: table not in left_out)

    @handles(catalog.restore)
    async def restore(self, request: Restore, _caller: Caller) -> Done:
        rows = dumps.read(self._store, request.dump, TABLES)
        self._demand_keys(rows["secrets"])

        def work(changing: Changing) -> None:
            _keep_frozen(changing.session, rows["projects"])
            dumps.restore(changing, TABLES, rows)
            _demand_sound(changing.session, self._keyring)

        await self._feed.write(work)
        return Done()

    def _demand_keys(self, secrets: list[Row]) -> None:
        """Raise `Conflict` where secrets are sealed with a key that is not here."""
        missing = sorted({row["key_id"] for row in secrets if row["key_id"] not in self._keyring})
        if missing:
            raise Conflict(
                f"the backup's secrets are sealed with key {missing[0]}, which the keyring here does not hold: "
                "bring that keyring back, or restore a backup without secrets"
            )


def _keep_frozen(session: Session, restored: list[Row]) -> None:
    """Let a project that is frozen now be so afterwards: a backup does not end an incident."""
    frozen = dict(session.exec(select(ProjectRow.name, ProjectRow.frozen_ms)).all())
    for row in restored:
        row["frozen_ms"] = row["frozen_ms"] or frozen.get(row["name"])


def _demand_sound(session: Session, keyring: Keyring) -> None:
    """Read all that was restored as it will be read later. Raises `BadRequest`, which takes the restore back."""
    what = ""
    try:
        for name in session.exec(select(ServerRow.name)).all():
            what = f"server {name}"
            spec = servers.get(session, name).spec
            if spec.name != name:
                raise BadRequest(f"the backup has {what} with the specification of {spec.name}")
            servers.references(spec)
        for name in session.exec(select(ProjectRow.name)).all():
            what = f"project {name}"
            project = projects.get(session, name).spec
            projects.demand_naming(project, None)
            projects.check_slugs(session, name)
        for prompt in session.exec(select(PromptRow)).all():
            what = f"prompt {prompt.name}"
            prompts.demand_sound(prompt)
        prompts.demand_all_servers(session)
        for pin in session.exec(select(PinRow)).all():
            what = f"tool {pin.server}/{pin.tool}"
            pins.demand_sound(pin)
        for secret in session.exec(select(SecretRow)).all():
            what = f"secret {secret.name}"
            catalog.SecretSpec(name=secret.name, labels=sealed_secrets.get(session, secret.name).labels)
            keyring.unseal(secret.name, secret.key_id, secret.sealed)
    except Unavailable as error:
        raise BadRequest(f"the backup is damaged: {error}") from error
    except (ValueError, OverflowError, OSError):  # pydantic's errors, and times that are none
        raise BadRequest(f"the backup is damaged: its {what} is none") from None
