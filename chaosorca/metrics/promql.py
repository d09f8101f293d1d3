"""PromQL expressions. The job label separates chaosorca's series from those of a real cAdvisor."""

from __future__ import annotations

JOB = "chaosorca"


def selector(metric: str, **labels: str) -> str:
    """Return a selector of a metric of chaosorca. A value that starts with `~` is a regular expression; others match exactly."""
    matchers = {"job": JOB, **labels}
    return f"{metric}{{{','.join(_matcher(name, value) for name, value in matchers.items())}}}"


def total_rate(series: str, window: float) -> str:
    """Return the sum of the rates per second of all selected series, over a window in seconds."""
    return f"sum(rate({series}[{round(window * 1000)}ms]))"


def quantile(q: float, buckets: str, window: float) -> str:
    """Return the q-quantile of the selected histograms (their `…_bucket` series) over a window in seconds."""
    return f"histogram_quantile({q:g}, sum by (le) (rate({buckets}[{round(window * 1000)}ms])))"


def _matcher(name: str, value: str) -> str:
    operator, text = ("=~", value[1:]) if value.startswith("~") else ("=", value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}{operator}"{escaped}"'
