"""A client for instant queries to Prometheus's HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from chaosorca.exceptions import PrometheusError

_TIMEOUT = 15.0
Samples = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """A time series. Its samples are in order of time. A sample consists of a time in seconds since 1970 and a value."""

    labels: dict[str, str]
    samples: Samples


class Prometheus:
    """A Prometheus server."""

    def __init__(self, base_url: str, session: requests.Session | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._session = session or requests.Session()
        if (urlsplit(self.base_url).hostname or "") in ("127.0.0.1", "localhost", "::1"):
            self._session.trust_env = False  # no proxy for an address on this machine

    def number(self, expression: str) -> float | None:
        """Return the current value of an expression that has at most one value. Return None if the expression has no value."""
        data = self._query(expression)
        if data["resultType"] == "scalar":
            return float(data["result"][1])
        return float(data["result"][0]["value"][1]) if data["result"] else None

    def samples(self, selector: str, seconds: float, end: float | None = None) -> list[Series]:
        """Return the raw samples of the last `seconds` before `end`, with the times of the scrapes. `end` is now by default."""
        milliseconds = max(1, round(seconds * 1000))
        data = self._query(f"{selector}[{milliseconds}ms]", end)
        return [Series(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in data["result"]]

    def _query(self, expression: str, at: float | None = None) -> Any:
        form = {"query": expression} if at is None else {"query": expression, "time": f"{at:.3f}"}
        try:
            response = self._session.post(f"{self.base_url}/api/v1/query", data=form, timeout=_TIMEOUT)
            answer = response.json()
            if answer["status"] == "success":
                return answer["data"]
            raise PrometheusError(f"Prometheus at {self.base_url} refused {expression!r}: {answer.get('error', answer)}")
        except (requests.JSONDecodeError, TypeError, KeyError) as error:
            raise PrometheusError(f"the server at {self.base_url} is not Prometheus: check prometheus_base_url") from error
        except requests.RequestException as error:
            raise PrometheusError(
                f"Prometheus cannot be reached at {self.base_url}: start it, or check prometheus_base_url ({type(error).__name__})"
            ) from error
