"""Requests that cannot be judged: each is refused with a problem document that names the field, before any work."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from services.code_feedback import pool
from services.code_feedback.app import MAX_RESPONSE_CHARS, create_app
from services.code_feedback.strict_json import read_json
from shared.problems import Problem
from shared.protocol import Feedback, FeedbackResponse
from shared.settings import CodeFeedbackSettings, ServiceSettings, Settings
from tests.services.code_feedback_support import RawClient, ask, block, item, request
from tests.serving import running

ONE = request(item("a", "print(input())"))
TEXT = json.dumps(ONE)
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = Settings(
        code_feedback=CodeFeedbackSettings(isolation="unsafe", workers=1), service=ServiceSettings(max_body_mb=64)
    )
    with running(create_app(settings)) as base:
        yield base


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    judged: list[Any] = []
    monkeypatch.setattr(pool.JudgePool, "judge", lambda *_: judged.append(1))
    yield
    assert not judged


def refusal(response: httpx.Response) -> tuple[int, str | None]:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    assert document["request_id"] == response.headers["x-request-id"]
    return response.status_code, document.get("field")


def with_item(**fields: Any) -> dict[str, Any]:
    return {**ONE, "items": [ONE["items"][0], {**ONE["items"][0], **fields}]}


def nested(depth: int) -> str:
    return TEXT.replace('"7"', "[" * depth + "]" * depth, 1)


BODIES: dict[str, tuple[bytes | str, str]] = {
    "nothing": (b"", "body"),
    "no JSON": ('{"run_id":', "body"),
    "not an object": ("[]", "body"),
    "invalid UTF-8": (TEXT.encode().replace(b"print", b"\xff\xfe"), "body"),
    "UTF-16": (TEXT.encode("utf-16"), "body"),
    "a surrogate encoded as UTF-8": (TEXT.encode().replace(b"print", b"\xed\xa0\x80"), "body"),
    "half of a surrogate pair": (TEXT.replace("print", "\\ud800"), "body"),
    "a raw NUL byte": (TEXT.encode().replace(b"print", b"\0"), "body"),
    "depth 100,000": (nested(100_000), "body"),
    "a name twice": (TEXT.replace('"run_id"', '"deadline_s": 1, "run_id"'), "deadline_s"),
    "a name twice deep inside": (TEXT.replace('"input"', '"input": "8", "input"'), "input"),
    "a number of 5,000 digits": (TEXT.replace("120.0", "1" * 5000), "body"),
    "NaN": (TEXT.replace("120.0", "NaN"), "deadline_s"),
    "infinity": (TEXT.replace("120.0", "Infinity"), "deadline_s"),
    "a deadline of 0": (TEXT.replace("120.0", "0"), "deadline_s"),
    "a deadline below 0": (TEXT.replace("120.0", "-1"), "deadline_s"),
    "a deadline of 1e308": (TEXT.replace("120.0", "1e308"), "deadline_s"),
    "a deadline of 10^400": (TEXT.replace("120.0", "1" * 400), "deadline_s"),
    "an unknown field": (TEXT.replace('"run_id"', '"surprise": 1, "run_id"'), "surprise"),
    "no items": (json.dumps({**ONE, "items": []}), "items"),
    "a field missing": (json.dumps(with_item()).replace('"group_id": "g", ', "", 1), "items.0.group_id"),
    "an unknown field of an item": (json.dumps(with_item(surprise=1)), "items.1.surprise"),
    "a NUL in an id": (json.dumps(with_item(trajectory_id="a\0")), "items.1.trajectory_id"),
    "an id of 10,000 characters": (json.dumps(with_item(trajectory_id="a" * 10_000)), "items.1.trajectory_id"),
    "a text that is none": (json.dumps(with_item(response={"text": 1})), "items.1.response.text"),
    "a policy version below 0": (json.dumps(with_item(policy_version=-1)), "items.1.policy_version"),
    "a reference that is none": (
        json.dumps(with_item(task={**ONE["items"][0]["task"], "reference": []})),
        "items.1.task.reference",
    ),
}


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(("body", "field"), BODIES.values(), ids=BODIES)
def test_a_malformed_request_is_refused_whole_with_the_field(url: str, body: bytes | str, field: str) -> None:
    assert refusal(httpx.post(f"{url}/v1/feedback", content=body, headers=JSON)) == (422, field)


@pytest.mark.usefixtures("nothing_runs")
def test_a_program_of_50_mb_is_refused_with_the_field(url: str) -> None:
    body = with_item(response={"text": block("x" * 50_000_000)})
    assert refusal(httpx.post(f"{url}/v1/feedback", json=body, timeout=60)) == (413, "items.1.response.text")
    fits = with_item(response={"text": "x" * (MAX_RESPONSE_CHARS + 1)})
    assert refusal(httpx.post(f"{url}/v1/feedback", json=fits, timeout=60)) == (413, "items.1.response.text")


@pytest.mark.usefixtures("nothing_runs")
def test_a_body_of_200_mb_is_refused_by_its_declared_length(url: str) -> None:
    client = RawClient(url)
    client.post(b"{", declared=200_000_000)
    assert b" 413 " in client.read_until(b"max_body_mb")
    client.close()


@pytest.mark.usefixtures("nothing_runs")
def test_a_body_of_200_mb_is_refused_while_it_arrives(url: str) -> None:
    client = RawClient(url)
    headers = "Host: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.socket.sendall(f"POST /v1/feedback HTTP/1.1\r\n{headers}".encode())
    for _ in range(200):
        client.socket.sendall(b"100000\r\n" + b" " * 2**20 + b"\r\n")
    assert b" 413 " in client.read_until(b"max_body_mb")
    client.close()


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, identity"])
def test_a_body_with_a_content_coding_is_never_unpacked(url: str, coding: str) -> None:
    bomb = gzip.compress(b"0" * 10_000_000)
    response = httpx.post(f"{url}/v1/feedback", content=bomb, headers={**JSON, "Content-Encoding": coding})
    assert refusal(response) == (415, "Content-Encoding")


def judged_alone(url: str, **reference: Any) -> Feedback:
    """What is said about an item with a bad reference; the item beside it must not suffer."""
    good, bad = ask(url, item("good", "print(input())"), item("bad", "print(input())", **reference))
    assert good.reward == 1.0
    return bad


REFERENCES: dict[str, tuple[dict[str, Any], str]] = {
    "no tests": ({"tests": []}, "reference.tests"),
    "100,000 tests": ({"tests": [{"input": "7", "output": "7"}] * 100_000}, "reference.tests"),
    "tests that are none": ({"tests": 1}, "reference.tests"),
    "a test of the wrong type": ({"tests": [{"input": 7, "output": "7"}]}, "reference.tests.0.input"),
    "an unknown field": ({"surprise": 1}, "reference.surprise"),
    "a time limit of 0": ({"time_limit_s": 0}, "reference.time_limit_s"),
    "a time limit below 0": ({"time_limit_s": -1}, "reference.time_limit_s"),
    "a time limit of 1e308": ({"time_limit_s": 1e308}, "reference.time_limit_s"),
    "a time limit of 10^4000": ({"time_limit_s": 10**4000}, "reference.time_limit_s"),
    "a time limit that is text": ({"time_limit_s": "six"}, "reference.time_limit_s"),
    "a memory limit of 0": ({"memory_limit_mb": 0}, "reference.memory_limit_mb"),
    "a memory limit below 0": ({"memory_limit_mb": -5}, "reference.memory_limit_mb"),
    "a memory limit of 10^30": ({"memory_limit_mb": 10**30}, "reference.memory_limit_mb"),
    "the kind within": ({"kind": "code.assert"}, "reference.kind"),
}


@pytest.mark.parametrize(("reference", "field"), REFERENCES.values(), ids=REFERENCES)
def test_a_bad_reference_costs_only_its_item_a_verdict(url: str, reference: dict[str, Any], field: str) -> None:
    bad = judged_alone(url, **reference)
    assert (bad.status, bad.reward, bad.text) == ("error", None, None)
    assert bad.error is not None and (bad.error.class_, bad.error.retryable) == ("data", False)
    assert field in bad.error.message
    assert len(bad.error.message) < 1000


def test_a_time_limit_that_is_no_number_is_told_apart_from_none(url: str) -> None:
    text = json.dumps(request(item("none", "print(input())", time_limit_s=None), item("nan", "print(input())")))
    last = text.rindex('"time_limit_s": 60')
    body = text[:last] + '"time_limit_s": NaN' + text[last + len('"time_limit_s": 60') :]
    response = httpx.post(f"{url}/v1/feedback", content=body, headers=JSON, timeout=60)
    none, nan = FeedbackResponse.model_validate(response.json()).results
    assert none.reward == 1.0
    assert nan.status == "error" and nan.error is not None and "reference.time_limit_s" in nan.error.message


@pytest.mark.parametrize("depth", [50, 500, 900])
def test_a_deep_reference_is_an_error_of_its_item_or_of_the_body(url: str, depth: int) -> None:
    response = httpx.post(
        f"{url}/v1/feedback", content=nested(depth), headers={**JSON, "Idempotency-Key": f"deep-{depth}"}
    )
    if response.status_code == 200:
        (result,) = FeedbackResponse.model_validate(response.json()).results
        assert result.error is not None and "reference.tests.0.input" in result.error.message
    else:
        assert refusal(response) == (422, "body")


def test_a_program_with_a_nul_does_not_compile(url: str) -> None:
    (result,) = ask(url, item("a", "print(input())\0"))
    assert (result.status, result.reward) == ("ok", 0.0)
    assert "Compile error" in (result.text or "")


def test_a_client_that_waits_for_100_continue_is_told_to(url: str) -> None:
    client = RawClient(url)
    client.post(b"", declared=len(TEXT), headers="Expect: 100-continue\r\n")
    assert b" 100 " in client.read_until(b"\r\n\r\n")
    client.socket.sendall(TEXT.encode())
    assert b'"reward":1.0' in client.read_until(b"}]}")
    client.close()


def test_pipelined_requests_are_answered_in_their_order(url: str) -> None:
    client = RawClient(url)
    for name in ("first", "second", "third"):
        client.post(json.dumps(request(item(name, "print(input())"))).encode())
    answers = client.read_until(b"}]}", times=3)
    places = [answers.index(f'"trajectory_id":"{name}"'.encode()) for name in ("first", "second", "third")]
    assert places == sorted(places)
    assert answers.count(b'"reward":1.0') == 3
    client.close()


def test_the_same_request_id_twice_is_two_requests(url: str) -> None:
    for reward, program in ((1.0, "print(input())"), (0.0, "print(8)")):
        response = httpx.post(
            f"{url}/v1/feedback", json=request(item("a", program)), headers={"X-Request-Id": "same"}, timeout=60
        )
        assert response.headers["x-request-id"] == "same"
        assert response.json()["results"][0]["reward"] == reward


@pytest.mark.parametrize(
    "text", ['{"a": 1, "b": {"a": 2}}', '[{"a": 1}, {"a": 2}]', '"\\ud83d\\ude00"', '"\\\\ud800"', '"\\u0000"', "-0.0"]
)
def test_strict_reading_takes_what_json_allows(text: str) -> None:
    assert read_json(text.encode()) == json.loads(text)


def test_the_name_that_stands_twice_is_cut_and_can_be_sent() -> None:
    name = "\\ud800" + "x" * 1000
    with pytest.raises(Problem) as refused:
        read_json(f'{{"{name}": 1, "{name}": 2}}'.encode())
    field = refused.value.field
    assert field is not None and len(field.encode()) <= 200
