"""The services that evaluating a model needs, where none are up: inference with that model, and the outcome source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from cli.evaluation_display import EvaluationProgress
from cli.interrupts import Interrupts
from cli.processes import Supervisor
from cli.stack import BASE_PORT, SERVICES, Plan, plan_stack, require_free_ports, service_specs
from cli.up import ready_s
from cli.vllm_environment import install, missing
from shared.load_settings import Resolved, public_settings
from shared.settings import Settings
from trainer.disk import write_atomically
from trainer.evaluate import outcome_only

_LOCAL = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class ServicesUp:
    """Services that were started, at the addresses of `settings`."""

    settings: Settings
    supervisor: Supervisor
    names: tuple[str, ...]
    interrupts: Interrupts

    def check(self) -> None:
        """Start again what died; raises `Stopped`, or `VPDError` for what dies again and again."""
        self.interrupts.check()
        self.supervisor.check()

    def check_started(self) -> None:
        """Raises `Stopped`, or `VPDError` with the last words of a service that did not start."""
        self.interrupts.check()
        for name in self.names:
            if self.supervisor.died(name):
                raise self.supervisor.failure(name)

    @staticmethod
    def ready_s(settings: Settings) -> float:
        """How long inference may take to load the model, in seconds."""
        return ready_s("inference", settings)


@contextmanager
def own_services(
    resolved: Resolved, folder: Path, base_port: int, interrupts: Interrupts, progress: EvaluationProgress
) -> Iterator[ServicesUp]:
    """Started, not yet ready, for the length of the block; logs and settings go into `folder`. Raises VPDError."""
    plan = _plan(resolved, folder, base_port)
    require_free_ports(plan)
    if (directory := missing(plan.settings)) is not None:
        install(directory, progress)
    settings_file = folder / "services.settings.json"
    write_atomically(settings_file, json.dumps(public_settings(plan.settings), indent=1))
    supervisor = Supervisor(folder / "logs", say=progress.say)
    try:
        progress.status("Starting " + ", ".join(plan.ports))
        for spec in service_specs(plan, settings_file):
            supervisor.start(spec)
        yield ServicesUp(plan.settings, supervisor, tuple(plan.ports), interrupts)
    finally:
        supervisor.stop(hurry=interrupts.hurry)


def at_home(settings: Settings) -> Settings:
    """The settings with inference at its usual address, and with it the sources of the same stack.

    A run's settings hold the ports that its stack had: those after inference's own, where that was on this machine.
    """
    inference = urlsplit(settings.inference.url)
    first = inference.port if inference.hostname in _LOCAL and inference.port else BASE_PORT

    def moved(url: str) -> str:
        parts = urlsplit(url)
        ports = {first + number: BASE_PORT + number for number in range(len(SERVICES))}
        # In a compose network the services' names are their hosts.
        if parts.port not in ports or parts.hostname not in (*_LOCAL, *SERVICES):
            return url
        return urlunsplit(parts._replace(netloc=f"127.0.0.1:{ports[parts.port]}"))

    sources = {
        name: source.model_copy(update={"url": moved(source.url)}) for name, source in settings.feedback.sources.items()
    }
    return settings.model_copy(
        update={
            "inference": settings.inference.model_copy(update={"url": f"http://127.0.0.1:{BASE_PORT}"}),
            "feedback": settings.feedback.model_copy(update={"sources": sources}),
        }
    )


def _plan(resolved: Resolved, folder: Path, base_port: int) -> Plan:
    """Inference, and the outcome source if it is one of the stack's own services; no Redis."""
    inference = resolved.settings.inference.model_copy(update={"policy_root": str(folder)})
    settings = resolved.settings.model_copy(update={"inference": inference})
    # As if they had been set: what is set is left as it is.
    origins = {**resolved.origins, "queue.url": "", "inference.policy_root": ""}
    plan = plan_stack(Resolved(settings, origins), base_port=base_port, run_directory=folder)
    asked = {urlsplit(s.url).port for s in outcome_only(plan.settings.feedback).sources.values() if _is_local(s.url)}
    ports = {name: port for name, port in plan.ports.items() if name == "inference" or port in asked}
    return replace(plan, ports=ports)


def _is_local(url: str) -> bool:
    return urlsplit(url).hostname in _LOCAL
