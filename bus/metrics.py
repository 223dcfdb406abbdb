"""Numbers that a process counts, and how they are told: Prometheus's text format, and short in `$SRV.STATS`.

Counted in plain dicts, since a labelled child of prometheus-client costs more to find and to change than a cached call
may (docs/decisions/0026-metrics.md); `bus/metrics_text.py` renders them when they are asked for. What an object knows
anyway (open streams, a lease) is not counted at all: it is asked (`watch`).
"""

import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Literal, Protocol

Labels = tuple[str, ...]

Sample = tuple[str, dict[str, str], float]
"""A line of the text: name, labels and value."""

OTHER = "other"
"""The value of an open label once a family has all the series that it may have."""

NONE = "_"
"""The value of a label where there is no project, or no server."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of times."""

FAMILIES: "dict[str, Family]" = {}
"""All that may be told, by name. Declared in `bus/measured.py`."""


class Family:
    """A metric with its labels. Those in `open` take any value that exists somewhere, so their number is bounded."""

    kind: Literal["counter", "gauge", "histogram"]

    def __init__(self, name: str, text: str, labels: Labels = (), *, open: Labels = (), most: int = 2000) -> None:  # noqa: A002
        self.name, self.text, self.labels, self.open, self.most = name, text, labels, open, most
        self._open_at = frozenset(labels.index(label) for label in open)
        FAMILIES[name] = self

    def __len__(self) -> int:
        """Return how many series there are."""
        raise NotImplementedError

    def _bounded(self, labels: Labels) -> Labels:
        """Return the labels under which something new is counted."""
        if len(self) < self.most:
            return labels
        return tuple(OTHER if at in self._open_at else label for at, label in enumerate(labels))

    def _short(self, labels: Labels) -> str:
        """Return labels for `$SRV.STATS`: closed ones alone, so that it stays small and names no project."""
        return ",".join(label for at, label in enumerate(labels) if at not in self._open_at)


class Counter(Family):
    """What only grows. `add` is for the hot path: 0.5 µs."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Labels = (), *, open: Labels = (), most: int = 2000) -> None:  # noqa: A002
        super().__init__(name, text, labels, open=open, most=most)
        self.values: dict[Labels, float] = {}

    def __len__(self) -> int:
        return len(self.values)

    def add(self, labels: Labels = (), by: float = 1) -> None:
        try:
            self.values[labels] += by
        except KeyError:
            labels = self._bounded(labels)
            self.values[labels] = self.values.get(labels, 0) + by

    def samples(self) -> Iterator[Sample]:
        for labels, value in self.values.items():
            yield (self.name, dict(zip(self.labels, labels, strict=True)), value)

    def short(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for labels, value in self.values.items():
            found[self._short(labels)] = found.get(self._short(labels), 0) + value
        return found


class Histogram(Family):
    """Times in seconds, counted by bucket. `observe` is for the hot path: 0.6 µs."""

    kind = "histogram"

    def __init__(self, name: str, text: str, labels: Labels = (), *, open: Labels = (), most: int = 200) -> None:  # noqa: A002
        super().__init__(name, text, labels, open=open, most=most)
        self.values: dict[Labels, list[float]] = {}
        """by labels: a count for each bucket, one for what is beyond, and the sum"""

    def __len__(self) -> int:
        return len(self.values)

    def observe(self, labels: Labels, seconds: float) -> None:
        row = self.values.get(labels)
        if row is None:
            row = self.values.setdefault(self._bounded(labels), [0] * (len(SECONDS) + 2))
        row[bisect_left(SECONDS, seconds)] += 1
        row[-1] += seconds

    def samples(self) -> Iterator[Sample]:
        for labels, row in self.values.items():
            named = dict(zip(self.labels, labels, strict=True))
            total = 0.0
            for bound, count in zip((*map(str, SECONDS), "+Inf"), row[:-1], strict=True):
                total += count
                yield (f"{self.name}_bucket", named | {"le": bound}, total)
            yield (f"{self.name}_count", named, total)
            yield (f"{self.name}_sum", named, row[-1])

    def short(self) -> dict[str, float]:
        """Return averages in seconds."""
        sums: dict[str, tuple[float, float]] = {}
        for labels, row in self.values.items():
            count, total = sums.get(self._short(labels), (0.0, 0.0))
            sums[self._short(labels)] = count + sum(row[:-1]), total + row[-1]
        return {labels: round(total / count, 6) for labels, (count, total) in sums.items() if count}


class Gauge(Family):
    """What is so now, as the watched objects tell; `merge` says what becomes of several values with the same labels."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        text: str,
        labels: Labels = (),
        *,
        open: Labels = (),  # noqa: A002
        most: int = 1000,
        merge: Literal["sum", "min", "max"] = "sum",
    ) -> None:
        super().__init__(name, text, labels, open=open, most=most)
        self.merge = merge
        self.values: dict[Labels, float] = {}

    def __len__(self) -> int:
        return len(self.values)

    def put(self, value: float, labels: Labels = ()) -> None:
        """Take a value while the watched objects are asked."""
        before = self.values.get(labels)
        if before is None:
            labels = self._bounded(labels)
            before = self.values.get(labels)
        if before is not None:
            value = before + value if self.merge == "sum" else (min if self.merge == "min" else max)(before, value)
        self.values[labels] = value

    def samples(self) -> Iterator[Sample]:
        for labels, value in self.values.items():
            yield (self.name, dict(zip(self.labels, labels, strict=True)), value)

    def short(self) -> dict[str, float]:
        if self.open:
            return {}
        return {self._short(labels): round(value, 6) for labels, value in self.values.items()}


Measured = tuple[Gauge, float, Labels]


class Source(Protocol):
    """What can be asked for numbers; it answers at once."""

    def measures(self) -> Iterable[Measured]:
        """Yield gauges, with their values and labels."""


_sources: "weakref.WeakSet[Source]" = weakref.WeakSet()


def watch(source: Source) -> None:
    """Ask this object too, for as long as it lives."""
    _sources.add(source)


def _ask() -> None:
    gauges = [family for family in FAMILIES.values() if isinstance(family, Gauge)]
    for gauge in gauges:
        gauge.values.clear()
    for source in list(_sources):
        for gauge, value, labels in source.measures():
            gauge.put(value, labels)


def families() -> "list[Counter | Gauge | Histogram]":
    """Return all families, with the watched objects asked. To be called on the event loop, where the numbers change."""
    _ask()
    return [family for family in FAMILIES.values() if isinstance(family, Counter | Gauge | Histogram)]


def short() -> dict[str, dict[str, float]]:
    """Return the numbers for `$SRV.STATS`: by metric and closed labels, histograms as averages."""
    return {family.name: found for family in families() if (found := family.short())}
