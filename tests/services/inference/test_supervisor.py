"""An engine that dies, fails to start or hangs: what clients see, and what is served when it is back."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.inference import supervisor
from services.inference.app import create_app
from services.inference.engine import Figures, Sampled
from services.inference.transformers_engine import TransformersEngine
from shared.errors import EngineFailure
from shared.protocol import Sampling
from shared.settings import Settings
from tests.services.inference.inference_support import (
    HELLO,
    canary,
    checkpoint,
    sample,
    settings_for,
    wait_ready,
    worst_difference,
)
from tests.serving import running
from tests.tiny_model import tiny_model

FOREVER_S = 30.0


class MortalEngine(TransformersEngine):
    """Forgets its weights and refuses everything once it is killed, as another process would; `obstacles` are what its
    next starts fail with."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.model, settings.inference)
        self.obstacles: list[Exception] = []
        self.starts = 0
        self.may_start = threading.Event()
        self.may_start.set()
        self.hangs = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._death: asyncio.Future[str] | None = None

    async def start(self) -> None:
        self.starts += 1
        await asyncio.to_thread(self.may_start.wait, FOREVER_S)
        if self.obstacles:
            raise self.obstacles.pop(0)
        await super().start()
        self._loop = asyncio.get_running_loop()
        self._death = self._loop.create_future()

    async def died(self) -> str:
        assert self._death is not None
        return await self._death

    async def generate(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> list[list[Sampled]]:
        assert self._death is not None
        working = asyncio.ensure_future(super().generate(prompts, n, sampling))
        await asyncio.wait((working, self._death), return_when=asyncio.FIRST_COMPLETED)
        if self._death.done():
            working.cancel()
            raise EngineFailure("The engine is gone.")
        return working.result()

    async def figures(self) -> Figures:
        if self.hangs.is_set():
            await asyncio.Event().wait()
        if self._death is None or self._death.done():
            raise EngineFailure("The engine is gone.")
        return await super().figures()

    async def exposition(self) -> bytes:
        return b"# TYPE engine:own gauge\nengine:own 7\n"

    def kill(self, reason: str = "killed by a test.") -> None:
        loop, death = self._loop, self._death
        assert loop is not None and death is not None
        loop.call_soon_threadsafe(lambda: None if death.done() else death.set_result(reason))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def settings(tiny_model_dir: Path, tmp_path: Path) -> Settings:
    return settings_for(tiny_model_dir, tmp_path / "root")


@pytest.fixture
def engine(settings: Settings) -> MortalEngine:
    return MortalEngine(settings)


@contextmanager
def serving(settings: Settings, engine: MortalEngine) -> Iterator[httpx.Client]:
    with running(create_app(settings, engine)) as url, wait_ready(url) as client:
        try:
            yield client
        finally:
            engine.may_start.set()


def eventually(fact: Callable[[], bool], what: str = "") -> None:
    deadline = time.monotonic() + FOREVER_S
    while not fact():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def not_ready(client: httpx.Client) -> str:
    """Wait until /readyz says 503; its detail."""
    eventually(lambda: client.get("/readyz").status_code == 503)
    return str(client.get("/readyz").json()["detail"])


def published(settings: Settings, number: int) -> dict[str, Any]:
    root = Path(settings.inference.policy_root)
    return checkpoint(root, f"v{number}", seed=number) | {"canary": canary(tiny_model(seed=number))}


def test_a_restarted_engine_serves_the_version_published_last(settings: Settings, engine: MortalEngine) -> None:
    with serving(settings, engine) as client:
        client.post("/v1/policy", json=published(settings, 3)).raise_for_status()
        state = client.get("/v1/policy").json()
        engine.may_start.clear()
        engine.kill()
        reason = not_ready(client)
        assert "killed by a test" in reason
        refused = client.post("/v1/rollouts", json={"prompts": [HELLO]})
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert "killed by a test" in refused.json()["detail"] and int(refused.headers["Retry-After"]) > 0
        assert client.post("/v1/policy", json=published(settings, 3)).status_code == 503
        assert client.get("/v1/policy").json() == state
        assert client.get("/healthz").status_code == 200
        engine.may_start.set()
        eventually(lambda: client.get("/readyz").status_code == 200)
        assert client.get("/v1/policy").json() == state
        made = sample(client, HELLO)
        assert worst_difference(tiny_model(seed=3), made) < 1e-4
        assert made[0]["rollouts"][0]["versions"][0]["version"] == 3
        assert "vpd_engine_restarts_total 1.0" in client.get("/metrics").text


def test_an_engine_restarted_before_anything_was_published_serves_the_initial_model(
    settings: Settings, engine: MortalEngine
) -> None:
    with serving(settings, engine) as client:
        engine.kill()
        eventually(lambda: engine.starts == 2 and client.get("/readyz").status_code == 200)
        assert client.get("/v1/policy").json()["run_id"] is None
        assert worst_difference(tiny_model(seed=0), sample(client, HELLO)) < 1e-4


@pytest.mark.parametrize("way", ["files gone", "transferred"])
def test_a_version_that_cannot_be_loaded_again_blocks_and_is_never_replaced_by_the_initial_model(
    settings: Settings, engine: MortalEngine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "transferred":
        settings = settings.model_copy(update={"inference": settings.inference.model_copy(update={"publish": "nccl"})})
    announced = published(settings, 3)
    if way == "transferred":
        load = engine.load
        update = {"names": [], "shapes": [], "dtype_names": []}

        async def receive(weights: Any, version: int) -> None:
            if not hasattr(weights, "directory"):
                monkeypatch.setattr(engine, "load", load)
                return
            await load(weights, version)

        monkeypatch.setattr(engine, "load", receive)
        monkeypatch.setattr("services.inference.checkpoint.Reference.check", lambda *_: None)
        first = {"run_id": "run-1", "version": 3, "transfer": {"backend": "nccl", "update": update}}
    else:
        first = announced
    with serving(settings, engine) as client:
        client.post("/v1/policy", json=first).raise_for_status()
        if way == "files gone":
            shutil.rmtree(announced["path"])
        engine.kill()
        eventually(lambda: engine.starts == 2 and "publish it again" in client.get("/readyz").text.lower())
        state = client.get("/v1/policy").json()
        assert (state["run_id"], state["version"]) == ("run-1", 3)
        assert "Version 3 of run run-1 was served and is lost" in state["blocked"]
        assert client.post("/v1/rollouts", json={"prompts": [HELLO]}).status_code == 503
        # Nor does a second restart make the loss good.
        engine.kill()
        eventually(lambda: engine.starts == 3 and "publish it again" in client.get("/readyz").text.lower())
        assert client.post("/v1/rollouts", json={"prompts": [HELLO]}).status_code == 503
        assert client.post("/v1/policy", json=published(settings, 3)).json()["blocked"] is None
        assert worst_difference(tiny_model(seed=3), sample(client, HELLO)) < 1e-4


def test_requests_fail_with_503_when_the_engine_dies_under_them(settings: Settings, engine: MortalEngine) -> None:
    with serving(settings, engine) as client:
        body = {"prompts": [HELLO], "n": 1024, "sampling": {"max_tokens": 100, "ignore_end": True}}
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(client.post("/v1/rollouts", json=body)))
        asking.start()
        eventually(lambda: bool(engine._running))
        engine.may_start.clear()
        engine.kill()
        asking.join(FOREVER_S)
        assert [answer.status_code for answer in answers] == [503]
        assert "Retry-After" in answers[0].headers


def test_a_crash_loop_is_named_with_its_count_and_its_last_reason(
    settings: Settings, engine: MortalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Held still at the third failure, to be looked at.
    monkeypatch.setattr(supervisor, "_pause_s", lambda failures: FOREVER_S if failures == 3 else 0)
    with serving(settings, engine) as client:
        engine.obstacles = [EngineFailure("Out of luck."), EngineFailure("Out of memory.")]
        engine.kill()
        eventually(lambda: "3 times in a row" in client.get("/readyz").text)
        assert "last: Out of memory." in client.get("/readyz").text
        assert "last: Out of memory." in client.post("/v1/rollouts", json={"prompts": [HELLO]}).json()["detail"]


def test_a_failure_nobody_foresaw_shows_nothing_of_the_inside_and_is_tried_again(
    settings: Settings, engine: MortalEngine
) -> None:
    engine.obstacles = [RuntimeError("secret path")]
    with serving(settings, engine):
        assert engine.starts == 2
    assert supervisor._sentence(RuntimeError("secret path")) == (
        "The engine could not be started (RuntimeError); the log has the reason."
    )


def test_pauses_grow_up_to_the_longest() -> None:
    pauses = [supervisor._pause_s(failures) for failures in range(1, 2000)]
    assert pauses[:4] == [0.0, 0.01, 0.02, 0.04]
    assert pauses == sorted(pauses) and pauses[-1] == supervisor.LONGEST_PAUSE_S


def test_an_engine_that_has_served_long_enough_starts_counting_anew(
    settings: Settings, engine: MortalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STEADY_S", 0.0)
    counts: list[int] = []
    pause_of = supervisor._pause_s
    monkeypatch.setattr(supervisor, "_pause_s", lambda failures: counts.append(failures) or pause_of(failures))
    with serving(settings, engine) as client:
        for start in (2, 3, 4):
            engine.kill()
            eventually(lambda start=start: engine.starts == start and client.get("/readyz").status_code == 200)
    assert counts == [1, 1, 1]


# ------------------------------------------------------------------------------------------------------------- metrics


def test_metrics_hold_the_engines_figures_and_its_own_exposition(settings: Settings, engine: MortalEngine) -> None:
    with serving(settings, engine) as client:
        made = sample(client, HELLO, n=5)
        tokens = sum(len(rollout["token_ids"]) for rollout in made[0]["rollouts"])
        text = client.get("/metrics").text
        assert f"vpd_engine_tokens_total {float(tokens)}" in text
        assert "vpd_engine_running 0.0" in text and "vpd_engine_waiting 0.0" in text
        assert "engine:own 7" in text


@pytest.mark.parametrize("way", ["dead", "hung"])
def test_metrics_are_there_without_an_engine_that_answers(
    settings: Settings, engine: MortalEngine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("shared.service.EXPOSITION_TIMEOUT_S", 0.1)
    with serving(settings, engine) as client:
        assert "vpd_engine_tokens_total" in client.get("/metrics").text
        engine.may_start.clear()
        if way == "hung":
            engine.hangs.set()
        else:
            engine.kill()
            not_ready(client)
        answer = client.get("/metrics")
        assert answer.status_code == 200 and "vpd_policy_version 0.0" in answer.text
        # Nothing rather than what was true before.
        assert "vpd_engine_tokens_total" not in answer.text
        with contextlib.suppress(httpx.HTTPError):
            engine.hangs.clear()
