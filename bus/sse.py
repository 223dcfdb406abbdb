"""Server-sent events as they arrive: WHATWG HTML section 9.2.6, "Interpreting an event stream"."""

import re

_HEADER_SAFE = re.compile(rb"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_MAX_RETRY_DIGITS = 9


class EventTooLargeError(Exception):
    """One event is larger than its reader allows."""


class EventStream:
    """Cuts a stream into the data of its `message` events; an event cut off by the end is dropped."""

    def __init__(self, max_event: int) -> None:
        self.last_event_id = b""
        self.retry: float | None = None  # seconds
        self._max_event = max_event  # bytes
        self._started = self._after_cr = False
        self._line: list[bytes] = []
        self._data: list[bytes] = []
        self._type = b""
        self._size = 0  # bytes of data
        self._pending = 0  # bytes of a line that has no end yet

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of each event that this chunk completes."""
        if not chunk:
            return []
        after_cr, self._after_cr = self._after_cr, chunk.endswith(b"\r")
        if after_cr:
            chunk = chunk.removeprefix(b"\n")
        events: list[bytes] = []
        for line in chunk.splitlines(keepends=True):
            self._line.append(line)
            if line.endswith((b"\n", b"\r")):
                self._take_line(b"".join(self._line).rstrip(b"\r\n"), events)
                self._line.clear()
                self._pending = 0
            else:
                self._pending = self._check(self._pending + len(line))
        return events

    def restart(self) -> None:
        """Forget a half event: the stream goes on in another response."""
        self._started = self._after_cr = False
        self._line.clear()
        self._data.clear()
        self._type, self._size, self._pending = b"", 0, 0

    def _check(self, size: int) -> int:
        if self._size + size > self._max_event:
            self.restart()  # who holds the error, and so this, does not hold what came
            raise EventTooLargeError(f"an event is larger than {self._max_event} bytes")
        return size

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if not self._started:
            self._started = True
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line:
            self._take_field(line)
            return
        if any(self._data) and self._type in (b"", b"message"):
            events.append(b"\n".join(self._data))
        self._data.clear()
        self._type, self._size = b"", 0

    def _take_field(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += self._check(len(value) + 1)
            self._data.append(value)
        elif field == b"event":
            self._type = value
        elif field == b"id" and (not value or _HEADER_SAFE.fullmatch(value)):
            self.last_event_id = value
        elif field == b"retry" and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
            self.retry = int(value) / 1000
