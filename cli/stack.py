"""Which processes make a stack on one machine, at which addresses, with which settings and environment.

Plans only: `up.py` starts what is planned here.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from cli.processes import Spec
from shared.errors import VPDError
from shared.load_settings import Resolved, secret_environment
from shared.settings import Settings

SERVICES = ("inference", "code-feedback", "critic-feedback", "human-feedback", "dashboard")
OPTIONAL = frozenset({"dashboard"})
"""What only shows a run never ends one."""
BASE_PORT = 8201
_TIERS = {"redis": 0, "service": 1, "job": 2}
_RESTARTS = 3
JOB_GRACE_S = 120.0
"""A job ends after its running step and a checkpoint, which take long with a large model."""
_LONGEST_SOCKET_PATH = 100


@dataclass(frozen=True)
class Plan:
    """A stack that could be started."""

    settings: Settings
    key_is_new: bool
    ports: dict[str, int]
    """Port by service; inference is left out where the settings point elsewhere."""
    redis_socket: Path | None
    """Where the stack's own Redis listens; None where the settings point to another."""

    def url(self, service: str) -> str:
        """Where a service of this stack answers, from this machine."""
        host = self.settings.service.host
        return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else host}:{self.ports[service]}"

    def links(self) -> list[str]:
        """Where people look, a line for each page. Only a key that was made for this stack stands in them: whoever set
        one has it, and its page asks for it."""
        key = self.settings.api_key.get_secret_value() if self.settings.api_key and self.key_is_new else None
        dashboard, review = ({"key": key} if key else {} for _ in range(2))
        dashboard["run"] = self.settings.run.name
        return [
            f"Dashboard: {self.url('dashboard')}/#{urlencode(dashboard)}",
            f"Review page: {self.url('human-feedback')}/review/" + (f"#{urlencode(review)}" if review else ""),
        ]


def plan_stack(resolved: Resolved, *, base_port: int, run_directory: Path) -> Plan:
    """Fill in what the settings leave to the machine: addresses, Redis, the key, where files go.

    URLs at the default ports move along with `base_port`. What was set is never overridden.
    """
    settings = _at_base_port(resolved.settings, base_port)
    redis_socket = None
    if "queue.url" not in resolved.origins:
        redis_socket = _socket_path(run_directory)
        settings = _replace(settings, "queue", url=f"unix://{redis_socket}?db=0")
    if "inference.policy_root" not in resolved.origins:
        settings = _replace(settings, "inference", policy_root=str(run_directory))
    if "human_feedback.database" not in resolved.origins:
        settings = _replace(settings, "human_feedback", database=str(Path(settings.run.dir) / "human_feedback.sqlite3"))
    key_is_new = settings.api_key is None
    if key_is_new:
        settings = settings.model_copy(update={"api_key": SecretStr(secrets.token_urlsafe(24))})
    ports = {name: base_port + index for index, name in enumerate(SERVICES)}
    if urlsplit(settings.inference.url).netloc not in _own_addresses(ports["inference"]):
        del ports["inference"]
    return Plan(settings, key_is_new, ports, redis_socket)


def require_free_ports(plan: Plan) -> None:
    """Raise `VPDError` naming the first port that is taken."""
    for name, port in plan.ports.items():
        if not port_is_free(plan.settings.service.host, port):
            raise VPDError(
                f"Port {port}, for {name}, is in use: stop what listens there (`vpd status` shows stacks of this "
                f"project), or choose other ports with --base-port {port + 100}."
            )


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def service_specs(plan: Plan, settings_file: Path) -> list[Spec]:
    """The services' processes, restarted when they die."""
    return [
        Spec(
            name,
            vpd("serve", name, "--port", str(port), "--recipe", str(settings_file)),
            tier=_TIERS["service"],
            restarts=_RESTARTS,
            optional=name in OPTIONAL,
            environment=child_environment(plan.settings, heavy=name == "inference"),
        )
        for name, port in plan.ports.items()
    ]


def redis_spec(command: Sequence[str]) -> Spec:
    """Redis's process: its append-only file makes a restart harmless."""
    return Spec("redis", command, tier=_TIERS["redis"], restarts=_RESTARTS)


def job_specs(settings: Settings, settings_file: Path) -> list[Spec]:
    """Collectors and learner, which end with the run; what the kernel kills is started again, and resumes."""
    return [
        Spec(
            name,
            vpd("train", "--only", kind, "--recipe", str(settings_file)),
            tier=_TIERS["job"],
            restarts=_RESTARTS,
            ends=True,
            grace_s=JOB_GRACE_S,
            environment=child_environment(settings, heavy=kind == "learner") | _own_name(kind, name),
        )
        for kind, name in [*(("collector", name) for name in _collectors(settings)), ("learner", "learner")]
    ]


def is_job(name: str) -> bool:
    """Whether a process of this name is one of `job_specs`."""
    return name.partition("-")[0] in ("collector", "learner")


def _collectors(settings: Settings) -> list[str]:
    return ["collector", *(f"collector-{number}" for number in range(2, settings.rollout.collectors + 1))]


def _own_name(kind: str, name: str) -> dict[str, str]:
    # Started again under its name, a collector goes on with the prompts that it had reserved.
    return {"VPD_COLLECTOR_NAME": name} if kind == "collector" else {}


def vpd(*arguments: str) -> list[str]:
    """The command line of a `vpd` command in this environment; tracebacks go to its log."""
    return [sys.executable, "-P", "-m", "cli.main", "--debug", *arguments]


def child_environment(settings: Settings, *, heavy: bool, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment without settings, with the secrets that the settings file leaves out, and bounded threads.

    Inference and learner (`heavy`) share the cores; every other process computes on one.
    """
    kept = {name: value for name, value in environ.items() if not name.upper().startswith("VPD_")}
    threads = str(max(1, (os.cpu_count() or 1) // 2) if heavy else 1)
    return {"OMP_NUM_THREADS": threads, **kept, **secret_environment(settings)}


def _at_base_port(settings: Settings, base_port: int) -> Settings:
    def moved(url: str) -> str:
        parts = urlsplit(url)
        for index in range(len(SERVICES)):
            if parts.netloc in _own_addresses(BASE_PORT + index):
                return urlunsplit(parts._replace(netloc=f"{parts.hostname}:{base_port + index}"))
        return url

    sources = {
        name: source.model_copy(update={"url": moved(source.url)}) for name, source in settings.feedback.sources.items()
    }
    critic = settings.critic_feedback.critic_url
    settings = _replace(settings, "inference", url=moved(settings.inference.url))
    settings = _replace(settings, "critic_feedback", critic_url=critic and moved(critic))
    return settings.model_copy(update={"feedback": settings.feedback.model_copy(update={"sources": sources})})


def _replace(settings: Settings, section: str, **values: object) -> Settings:
    return settings.model_copy(update={section: getattr(settings, section).model_copy(update=values)})


def _own_addresses(port: int) -> tuple[str, str]:
    return f"127.0.0.1:{port}", f"localhost:{port}"


def _socket_path(run_directory: Path) -> Path:
    # The kernel's limit on a socket's path is 108 bytes; long run directories get a short one elsewhere.
    path = run_directory.absolute() / "redis" / "redis.sock"
    if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH and not set(str(path)) & set("?#% "):
        return path
    return Path(tempfile.mkdtemp(prefix="vpd-")) / "redis.sock"
