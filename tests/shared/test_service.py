"""The service factory, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Gauge
from serving import running

from shared.errors import DataError, InfrastructureError, ServiceUnavailable
from shared.protocol import FeedbackRequest
from shared.service import Problem, create_service, serve
from shared.settings import ServiceSettings, Settings

SECRET = "the password is swordfish"
SERVER = """
from shared.service import create_service, serve
from shared.settings import Settings
settings = Settings()
serve(create_service("bare", settings), settings, {port})
"""

BROKEN = """
from contextlib import asynccontextmanager
from shared.errors import InfrastructureError
from shared.service import create_service, serve
from shared.settings import Settings

@asynccontextmanager
async def lifespan(app):
    raise InfrastructureError("The store cannot be opened.")
    yield

try:
    serve(create_service("broken", Settings(), lifespan=lifespan), Settings(), 0)
except InfrastructureError as error:
    print(error)
"""


def _app(**kwargs: object) -> FastAPI:
    own = Settings(api_key="k3y", service=ServiceSettings(max_body_mb=1))
    app = create_service("try", own, **kwargs)  # type: ignore[arg-type]

    @app.post("/v1/echo")
    async def echo_request(request: FeedbackRequest) -> FeedbackRequest:
        return request

    @app.get("/v1/boom/{number}")
    async def boom(number: int) -> None:
        if number == 1:
            raise Problem(409, "Conflict", "It is taken.", field="name", headers={"Retry-After": "3"})
        if number == 2:
            raise DataError("Field 'tests' must hold at least one test.", field="tests")
        if number == 3:
            raise ServiceUnavailable("Redis at nowhere did not answer.")
        raise RuntimeError(SECRET)

    return app


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(_app()) as url, httpx.Client(base_url=url, headers={"Authorization": "Bearer k3y"}) as found:
        yield found


def _problem(response: httpx.Response, status: int) -> dict[str, object]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, object] = response.json()
    assert document["status"] == status
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def test_an_unforeseen_failure_tells_the_request_id_and_nothing_of_the_inside(client: httpx.Client) -> None:
    response = client.get("/v1/boom/9", headers={"X-Request-Id": "mine-1"})
    assert _problem(response, 500)["request_id"] == "mine-1"
    assert "swordfish" not in response.text and "RuntimeError" not in response.text


@pytest.mark.parametrize(
    ("number", "status", "field", "sentence"),
    [(1, 409, "name", "It is taken."), (2, 422, "tests", "at least one test"), (3, 503, None, "Redis at nowhere")],
)
def test_errors_of_the_tree_become_problems(
    client: httpx.Client, number: int, status: int, field: str | None, sentence: str
) -> None:
    response = client.get(f"/v1/boom/{number}")
    document = _problem(response, status)
    assert document.get("field") == field and sentence in str(document["detail"])
    assert ("retry-after" in response.headers) == (status in (409, 503))


def test_unknown_routes_and_methods_are_problems(client: httpx.Client) -> None:
    assert "no such route" in str(_problem(client.get("/v1/nowhere"), 404)["detail"])
    response = client.delete("/v1/echo")
    assert "POST" in str(_problem(response, 405)["detail"])
    assert response.headers["allow"] == "POST"


def test_a_bad_field_is_named_and_what_was_sent_is_not_repeated(client: httpx.Client) -> None:
    response = client.post("/v1/echo", json={"run_id": SECRET, "items": [{"trajectory_id": SECRET}]})
    document = _problem(response, 422)
    assert document["field"] == "run_id" and "'run_id'" in str(document["detail"])
    assert {"field": "items.0.task", "message": "Field required."} in document["errors"]  # type: ignore[operator]
    assert "swordfish" not in response.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"run_id":',
        b"\xff\xfe",
        b'"\\ud800"',
        b"[" * 200_000 + b"]" * 200_000,
        b'{"run_id":' * 5000 + b"1" + b"}" * 5000,
        b"1" * 5000,
        b'{"run_id": NaN}',
        b'{"run_id": "\\ud800", "items": []}',
        b"",
    ],
)
def test_no_body_however_twisted_is_a_server_error(client: httpx.Client, body: bytes) -> None:
    response = client.post("/v1/echo", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (400, 422)
    _problem(response, response.status_code)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["run_id", "items", "task", "id", "x"]), inner, max_size=4)
        ),
        max_leaves=12,
    )
)
def test_any_json_that_is_no_request_is_refused_as_the_senders_mistake(client: httpx.Client, document: object) -> None:
    body = json.dumps(document).encode()
    response = client.post("/v1/echo", content=body, headers={"Content-Type": "application/json"})
    _problem(response, 422)


def test_a_body_over_the_cap_is_refused_by_its_declared_length_and_as_it_arrives(client: httpx.Client) -> None:
    declared = client.post("/v1/echo", content=b" " * (2**20 + 1), headers={"Content-Type": "application/json"})
    _problem(declared, 413)
    pieces = (b" " * 2**16 for _ in range(17))
    chunked = client.post("/v1/echo", content=pieces, headers={"Content-Type": "application/json"})
    _problem(chunked, 413)


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer wrong", "Basic k3y", "k3y", "Bearer k3y k3y", "Bearer \xff"]
)
def test_without_the_key_only_health_metrics_and_schema_answer(client: httpx.Client, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    with httpx.Client(base_url=client.base_url) as stranger:
        response = stranger.get("/v1/boom/1", headers=headers)  # type: ignore[arg-type]
        _problem(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"
        for path in ("/healthz", "/readyz", "/metrics", "/openapi.json"):
            assert stranger.get(path, headers=headers).status_code == 200  # type: ignore[arg-type]


def test_a_malformed_request_id_is_replaced(client: httpx.Client) -> None:
    given = "a" * 129
    assert client.get("/healthz", headers={"X-Request-Id": given}).headers["x-request-id"] != given
    assert client.get("/healthz", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_requests_are_counted_by_route_template_and_health_is_not(client: httpx.Client) -> None:
    client.get("/v1/boom/1")
    client.get("/healthz")
    text = client.get("/metrics").text
    assert 'vpd_http_requests_total{method="GET",route="/v1/boom/{number}",status="409"}' in text
    assert 'vpd_http_request_seconds_count{method="GET",route="/v1/boom/{number}"}' in text
    assert 'route="/healthz"' not in text


def test_the_schema_names_operations_after_functions_and_problems_for_errors(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    operation = schema["paths"]["/v1/echo"]["post"]
    assert operation["operationId"] == "echo_request"
    assert "application/problem+json" in operation["responses"]["4XX"]["content"]
    assert "ProblemDocument" in schema["components"]["schemas"]
    assert schema["security"] == [{"key": []}] and schema["paths"]["/healthz"]["get"]["security"] == []


def test_readiness_gives_a_reason_for_each_dependency_that_is_away() -> None:
    async def fine() -> str | None:
        return None

    async def away() -> str | None:
        return "No policy is loaded."

    async def failing() -> str | None:
        raise InfrastructureError("Redis did not answer.")

    with running(_app(checks={"disk": fine, "engine": away, "redis": failing})) as url:
        document = _problem(httpx.get(f"{url}/readyz"), 503)
        assert document["checks"] == {
            "disk": "ok",
            "engine": "No policy is loaded.",
            "redis": "Redis did not answer.",
        }
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(InfrastructureError, match=rf"Port {port} on 127.0.0.1 is in use: .*--port"):
            serve(_app(), Settings(), port)


@contextmanager
def _process() -> Iterator[tuple[subprocess.Popen[str], int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(port=0)], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        assert process.stderr is not None
        yield process, json.loads(process.stderr.readline())["port"]
    finally:
        process.kill()
        process.communicate()


def test_a_served_process_logs_request_ids_as_json_and_ends_with_0_on_sigterm() -> None:
    with _process() as (process, port):
        httpx.get(f"http://127.0.0.1:{port}/nowhere", headers={"X-Request-Id": "find-me"})
        process.send_signal(signal.SIGTERM)
        _, logged = process.communicate(timeout=30)
        assert process.returncode == 0
        lines = [json.loads(line) for line in logged.splitlines()]
        assert [line["status"] for line in lines if line.get("request_id") == "find-me"] == [404]


def test_an_error_in_the_lifespan_leaves_serve_as_it_is() -> None:
    ended = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr) == ("The store cannot be opened.\n", "")


# ------------------------------------------------------------------------------------------------- further metrics


def test_what_an_exposition_returns_is_appended_to_the_metrics_read_after_it() -> None:
    async def exposition() -> bytes:
        app.state.read.inc()
        return b"more 1\n"

    app = create_service("try", Settings(), exposition=exposition)
    app.state.read = Gauge("vpd_read", "Read.", registry=app.state.registry)
    with running(app) as url:
        text = httpx.get(f"{url}/metrics").text
    assert "vpd_read 1.0" in text and text.endswith("\nmore 1\n")


@pytest.mark.parametrize("error", [InfrastructureError("gone"), OSError("gone"), None])
def test_an_exposition_that_fails_or_hangs_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    monkeypatch.setattr("shared.service.EXPOSITION_TIMEOUT_S", 0.05)

    async def exposition() -> bytes:
        if error is not None:
            raise error
        await asyncio.Event().wait()
        return b""

    with running(create_service("try", Settings(), exposition=exposition)) as url:
        answer = httpx.get(f"{url}/metrics")
    assert answer.status_code == 200 and "process_cpu_seconds_total" in answer.text
