"""PromQL text. Our own series are told from a real cAdvisor's by their job."""

from __future__ import annotations

JOB = "chaosorca"


def selector(metric: str, **labels: str) -> str:
    """Return a selector of our series of a metric; a label's value is matched exactly, or as a regular expression after `~`."""
    matchers = {"job": JOB, **labels}
    return f"{metric}{{{','.join(_matcher(name, value) for name, value in matchers.items())}}}"


def total_rate(series: str, window: float) -> str:
    """Return the sum over all selected series of what they grow by in a second, averaged over a window in seconds."""
    return f"sum(rate({series}[{round(window * 1000)}ms]))"


def quantile(q: float, buckets: str, window: float) -> str:
    """Return the q-quantile of what the selected histograms' buckets (`…_bucket`) grew by in a window in seconds."""
    return f"histogram_quantile({q:g}, sum by (le) (rate({buckets}[{round(window * 1000)}ms])))"


def _matcher(name: str, value: str) -> str:
    operator, text = ("=~", value[1:]) if value.startswith("~") else ("=", value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}{operator}"{escaped}"'
