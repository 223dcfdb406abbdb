"""The numbers of a process as Prometheus reads them, with what prometheus-client knows of any process."""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Sample

import mcpctl
from mcpctl.bus import metrics

CONTENT_TYPE: str = CONTENT_TYPE_PLAIN_0_0_4

BUILD_INFO = "Always 1; its label is the version of the program."

_process = CollectorRegistry()
ProcessCollector(registry=_process)
GCCollector(registry=_process)


class Snapshot:
    """The numbers as they are now. To be made on the event loop, and rendered elsewhere, since that takes a while."""

    def __init__(self) -> None:
        info = Metric("mcpctl_build_info", BUILD_INFO, "gauge")
        info.add_sample("mcpctl_build_info", {"version": mcpctl.__version__}, 1)
        self._metrics = [info]
        for family in metrics.families():
            metric = Metric(family.name.removesuffix("_total"), family.text, family.kind)
            metric.samples = [Sample(*sample) for sample in family.samples()]
            self._metrics.append(metric)

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
        yield from _process.collect()

    def rendered(self) -> bytes:
        """Return the text of a scrape."""
        text: bytes = generate_latest(self)
        return text
