"""One compose project under its own name: bring it up, look into its containers, end them, take it down.

Drives the `docker` command as a user would. Engine and client are whatever `docker` and DOCKER_HOST lead to.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class CommandFailed(AssertionError):
    """A docker command did not end with status 0; the message carries what it printed."""


def require_engine() -> None:
    """Raise `CommandFailed` with one sentence unless a Docker engine and Compose v2 answer."""
    for command in (["docker", "version"], ["docker", "compose", "version"]):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=30)
            reason = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = str(error)
        if reason:
            raise CommandFailed(
                f"The compose tests need a Docker engine with Compose v2, and `{' '.join(command)}` fails ({reason}): "
                "start one, or point DOCKER_HOST to one."
            )


class Stack:
    """The project `name` made from docker-compose.yml and `overrides`, with `environment` for its interpolation."""

    def __init__(self, name: str, overrides: Sequence[Path] = (), environment: Mapping[str, str] | None = None) -> None:
        files = [ROOT / "docker-compose.yml", *overrides]
        self.name = name
        self._command = ["docker", "compose", "--project-name", name, *(f"--file={file}" for file in files)]
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("VPD_")}
        self._environment = inherited | {"DOCKER_BUILDKIT": "1", **(environment or {})}

    def compose(
        self,
        *arguments: str,
        stdin: str | None = None,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120,
    ) -> str:
        """Run `docker compose ARGUMENTS`; gives its standard output. Raises `CommandFailed`."""
        return _run([*self._command, *arguments], self._environment | dict(environment or {}), stdin, timeout_s)

    def exec(self, service: str, *command: str) -> str:
        """Run a command in the running container of a service."""
        return self.compose("exec", "-T", service, *command)

    def python(self, service: str, code: str, stdin: str | None = None) -> str:
        """Run Python in a new container of a service: its image, networks and limits, nothing else started."""
        run = ("run", "--rm", "-T", "--no-deps", "--entrypoint", "python", service)
        return self.compose(*run, "-c", code, stdin=stdin)

    def inspect(self, service: str) -> dict[str, Any]:
        """`docker inspect` of the one container of a service, running or not."""
        identifier = self.compose("ps", "--all", "--quiet", service).split()[0]
        found: dict[str, Any] = json.loads(_run(["docker", "inspect", identifier], self._environment, None, 30))[0]
        return found

    def state(self, service: str) -> str:
        """`healthy`, `starting`, `unhealthy`, or for a service without a health check `running`, `exited`, ..."""
        state = self.inspect(service)["State"]
        if state["Status"] == "running" and "Health" in state:
            return str(state["Health"]["Status"])
        return str(state["Status"])

    def address(self, service: str, network: str) -> str:
        """IPv4 address of a running service in one of the project's networks."""
        return str(self.inspect(service)["NetworkSettings"]["Networks"][f"{self.name}_{network}"]["IPAddress"])

    def url(self, service: str, port: int) -> str:
        """Where the published port of a service is on this machine."""
        return f"http://{self.compose('port', service, str(port)).strip()}"

    def kill_main_process(self, service: str) -> None:
        """SIGKILL the program of a container from inside; its init then ends with status 137, as after a crash."""
        self.exec(service, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")

    def copy_out(self, service: str, path: str, target: Path) -> Path:
        """Copy a file out of a container, running or not."""
        self.compose("cp", f"{service}:{path}", str(target))
        return target

    def up(self, *services: str, environment: Mapping[str, str] | None = None) -> None:
        """Build what changed and start; returns when all that others depend on is healthy."""
        self.compose("up", "--detach", "--build", *services, environment=environment, timeout_s=1500)

    def has_image(self, image: str) -> bool:
        """Whether an image is on this machine, or could be pulled."""
        for command in (["docker", "image", "inspect", image], ["docker", "pull", "--quiet", image]):
            if subprocess.run(command, env=self._environment, capture_output=True, timeout=300).returncode == 0:
                return True
        return False

    def down(self) -> None:
        """Remove containers, networks and volumes, of all profiles."""
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans", "--timeout", "5")


def wait_for(what: str, reached: Callable[[], bool], deadline_s: float) -> None:
    """Poll until `reached()`; after `deadline_s` seconds raise `CommandFailed` naming what was waited for."""
    end = time.monotonic() + deadline_s
    while not reached():
        if time.monotonic() > end:
            raise CommandFailed(f"After {deadline_s:.0f} s still not: {what}.")
        time.sleep(0.5)


def _run(command: Sequence[str], environment: Mapping[str, str], stdin: str | None, timeout_s: float) -> str:
    done = subprocess.run(
        list(command),
        cwd=ROOT,
        env=dict(environment),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode != 0:
        raise CommandFailed(
            f"`{' '.join(command)}` ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"[-6000:]
        )
    return done.stdout
