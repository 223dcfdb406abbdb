"""The words of a text, as they are compared: casefolded, without the commonest, a plural as its singular."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]{2,}")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_STOP = frozenset(
    _WORD.findall(
        "about all also am an and any are as at be been but by can could did do does for from had has have "
        "he her his how if in into is it its just may me more must my need no not of off on one or our out "
        "please shall she should so some such than that the their them then there these they this those to "
        "too up us use using very want was we were what when where which who why will with would you your"
    )
)


def cut(text: str, limit: int) -> str:
    """Return at most so many bytes of a text, in UTF-8; half a surrogate pair, which has none, becomes `?`."""
    return text[:limit].encode(errors="replace")[:limit].decode(errors="ignore")


def words_of(text: str) -> dict[str, str]:
    """Return the words of a text in their order, each once: as it is compared, and as it stands there."""
    found: dict[str, str] = {}
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if word not in _STOP:
            found.setdefault(singular(word), word)
    return found


def words_of_name(name: str) -> dict[str, str]:
    """Return the words of an identifier, as `words_of` does: it is also split within `camelCase`."""
    return words_of(_HUMP.sub(" ", name))


def singular(word: str) -> str:
    """Return an English plural without its ending, and any other word as it is: good enough to compare by."""
    if len(word) <= 3 or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    return word.removesuffix("s")
