"""Times as people read and write them: `3d`, `in 29d`, `12h`."""

import re
from datetime import UTC, datetime

from mcpctl.cli.errors import USAGE, CliError

SECONDS = {"y": 365 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
LEEWAY = 30
"""Seconds that are forgiven, so that what was made for 30 days a moment ago ends in 30, not in 29."""

_DURATION = re.compile(r"(?:\d+[wdhms])+")
_PART = re.compile(r"(\d+)([wdhms])")


def parse_duration(text: str) -> int:
    """Return the seconds of `30d`, `12h`, `1d12h`, `90m`, `2w`. Raises `CliError` for anything else."""
    if not _DURATION.fullmatch(text):
        raise CliError(f"{text!r} is no duration: write 30d, 12h, 90m or 45s", USAGE)
    units = SECONDS | {"w": 7 * 86400}
    return sum(int(number) * units[unit] for number, unit in _PART.findall(text))


def parse_lifetime(text: str) -> int | None:
    """Return the seconds that something shall live, None for `never` (it never expires). Raises `CliError`."""
    if text == "never":
        return None
    seconds = parse_duration(text)
    if seconds == 0:
        raise CliError("what lives for no time cannot be used: write 30d, 12h or never", USAGE)
    return seconds


def span(seconds: float) -> str:
    """Return a span in its largest unit, rounded down: `45s`, `3d`."""
    for unit, size in SECONDS.items():
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago something was: `3d`, or `-` for never."""
    return "-" if moment is None else span(((now or datetime.now(UTC)) - moment).total_seconds())


def expiry(moment: datetime | None, now: datetime | None = None) -> str:
    """Return when something ends or ended: `in 29d`, `3d ago`, or `never`."""
    if moment is None:
        return "never"
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return f"in {span(seconds + LEEWAY)}" if seconds > 0 else f"{span(-seconds)} ago"
