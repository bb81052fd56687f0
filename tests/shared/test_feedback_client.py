"""Asking sources that misbehave, over real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI, Request, Response
from feedback_builders import a_result, a_source, an_item
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from serving import running

from shared.circuit_breaker import CircuitBreaker
from shared.errors import ServiceUnavailable, SettingsError
from shared.feedback_client import FeedbackClient, FeedbackSources, Judgement
from shared.feedback_results import cut_middle, read_results
from shared.protocol import Capabilities, Feedback, FeedbackItem, SourceInfo
from shared.settings import FeedbackSettings

Answer = Callable[[Request, dict[str, Any]], Awaitable[Any]]
ITEMS = [an_item(i) for i in range(4)]
INFO = SourceInfo(name="s")


def _server(answer: Answer, **capabilities: Any) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/capabilities")
    def describe() -> dict[str, Any]:
        return {"name": "theirs", "version": "7", "gives_reward": True, **capabilities}

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Any:
        return await answer(request, await request.json())

    return app


def _says(**said: Any) -> Answer:
    async def answer(_: Request, body: dict[str, Any]) -> Any:
        return {"results": [a_result(item["trajectory_id"], **said) for item in body["items"]]}

    return answer


def _ask(url: str, items: Sequence[FeedbackItem] = ITEMS, **source: Any) -> list[Feedback]:
    async def ask() -> list[Feedback]:
        client = FeedbackClient("s", a_source(url, **source), api_key=SecretStr("k3y"))
        try:
            return await client.ask("run", items)
        finally:
            await client.aclose()

    return asyncio.run(ask())


def _kinds(feedback: Sequence[Feedback]) -> list[tuple[str, str | None]]:
    return [(one.status, one.error.class_ if one.error is not None else None) for one in feedback]


def _mute(feedback: Sequence[Feedback]) -> bool:
    return all(one.reward is None and one.success is None and one.text is None for one in feedback)


# ------------------------------------------------------------------------------------------------------- one call


def test_every_item_is_answered_in_order_with_the_settings_name_as_its_provenance() -> None:
    seen: list[dict[str, Any]] = []

    async def backwards(request: Request, body: dict[str, Any]) -> Any:
        seen.append({"key": request.headers["authorization"], **body})
        return {"results": [a_result(i["trajectory_id"], text=i["trajectory_id"]) for i in reversed(body["items"])]}

    with running(_server(backwards)) as url:
        feedback = _ask(url)
    assert [one.text for one in feedback] == [item.trajectory_id for item in ITEMS]
    assert {(one.source.name, one.source.kind, one.source.version) for one in feedback} == {("s", "rule", "7")}
    assert all(one.latency_ms > 0 for one in feedback)
    assert seen[0]["key"] == "Bearer k3y" and seen[0]["run_id"] == "run" and 0 < seen[0]["deadline_s"] <= 30


def test_chunks_respect_max_items_and_max_bytes() -> None:
    sizes: list[tuple[int, int]] = []

    async def count(request: Request, body: dict[str, Any]) -> Any:
        sizes.append((len(body["items"]), len(await request.body())))
        return await _says(reward=1)(request, body)

    items = [an_item(i, text="x" * 1000) for i in range(20)] + [an_item(20, text="x" * 9000)]
    with running(_server(count, max_items=3, max_bytes=4096)) as url:
        feedback = _ask(url, items)
    assert sum(n for n, _ in sizes) == 20 and max(n for n, _ in sizes) <= 3 and max(b for _, b in sizes) <= 4096
    assert _kinds(feedback) == [("ok", None)] * 20 + [("error", "data")]


def test_a_source_that_hangs_costs_the_deadline_and_answers_timeout() -> None:
    async def hang(_: Request, __: dict[str, Any]) -> Any:
        await asyncio.Event().wait()

    with running(_server(hang)) as url:
        feedback = _ask(url, timeout_s=0.3)
    assert _kinds(feedback) == [("timeout", "infra")] * 4 and _mute(feedback)


def test_a_source_that_drips_bytes_cannot_stretch_the_deadline() -> None:
    with _raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", drip=True) as url:
        feedback = _ask(url, timeout_s=0.5)
    assert _kinds(feedback) == [("timeout", "infra")] * 4


def test_the_chunks_that_answered_in_time_are_kept() -> None:
    async def hang_once(request: Request, body: dict[str, Any]) -> Any:
        if body["items"][0]["trajectory_id"] == "r2":
            await asyncio.Event().wait()
        return await _says(reward=1)(request, body)

    with running(_server(hang_once, max_items=1)) as url:
        feedback = _ask(url, timeout_s=3.0)
    assert [one.status for one in feedback] == ["ok", "ok", "timeout", "ok"]


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_retry_repeats_the_request_byte_for_byte_under_the_same_key(status: int) -> None:
    calls: list[tuple[str, bytes]] = []

    async def later(request: Request, body: dict[str, Any]) -> Any:
        calls.append((request.headers["idempotency-key"], await request.body()))
        if len(calls) < 3:
            return Response(status_code=status, headers={"Retry-After": "0"})
        return await _says(reward=0.5)(request, body)

    with running(_server(later)) as url:
        feedback = _ask(url)
    assert [one.reward for one in feedback] == [0.5] * 4
    assert len(calls) == 3 and len(set(calls)) == 1


def test_a_wait_longer_than_the_deadline_is_not_waited() -> None:
    calls = Counter[str]()

    async def tomorrow(_: Request, __: dict[str, Any]) -> Any:
        calls["n"] += 1
        return Response(status_code=429, headers={"Retry-After": "86400"})

    with running(_server(tomorrow)) as url:
        feedback = _ask(url, timeout_s=30)
    assert calls["n"] == 1 and _kinds(feedback) == [("error", "infra")] * 4
    assert feedback[0].error is not None and feedback[0].error.retryable


@pytest.mark.parametrize(
    ("status", "class_"), [(500, "infra"), (401, "infra"), (404, "infra"), (302, "infra"), (422, "data"), (413, "data")]
)
def test_other_failures_are_not_retried_and_carry_the_sources_own_sentence(status: int, class_: str) -> None:
    calls = Counter[str]()

    async def refuse(_: Request, __: dict[str, Any]) -> Any:
        calls["n"] += 1
        return Response(json.dumps({"detail": "No such luck."}), status_code=status)

    with running(_server(refuse)) as url:
        feedback = _ask(url)
    assert calls["n"] == 1 and _kinds(feedback) == [("error", class_)] * 4 and _mute(feedback)
    assert feedback[0].error is not None and f"answered {status}: No such luck." in feedback[0].error.message


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[[]]",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nzzzz",
        b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200000,
    ],
)
def test_garbage_and_broken_connections_are_infrastructure_failures(raw: bytes) -> None:
    with _raw(raw) as url:
        feedback = _ask(url)
    assert _kinds(feedback) == [("error", "infra")] * 4 and _mute(feedback)


def test_nobody_listening_is_an_infrastructure_failure_that_names_source_and_url() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{holder.getsockname()[1]}"
        feedback = _ask(url)
        with pytest.raises(ServiceUnavailable, match=f"Source 'code' at {url} cannot be reached"):
            asyncio.run(_sources({"code": a_source(url, role="both")}).probe())
    assert _kinds(feedback) == [("error", "infra")] * 4


def test_an_answer_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.feedback_transport.MAX_ANSWER_BYTES", 10_000)
    with running(_server(_says(text="x" * 10_000))) as url:
        feedback = _ask(url)
    assert _kinds(feedback) == [("error", "infra")] * 4


# ----------------------------------------------------------------------------------------------------------- jobs


class _Jobs:
    """A slow source: answers 202, and is done at the `polls`-th poll."""

    def __init__(self, polls: int, status: str = "done") -> None:
        self.polls, self.status, self.deleted = polls, status, threading.Event()
        self.body: dict[str, Any] = {}

    def app(self) -> FastAPI:
        async def accept(_: Request, body: dict[str, Any]) -> Any:
            self.body = body
            return Response(json.dumps({"job_id": "j1"}), status_code=202)

        app = _server(accept)

        @app.get("/v1/jobs/j1")
        def poll() -> dict[str, Any]:
            self.polls -= 1
            if self.polls > 0:
                return {"job_id": "j1", "status": "running"}
            good, bad = a_result("r0", reward=1), a_result("r1", reward=7)
            return {"job_id": "j1", "status": self.status, "results": [good, bad, a_result("r2"), a_result("r3")]}

        @app.delete("/v1/jobs/j1", status_code=204)
        def forget() -> None:
            self.deleted.set()

        return app


def test_a_slow_job_is_polled_and_its_results_are_read_one_by_one() -> None:
    jobs = _Jobs(polls=3)
    with running(jobs.app()) as url:
        feedback = _ask(url)
    assert [one.status for one in feedback] == ["ok", "error", "abstain", "abstain"]
    assert not jobs.deleted.is_set()


def test_a_job_past_the_deadline_is_given_up_and_the_source_is_told() -> None:
    jobs = _Jobs(polls=10**9)
    with running(jobs.app()) as url:
        feedback = _ask(url, timeout_s=0.5)
        assert jobs.deleted.wait(10)
    assert _kinds(feedback) == [("timeout", "infra")] * 4


def test_a_failed_job_is_an_infrastructure_failure() -> None:
    with running(_Jobs(polls=1, status="failed").app()) as url:
        assert _kinds(_ask(url)) == [("error", "infra")] * 4


# -------------------------------------------------------------------------------------------------- reading answers


@pytest.mark.parametrize(
    ("result", "field"),
    [
        ({"reward": float("nan")}, "reward"),
        ({"reward": 1.5}, "reward"),
        ({"reward": "high"}, "reward"),
        ({"text": 7}, "text"),
        ({"colour": "red"}, "colour"),
        ({"status": "abstain", "reward": 0.0}, "reward"),
        ({"status": "error", "text": "x"}, "text"),
        ({"text": "x", "spans": [{"start": 0, "end": 9, "text": "far"}]}, "spans.0.end"),
        ({"feedback_id": None}, "feedback_id"),
    ],
)
def test_a_wrong_result_costs_its_own_item_alone_and_names_the_field(result: dict[str, Any], field: str) -> None:
    document = json.loads(json.dumps({"results": [a_result("r0", reward=1), {**a_result("r1"), **result}]}))
    good, bad = read_results(document, ITEMS[:2], INFO)
    assert good.reward == 1 and (bad.status, bad.reward) == ("error", None)
    assert bad.error is not None and bad.error.class_ == "data" and f"'{field}'" in bad.error.message


def test_missing_doubled_and_unknown_items_are_handled() -> None:
    document = {
        "results": [a_result("r0", reward=1), a_result("r1", reward=1), a_result("r1", reward=0), a_result("q")]
    }
    found = read_results(document, ITEMS[:3], INFO)
    assert [one.trajectory_id for one in found] == ["r0", "r1", "r2"]
    assert _kinds(found) == [("ok", None), ("error", "data"), ("error", "infra")]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.sampled_from(["ok", "r0", "r1", "error"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*Feedback.model_fields, "class"]), inner, max_size=6)
    ),
    max_leaves=15,
)


@given(
    st.lists(
        st.builds(
            lambda base, said: {**base, **said} if isinstance(said, dict) else said,
            st.sampled_from([{}, a_result("r0", reward=1), a_result("r1", text="t")]),
            JSON,
        ),
        max_size=4,
    )
)
def test_whatever_a_source_answers_each_item_gets_one_feedback_and_only_ok_speaks(results: list[Any]) -> None:
    found = read_results({"results": results}, ITEMS[:2], INFO)
    assert [one.trajectory_id for one in found] == ["r0", "r1"]
    for one in found:
        assert Feedback.model_validate_json(one.model_dump_json()) == one
        assert one.status == "ok" or _mute([one])
        assert (one.error is not None) or one.status in ("ok", "abstain")


@given(st.text(max_size=400), st.integers(1, 300))
def test_a_text_is_cut_in_the_middle_to_its_limit_and_says_how_much_is_missing(text: str, limit: int) -> None:
    cut = cut_middle(text, limit)
    assert len(cut) <= limit and (cut == text or len(text) > limit)
    if cut != text and limit >= 60:
        head, _, rest = cut.partition("\n[... ")
        missing, _, tail = rest.partition(" characters left out ...]\n")
        assert len(head) + int(missing) + len(tail) == len(text) or "\n[... " in text


# -------------------------------------------------------------------------------------------------------- breaker


def test_after_repeated_failures_a_source_rests_and_is_tried_again_after_a_while() -> None:
    calls = Counter[str]()
    now = [0.0]

    async def break_then_mend(request: Request, body: dict[str, Any]) -> Any:
        calls["n"] += 1
        return await _says(reward=1)(request, body) if calls["n"] > 2 else Response(status_code=500)

    async def ask(url: str) -> Sequence[tuple[str, int]]:
        breaker = CircuitBreaker(failures=2, cooldown_s=10, clock=lambda: now[0])
        client = FeedbackClient("s", a_source(url), api_key=None, breaker=breaker)
        seen = []
        for now[0] in (0, 1, 2, 10, 11.5, 12):
            seen.append(((await client.ask("run", ITEMS[:1]))[0].status, calls["n"]))
        await client.aclose()
        return seen

    with running(_server(break_then_mend)) as url:
        seen = asyncio.run(ask(url))
    assert seen == [("error", 1), ("error", 2), ("error", 2), ("error", 2), ("ok", 3), ("ok", 4)]


def test_a_half_open_circuit_lets_one_call_through() -> None:
    now = [0.0]
    breaker = CircuitBreaker(failures=1, cooldown_s=5, clock=lambda: now[0])
    breaker.failed()
    assert not breaker.allow()
    now[0] = 5.0
    assert breaker.allow() and not breaker.allow()


def test_a_circuit_rests_twice_as_long_after_each_trial_that_failed_and_starts_anew_once_closed() -> None:
    now = [0.0]
    breaker = CircuitBreaker(failures=1, cooldown_s=5, longest_cooldown_s=15, clock=lambda: now[0])
    states = [breaker.state]
    for rest_s in (5, 10, 15, 15):
        breaker.failed()
        assert (breaker.state, breaker.retry_in_s()) == ("open", rest_s)
        now[0] += rest_s
        states.append(breaker.state)
        assert breaker.allow()
    assert states == ["closed", "half-open", "half-open", "half-open", "half-open"]
    breaker.succeeded()
    breaker.failed()
    assert breaker.retry_in_s() == 5


def test_whoever_insists_is_let_through_an_open_circuit() -> None:
    async def ask(url: str) -> Sequence[str]:
        breaker = CircuitBreaker(failures=1)
        breaker.failed()
        client = FeedbackClient("s", a_source(url), api_key=None, breaker=breaker)
        found = [(await client.ask("run", ITEMS[:1], insist=insist))[0].status for insist in (False, True, False)]
        await client.aclose()
        return list(found)

    with running(_server(_says(reward=1))) as url:
        assert asyncio.run(ask(url)) == ["error", "ok", "ok"]


# ------------------------------------------------------------------------------------------------------- all of them


def _sources(sources: dict[str, Any]) -> FeedbackSources:
    return FeedbackSources(FeedbackSettings(sources=sources), api_key=None)


def _judge(
    sources: dict[str, Any], items: Sequence[FeedbackItem], *, probed: Sequence[str] = ()
) -> dict[str, Judgement]:
    async def judge() -> dict[str, Judgement]:
        asked = _sources(sources)
        try:
            for client in asked.clients:
                if client.name in probed:
                    await client.capabilities()
            return await asked.judge("run", items)
        finally:
            await asked.aclose()

    return asyncio.run(judge())


async def _odd_ones_fail(_: Request, body: dict[str, Any]) -> Any:
    results = []
    for item in body["items"]:
        number = int(item["trajectory_id"][1:])
        said: dict[str, Any] = {"status": "abstain"} if number == 3 else {"reward": float(number % 2 == 0)}
        results.append(a_result(item["trajectory_id"], **said))
    return {"results": results}


def test_critique_sources_see_outcomes_and_siblings_and_only_failed_items_if_so_set() -> None:
    seen: dict[str, Any] = {}

    async def look(request: Request, body: dict[str, Any]) -> Any:
        seen.update({item["trajectory_id"]: item for item in body["items"]})
        return await _says(text="Try harder.", reward=1)(request, body)

    with running(_server(_odd_ones_fail)) as outcome, running(_server(look, needs_siblings=True)) as critic:
        sources = {"code": a_source(outcome, role="both"), "critic": a_source(critic, when="failed")}
        judged = _judge(sources, [*ITEMS, an_item(5, group_id="g1")])
    assert set(seen) == {"r1", "r5"}, "r3's outcome is unknown, which is no failure"
    siblings = {s["trajectory_id"]: (s["reward"], s["success"]) for s in seen["r1"]["siblings"]}
    assert siblings == {"r0": (1, True), "r2": (1, True), "r3": (None, None)} and seen["r5"]["siblings"] == []
    assert (seen["r1"]["reward"], seen["r1"]["success"]) == (0, False)
    assert (judged["r1"].reward, judged["r1"].success) == (0, False), "a critique source sets no reward"
    assert [one.source.name for one in judged["r1"].feedback] == ["code", "critic"]
    assert (judged["r3"].reward, judged["r3"].success, judged["r3"].failure) == (None, None, None)


def test_shadow_sources_are_recorded_apart_and_not_told_the_outcome() -> None:
    told: list[Any] = []

    async def spy(request: Request, body: dict[str, Any]) -> Any:
        told.extend(item["reward"] for item in body["items"])
        return await _says(reward=0, text="shadow")(request, body)

    with running(_server(_says(reward=1, text="real"))) as real, running(_server(spy)) as shadow:
        sources = {"new": a_source(shadow, role="both", shadow=True), "code": a_source(real, role="both")}
        judged = _judge(sources, ITEMS)
    assert all(j.reward == 1 and [f.text for f in j.feedback] == ["real"] for j in judged.values())
    assert all([f.text for f in j.shadow] == ["shadow"] for j in judged.values()) and told == [None] * 4


def test_who_needs_feedback_is_asked_last_and_told_what_all_but_shadow_sources_said_and_nobody_else_is() -> None:
    seen: dict[str, list[Any]] = {"human": [], "critic": []}

    def looking(name: str, answer: Any) -> Any:
        async def look(request: Request, body: dict[str, Any]) -> Any:
            seen[name] += body["items"]
            return await answer(request, body)

        return look

    async def silent(_: Request, body: dict[str, Any]) -> Any:
        return {"results": [a_result(item["trajectory_id"], status="abstain") for item in body["items"]]}

    with (
        running(_server(looking("human", silent), needs_feedback=True)) as human,
        running(_server(looking("critic", _says(text="Mind the sign.")))) as critic,
        running(_server(_says(reward=0, text="shadow"))) as shadow,
        running(_server(_says(reward=1, text="real"))) as code,
    ):
        sources = {
            "human": a_source(human),
            "new": a_source(shadow, shadow=True),
            "critic": a_source(critic),
            "gone": a_source("http://127.0.0.1:1"),
            "code": a_source(code, role="both"),
        }
        judged = _judge(sources, [an_item(0)], probed=["human", "critic"])
    (item,), (told,) = seen["human"], seen["critic"]
    assert item["said"] == [
        {"source": "critic", "status": "ok", "text": "Mind the sign.", "reward": None, "success": None},
        {"source": "gone", "status": "error", "text": None, "reward": None, "success": None},
        {"source": "code", "status": "ok", "text": "real", "reward": 1, "success": None},
    ]
    assert "said" not in told, "a source that knows no such field may refuse it"
    assert [one.source.name for one in judged["r0"].feedback] == ["human", "critic", "gone", "code"]


def test_when_the_outcome_source_is_away_nobody_else_is_asked_and_nothing_has_a_reward() -> None:
    calls = Counter[str]()

    async def count(request: Request, body: dict[str, Any]) -> Any:
        calls["n"] += 1
        return await _says(text="x")(request, body)

    async def broken(_: Request, __: dict[str, Any]) -> Any:
        return Response(status_code=500)

    with running(_server(broken)) as outcome, running(_server(count)) as critic:
        judged = _judge({"code": a_source(outcome, role="outcome"), "critic": a_source(critic)}, ITEMS)
    assert calls["n"] == 0
    for judgement in judged.values():
        assert (judgement.reward, judgement.success) == (None, None)
        assert judgement.failure is not None and "answered 500" in judgement.failure.message


def test_a_dead_critique_source_leaves_the_outcome_alone() -> None:
    with running(_server(_says(reward=1, text="fine"))) as outcome:
        sources = {"code": a_source(outcome, role="outcome"), "gone": a_source("http://127.0.0.1:1")}
        judged = _judge(sources, ITEMS)
    assert all(j.reward == 1 and [f.status for f in j.feedback] == ["ok", "error"] for j in judged.values())
    assert all(f.text is None for j in judged.values() for f in j.feedback), "role 'outcome' takes no text"


def test_a_source_that_gives_no_reward_cannot_be_the_outcome() -> None:
    with (
        running(_server(_says(text="x"), gives_reward=False)) as url,
        pytest.raises(SettingsError, match=r"feedback\.sources\.code has role 'both'"),
    ):
        asyncio.run(_sources({"code": a_source(url, role="both")}).probe())


def test_items_of_a_kind_the_source_does_not_judge_are_not_sent() -> None:
    with running(_server(_says(reward=1), task_kinds=["math"])) as url:
        items = [an_item(0, kind="math"), an_item(1, kind="code.stdin")]
        assert _kinds(_ask(url, items, role="both")) == [("ok", None), ("error", "data")]
        assert _kinds(_ask(url, items)) == [("ok", None), ("abstain", None)]


def test_long_texts_are_cut_and_counted() -> None:
    async def ask(url: str) -> tuple[list[Feedback], FeedbackClient]:
        client = FeedbackClient("s", a_source(url, max_chars=100), api_key=None)
        feedback = await client.ask("run", ITEMS)
        await client.aclose()
        return feedback, client

    with running(_server(_says(text="word " * 100))) as url:
        feedback, client = asyncio.run(ask(url))
    assert all(one.text is not None and len(one.text) <= 100 and "left out" in one.text for one in feedback)
    assert (client.stats.asked, client.stats.ok, client.stats.cut, client.stats.calls) == (4, 4, 4, 1)


def test_another_protocol_version_is_refused_in_a_sentence() -> None:
    with (
        running(_server(_says(), protocol=2)) as url,
        pytest.raises(ServiceUnavailable, match="speaks feedback protocol 2, this stack speaks 1"),
    ):
        asyncio.run(FeedbackClient("s", a_source(url), api_key=None).capabilities())


@contextmanager
def _raw(answer: bytes, *, drip: bool = False) -> Iterator[str]:
    """A server that answers capabilities well and everything else with these bytes, then hangs up or drips."""
    good = Capabilities(name="raw", version="1").model_dump_json().encode()
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def handle(connection: socket.socket) -> None:
        with connection:
            asked = connection.recv(2**16)
            if asked.startswith(b"GET"):
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(good)}\r\nConnection: close\r\n\r\n"
                connection.sendall(head.encode() + good)
                return
            connection.sendall(answer)
            while drip and not stop.wait(0.02):
                connection.sendall(b" ")

    def accept() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            try:
                handle(connection)
            except OSError:
                continue

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        stop.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)
