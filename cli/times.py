"""Times as people read and write them: `3d`, `in 29d`, `12h`."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

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


def parse_ttl(text: str | None) -> dict[str, Any]:
    """Return what a request says of how long a token works: nothing, a length of time, a moment, or for ever.

    `text` is `30d`, `12h`, `never` or ISO 8601 (`2027-01-31`, `2027-01-31T12:00:00Z`; the local time where none is
    named). Raises `CliError` for anything else.
    """
    if text is None:
        return {}
    if text == "never":
        return {"never_expires": True}
    if not _DURATION.fullmatch(text):
        return {"expires_at": _moment(text, "30d, 12h, 2027-01-31, 2027-01-31T12:00Z or never")}
    seconds = parse_duration(text)
    if seconds == 0:
        raise CliError("what lives for no time cannot be used: write 30d, 12h or never", USAGE)
    return {"ttl_seconds": seconds}


def parse_past(text: str) -> datetime:
    """Return a moment by how long ago it was (`30m`, `90d`), or in ISO 8601 (the local time where none is named).

    Raises `CliError` for anything else.
    """
    if _DURATION.fullmatch(text):
        try:
            return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
        except OverflowError as error:
            raise CliError(f"{text!r} is before all time", USAGE) from error
    return _moment(text, "30d, 12h, 2027-01-31 or 2027-01-31T12:00Z")


def _moment(text: str, wanted: str) -> datetime:
    try:
        given = datetime.fromisoformat(text)
        moment = given.astimezone()
        if given.tzinfo is None and _is_ambiguous(given):
            raise CliError(f"{text!r} comes twice or never, since clocks are changed then: write it with Z", USAGE)
    except (ValueError, OverflowError) as error:
        raise CliError(f"{text!r} is no time: write {wanted}", USAGE) from error
    return moment


def _is_ambiguous(local: datetime) -> bool:
    """Tell whether a local time falls into an hour that clocks go through twice, or leave out."""
    return local.replace(fold=0).astimezone().utcoffset() != local.replace(fold=1).astimezone().utcoffset()


def span(seconds: float) -> str:
    """Return a span in its largest unit, rounded down: `45s`, `3d`."""
    for unit, size in SECONDS.items():
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return "0s"


def age(moment: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago something was: `3d`, or `-` for never."""
    return "-" if moment is None else span(((now or datetime.now(UTC)) - moment).total_seconds())


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """Return when something was: `3d ago`, or `never`."""
    return "never" if moment is None else f"{age(moment, now)} ago"


def expiry(moment: datetime | None, now: datetime | None = None) -> str:
    """Return when something ends or ended: `in 29d`, `3d ago`, or `never`."""
    if moment is None:
        return "never"
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return f"in {span(seconds + LEEWAY)}" if seconds > 0 else f"{span(-seconds)} ago"
