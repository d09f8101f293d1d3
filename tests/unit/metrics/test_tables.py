"""Tables of a container's metrics, and their CSV."""

from __future__ import annotations

from typing import Any

import pytest

from chaosorca.exceptions import InvalidArgument
from chaosorca.metrics.tables import METRICS, Table, check_metric, monitored_containers, read_table, to_csv
from chaosorca.model.times import iso

START = 1_700_000_000.0
HTTP = "chaosorca_http_requests_total"


@pytest.fixture
def table(prometheus: Any, series: Any) -> Any:
    """Return the times since START and the columns of a table of container `web`, monitored at some seconds."""

    def read(metric: str, monitored: list[float], *samples: Any, **options: Any) -> tuple[list[float], dict[str, list[Any]]]:
        monitor = METRICS[metric].monitor
        alive = series("chaosorca_monitored", dict.fromkeys(monitored, 1.0), container="web", monitor=monitor)
        other = series("chaosorca_monitored", dict.fromkeys([0.5, 7.5], 1.0), container="db", monitor=monitor)
        source = prometheus([alive, other, *samples])
        found = read_table(source, "web", metric, START - 10, START + 100, **options)
        return [round(at - START, 3) for at in found.times], found.columns

    return read


def test_http_has_a_column_for_each_code_joined_by_time(table: Any, series: Any) -> None:
    labels = {"container": "web", "role": "server", "method": "GET"}
    assert table(
        "http",
        [0, 1, 2, 3, 4],
        series(HTTP, {0: 10, 1: 12, 2: 15, 3: 15, 4: 16}, code="200", **labels),
        series(HTTP, {2: 0, 3: 27, 4: 27}, code="403", **labels),  # a late series is 0 before and loses nothing
        series(HTTP, {4: 3}, code="none", **labels),
    ) == ([1, 2, 3, 4], {"200": [2, 3, 0, 1], "403": [0, 0, 27, 0], "none": [0, 0, 0, 3]})


def test_http_sums_methods_of_one_code_and_separates_roles(table: Any, series: Any) -> None:
    server = {"container": "web", "role": "server", "code": "200"}
    assert table(
        "http",
        [0, 1, 2],
        series(HTTP, {0: 1, 1: 2, 2: 4}, method="GET", **server),
        series(HTTP, {1: 0, 2: 10}, method="POST", **server),
        series(HTTP, {0: 0, 1: 5, 2: 5}, container="web", role="client", code="200", method="GET"),
        series(HTTP, {0: 0, 1: 99, 2: 99}, container="db", role="server", code="200", method="GET"),
    ) == ([1, 2], {"200": [1, 12], "client:200": [5, 0]})


def test_http_is_per_second_for_any_scrape_interval(table: Any, series: Any) -> None:
    labels = {"container": "web", "role": "server", "method": "GET", "code": "200"}
    assert table("http", [0, 2, 4.5], series(HTTP, {0: 0, 2: 27, 4.5: 32}, **labels)) == ([2, 4.5], {"200": [13.5, 2]})


def test_syscalls_have_a_column_for_all_calls_and_one_for_each_errno(table: Any, series: Any) -> None:
    name = "chaosorca_syscalls_total"
    assert table(
        "syscall",
        [0, 1, 2],
        series(name, {0: 5, 1: 6, 2: 8}, container="web", syscall="openat", error=""),
        series(name, {1: 0, 2: 4}, container="web", syscall="openat", error="EACCES"),
        series(name, {0: 1, 1: 2, 2: 3}, container="web", syscall="openat", error="ENOENT"),
        series(name, {0: 100, 1: 110, 2: 110}, container="web", syscall="read"),  # Prometheus drops empty labels
    ) == ([1, 2], {"openat": [2, 7], "openat:EACCES": [0, 4], "openat:ENOENT": [1, 1], "read": [10, 0]})


@pytest.mark.parametrize(
    ("samples", "cores"),
    [
        ({0: 1000, 1: 1000.5, 2: 1001.5}, [0.5, 1.0]),
        ({1: 1000, 2: 1000.25}, [0, 0.25]),  # no spike of 1000
        ({0: 1000, 1: 0.5, 2: 0.75}, [0.5, 0.25]),  # the container was restarted
    ],
)
def test_cpu_is_in_cores_and_earlier_usage_is_no_spike(
    table: Any, series: Any, samples: dict[float, float], cores: list[float]
) -> None:
    cpu = series("container_cpu_usage_seconds_total", samples, name="web")
    assert table("cpu", [0, 1, 2], cpu) == ([1, 2], {"cores": cores})


@pytest.mark.parametrize(
    ("metric", "name", "column"),
    [("netr", "container_network_receive_bytes_total", "bytes"), ("nets", "container_network_transmit_bytes_total", "bytes")],
)
def test_network_is_bytes_per_second(table: Any, series: Any, metric: str, name: str, column: str) -> None:
    assert table(metric, [0, 1, 2], series(name, {0: 500, 1: 600, 2: 600}, name="web")) == ([1, 2], {column: [100, 0]})


def test_io_has_a_column_to_read_and_one_to_write(table: Any, series: Any) -> None:
    assert table(
        "io",
        [0, 1],
        series("container_fs_writes_bytes_total", {0: 4096, 1: 12288}, name="web"),
        series("container_fs_reads_bytes_total", {0: 0, 1: 1}, name="web"),
    ) == ([1], {"read": [1], "write": [8192]})


def test_mem_is_a_gauge_from_the_first_scrape_on(table: Any, series: Any) -> None:
    memory = series("container_memory_usage_bytes", {0: 100, 1: 50, 3: 70}, name="web")
    assert table("mem", [0, 1, 2, 3], memory) == ([0, 1, 2, 3], {"bytes": [100, 50, None, 70]})


def test_latency_has_quantiles_of_requests_answered_between_two_scrapes(table: Any, series: Any) -> None:
    def bucket(le: str, samples: dict[float, float], role: str = "server") -> Any:
        return series("chaosorca_http_request_duration_seconds_bucket", samples, container="web", role=role, le=le)

    times, columns = table(
        "latency",
        [0, 1, 2, 3],
        bucket("0.1", {0: 1000, 1: 1080, 2: 1080}),
        bucket("0.2", {0: 1000, 1: 1095, 2: 1095}),
        bucket("0.4", {0: 1000, 1: 1100, 2: 1108}),
        bucket("+Inf", {0: 1000, 1: 1100, 2: 1108}),
        bucket("0.1", {0: 0, 1: 500, 2: 500}, "client"),
    )
    assert times == [1, 2, 3]
    assert list(columns) == ["0.5", "0.95", "0.99"]
    assert columns["0.5"][:2] == [pytest.approx(0.1 * 50 / 80), pytest.approx(0.3)]
    assert columns["0.95"][:2] == [pytest.approx(0.2), pytest.approx(0.2 + 0.2 * 0.95)]
    assert columns["0.99"][:2] == [pytest.approx(0.36), pytest.approx(0.2 + 0.2 * 0.99)]


def test_latency_of_no_request_is_an_empty_cell(table: Any, series: Any) -> None:
    name, labels = "chaosorca_http_request_duration_seconds_bucket", {"container": "web", "role": "server"}
    times, columns = table(
        "latency",
        [0, 1, 2],
        series(name, {0: 5, 1: 5, 2: 6}, le="0.1", **labels),
        series(name, {0: 5, 1: 5, 2: 6}, le="+Inf", **labels),
    )
    assert (times, columns["0.5"]) == ([1, 2], [None, pytest.approx(0.05)])


@pytest.mark.parametrize(
    ("metric", "columns"),
    [
        ("http", {}),
        ("syscall", {}),
        ("cpu", {"cores": []}),
        ("io", {"read": [], "write": []}),
        ("mem", {"bytes": []}),
        ("netr", {"bytes": []}),
        ("nets", {"bytes": []}),
        ("latency", {"0.5": [], "0.95": [], "0.99": []}),
    ],
)
def test_a_container_that_was_not_monitored_has_no_rows(table: Any, series: Any, metric: str, columns: dict[str, Any]) -> None:
    other = series(HTTP, {0: 1, 1: 2}, container="db", role="server", method="GET", code="200")
    assert table(metric, [], other) == ([], columns)


def test_a_gap_in_monitoring_is_an_empty_cell_and_no_spike(table: Any, series: Any) -> None:
    labels = {"container": "web", "role": "server", "method": "GET", "code": "200"}
    requests = series(HTTP, {0: 0, 1: 1, 2: 2, 30: 500, 31: 503}, **labels)
    assert table("http", [0, 1, 2, 30, 31], requests) == ([1, 2, 30, 31], {"200": [1, 1, None, 3]})


def test_a_missed_scrape_is_no_gap(table: Any, series: Any) -> None:
    labels = {"container": "web", "role": "server", "method": "GET", "code": "200"}
    requests = series(HTTP, {0: 0, 1: 1, 2: 2, 4: 8, 5: 9}, **labels)
    assert table("http", [0, 1, 2, 4, 5], requests) == ([1, 2, 4, 5], {"200": [1, 1, 3, 1]})


def test_a_step_thins_rows_and_loses_nothing(table: Any, series: Any) -> None:
    labels = {"container": "web", "role": "server", "method": "GET", "code": "200"}
    requests = series(HTTP, {0: 0, 1: 1, 2: 2, 3: 30, 4: 30}, **labels)
    assert table("http", [0, 1, 2, 3, 4], requests, step=2.0) == ([2, 4], {"200": [1, 14]})


def test_a_window_smooths(table: Any, series: Any) -> None:
    labels = {"container": "web", "role": "server", "method": "GET", "code": "200"}
    requests = series(HTTP, {0: 0, 1: 0, 2: 10, 3: 10}, **labels)
    assert table("http", [0, 1, 2, 3], requests, window=2.0) == ([1, 2, 3], {"200": [0, 5, 5]})


def test_monitored_containers_are_those_with_a_sample_in_the_span(prometheus: Any, series: Any) -> None:
    source = prometheus(
        [
            series("chaosorca_monitored", {5: 1, 6: 1}, container="web", monitor="http"),
            series("chaosorca_monitored", {5: 1}, container="web", monitor="syscalls"),
            series("chaosorca_monitored", {5: 1}, container="db", monitor="http"),
            series("chaosorca_monitored", {-100: 1}, container="old", monitor="http"),
        ]
    )
    assert monitored_containers(source, START, START + 10) == ["db", "web"]


@pytest.mark.parametrize("name", ["cpu", "http", "latency", "io", "mem", "netr", "nets", "syscall"])
def test_the_metrics_of_the_command_line_exist(name: str) -> None:
    assert check_metric(name) == name
    assert list(METRICS) == ["cpu", "http", "latency", "io", "mem", "netr", "nets", "syscall"]


@pytest.mark.parametrize(
    ("name", "hint"), [("sycall", "did you mean 'syscall'"), ("memory", "there are cpu, http"), ("", "there are")]
)
def test_an_unknown_metric_is_refused_with_the_existing_ones(name: str, hint: str) -> None:
    with pytest.raises(InvalidArgument, match=hint):
        check_metric(name)


def test_csv_is_exact() -> None:
    columns: dict[str, list[float | None]] = {"200": [2.0, None, 0.5], 'a "b", c': [0.0, 27.0, 1 / 3]}
    assert to_csv(Table([START, START + 1.0004, START + 86_400.25], columns)) == (
        'timestamp,200,"a ""b"", c"\n'
        "2023-11-14T22:13:20.000Z,2,0\n"
        "2023-11-14T22:13:21.000Z,,27\n"
        "2023-11-15T22:13:20.250Z,0.5,0.3333333333\n"
    )


@pytest.mark.parametrize(("table", "text"), [(Table([], {}), "timestamp\n"), (Table([], {"cores": []}), "timestamp,cores\n")])
def test_csv_of_nothing_is_its_header(table: Table, text: str) -> None:
    assert to_csv(table) == text


@pytest.mark.parametrize("value", [1, 4096, 2_147_483_648, 9_999_999_999, 12_345_678_912, 137_438_953_472])
def test_csv_gives_whole_bytes_exactly(value: int) -> None:
    assert to_csv(Table([START], {"bytes": [float(value)]})) == f"timestamp,bytes\n2023-11-14T22:13:20.000Z,{value}\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (START, "2023-11-14T22:13:20.000Z"),
        (START + 0.25, "2023-11-14T22:13:20.250Z"),
        (START + 0.001, "2023-11-14T22:13:20.001Z"),
        (951_782_400.5, "2000-02-29T00:00:00.500Z"),
    ],
)
def test_times_are_utc_with_milliseconds(seconds: float, text: str) -> None:
    assert iso(seconds) == text


@pytest.mark.parametrize(
    ("samples", "options", "expected"),
    [
        ([{2: 0, 3: 27, 4: 27}], {}, 2),
        ([{3: 0, 4: 27}, {2: 0, 3: 1, 4: 1}], {}, 2),
        ([{0: 0, 1: 0, 2: 0, 3: 27}], {}, None),  # the series existed before
        ([{3: 0, 4: 27}, {0: 5, 1: 5, 2: 5}], {}, None),  # one of its series existed before
        ([{2: 7, 3: 27}], {}, None),  # its first value is not 0
        ([{2: 0, 3: 27, 4: 27}], {"window": 3}, None),
        ([{1: 0, 2: 27, 4: 27}], {"step": 2}, None),  # its first scrape is dropped
        ([{2: 0, 3: 27, 4: 27}], {"step": 2}, None),  # the scrape before is dropped
    ],
)
def test_a_table_records_when_a_column_first_appeared(
    samples: list[dict[float, float]], options: dict[str, float], expected: float | None, prometheus: Any, series: Any
) -> None:
    alive = series("chaosorca_monitored", dict.fromkeys([0, 1, 2, 3, 4], 1.0), container="web", monitor="http")
    labels = {"container": "web", "role": "server", "code": "403"}
    found = [series(HTTP, one, method=f"M{number}", **labels) for number, one in enumerate(samples)]
    table = read_table(prometheus([alive, *found]), "web", "http", START - 10, START + 100, **options)
    assert table.new == ({} if expected is None else {"403": START + expected})


def test_foreign_counters_are_never_new(prometheus: Any, series: Any) -> None:
    alive = series("chaosorca_monitored", dict.fromkeys([0, 1, 2], 1.0), container="web", monitor="resources")
    cpu = series("container_cpu_usage_seconds_total", {1: 0, 2: 3}, name="web")
    assert read_table(prometheus([alive, cpu]), "web", "cpu", START - 10, START + 100).new == {}
