"""`vpd config check`: can a run with these settings start on this machine? Looks, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from cli.claim import require_space
from cli.stack import SERVICES, port_is_free
from cli.vllm_environment import NEEDED_MB, missing
from cli.vllm_environment import require_space as require_space_for_vllm
from services.inference.vllm import environment
from shared.errors import VPDError
from shared.models import resolve_model
from shared.redis_server import find_redis_server
from shared.settings import Settings
from trainer.trackers.choice import chosen_trackers, require_trackers

_ASK_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at, and what was found."""

    name: str
    ok: bool
    detail: str


def findings(settings: Settings, base_port: int) -> Iterator[Finding]:
    """Model, engine, tasks, trackers, sandbox, Redis, ports, disk: each with a sentence."""
    for name, look in (
        ("model", lambda: _model(settings)),
        ("engine", lambda: _engine(settings)),
        ("tasks", lambda: _tasks(settings)),
        ("trackers", lambda: _trackers(settings)),
        ("sandbox", lambda: _sandbox(settings)),
        ("redis", lambda: str(find_redis_server())),
        ("ports", lambda: _ports(settings, base_port)),
        ("disk", lambda: _disk(settings)),
    ):
        yield _finding(name, look)


def _finding(name: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, look())
    except VPDError as error:
        return Finding(name, False, str(error))


def _model(settings: Settings) -> str:
    return str(resolve_model(settings.model.path))


def _engine(settings: Settings) -> str:
    if settings.inference.engine != "vllm":
        return settings.inference.engine
    url = settings.inference.vllm.url
    if url is not None:
        return f"vllm at {_answering(url)}"
    directory = missing(settings)
    if directory is None:
        return f"vllm with {environment.python(settings)}"
    require_space_for_vllm(directory)
    return f"vllm; `vpd up` installs it first, {NEEDED_MB // 1000} GB into {directory}"


def _answering(url: str) -> str:
    try:
        status = httpx.get(f"{url}/health", timeout=_ASK_S, trust_env=False).status_code
    except httpx.HTTPError as error:
        raise VPDError(f"vLLM does not answer at {url} (inference.vllm.url): {type(error).__name__}.") from None
    if status != 200:
        raise VPDError(f"vLLM at {url} (inference.vllm.url) is not well: its /health answers {status}.")
    return url


def _tasks(settings: Settings) -> str:
    from trainer.tasks import load_tasks

    tasks = load_tasks(settings.tasks, seed=settings.run.seed)
    tasks.training(0, 1)
    return f"{settings.tasks.source}, {len(tasks.held_out(settings.evaluation.final_tasks))} held out"


def _trackers(settings: Settings) -> str:
    require_trackers(settings.tracking)
    return ", ".join(f"{one.name} ({one.to})" for one in chosen_trackers(settings.tracking)) or "none is set"


def _sandbox(settings: Settings) -> str:
    from sandbox.attack import open_configured

    isolation = open_configured(settings.code_feedback)
    try:
        return f"the tier {isolation.tier} holds"
    finally:
        isolation.close()


def _ports(settings: Settings, base_port: int) -> str:
    taken = [base_port + i for i in range(len(SERVICES)) if not port_is_free(settings.service.host, base_port + i)]
    if taken:
        raise VPDError(f"In use: {', '.join(map(str, taken))}; choose others with --base-port.")
    return f"{base_port} to {base_port + len(SERVICES) - 1} are free"


def _disk(settings: Settings) -> str:
    folder = Path(settings.run.dir)
    require_space(folder)
    return f"enough space for {folder}"
