"""Messages that were fetched and wait for their turn, since several sinks share one consumer."""

import asyncio
from collections.abc import Sequence

from mcpctl.bus.deliveries import Stored


class Held:
    """Fetched messages by their sequence; the oldest copy of a message gives way to the newest."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit, self._max_bytes = limit, max_bytes
        self._messages: dict[int, Stored] = {}
        self._bytes = 0
        self.arrived = asyncio.Event()
        self.room = asyncio.Event()
        self.room.set()

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def full(self) -> bool:
        return len(self._messages) >= self._limit or self._bytes >= self._max_bytes

    def add(self, stored: Stored) -> None:
        self._pop(stored.seq)
        self._messages[stored.seq] = stored
        self._bytes += len(stored.data)
        self.arrived.set()
        self._note_room()

    def run(self, after: int, max_bytes: int) -> Sequence[Stored]:
        """Return the unbroken run of messages after a sequence, up to some bytes (one message at least)."""
        found: list[Stored] = []
        size = 0
        while (stored := self._messages.get(after + 1)) is not None and (not found or size < max_bytes):
            found.append(stored)
            size += len(stored.data)
            after += 1
        return found

    def take_until(self, seq: int) -> Sequence[Stored]:
        """Take out what is at or below a sequence."""
        return self._take([held for held in self._messages if held <= seq])

    def take_latest_half(self) -> Sequence[Stored]:
        """Take out what will have its turn last."""
        order = sorted(self._messages)
        return self._take(order[len(order) // 2 :])

    def take_all(self) -> Sequence[Stored]:
        return self._take(list(self._messages))

    def _take(self, order: list[int]) -> Sequence[Stored]:
        taken = [stored for seq in order if (stored := self._pop(seq)) is not None]
        self._note_room()
        return taken

    def _pop(self, seq: int) -> Stored | None:
        stored = self._messages.pop(seq, None)
        if stored is not None:
            self._bytes -= len(stored.data)
        return stored

    def _note_room(self) -> None:
        if self.full:
            self.room.clear()
        else:
            self.room.set()
