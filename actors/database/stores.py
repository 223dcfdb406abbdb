"""The stores of all actors that keep tables."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import resources
from pathlib import Path

from mcpctl.actors.storage import Store, database_url


def actors() -> list[str]:
    """Return the actors that keep tables."""
    folder = resources.files("mcpctl.actors").joinpath("migrations")
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("_"))


@asynccontextmanager
async def stores(url: str | None, data: Path) -> AsyncIterator[list[Store]]:
    """Give one store an actor, not opened yet."""
    async with AsyncExitStack() as opened:
        found = [Store(actor, database_url(actor, url, data)) for actor in actors()]
        for store in found:
            opened.push_async_callback(store.close)
        yield found
