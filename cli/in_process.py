"""A whole run in this process and one event loop: the learner, the collector and the services they ask.

The code is that of a stack of processes; only the transport differs (applications mounted in the HTTP clients, no
sockets), and where code-feedback's sandbox is asked, the built-in world's exact judge answers. Redis is a real one.
Which runs there are, and how many at a time, is `experiment.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import torch

from cli import exact_judge
from cli.scripted_person import ScriptedPerson
from cli.stack import BASE_PORT, SERVICES
from services.critic_feedback.app import create_app as critic_app
from services.human_feedback.app import create_app as human_app
from services.inference.app import create_app as inference_app
from shared.errors import SettingsError
from shared.http_client import mounted, origin
from shared.inference_client import InferenceClient
from shared.settings import Settings
from trainer.collector import Collector
from trainer.learner import Learner
from trainer.run_directory import Record, RunDirectory
from trainer.tasks import BUILTIN, World, load_world

ADDRESSES = {name: f"http://127.0.0.1:{BASE_PORT + index}" for index, name in enumerate(SERVICES)}


def run(settings: Settings, *, critiques_per_step: int = 0) -> Record | None:
    """Train to the run's last step, from its newest checkpoint if it has one; its summary, None if it was stopped.

    Sources at a stack's usual addresses (127.0.0.1, the default ports) are answered in this process, others where they
    are. `queue.url` is a Redis that runs. A scripted person writes `critiques_per_step` critiques a step. SIGTERM ends
    the run after its step. Raises VPDError where the run cannot go on.
    """
    torch.set_num_threads(1)
    torch.manual_seed(settings.run.seed)
    settings = _at_home(settings)
    directory = RunDirectory(settings)
    if not directory.finished:
        asyncio.run(_run(settings, directory, critiques_per_step))
    return read_summary(directory.path)


def read_summary(directory: Path) -> Record | None:
    """What a run came to, or None while it is not done."""
    try:
        summary: Record = json.loads((directory / "summary.json").read_text())
    except FileNotFoundError:
        return None
    return summary


def _at_home(settings: Settings) -> Settings:
    """One thread, and every file in the run's own directory."""
    own = Path(settings.run.dir) / settings.run.name
    changes: dict[str, dict[str, Any]] = {
        "inference": {"policy_root": str(own), "threads": 1},
        "human_feedback": {"database": str(own / "human_feedback.sqlite3")},
        "learner": {"threads": 1},
    }
    sections = {name: getattr(settings, name).model_copy(update=values) for name, values in changes.items()}
    return settings.model_copy(update=sections)


async def _run(settings: Settings, directory: RunDirectory, critiques_per_step: int) -> None:
    async with _services(settings, critiques_per_step):
        # Two models are not loaded at once: transformers' loading is not safe in two threads.
        await _inference_is_ready(settings)
        learner, collector = Learner(settings, directory), Collector(settings)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, learner.request_stop)
        learning, collecting = asyncio.create_task(learner.run()), asyncio.create_task(collector.run())
        try:
            await asyncio.wait({learning, collecting}, return_when=asyncio.FIRST_COMPLETED)
            if collecting.done():
                collecting.result()
            await learning
        finally:
            await _cancel((learning, collecting))
            await collector.aclose()
            await learner.aclose()


async def _inference_is_ready(settings: Settings) -> None:
    async with InferenceClient(settings.inference, api_key=settings.api_key) as client:
        await client.policy()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


@asynccontextmanager
async def _services(settings: Settings, critiques_per_step: int) -> AsyncIterator[None]:
    """The applications that the settings' URLs ask for, mounted and started."""
    wanted = {origin(source.url) for source in settings.feedback.sources.values()} | {origin(settings.inference.url)}
    async with AsyncExitStack() as stack:

        async def start(address: str, app: Any, lifespan_of: Any = None) -> None:
            stack.enter_context(mounted({address: app}))
            service = lifespan_of or app
            await stack.enter_async_context(service.router.lifespan_context(service))

        if ADDRESSES["inference"] in wanted:
            await start(ADDRESSES["inference"], inference_app(settings))
        if ADDRESSES["code-feedback"] in wanted:
            await start(ADDRESSES["code-feedback"], exact_judge.create_app(settings, _world(settings)))
        if ADDRESSES["critic-feedback"] in wanted:
            await start(ADDRESSES["critic-feedback"], critic_app(settings))
        if ADDRESSES["human-feedback"] in wanted:
            human = human_app(settings)
            await start(ADDRESSES["human-feedback"], _with_person(human, settings, critiques_per_step), human)
        elif critiques_per_step:
            raise SettingsError(
                f"A scripted person writes to human-feedback, but no source is at {ADDRESSES['human-feedback']}: "
                "set feedback.sources.human.url to it, or leave the person out."
            )
        yield


def _with_person(human: Any, settings: Settings, critiques_per_step: int) -> Any:
    if not critiques_per_step:
        return human
    key = settings.api_key.get_secret_value() if settings.api_key else None
    world = _world(settings)
    return ScriptedPerson(human, world, rollouts_per_step=critiques_per_step, seed=settings.run.seed, key=key)


def _world(settings: Settings) -> World:
    source = settings.tasks.source
    if not source.startswith(BUILTIN):
        raise SettingsError(
            f"tasks.source: {source} is no built-in world, so nothing but the sandbox could judge its answers: a run "
            "in one process needs tasks.source = builtin:WORLD, or an outcome source with a URL of its own."
        )
    world = source.removeprefix(BUILTIN)
    return load_world(world, world_seed=settings.tasks.world_seed, seed=settings.run.seed)
