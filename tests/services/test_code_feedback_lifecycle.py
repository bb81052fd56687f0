"""Clients that hang up, requests that take turns, the end of the service: by SIGTERM, by SIGKILL, by a dead server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox import verdicts
from sandbox.isolation import Isolation, Tier
from sandbox.judge import judge
from sandbox.reference import CodeTask, parse_task
from services.code_feedback import pool
from services.code_feedback.app import create_app
from services.code_feedback.pool import JudgePool, Verdict
from services.code_feedback.replay import Replay
from services.code_feedback.turns import Batch, Turns
from shared.protocol import FeedbackItem, FeedbackResponse
from shared.settings import CodeFeedbackSettings, Settings
from tests.sandbox.programs import tier_missing
from tests.services.code_feedback_support import (
    LOOP,
    RawClient,
    ask,
    eventually,
    item,
    metric,
    request,
    service,
    temporary_directory,
    waiting,
)
from tests.serving import running

SLOW = "import time\ntime.sleep(1.5)\nprint(input())"
ENDLESS = json.dumps(request(item("endless", LOOP))).encode()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings = Settings(code_feedback=CodeFeedbackSettings(isolation="unsafe", workers=1))
    with running(create_app(settings)) as base:
        yield base


@pytest.fixture
def directory() -> Iterator[Path]:
    with temporary_directory() as found:
        yield found


# ------------------------------------------------------------------------------------------------------ hanging up


@pytest.mark.parametrize("hang_up", [RawClient.close, lambda client: client.socket.shutdown(1)])
def test_a_client_that_hangs_up_takes_its_running_program_with_it(
    url: str, hang_up: Callable[[RawClient], None]
) -> None:
    client = RawClient(url)
    client.post(ENDLESS)
    eventually(lambda: waiting(url) == 1, "it runs")
    hang_up(client)
    eventually(lambda: waiting(url) == 0, "its slot is free")
    assert ask(url, item("next", "print(input())"))[0].reward == 1.0
    client.close()


def test_a_client_that_hangs_up_takes_its_queued_programs_with_it(url: str) -> None:
    running_one, queued = RawClient(url), RawClient(url)
    running_one.post(ENDLESS)
    eventually(lambda: waiting(url) == 1, "the first runs")
    queued.post(json.dumps(request(*[item(f"q{i}", f"{LOOP} # {i}") for i in range(5)])).encode())
    eventually(lambda: waiting(url) == 6, "the others wait")
    queued.close()
    eventually(lambda: waiting(url) == 1, "their places are free, and the first is still there")
    running_one.close()
    eventually(lambda: waiting(url) == 0, "its slot is free")


def test_a_client_that_hangs_up_within_its_body_leaves_nothing(url: str) -> None:
    before = metric(url, 'vpd_http_requests_total{method="POST",route="/v1/feedback",status="499"}')
    client = RawClient(url)
    client.post(ENDLESS[:100], declared=len(ENDLESS))
    client.close()
    name = 'vpd_http_requests_total{method="POST",route="/v1/feedback",status="499"}'
    eventually(lambda: metric(url, name) == before + 1, "it is noticed")
    assert waiting(url) == 0


def test_a_client_that_hangs_up_under_a_key_frees_its_slot_too(url: str) -> None:
    client = RawClient(url)
    client.post(ENDLESS, headers="Idempotency-Key: left\r\n")
    eventually(lambda: waiting(url) == 1, "it runs")
    client.close()
    eventually(lambda: waiting(url) == 0, "its slot is free")
    again = RawClient(url)
    again.post(ENDLESS, headers="Idempotency-Key: left\r\n")
    eventually(lambda: waiting(url) == 1, "under the same key it is begun anew")
    again.close()
    eventually(lambda: waiting(url) == 0, "its slot is free")


def test_an_answer_is_made_for_as_long_as_anybody_waits_for_it() -> None:
    async def try_it() -> None:
        replay: Replay[str] = Replay()
        asked, go = 0, asyncio.Event()

        async def answer() -> str:
            nonlocal asked
            asked += 1
            await go.wait()
            return f"answer {asked}"

        def wait() -> asyncio.Task[str]:
            return asyncio.create_task(replay.once("key", b"body", answer, keep=lambda _: True))

        first, second = wait(), wait()
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        go.set()
        assert await second == "answer 1"
        assert await wait() == "answer 1"

    asyncio.run(try_it())


def test_an_answer_that_nobody_waits_for_is_cancelled_and_made_anew_when_asked_again() -> None:
    async def try_it() -> None:
        replay: Replay[str] = Replay()
        cancelled: list[bool] = []

        async def endless() -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
            return "never"

        async def at_once() -> str:
            return "at once"

        waiters = [asyncio.create_task(replay.once("key", b"body", endless, keep=lambda _: True)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for waiter in waiters:
            assert not cancelled
            waiter.cancel()
            await asyncio.wait([waiter])
        assert await replay.once("key", b"body", at_once, keep=lambda _: True) == "at once"
        assert cancelled == [True]

    asyncio.run(try_it())


# --------------------------------------------------------------------------------------------------------- turns


def test_requests_take_turns() -> None:
    async def order() -> list[str]:
        turns: Turns[str, None] = Turns()
        for jobs in (["a1", "a2", "a3"], ["b1"], [], ["c1", "c2"]):
            turns.add(Batch(jobs))
        taken = []
        while turn := turns.take():
            taken.append(turn[1])
        return taken

    assert asyncio.run(order()) == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_a_dropped_batch_loses_its_turn_and_no_other_does() -> None:
    async def order() -> list[str]:
        turns: Turns[str, None] = Turns()
        batches: list[Batch[str, None]] = [Batch([f"{name}1", f"{name}2"]) for name in "abc"]
        for batch in batches:
            turns.add(batch)
        assert turns.drop(batches[1]) == 2
        assert turns.drop(batches[1]) == 0
        assert batches[1].cancelled.is_set()
        taken = []
        while turn := turns.take():
            taken.append(turn[1])
        return taken

    assert asyncio.run(order()) == ["a1", "c1", "a2", "c2"]


def test_a_large_request_does_not_keep_a_small_one_waiting(url: str) -> None:
    many = [item(f"m{i}", f"print(input()) # {i}") for i in range(150)]
    thread = threading.Thread(target=ask, args=(url, *many))
    thread.start()
    eventually(lambda: waiting(url) > 0, "the large one has begun")
    assert ask(url, item("small", "print(input())"))[0].reward == 1.0
    left = waiting(url)
    thread.join()
    assert left > 50, "the small one was answered long before the large one"


def test_the_deadline_holds_for_a_program_that_waits(url: str) -> None:
    client = RawClient(url)
    client.post(ENDLESS)
    eventually(lambda: waiting(url) == 1, "the only worker is busy")
    (late,) = ask(url, item("late", "print(input())"), deadline_s=0.2)
    client.close()
    assert (late.status, late.reward) == ("timeout", None)
    assert late.error is not None and late.error.retryable


# ------------------------------------------------------------------------------------------------------- failures


class Refusing(Isolation):
    """A sandbox that cannot be started for the first `times` times."""

    def __init__(self, times: int) -> None:
        super().__init__("unsafe")
        self.times = times
        self.asked = 0

    def start(self) -> Any:
        self.asked += 1
        if self.asked <= self.times:
            raise OSError("no more processes")
        return super().start()


def judged(isolation: Isolation, *programs: str) -> list[Verdict]:
    items = [FeedbackItem.model_validate(item(f"t{i}", program)) for i, program in enumerate(programs)]

    async def one_batch() -> list[Verdict]:
        judges = JudgePool(isolation, CodeFeedbackSettings(isolation="unsafe", workers=1))
        try:
            return await judges.judge(items, 60.0)
        finally:
            judges.close()

    return asyncio.run(one_batch())


def test_a_sandbox_that_cannot_be_started_is_tried_twice_and_then_no_verdict() -> None:
    isolation = Refusing(times=2)
    failed, fine = judged(isolation, "print(input())", "print(input()) # another")
    assert (failed.status, failed.reward, failed.text) == ("error", None, None)
    assert failed.error is not None and (failed.error.class_, failed.error.retryable) == ("infra", True)
    assert (fine.status, fine.reward) == ("ok", 1.0)
    assert isolation.asked == 3


def test_a_sandbox_that_cannot_be_started_once_costs_nobody_a_verdict() -> None:
    assert [verdict.reward for verdict in judged(Refusing(times=1), "print(input())")] == [1.0]


def test_a_failure_nobody_foresaw_costs_one_item_its_verdict_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:

    def failing(isolation: Isolation, task: Any, source: str, *rest: Any, **more: Any) -> verdicts.Report:
        if "bad" in source:
            raise RuntimeError("swordfish")
        return judge(isolation, task, source, *rest, **more)

    monkeypatch.setattr(pool, "judge", failing)
    bad, good = judged(Isolation("unsafe"), "print('bad')", "print(input())")
    assert bad.status == "error" and bad.error is not None and bad.error.class_ == "infra"
    assert "swordfish" not in bad.error.message
    assert good.reward == 1.0


def test_all_tasks_are_read_before_the_first_program_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def passing(*_: Any, **__: Any) -> verdicts.Report:
        seen.append("run")
        return verdicts.Report((verdicts.TestReport(verdicts.Verdict.PASSED),))

    def reading(kind: str, reference: dict[str, Any]) -> CodeTask:
        seen.append("read")
        return parse_task(kind, reference)

    monkeypatch.setattr(pool, "parse_task", reading)
    monkeypatch.setattr(pool, "judge", passing)
    items = [item(f"t{i}", "pass", time_limit_s=i + 1) for i in range(5)]
    items.append(item("bad", "pass", time_limit_s=-1))

    async def one_batch() -> list[Verdict]:
        judges = JudgePool(Isolation("unsafe"), CodeFeedbackSettings(isolation="unsafe", workers=2))
        try:
            return await judges.judge([FeedbackItem.model_validate(one) for one in items], 60.0)
        finally:
            judges.close()

    assert [verdict.status for verdict in asyncio.run(one_batch())] == ["ok"] * 5 + ["error"]
    assert seen == ["read"] * 6 + ["run"] * 5


# -------------------------------------------------------------------------------------------------------- the end


def tiers() -> list[Any]:
    found: list[Any] = []
    names: list[Tier] = ["landlock", "bubblewrap"]
    for tier in names:
        reason = tier_missing(tier)
        found.append(pytest.param(tier, marks=pytest.mark.skipif(reason is not None, reason=str(reason))))
    return found


@pytest.mark.parametrize("tier", tiers())
def test_sigterm_answers_what_is_in_flight_and_leaves_nothing(directory: Path, tier: str) -> None:
    with service(directory, tier) as server:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.extend(ask(server.url, item("a", SLOW))))
        thread.start()
        eventually(lambda: waiting(server.url) == 1, "it runs")
        os.kill(server.process.pid, signal.SIGTERM)
        eventually(lambda: refused(server.url), "no new connection is taken")
        assert server.process.poll() is None, "it was answered before anything new was refused"
        thread.join()
        assert server.process.wait(20) == 0
        assert [answer.reward for answer in answers] == [1.0]
        assert server.leftovers() == []
        assert server.processes() == []


def test_what_is_not_judged_in_the_time_to_drain_is_answered_with_an_error(directory: Path) -> None:
    with service(directory, "unsafe") as server:
        client = RawClient(server.url)
        client.post(json.dumps(request(item("quick", "print(input())"), item("endless", LOOP))).encode())
        eventually(lambda: waiting(server.url) == 1, "one is done, one runs")
        assert server.end() == 0
        body = client.read_until(b"}]}").partition(b"\r\n\r\n")[2]
        quick, endless = FeedbackResponse.model_validate_json(body).results
        assert quick.reward == 1.0
        assert (endless.status, endless.reward) == ("error", None)
        assert endless.error is not None and (endless.error.class_, endless.error.retryable) == ("infra", True)
        assert server.leftovers() == []
        assert server.processes() == []


@pytest.mark.parametrize("tier", tiers())
def test_after_a_sigkill_no_process_stays_and_the_next_start_removes_the_files(directory: Path, tier: str) -> None:
    with service(directory, tier) as killed:
        client = RawClient(killed.url)
        client.post(ENDLESS)
        eventually(lambda: waiting(killed.url) == 1 and killed.processes() != [], "it runs")
        killed.end(signal.SIGKILL)
        client.close()
        eventually(lambda: killed.processes() == [], "its sandboxes ended with it")
        stale = killed.leftovers()
        assert len(stale) == 1
    with service(directory, tier) as next_one:
        assert len(next_one.leftovers()) == 1
        assert next_one.leftovers() != stale
        with service(directory, tier) as beside:
            assert len(beside.leftovers()) == 2, "what a living one holds is not stale"
            assert ask(next_one.url, item("a", "print(input())"))[0].reward == 1.0
            assert beside.end() == 0
        assert next_one.end() == 0
    assert list(directory.iterdir()) == []


@pytest.mark.skipif(tier_missing("landlock") is not None, reason="this tier has warm servers")
def test_a_server_that_is_killed_under_a_program_costs_nobody_a_verdict(directory: Path) -> None:
    with service(directory, "landlock") as server:
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.extend(ask(server.url, item("a", SLOW))))
        thread.start()
        eventually(lambda: server.drivers() != [], "it runs")
        killed = server.drivers()[0][1]
        os.kill(killed, signal.SIGKILL)
        thread.join()
        assert [answer.reward for answer in answers] == [1.0]
        assert killed not in server.processes()
        assert server.end() == 0


def refused(url: str) -> bool:
    try:
        RawClient(url).close()
    except ConnectionRefusedError:
        return True
    return False
