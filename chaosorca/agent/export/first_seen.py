"""A client of `/metrics` gets 0 in its first scrape of a new series, and the series' value after that.

Prometheus's `rate()` does not know the value of a counter before its first sample. Without a first 0, `rate()` would miss the first
calls of a new series. A client's first scrape of a new series therefore returns 0. The client's next scrape returns the value.
A client that scrapes for the first time gets the values of all series that an earlier client has seen, because those series are not
new.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import Any

from prometheus_client.samples import Sample

from chaosorca.agent.export.histogram_text import Histograms
from chaosorca.agent.histogram import Histogram

_MAX_CLIENTS = 32
_OF_CALLS_AND_REQUESTS = ("chaosorca_syscall", "chaosorca_http")
_Key = tuple[str, tuple[Any, ...]]


class FirstSeenAsZero:
    """Shows each client every new series of `chaosorca_` counters and histograms as 0 once. The class is not thread-safe.

    Resource figures are not changed, since they were not 0 when the monitoring of the container began.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, set[_Key]] = OrderedDict()  # by client, least recently active first
        self._seen_by_any: set[_Key] = set()

    def apply(self, client: str, metrics: Iterable[Any], left_out: Collection[str] = ()) -> list[Any]:
        """Return the families for one client. A series that has vanished counts as new when it appears again.

        Arguments:
            client: the client's address.
            metrics: the families.
            left_out: containers that are down. Their series end, and continue with the kept values when the container is up again.
        """
        result = list(metrics)
        before = self._seen.pop(client, self._seen_by_any)
        now: set[_Key] = set()
        for family in result:
            if isinstance(family, Histograms):
                now.update((family.name, key) for key in family.values)
                family.values.update({key: Histogram() for key in family.values if (family.name, key) not in before})
                continue
            if family.type != "counter" or not family.name.startswith("chaosorca_"):
                continue
            for index, sample in enumerate(family.samples):
                key = (sample.name, tuple(sorted(sample.labels.items())))
                now.add(key)
                if key not in before:
                    family.samples[index] = Sample(sample.name, sample.labels, 0)
        for family in result if left_out else ():
            _leave_out(family, left_out)
        self._seen[client] = self._seen_by_any = now
        while len(self._seen) > _MAX_CLIENTS:
            self._seen.popitem(last=False)
        return result


def _leave_out(family: Any, containers: Collection[str]) -> None:
    if not family.name.startswith(_OF_CALLS_AND_REQUESTS):
        return
    if isinstance(family, Histograms):
        family.values = {key: value for key, value in family.values.items() if key[0] not in containers}
    else:
        family.samples = [sample for sample in family.samples if sample.labels.get("container") not in containers]
