"""What a run needs, for real: the inference service over the tiny model, Redis, and a feedback source of our own."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from safetensors.torch import load_file
from serving import running
from torch import Tensor

from services.inference.app import create_app
from shared.protocol import FeedbackRequest
from shared.settings import Settings
from trainer.collector import Collector
from trainer.learner import Learner
from trainer.run_directory import RunDirectory


@dataclass
class Judge:
    """A source whose verdict depends on the response's text alone. `mode`: judge, abstain or down. `padding`: so many
    characters more in each text, which no compression makes shorter than half."""

    mode: str = "judge"
    padding: int = 0
    asked: list[FeedbackRequest] = field(default_factory=list)
    before: Callable[[int], None] = lambda _: None

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/capabilities")
        def capabilities() -> dict[str, Any]:
            return {"name": "judge", "version": "1", "kind": "rule", "gives_reward": True, "gives_text": True}

        @app.post("/v1/feedback")
        def feedback(request: FeedbackRequest) -> Any:
            self.before(len(self.asked))
            self.asked.append(request)
            if self.mode == "down":
                return Response(status_code=503)
            return {"results": [self._result(item.trajectory_id, item.response.text) for item in request.items]}

        return app

    def _result(self, trajectory_id: str, text: str) -> dict[str, Any]:
        result = {
            "trajectory_id": trajectory_id,
            "feedback_id": f"{trajectory_id}:judge",
            "source": {"name": "judge", "kind": "rule"},
        }
        if self.mode == "abstain":
            return {**result, "status": "abstain"}
        success = sum(text.encode()) % 3 == 0
        padding = random.Random(trajectory_id).randbytes(self.padding // 2).hex()
        return {
            **result,
            "status": "ok",
            "reward": float(success),
            "success": success,
            "text": None if success else f"The sum of the bytes is {sum(text.encode()) % 3}, not 0 modulo 3.{padding}",
        }


def write_tasks(file: Path, count: int = 10) -> Path:
    """Tasks of a kind of our own."""
    tasks = [
        {"id": f"t{i}", "kind": "bytes", "messages": [{"role": "user", "content": f"Question {i}"}]}
        for i in range(count)
    ]
    file.write_text("".join(json.dumps(t) + "\n" for t in tasks))
    return file


@dataclass
class Stack:
    """Running services; `settings` makes runs that use them."""

    inference_url: str
    judge_url: str
    judge: Judge
    redis_url: str
    root: Path
    model: Path

    def settings(self, name: str, **changes: Any) -> Settings:
        tree: dict[str, Any] = {
            "run": {"name": name, "dir": str(self.root / "runs"), "seed": 5, "steps": 3},
            "model": {"path": str(self.model), "device": "cpu"},
            "tasks": {"source": str(self.root / "tasks.jsonl"), "held_out": str(self.root / "held_out.jsonl")},
            "rollout": {"prompts_per_step": 2, "samples_per_prompt": 3, "max_tokens": 8},
            "feedback": {"sources": {"judge": {"url": self.judge_url, "role": "both", "timeout_s": 1.0}}},
            "queue": {"url": self.redis_url},
            "evaluation": {"every": 2, "tasks": 2, "final_tasks": 3},
            "learner": {"checkpoint_every": 2},
            "inference": {"url": self.inference_url, "timeout_s": 60.0},
        }
        for section, values in changes.items():
            tree[section] = {**tree.get(section, {}), **values}
        return Settings.model_validate(tree)


@contextmanager
def stack(root: Path, model: Path, redis_url: str) -> Iterator[Stack]:
    """Inference and the judge on ports of their own."""
    (root / "runs").mkdir()
    write_tasks(root / "tasks.jsonl")
    held_out = write_tasks(root / "held_out.jsonl").read_text().replace('"t', '"h').replace("Question", "Held-out")
    (root / "held_out.jsonl").write_text(held_out)
    judge = Judge()
    engine = Settings.model_validate(
        {
            "run": {"dir": str(root / "runs")},
            "model": {"path": str(model), "device": "cpu"},
            "inference": {"policy_root": str(root / "runs")},
        }
    )
    with running(judge.app()) as judge_url, running(create_app(engine)) as inference_url:
        yield Stack(inference_url, judge_url, judge, redis_url, root, model)


def run(settings: Settings, *, stop_after: int | None = None, before: Callable[[int], None] | None = None) -> Learner:
    """Collectors and learner together, to the end; or a stop is asked for while step `stop_after` is learned from.

    `before` is called with each step before it is learned from.
    """

    async def together() -> Learner:
        names = [f"collector-{i}" for i in range(settings.rollout.collectors)]
        collectors = [Collector(settings, name=name) for name in names]
        learner = Learner(settings, RunDirectory(settings))
        if before is not None:
            learn = learner.training.step

            def hooked(stored: Any) -> Any:
                before(stored.step)
                return learn(stored)

            learner.training.step = hooked  # type: ignore[method-assign]
        if stop_after is not None:
            algorithm = learner.training.algorithm
            train_step = algorithm.train_step

            def stopping(batch: Any) -> Any:
                if batch.step == stop_after:
                    learner.request_stop()
                return train_step(batch)

            algorithm.train_step = stopping  # type: ignore[method-assign]
        collecting = [asyncio.create_task(collector.run()) for collector in collectors]
        learning = asyncio.create_task(learner.run())
        try:
            done, _ = await asyncio.wait(
                {*collecting, learning},
                return_when=asyncio.FIRST_EXCEPTION if stop_after is None else asyncio.FIRST_COMPLETED,
            )
            for task in done:
                task.result()
        finally:
            for task in (*collecting, learning):
                task.cancel()
            await asyncio.gather(*collecting, learning, return_exceptions=True)
            for collector in collectors:
                await collector.aclose()
            await learner.aclose()
        return learner

    return asyncio.run(together())


def final_weights(settings: Settings) -> dict[str, Tensor]:
    """The weights the run ended with."""
    return load_file(Path(settings.run.dir) / settings.run.name / "model" / "model.safetensors")


def records(settings: Settings) -> list[dict[str, Any]]:
    """What metrics.jsonl holds."""
    return [json.loads(line) for line in metrics(settings).splitlines()]


def metrics(settings: Settings) -> bytes:
    """metrics.jsonl as it is."""
    return (Path(settings.run.dir) / settings.run.name / "metrics.jsonl").read_bytes()


def timings(settings: Settings) -> list[dict[str, Any]]:
    """What timings.jsonl holds."""
    file = Path(settings.run.dir) / settings.run.name / "timings.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def summary(settings: Settings) -> dict[str, Any]:
    """What summary.json holds."""
    found: dict[str, Any] = json.loads((Path(settings.run.dir) / settings.run.name / "summary.json").read_text())
    return found
