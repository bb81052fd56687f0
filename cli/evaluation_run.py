"""An evaluation from its beginning, or from where it was stopped, to its result.

What is asked of the services is in `trainer/evaluate.py`, the figures are in `trainer/evaluation/`. An evaluation is a
folder: `evaluation.json` (what it depends on), `attempts.jsonl`, `logs/` of its own services, and `result.json`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from cli.evaluation_display import EvaluationProgress
from cli.evaluation_services import ServicesUp, at_home, own_services
from cli.interrupts import Interrupts
from shared.errors import InfrastructureError, ServiceUnavailable, SettingsError
from shared.inference_client import InferenceClient
from shared.load_settings import Resolved
from shared.protocol import Task
from shared.settings import Settings
from trainer.disk import write_atomically
from trainer.evaluate import Evaluator, Teacher
from trainer.evaluation.attempts import Attempts, AttemptsFile, Who
from trainer.evaluation.counts import wanted
from trainer.evaluation.identity import Identity, differences, digest, identity, policy_of_files, served_policy
from trainer.evaluation.result import Result, as_json, make_result
from trainer.judging import probe
from trainer.tasks import load_tasks

T = TypeVar("T")

_POLL_S = 0.2
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Request:
    """What is asked for beside the settings. `parent` gets a folder for each evaluation; with `own_services` those are
    started that `model.path` needs, from `base_port` on. `ks` are those of pass@k, `out` gets a copy of the result."""

    parent: Path
    own_services: bool
    base_port: int
    ks: Sequence[int]
    teacher: Teacher
    out: Path | None


def evaluate(resolved: Resolved, request: Request, interrupts: Interrupts) -> Result:
    """Go on with the evaluation, or begin it; its result, which is also written. Raises `Stopped` and VPDError."""
    if request.own_services:
        resolved = replace(resolved, settings=at_home(resolved.settings))
    tasks = _held_out(resolved.settings)
    with EvaluationProgress(interrupts) as progress:
        return _Evaluation(resolved, request, tasks, interrupts, progress).result()


@dataclass
class _Evaluation:
    """One that is being made."""

    resolved: Resolved
    request: Request
    tasks: Sequence[Task]
    interrupts: Interrupts
    progress: EvaluationProgress

    def result(self) -> Result:
        what = identity(self.resolved.settings, self._policy(), self.tasks, self.request.teacher)
        folder = self.request.parent / digest(what)
        _begin(self.request.parent, folder, what, self.progress)
        with AttemptsFile(folder / "attempts.jsonl") as attempts:
            self._complete(attempts, what, folder)
            result = make_result(what, self.tasks, attempts, self.request.ks)
        for file in (folder / "result.json", *([self.request.out] if self.request.out else [])):
            _write(file, as_json(result))
        return result

    def _policy(self) -> Identity:
        settings = self.resolved.settings
        if self.request.own_services:
            return policy_of_files(settings.model.path)
        return asyncio.run(_watched(_served(settings), self.interrupts.check))

    def _complete(self, attempts: Attempts, what: Identity, folder: Path) -> None:
        """Ask for what is lacking; nothing is started where nothing is."""
        whos: Sequence[Who] = ("student",) if self.request.teacher == "none" else ("student", "teacher")
        keys = wanted(self.tasks, whos, samples=what["sampling"]["samples"])
        if all(key in attempts.verdicts for key in keys):
            return
        attempts.on_verdict = lambda verdicts: self.progress.show(verdicts, len(keys))
        version = what["policy"].get("version", 0)
        if not self.request.own_services:
            self._ask(self.resolved.settings, attempts, version, self.interrupts.check, start=self.interrupts.check)
            return
        with own_services(self.resolved, folder, self.request.base_port, self.interrupts, self.progress) as up:
            self._ask(up.settings, attempts, version, up.check, start=up.check_started)

    def _ask(
        self,
        settings: Settings,
        attempts: Attempts,
        version: int,
        check: Callable[[], None],
        *,
        start: Callable[[], None],
    ) -> None:
        async def ask() -> None:
            async with InferenceClient(settings.inference, api_key=settings.api_key) as inference:
                evaluator = Evaluator(settings, inference)
                try:
                    await _watched(self._ready(evaluator, settings), start)
                    self.progress.status("Evaluating")
                    work = evaluator.attempt(self.tasks, attempts, version=version, teacher=self.request.teacher)
                    await _watched(work, check)
                finally:
                    await evaluator.aclose()

        asyncio.run(ask())

    async def _ready(self, evaluator: Evaluator, settings: Settings) -> None:
        if self.request.own_services:
            await evaluator.inference.wait_ready(ServicesUp.ready_s(settings))
            await probe(evaluator.sources, settings.feedback)
        else:
            await evaluator.sources.probe()


async def _watched(work: Coroutine[Any, Any, T], check: Callable[[], None]) -> T:
    """The result of `work`, which is given up as soon as `check` raises."""
    working = asyncio.create_task(work)
    try:
        while not working.done():
            check()
            await asyncio.wait({working}, timeout=_POLL_S)
        return working.result()
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _served(settings: Settings) -> Identity:
    soon = settings.inference.model_copy(update={"timeout_s": min(_ANSWER_S, settings.inference.timeout_s)})
    try:
        async with InferenceClient(soon, api_key=settings.api_key) as inference:
            state = await inference.policy()
    except ServiceUnavailable as error:
        raise ServiceUnavailable(
            f"{error} Keep a stack up with `vpd up --keep`, or evaluate without one: `vpd eval RUN`, or `vpd eval "
            "--model PATH`."
        ) from error
    if state.blocked is not None:
        raise InfrastructureError(f"The inference service serves nothing to evaluate: {state.blocked}")
    return served_policy(state)


def _held_out(settings: Settings) -> list[Task]:
    tasks = load_tasks(settings.tasks, seed=settings.run.seed).held_out(settings.evaluation.final_tasks)
    if not tasks:
        raise SettingsError(f"tasks.source: {settings.tasks.source} has no held-out task; set tasks.held_out.")
    return list(tasks)


# ------------------------------------------------------------------------------------------------------------ files


def _begin(parent: Path, folder: Path, what: Identity, progress: EvaluationProgress) -> None:
    """Say whether this goes on with an evaluation or is a new one, and then in what it differs from the last."""
    file = folder / "evaluation.json"
    if file.exists():
        progress.say(f"Going on with the evaluation in {folder}.")
        return
    others = sorted(parent.glob("*/evaluation.json"), key=lambda one: one.stat().st_mtime)
    if others:
        changed = ", ".join(differences(json.loads(others[-1].read_text()), what))
        progress.say(f"A new evaluation, not that of {others[-1].parent}: {changed}.")
    progress.say(f"The evaluation is kept in {folder}.")
    _write(file, json.dumps(what, indent=2) + "\n")


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text)
    except OSError as error:
        raise InfrastructureError(f"{file} cannot be written: {error.strerror or error}.") from error
