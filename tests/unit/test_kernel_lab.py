"""Which kernels are booted, and what their consoles say."""

from __future__ import annotations

import pytest

from tests.support.kernel_lab import SERIES, newest, results


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("6.1", "linux-image-6.1.0-57-cloud-amd64"),
        ("6.12", "linux-image-6.12.117+deb13-cloud-amd64"),
        ("6.18", "linux-image-6.18.15+deb13-cloud-amd64"),
        ("7", "linux-binary-7.3.4+deb13-cloud-amd64"),
    ],
)
def test_the_newest_kernel_of_a_series_is_taken(name: str, package: str) -> None:
    packages = [
        "linux-image-6.1.0-9-cloud-amd64",
        "linux-image-6.1.0-57-cloud-amd64",
        "linux-image-6.1.0-58-cloud-amd64-unsigned",
        "linux-image-6.12.9+deb13-cloud-amd64",
        "linux-image-6.12.117+deb13-cloud-amd64",
        "linux-image-6.18.9+deb13-cloud-amd64",
        "linux-image-6.18.15+deb13-cloud-amd64",
        "linux-image-7.2.12+deb13-cloud-amd64",
        "linux-image-7.3.4+deb13-cloud-amd64",
        "linux-binary-7.3.4+deb13-cloud-amd64",
    ]
    assert newest(packages, SERIES[name]) == package


def test_a_series_without_a_kernel_is_an_error() -> None:
    with pytest.raises(LookupError, match="bookworm"):
        newest(["linux-image-6.12.9+deb13-cloud-amd64"], SERIES["6.1"])


def test_a_console_tells_which_programs_are_refused() -> None:
    console = "noise\r\nLAB ok arm\r\nLAB no http 1531: (79) R2 unbounded memory access \r\nLAB no tls \r\nLAB end\r\n"
    assert results(console) == {
        "arm": "",
        "http": "1531: (79) R2 unbounded memory access",
        "tls": "it was refused without a reason",
    }


def test_a_kernel_that_does_not_reach_its_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="did not boot to its end: Kernel panic"):
        results("Kernel panic")
