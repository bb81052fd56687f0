"""Asking sources that fail, over real HTTP: what comes out is what they say when they are well, or nothing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from feedback_builders import a_source, an_item
from judging_sources import Source, killable
from serving import running
from structlog.testing import capture_logs

from shared.circuit_breaker import CircuitBreaker
from shared.errors import DataError, ServiceUnavailable
from shared.feedback_client import FeedbackSources, Judgement, SourceStats
from shared.protocol import Feedback
from shared.settings import FeedbackSettings, Settings, SourceSettings
from trainer import judging
from trainer.evaluate import Evaluator
from trainer.judging import Judge, probe

TEXTS = ["a", "bb", "ccc", "dddd", "eeeee", "ffffff"]
ITEMS = [an_item(i, text=text, group_id=f"g{i // 3}") for i, text in enumerate(TEXTS)]
NOBODY = "http://127.0.0.1:1"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(judging, "_LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr("shared.feedback_transport.FIRST_WAIT_S", 0.01)


class Asked:
    """Steps judged one after the other by one Judge, and what was logged meanwhile."""

    def __init__(self, sources: dict[str, SourceSettings], **settings: Any) -> None:
        self.settings = FeedbackSettings(sources=sources, **settings)
        self.steps: list[dict[str, Judgement]] = []
        self.logs: list[dict[str, Any]] = []
        self.stats: dict[str, SourceStats] = {}
        self.error: Exception | None = None

    async def judge(self, judge: Judge) -> None:
        with capture_logs() as logs:
            try:
                self.steps.append(await judge("run", ITEMS))
            except (ServiceUnavailable, DataError) as error:
                self.error = error
        self.logs += [dict(entry) for entry in logs]

    def errors_logged(self) -> list[str]:
        return [entry["event"] for entry in self.logs if entry["log_level"] == "error"]

    def run(
        self,
        steps: int = 1,
        before: Callable[[int], None] = lambda _: None,
        *,
        breaks_after: int = 3,
        rollouts_per_step: int | None = None,
    ) -> Asked:
        async def run() -> None:
            sources = FeedbackSources(self.settings, api_key=None)
            for client in sources.clients:
                client.breaker = CircuitBreaker(failures=breaks_after)
            judge = Judge(sources, self.settings, rollouts_per_step=rollouts_per_step)
            for step in range(steps):
                before(step)
                await self.judge(judge)
            self.stats = {client.name: client.stats for client in sources.clients}
            await sources.aclose()

        asyncio.run(run())
        return self

    def said(self, step: int = 0) -> dict[str, list[Feedback]]:
        assert self.error is None, self.error
        return {
            trajectory_id: [one.model_copy(update={"latency_ms": 0.0}) for one in judgement.feedback]
            for trajectory_id, judgement in self.steps[step].items()
        }


def _code(url: str, *, timeout_s: float = 5.0) -> SourceSettings:
    return SourceSettings(url=url, role="both", timeout_s=timeout_s)


def _both(outcome: Source, critic: Source, *, timeout_s: float = 5.0, **settings: Any) -> Asked:
    with running(outcome) as code, running(critic) as words:
        sources = {
            "code": _code(code, timeout_s=timeout_s),
            "critic": a_source(words, when="failed", timeout_s=timeout_s),
        }
        return Asked(sources, **settings).run()


@pytest.fixture(scope="module")
def undisturbed() -> dict[str, list[Feedback]]:
    return _both(Source(max_items=1), Source(max_items=1)).said()


def test_the_undisturbed_feedback_differs_from_item_to_item_and_names_outcomes_and_siblings(
    undisturbed: dict[str, list[Feedback]],
) -> None:
    assert [len(undisturbed[f"r{i}"]) for i in range(6)] == [2, 1, 2, 1, 2, 1], "the critic is asked about failures"
    assert undisturbed["r0"][1].text == "a is 1 long; its reward so far is 0.0; beside it are ['r1 1.0', 'r2 0.0']."
    assert len({one.text for feedback in undisturbed.values() for one in feedback}) == 9


# ------------------------------------------------------------------------------------------------ failures that pass

FAILURES: dict[str, list[Any]] = {
    "is overloaded": [503] * 5,
    "breaks": [500, 500],
    "hangs": ["hang"],
    "answers what is no JSON": [b"<html>Bad gateway</html>", b""],
    "answers other JSON": [b"[]", b"{}", b'{"results": {}}'],
    "answers after the deadline": ["late"],
    "flaps": [503, None, 500, 503, 503, b"?", None, 500],
    "leaves an item out": [{"r2": None}, {"r2": None}],
    "says itself that it failed on an item": [
        {"r2": {"status": "error", "reward": None, "text": None, "error": {"class": "infra", "message": "Full."}}}
    ],
}


@pytest.mark.parametrize("script", FAILURES.values(), ids=FAILURES.keys())
@pytest.mark.parametrize("failing", ["code", "critic"])
def test_a_source_that_fails_for_a_while_leaves_the_same_feedback_as_if_it_had_not(
    undisturbed: dict[str, list[Feedback]], script: list[Any], failing: str
) -> None:
    bad, well = Source(script, max_items=1 if None in script else 100), Source()
    asked = _both(
        bad if failing == "code" else well,
        bad if failing == "critic" else well,
        timeout_s=0.7 if script in (["hang"], ["late"]) else 5.0,
    )
    assert asked.said() == undisturbed
    assert len(bad.asked) > len(script)
    assert all(judgement.success is not None for judgement in asked.steps[0].values())
    assert asked.errors_logged() == []


@pytest.mark.parametrize("dies_at", [1, 3])
@pytest.mark.parametrize("failing", ["code", "critic"])
def test_a_source_that_is_killed_and_started_again_leaves_the_same_feedback_as_if_it_had_not(
    undisturbed: dict[str, list[Feedback]], failing: str, dies_at: int
) -> None:
    with killable(dies_at) as killed, running(Source(max_items=1)) as well:
        code, words = (killed.url, well) if failing == "code" else (well, killed.url)
        asked = Asked({"code": _code(code), "critic": a_source(words, when="failed")}).run()
    assert killed.started == 2
    assert asked.said() == undisturbed


def test_only_what_failed_is_asked_again_of_the_source_that_failed_and_counted_once() -> None:
    outcome, critic = Source([{"r1": None, "r4": None}, {"r4": None}]), Source()
    asked = _both(outcome, critic)
    assert outcome.asked == [[f"r{i}" for i in range(6)], ["r1", "r4"], ["r4"]]
    assert critic.asked == [["r0", "r2", "r4"]]
    code = asked.stats["code"]
    assert (code.calls, code.asked, code.ok, code.error, code.asked_again) == (3, 6, 6, 0, 3)


def test_an_item_that_a_source_always_fails_on_is_asked_about_a_few_times_and_stays_without_its_word() -> None:
    outcome, critic = Source(), Source(always={"r2": None})
    asked = _both(outcome, critic)
    assert critic.asked == [["r0", "r2", "r4"], ["r2"], ["r2"], ["r2"]]
    failed = asked.said()["r2"][1]
    assert (failed.status, failed.reward, failed.text) == ("error", None, None)
    assert asked.said()["r0"][1].text is not None and asked.errors_logged() == []


def test_a_failure_that_the_source_calls_retryable_is_waited_for() -> None:
    error = {"class": "infra", "message": "The model behind me is away.", "retryable": True}
    away = {"r2": {"status": "error", "reward": None, "text": None, "error": error}}
    outcome, critic = Source(), Source([away] * 6)
    asked = _both(outcome, critic)
    assert len(critic.asked) == 7 and asked.said()["r2"][1].status == "ok"


DATA_FAILURES: dict[str, Any] = {
    "refuses the request": 422,
    "gives no number": {"r0": {"reward": float("nan")}},
    "gives too much": {"r0": {"reward": 1e9}},
    "gives a field of its own": {"r0": {"colour": "red"}},
    "rewards a failure": {"r0": {"status": "error", "reward": 1.0}},
}


@pytest.mark.parametrize("cue", DATA_FAILURES.values(), ids=DATA_FAILURES.keys())
def test_a_data_failure_is_never_asked_again_and_gives_neither_reward_nor_text(cue: Any) -> None:
    outcome = Source(always=cue)
    asked = _both(outcome, Source())
    judged = asked.steps[0]["r0"]
    assert len(outcome.asked) == 1
    assert (judged.reward, judged.success, judged.feedback[0].text) == (None, None, None)
    assert judged.failure is not None and judged.failure.class_ == "data"


def test_an_item_that_is_answered_twice_gets_neither_answer() -> None:
    twice = b'{"results": [%s]}' % b", ".join(
        b'{"trajectory_id": "r%d", "feedback_id": "f", "status": "ok", "source": {"name": "x"}, "reward": %d}'
        % (i, reward)
        for i in range(6)
        for reward in ((0, 1) if i == 4 else (1,))
    )
    asked = _both(Source(always=twice), Source())
    assert [asked.steps[0][f"r{i}"].reward for i in range(6)] == [1, 1, 1, 1, None, 1]


def test_an_answer_too_large_to_read_is_nobody_s_feedback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.feedback_transport.MAX_ANSWER_BYTES", 10_000)
    outcome = Source([{f"r{i}": {"text": "x" * 10_000, "reward": 1.0} for i in range(6)}])
    asked = _both(outcome, Source())
    assert [asked.steps[0][f"r{i}"].reward for i in range(6)] == [0, 1, 0, 1, 0, 1]
    assert len(outcome.asked) == 2


# ------------------------------------------------------------------------------------------------ failures that stay


_AWAY = {"status": "error", "reward": None, "text": None, "error": {"class": "infra", "message": "No sandbox."}}


@pytest.mark.parametrize("always", [503, 500, "hang", b"garbage", {f"r{i}": _AWAY for i in range(6)}])
def test_an_outcome_source_that_stays_away_stops_the_run_with_a_sentence(always: Any) -> None:
    with running(Source(always=always)) as code, running(critic := Source()) as words:
        sources = {"code": _code(code, timeout_s=0.3), "critic": a_source(words)}
        asked = Asked(sources, max_outage_s=0.5).run()
    sentence = str(asked.error)
    assert isinstance(asked.error, ServiceUnavailable) and critic.asked == []
    assert sentence.startswith(f"The outcome source 'code' at {code} stayed away for 0.5 s (feedback.max_outage_s)")
    assert "start the run again: it resumes" in sentence and ".." not in sentence and "\n" not in sentence


def test_a_required_critique_source_that_stays_away_stops_the_run_though_another_hangs() -> None:
    with running(Source()) as code, running(Source(always="hang")) as hangs:
        sources = {
            "code": _code(code),
            "critic": a_source(NOBODY, required=True),
            "other": a_source(hangs, timeout_s=600),
        }
        asked = Asked(sources, max_outage_s=0.3).run()
    assert isinstance(asked.error, ServiceUnavailable)
    assert f"The required feedback source 'critic' at {NOBODY} stayed away for 0.3 s" in str(asked.error)


def test_a_critique_source_that_is_not_required_is_given_up_once_and_taken_back_once() -> None:
    critic = Source(always=500)

    def mend(step: int) -> None:
        asks.append(len(critic.asked))
        critic.always = None if step >= 2 else 500

    asks: list[int] = []
    with running(Source()) as code, running(critic) as words:
        asked = Asked({"code": _code(code), "critic": a_source(words)}, max_outage_s=1.0)
        asked.run(4, mend, breaks_after=1000)
    assert [step["r0"].reward for step in asked.steps] == [0.0] * 4, "the outcome stays"
    assert [[f.status for f in asked.said(step)["r0"]][1] for step in range(4)] == ["error", "error", "ok", "ok"]
    assert asked.said(0)["r0"][1].text is None and asked.said(3) == asked.said(2)
    assert asks[1] > 1 and [asks[2] - asks[1], asks[3] - asks[2]] == [1, 1], "not waited for once it is given up"
    given_up, back = asked.errors_logged()
    assert f"without feedback source 'critic' at {words}: it stayed away for 1 s (feedback.max_outage_s)" in given_up
    assert "feedback.sources.critic.required is false" in given_up and "answered 500" in given_up
    assert f"Feedback source 'critic' at {words} answers again" in back


def test_a_source_that_was_given_up_is_spared_by_its_breaker() -> None:
    critic = Source(always=500)
    with running(Source()) as code, running(critic) as words:
        asked = Asked({"code": _code(code), "critic": a_source(words)}, max_outage_s=0.01).run(8)
    assert 3 <= len(critic.asked) < 8
    last = asked.said(7)["r0"][1]
    assert last.error is not None and "failed repeatedly" in last.error.message


def test_a_source_is_asked_till_the_outage_is_over_however_often_it_failed(
    undisturbed: dict[str, list[Feedback]],
) -> None:
    outcome = Source([500] * 12)
    assert _both(outcome, Source()).said() == undisturbed
    assert len(outcome.asked) == 13


def test_too_many_data_failures_stop_a_run_and_none_an_evaluation() -> None:
    with running(Source(always=422)) as code:
        stopped = Asked({"code": _code(code)}).run(rollouts_per_step=6)
        evaluated = Asked({"code": _code(code)}).run()
    assert isinstance(stopped.error, DataError) and "6 of the last 6 rollouts" in str(stopped.error)
    assert evaluated.error is None and all(j.reward is None for j in evaluated.steps[0].values())


def test_an_evaluation_neither_asks_nor_waits_for_critique_and_shadow_sources() -> None:
    async def evaluate(settings: Settings) -> Sequence[Judgement]:
        evaluator = Evaluator(settings, None)  # type: ignore[arg-type]
        await evaluator.sources.probe()
        judged = await evaluator.judge("evaluation-v0", ITEMS)
        await evaluator.aclose()
        return list(judged.values())

    with running(Source()) as code:
        sources = {
            "code": _code(code),
            "critic": a_source(NOBODY, required=True),
            "next": a_source(NOBODY, role="both", shadow=True, required=True),
        }
        settings = Settings.model_validate({"feedback": {"sources": {n: dict(s) for n, s in sources.items()}}})
        judged = asyncio.run(evaluate(settings))
    assert [j.reward for j in judged] == [0, 1, 0, 1, 0, 1]
    assert all([f.source.name for f in j.feedback] == ["code"] and j.shadow == [] for j in judged)


def test_a_run_that_starts_while_a_source_is_coming_back_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    settings = Settings.model_validate({"feedback": {"sources": {"code": dict(_code(f"http://127.0.0.1:{port}"))}}})
    source = uvicorn.Server(uvicorn.Config(Source(), port=port, log_level="warning"))

    async def start() -> list[str]:
        warned = asyncio.Event()
        monkeypatch.setattr(judging, "log", SimpleNamespace(warning=lambda *_, **__: warned.set()))
        sources = FeedbackSources(settings.feedback, api_key=None)
        probing = asyncio.create_task(probe(sources, settings.feedback))
        await warned.wait()
        serving = asyncio.create_task(source.serve())
        found = await probing
        source.should_exit = True
        await serving
        await sources.aclose()
        return list(found)

    assert asyncio.run(start()) == ["code"]


def test_a_source_that_is_away_at_the_start_stops_the_run_with_a_sentence_after_the_outage_it_may_have() -> None:
    tree = {"feedback": {"sources": {"code": dict(_code(NOBODY))}, "max_outage_s": 0.1}}
    settings = Settings.model_validate(tree)

    async def start() -> None:
        sources = FeedbackSources(settings.feedback, api_key=None)
        try:
            await probe(sources, settings.feedback)
        finally:
            await sources.aclose()

    with pytest.raises(ServiceUnavailable, match=f"Source 'code' at {NOBODY} cannot be reached"):
        asyncio.run(start())
