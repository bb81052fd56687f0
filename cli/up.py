"""`vpd up` and `vpd train`: start the processes, wait until they are ready, watch the run, stop everything.

What is started, where and with what is planned in `stack.py`; how processes are handled is in `processes.py`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import redis
from rich.console import Console

from cli.claim import Claim, require_space
from cli.interrupts import Interrupts, Stopped
from cli.processes import Spec, Supervisor
from cli.progress import Progress, result_lines
from cli.stack import Plan, job_specs, plan_stack, redis_spec, require_free_ports, service_specs
from cli.vllm_environment import install, missing
from shared.errors import InfrastructureError, ServiceUnavailable
from shared.jsonl_tail import JsonlTail
from shared.load_settings import Resolved, public_settings
from shared.models import resolve_model
from shared.redis_server import RedisServer
from shared.settings import Settings
from trainer.trackers.choice import require_trackers
from trainer.trackers.delivery import undelivered

READY_S = 300.0
_POLL_S = 0.2
_COLLECTOR_GRACE_S = 30.0

Ready = Callable[[], str | None]
"""None when a process answers, else why not yet."""


def up(resolved: Resolved, *, keep: bool, fresh: bool, base_port: int, resume: str) -> int:
    """The whole stack and a run in it; returns the exit code. `resume` is the command that would go on with the run.

    Raises `VPDError` where something cannot be started, dies for good or fails; nothing is left running then.
    """
    resolve_model(resolved.settings.model.path)
    require_trackers(resolved.settings.tracking)
    claim = Claim.of(resolved.settings)
    plan = plan_stack(resolved, base_port=base_port, run_directory=claim.path)
    to_install = missing(plan.settings) if "inference" in plan.ports else None
    require_space(claim.path)
    claim.take(fresh=fresh)
    require_free_ports(plan)
    settings_file = _write_settings(claim.path, plan.settings)
    with _session(claim, plan.settings, resume, tethered=not keep) as session:
        if plan.key_is_new and plan.settings.api_key:
            session.say(f"Key of this stack's services (VPD_API_KEY): {plan.settings.api_key.get_secret_value()}")
        if to_install is not None:
            install(to_install, session)
        session.start_services(plan, settings_file)
        for line in plan.links():
            session.say(line)
        session.train(job_specs(plan.settings, settings_file))
        if keep:
            session.keep(plan)
    return session.exit_code


def train(settings: Settings, *, resume: str) -> int:
    """Collector and learner against services that run already; returns the exit code. Raises `VPDError`."""
    require_trackers(settings.tracking)
    claim = Claim.of(settings)
    require_space(claim.path)
    claim.take(fresh=False)
    settings_file = _write_settings(claim.path, settings)
    with _session(claim, settings, resume, tethered=True) as session:
        session.train(job_specs(settings, settings_file))
    return session.exit_code


@contextmanager
def _session(claim: Claim, settings: Settings, resume: str, *, tethered: bool) -> Iterator[_Session]:
    """Whatever happens inside, no process is left behind; a signal ends the block and says how to go on.

    Collector and learner finish their step then, and the exit code is 0. Where there is none yet, or a second signal
    does not wait for it, the code is the signal's.
    """
    with Interrupts() as interrupts, Progress(Console(), settings.run.steps) as progress:
        supervisor = Supervisor(claim.path / "logs", tethered=tethered, say=progress.say)
        session = _Session(claim, supervisor, progress, interrupts)
        try:
            yield session
        except Stopped as stopped:
            progress.say(f"Stopping after the running step ({stopped}); once more stops at once.")
            session.stopped = True
            session.exit_code = 0 if supervisor.finish(hurry=interrupts.hurry) else stopped.exit_code
        finally:
            if not session.kept:
                supervisor.stop(hurry=interrupts.hurry)
                claim.forget()
            claim.release()
        if session.stopped and session.read_result():
            session.exit_code = 0
        elif session.stopped:
            progress.say(f"Stopped. To go on from the last checkpoint: {resume}")
    for line in session.result:
        print(line)


@dataclass
class _Session:
    """One stack while it runs."""

    claim: Claim
    supervisor: Supervisor
    progress: Progress
    interrupts: Interrupts
    exit_code: int = 0
    stopped: bool = False
    kept: bool = False
    result: Sequence[str] = ()
    services: dict[str, str] = field(default_factory=dict)

    def say(self, line: str) -> None:
        self.progress.say(line)

    def status(self, text: str) -> None:
        self.progress.status(text)

    def check(self) -> None:
        self.interrupts.check()

    def start_services(self, plan: Plan, settings_file: Path) -> None:
        """Redis first, then the services together. Raises `VPDError` if one does not become ready."""
        if plan.redis_socket is not None:
            directory = (self.claim.path / "redis").absolute()
            directory.mkdir(exist_ok=True)
            plan.redis_socket.unlink(missing_ok=True)
            server = RedisServer(directory, unix_socket=plan.redis_socket)
            self._start({"redis": redis_spec(server.command())}, {"redis": lambda: _ask_redis(server.url)}, plan)
        specs = {spec.name: spec for spec in service_specs(plan, settings_file)}
        with httpx.Client(timeout=2.0, trust_env=False) as client:
            self._start(specs, {name: _readyz(client, plan.url(name)) for name in specs}, plan)
        self.progress.status("")

    def train(self, jobs: Sequence[Spec]) -> None:
        """Run collector and learner to their end. Raises `VPDError` with the last words of one that fails."""
        tail, timings = (JsonlTail(self.claim.path / name) for name in ("metrics.jsonl", "timings.jsonl"))
        names = [spec.name for spec in jobs]
        for spec in jobs:
            self.supervisor.start(spec)
        self.progress.status("Collector and learner start; first the policy is evaluated on held-out tasks")
        services = self._note()
        collector_deadline: float | None = None
        while not self.supervisor.finished(names):
            self.interrupts.check()
            self.supervisor.check()
            # Metrics before timings: the learner writes them the other way round, so that no step lacks its times.
            self.progress.update(tail.read().records, timings.read().records)
            if self.supervisor.pids() != services:
                services = self._note()
            if self.supervisor.finished(["learner"]):
                collector_deadline = collector_deadline or time.monotonic() + _COLLECTOR_GRACE_S
                if time.monotonic() > collector_deadline:
                    break
            time.sleep(_POLL_S)
        self.progress.update(tail.read().records, timings.read().records)
        if not self.read_result():
            raise InfrastructureError(f"The learner left no summary; its log is {self.supervisor.log('learner')}.")

    def read_result(self) -> bool:
        """Take up what the run came to; False where it is not complete."""
        summary = self.claim.summary()
        if summary is not None:
            self.result = [*result_lines(summary, self.claim.path), *undelivered(self.claim.path)]
        return summary is not None

    def keep(self, plan: Plan) -> None:
        """Leave the services running for `vpd status` and `vpd down`."""
        self._note()
        self.supervisor.release()
        self.kept = True
        addresses = [f"  {name}: {plan.url(name)}" for name in plan.ports]
        self.result = [*self.result, "The services stay up until `vpd down`:", *addresses]

    def _start(self, specs: dict[str, Spec], ready: dict[str, Ready], plan: Plan) -> None:
        for spec in specs.values():
            self.supervisor.start(spec)
        self.services = {name: plan.url(name) for name in plan.ports}
        self._note()
        began = time.monotonic()
        waiting: dict[str, str] = dict.fromkeys(specs, "")
        while waiting:
            self.progress.status("Starting " + ", ".join(specs), detail=_why(waiting))
            for name in list(waiting):
                self.interrupts.check()
                if self.supervisor.died(name):
                    self._give_up(specs[name], self.supervisor.failure(name))
                    del waiting[name]
                    continue
                reason = ready[name]()
                if reason is None:
                    del waiting[name]
                    self.say(f"{name} is ready.")
                else:
                    waiting[name] = reason
            for name, reason in list(waiting.items()):
                if time.monotonic() > began + (limit_s := ready_s(name, plan.settings)):
                    late = f"{name} was not ready after {limit_s:.0f} s: {reason} (log: {self.supervisor.log(name)})"
                    self._give_up(specs[name], ServiceUnavailable(late))
                    del waiting[name]
            time.sleep(_POLL_S)

    def _give_up(self, spec: Spec, error: InfrastructureError) -> None:
        """Raises the error, unless the run can do without the process."""
        if not spec.optional:
            raise error
        self.say(f"{error}; the run goes on without it.")

    def _note(self) -> dict[str, int]:
        pids = self.supervisor.pids()
        self.claim.note(self.services, pids)
        return pids


def ready_s(name: str, settings: Settings) -> float:
    """How long the process may take until it is ready, in seconds."""
    if name == "inference" and settings.inference.engine == "vllm":
        return max(READY_S, settings.inference.vllm.start_timeout_s)
    return READY_S


def _why(waiting: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in waiting.items() if reason)


def _write_settings(directory: Path, settings: Settings) -> Path:
    """The resolved settings for the children, without secrets: those go by environment."""
    file = directory / "up.settings.json"
    part = file.with_suffix(".part")
    part.write_text(json.dumps(public_settings(settings), indent=1))
    part.replace(file)
    return Path(os.path.relpath(file))


def _ask_redis(url: str) -> str | None:
    client = redis.Redis.from_url(url, socket_timeout=2.0)
    try:
        client.ping()
    except redis.RedisError as error:
        return str(error)
    finally:
        client.close()
    return None


def _readyz(client: httpx.Client, url: str) -> Ready:
    def ask() -> str | None:
        try:
            answer = client.get(f"{url}/readyz")
        except httpx.HTTPError as error:
            return f"no answer at {url} ({type(error).__name__})"
        return None if answer.status_code == 200 else _detail(answer)

    return ask


def _detail(answer: httpx.Response) -> str:
    """What a problem document says, or the beginning of any other answer."""
    try:
        text = str(answer.json()["detail"])
    except (ValueError, TypeError, KeyError):
        text = answer.text
    return " ".join(text.split())[:500]
