"""Names that travel in subjects and paths: checked once, here, before anything is built from them."""

import re
from typing import Annotated

from annotated_types import MaxLen
from pydantic import StringConstraints

LABEL_PATTERN = r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z"
"""An RFC 1123 label: projects, servers, tokens, secrets, groups, service accounts."""

USER_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9._@+-]{0,126}[A-Za-z0-9])?\Z"
"""A user name: a label, a login or an e-mail address."""

Label = Annotated[str, StringConstraints(pattern=LABEL_PATTERN.replace(r"\Z", "$"))]
UserName = Annotated[str, StringConstraints(pattern=USER_PATTERN.replace(r"\Z", "$"))]

LabelKey = Annotated[
    str, StringConstraints(pattern=r"^(?:[a-z0-9][a-z0-9.-]{0,61}/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
]
LabelValue = Annotated[str, StringConstraints(pattern=r"^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")]
Labels = Annotated[dict[LabelKey, LabelValue], MaxLen(64)]
"""What operators sort resources by: keys and values as in Kubernetes."""

NO_PROJECT = "_"
"""Stands in a subject where there is no project."""

_label = re.compile(LABEL_PATTERN)

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

Lifetime = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,8}[smhdw]$")]
"""A length of time: `90s`, `30m`, `12h`, `30d`, `2w`."""


def lifetime_seconds(text: str) -> int:
    """Return the seconds of a `Lifetime`."""
    return int(text[:-1]) * _SECONDS[text[-1]]


def is_label(text: str) -> bool:
    """Tell whether `text` is an RFC 1123 label (at most 63 of a-z, 0-9 and inner hyphens)."""
    return _label.match(text) is not None


def subject_token(text: str) -> str:
    """Encode any name as one NATS subject token: `ann@example.org` becomes `ann=40example=2Eorg`."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else f"={ord(c):02X}" for c in text)


def principal_label(kind: str, name: str) -> str:
    """Return a principal as one subject token: `token-ci`, `user-ann`, `sa-build`."""
    short = {"User": "user", "ServiceAccount": "sa", "McpToken": "token"}[kind]
    return f"{short}-{subject_token(name)}"
