"""PromQL expressions."""

from __future__ import annotations

import pytest

from chaosorca.metrics.promql import quantile, selector, total_rate


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ({}, 'm{job="chaosorca"}'),
        ({"container": "web"}, 'm{job="chaosorca",container="web"}'),
        ({"container": "web", "code": "~4..|none"}, 'm{job="chaosorca",container="web",code=~"4..|none"}'),
        ({"container": 'a"b'}, 'm{job="chaosorca",container="a\\"b"}'),
        ({"container": "a\\b"}, 'm{job="chaosorca",container="a\\\\b"}'),
        ({"container": 'a\\"b'}, 'm{job="chaosorca",container="a\\\\\\"b"}'),
        ({"container": "a\nb"}, 'm{job="chaosorca",container="a\\nb"}'),
        ({"container": 'x"} or up{a="'}, 'm{job="chaosorca",container="x\\"} or up{a=\\""}'),
        ({"code": '~a"b\\.'}, 'm{job="chaosorca",code=~"a\\"b\\\\."}'),
        ({"error": ""}, 'm{job="chaosorca",error=""}'),
        ({"job": "other"}, 'm{job="other"}'),
    ],
)
def test_a_selector_names_our_job_and_escapes_values(labels: dict[str, str], text: str) -> None:
    assert selector("m", **labels) == text


@pytest.mark.parametrize(
    ("window", "text"), [(15.0, "sum(rate(m[15000ms]))"), (0.25, "sum(rate(m[250ms]))"), (1.0004, "sum(rate(m[1000ms]))")]
)
def test_a_total_rate_has_its_window_in_milliseconds(window: float, text: str) -> None:
    assert total_rate("m", window) == text


def test_a_quantile_sums_buckets_before_it_interpolates() -> None:
    assert quantile(0.95, 'm_bucket{a="b"}', 15.0) == 'histogram_quantile(0.95, sum by (le) (rate(m_bucket{a="b"}[15000ms])))'
