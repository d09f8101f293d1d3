"""PromQL expressions. The label `job` tells chaosorca's series apart from cAdvisor's series of the same name."""

from __future__ import annotations

JOB = "chaosorca"


def selector(metric: str, **labels: str) -> str:
    """Return a PromQL selector for one of chaosorca's metrics.

    A label value that starts with `~` is a regular expression. Any other label value must match exactly.
    """
    matchers = {"job": JOB, **labels}
    return f"{metric}{{{','.join(_matcher(name, value) for name, value in matchers.items())}}}"


def total_rate(series: str, window: float) -> str:
    """Return the expression for the sum of the rates of all selected series. The window is in seconds."""
    return f"sum(rate({series}[{round(window * 1000)}ms]))"


def quantile(q: float, buckets: str, window: float) -> str:
    """Return the expression for the q-quantile of histograms.

    Arguments:
        q: 0 to 1.
        buckets: a selector of the histograms' `…_bucket` series.
        window: the seconds over which the rates of the buckets are computed.
    """
    return f"histogram_quantile({q:g}, sum by (le) (rate({buckets}[{round(window * 1000)}ms])))"


def _matcher(name: str, value: str) -> str:
    operator, text = ("=~", value[1:]) if value.startswith("~") else ("=", value)
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{name}{operator}"{escaped}"'
