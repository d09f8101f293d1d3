"""A client for instant queries to Prometheus's HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

import os
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
    """A Prometheus server.

    Attributes:
        address: its URL for messages, without a password.
    """

    def __init__(self, base_url: str, session: requests.Session | None = None) -> None:
        self._url = base_url.rstrip("/")
        self.address = masked(self._url)
        self._session = session or requests.Session()
        if (urlsplit(self._url).hostname or "") in ("127.0.0.1", "localhost", "::1"):
            # An address on this machine needs no proxy. Ignore the environment, except for its bundle of certificates.
            self._session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
            self._session.trust_env = False

    def number(self, expression: str) -> float | None:
        """Return the current value of an expression that has at most one value. Return None if the expression has no value."""
        data = self._query(expression)
        if data["resultType"] == "scalar":
            return float(data["result"][1])
        return float(data["result"][0]["value"][1]) if data["result"] else None

    def samples(self, selector: str, seconds: float, end: float | None = None) -> list[Series]:
        """Return the raw samples of the last `seconds` before `end`, with the times of the scrapes. By default, `end` is now."""
        milliseconds = max(1, round(seconds * 1000))
        data = self._query(f"{selector}[{milliseconds}ms]", end)
        return [Series(one["metric"], [(float(at), float(value)) for at, value in one["values"]]) for one in data["result"]]

    def _query(self, expression: str, at: float | None = None) -> Any:
        form = {"query": expression} if at is None else {"query": expression, "time": f"{at:.3f}"}
        try:
            response = self._session.post(f"{self._url}/api/v1/query", data=form, timeout=_TIMEOUT, allow_redirects=False)
            self._check(response)
            answer = response.json()
            if answer["status"] == "success":
                return answer["data"]
            raise PrometheusError(f"Prometheus at {self.address} refused {expression!r}: {answer.get('error', answer)}")
        except (requests.JSONDecodeError, TypeError, KeyError) as error:
            raise PrometheusError(f"the server at {self.address} is not Prometheus: check prometheus_base_url") from error
        except requests.exceptions.SSLError as error:
            raise PrometheusError(
                f"the TLS certificate of Prometheus at {self.address} is not trusted: name its authority in REQUESTS_CA_BUNDLE"
            ) from error
        except requests.RequestException as error:
            raise PrometheusError(
                f"Prometheus cannot be reached at {self.address}: start it, or check prometheus_base_url ({type(error).__name__})"
            ) from error

    def _check(self, response: requests.Response) -> None:
        if response.status_code in (401, 403):
            raise PrometheusError(
                f"Prometheus at {self.address} refuses access ({response.status_code}): "
                "check the user and the password in prometheus_base_url"
            )
        if response.is_redirect:
            target = masked(response.headers["location"])
            raise PrometheusError(f"Prometheus at {self.address} redirects to {target}: set prometheus_base_url to its new address")


def masked(url: str) -> str:
    """Return a URL for use in messages, with `***` instead of its password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.partition(':')[0]}:***@{host}").geturl()
