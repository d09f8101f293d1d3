"""Prometheus's HTTP API, with a fake session."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from chaosorca.exceptions import NoData, PrometheusError
from chaosorca.metrics.query import Prometheus, Series


class Session(requests.Session):
    """A session that answers each request with a text, or raises an error."""

    def __init__(self, answer: str | Exception) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[tuple[str, dict[str, str]]] = []

    def post(self, url: Any, data: Any = None, json: Any = None, *, timeout: Any = None, **_: Any) -> requests.Response:
        self.asked.append((url, data))
        assert timeout > 0
        if isinstance(self.answer, Exception):
            raise self.answer
        response = requests.Response()
        response.status_code = 200
        response._content = self.answer.encode()
        return response


def success(kind: str, result: Any) -> str:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": result}})


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (success("vector", [{"metric": {}, "value": [1700000000.1, "27.5"]}]), 27.5),
        (success("vector", [{"metric": {"a": "b"}, "value": [1700000000.1, "0"]}]), 0.0),
        (success("scalar", [1700000000.1, "1700000000.1"]), 1700000000.1),
        (success("vector", []), None),
    ],
)
def test_a_number_is_read_from_a_vector_or_a_scalar(answer: str, number: float | None) -> None:
    session = Session(answer)
    assert Prometheus("http://p:9090/", session).number("up") == number
    assert session.asked == [("http://p:9090/api/v1/query", {"query": "up"})]


def test_samples_are_read_with_their_labels_and_times() -> None:
    session = Session(success("matrix", [{"metric": {"__name__": "m", "a": "b"}, "values": [[1.5, "2"], [2.5, "3.25"]]}]))
    found = Prometheus("http://p:9090", session).samples('m{a="b"}', 60, 100.25)
    assert found == [Series({"__name__": "m", "a": "b"}, [(1.5, 2.0), (2.5, 3.25)])]
    assert session.asked == [("http://p:9090/api/v1/query", {"query": 'm{a="b"}[60000ms]', "time": "100.250"})]


@pytest.mark.parametrize(("seconds", "span"), [(0, "1ms"), (0.0001, "1ms"), (0.25, "250ms"), (900, "900000ms")])
def test_a_span_is_queried_in_milliseconds_and_is_never_empty(seconds: float, span: str) -> None:
    session = Session(success("matrix", []))
    assert Prometheus("http://p:9090", session).samples("m", seconds) == []
    assert session.asked[0][1] == {"query": f"m[{span}]"}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (json.dumps({"status": "error", "errorType": "bad_data", "error": "parse error"}), "refused 'up': parse error"),
        (json.dumps({"status": "error"}), "refused 'up'"),
        (json.dumps({}), "http://p:9090"),
        (requests.ConnectionError("no route"), r"cannot be reached at http://p:9090: .*\(ConnectionError\)"),
        (requests.Timeout("slow"), r"cannot be reached at http://p:9090: .*\(Timeout\)"),
        (requests.exceptions.InvalidURL("no"), "cannot be reached at http://p:9090"),
        ("<html>hello</html>", "the server at http://p:9090 is not Prometheus: check prometheus_base_url"),
        ("", "is not Prometheus"),
        ("[]", "http://p:9090"),
        ('"ok"', "http://p:9090"),
        ("null", "http://p:9090"),
        (json.dumps({"status": "success"}), "http://p:9090"),
    ],
)
def test_anything_else_is_an_error_that_names_the_address(answer: str | Exception, says: str) -> None:
    for ask in (lambda source: source.number("up"), lambda source: source.samples("up", 1)):
        with pytest.raises(PrometheusError, match=says.replace("'up'", ".*up.*")) as caught:
            ask(Prometheus("http://p:9090", Session(answer)))
        assert not isinstance(caught.value, NoData)
        assert "\n" not in str(caught.value)


def test_an_address_without_a_server_is_an_error() -> None:
    with pytest.raises(PrometheusError, match=r"cannot be reached at http://127\.0\.0\.1:1: start it"):
        Prometheus("http://127.0.0.1:1").number("up")


def test_an_address_without_a_scheme_is_an_error() -> None:
    with pytest.raises(PrometheusError, match="check prometheus_base_url"):
        Prometheus("prometheus.test").number("up")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://p:9090", "http://p:9090"),
        ("https://me:secret@p:9090/prom", "https://me:***@p:9090/prom"),
        ("https://me@p", "https://me@p"),
        ("http://:secret@[::1]:9090", "http://:***@[::1]:9090"),
    ],
)
def test_messages_do_not_show_a_password(url: str, shown: str) -> None:
    source = Prometheus(url, Session(requests.ConnectionError(f"no route to {url}")))
    with pytest.raises(PrometheusError) as caught:
        source.number("up")
    assert shown in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "headers", "says"),
    [
        (401, {}, "refuses access (401): check the user and the password in prometheus_base_url"),
        (403, {}, "refuses access (403)"),
        (302, {"location": "https://me:secret@q/"}, "redirects to https://me:***@q/: set prometheus_base_url to its new address"),
    ],
)
def test_a_refusal_by_http_is_named(code: int, headers: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session("<html>")

    def post(*_: Any, **__: Any) -> requests.Response:
        response = requests.Response()
        response.status_code = code
        response.headers.update(headers)
        return response

    monkeypatch.setattr(session, "post", post)
    with pytest.raises(PrometheusError) as caught:
        Prometheus("http://p:9090", session).number("up")
    assert says in str(caught.value)


def test_an_untrusted_certificate_is_named() -> None:
    with pytest.raises(PrometheusError, match="is not trusted: name its authority in REQUESTS_CA_BUNDLE"):
        Prometheus("https://p:9090", Session(requests.exceptions.SSLError("self-signed"))).number("up")


def test_a_bundle_of_certificates_applies_to_localhost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/own.pem")
    session = Session("")
    Prometheus("https://localhost:9090", session)
    assert (session.verify, session.trust_env) == ("/etc/own.pem", False)
