"""The tier `docker`: every candidate in a container of its own, made ahead, used once, thrown away.

A container has no network, no capability, no mount and a read-only root; `inside/unpack.py` is its command and gets
the driver over standard input. Which engine, image and runtime is in the settings. What is said to a driver is
`confined.py`; what a program may do in it is the image's kernel and the driver's own filters.
"""

from __future__ import annotations

import contextlib
import importlib
import marshal
import socket
import ssl
import struct
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import requests

from sandbox.inside import scratch
from sandbox.isolation import INSIDE, PYTHON_FLAGS, ContainerOptions, Isolation, Place
from sandbox.processes import ENVIRONMENT, DriverProcess
from shared.errors import SettingsError

# By name: checkers take the folder docker/ of a source tree for the package.
docker: Any = importlib.import_module("docker")

LABEL = "vpd.sandbox"
NOBODY = 65534
ENGINE_TIMEOUT_S = 60
SPARE = 2
"""Containers that wait, started, for the next candidates."""
MAX_PROCESSES = 128
STREAM_HEADER_BYTES = 8
STANDARD_OUTPUT = 1


class ContainerIsolation(Isolation):
    """Containers of one engine, ready to hold drivers, until `close`. Raises SettingsError if the engine does not
    answer or has no such image or runtime."""

    def __init__(self, options: ContainerOptions) -> None:
        self.tier = "docker"
        self.closed = False
        self._options = options
        self._modules = _driver_modules()
        self._engine = _engine(options)
        self._remove_ended()
        self._helpers = ThreadPoolExecutor(SPARE, thread_name_prefix="containers")
        self._spare: list[Future[Container]] = []
        try:
            self._spare = [self._prepare()]
            self._spare[0].result()
        except OSError as error:
            self.close()
            raise SettingsError(f"code_feedback.isolation 'docker': no container could be started: {error}.") from error

    def close(self) -> None:
        """End the waiting containers; nothing can be started afterwards."""
        self.closed = True
        self._helpers.shutdown(wait=True)
        while self._spare:
            with contextlib.suppress(OSError):
                self._spare.pop().result().end()
        self._engine.close()

    def make_scratch(self) -> Path:
        """The directory that every container has in its own memory."""
        return Path("/tmp")

    def remove_scratch(self, directory: Path) -> None:
        """Nothing: it goes with the container."""

    def start(self) -> DriverProcess:
        """A container that waits for its program. Raises OSError if there is none to be had."""
        try:
            ready = self._spare.pop(0)
        except IndexError:
            return self._start()
        while len(self._spare) < SPARE:
            self._spare.append(self._prepare())
        try:
            return ready.result()
        except OSError:  # it was made long ago; the engine may be back
            return self._start()

    def place(self, directory: Path, process: DriverProcess) -> Place:
        """What to tell a driver in a container."""
        return Place(str(directory), (), NOBODY, own_user=True)

    def _prepare(self) -> Future[Container]:
        try:
            return self._helpers.submit(self._start)
        except RuntimeError as error:  # closed meanwhile
            raise OSError("the sandbox is being shut down") from error

    def _start(self) -> Container:
        container: Container = _asked(lambda: Container(self._engine, self._create(), self._later))
        container.send(self._modules)
        return container

    def _later(self, work: Callable[[], None]) -> None:
        try:
            self._helpers.submit(work)
        except RuntimeError:  # closed meanwhile
            work()

    def _create(self) -> Any:
        options = self._options
        memory = options.memory_mb * 2**20
        return self._engine.containers.create(
            options.image,
            ["python3", *PYTHON_FLAGS, "-c", _source("unpack")],
            entrypoint=[],
            runtime=options.runtime,
            user=f"{NOBODY}:{NOBODY}",
            hostname="sandbox",
            environment=ENVIRONMENT,
            working_dir="/tmp",
            labels={LABEL: ""},
            stdin_open=True,
            read_only=True,
            tmpfs={"/tmp": f"size={scratch.MAX_BYTES},mode=1777,noexec,nosuid,nodev"},
            network_mode="none",
            ipc_mode="none",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
            pids_limit=MAX_PROCESSES,
            mem_limit=memory,
            memswap_limit=memory,
            oom_score_adj=1000,
            log_config={"type": "none"},
        )

    def _remove_ended(self) -> None:
        """Remove what a killed service left: its containers ended when their input did."""
        filters = {"label": LABEL, "status": ["exited", "created", "dead"]}
        with contextlib.suppress(OSError):
            for left in _asked(lambda: self._engine.containers.list(all=True, filters=filters, ignore_removed=True)):
                with contextlib.suppress(OSError):
                    _asked(partial(left.remove, force=True, v=True))


class Container(DriverProcess):
    """A driver in a container. One socket carries what is said to it and, in frames of the engine, what it says."""

    def __init__(self, engine: Any, container: Any, later: Callable[[Callable[[], None]], None]) -> None:
        self._container = container
        self._later = later
        self._in_frame = 0
        self._status: int | None = None
        self.number = 0
        try:
            self._file = engine.api.attach_socket(container.id, {"stdin": 1, "stdout": 1, "stream": 1})
            self._socket = _plain_socket(self._file)
            self.input = self.output = self._socket.fileno()
            container.start()
        except BaseException:
            self._remove()
            raise

    def send(self, data: bytes) -> None:
        """Send bytes with their length before them. Raises OSError if the container does not take them."""
        self._socket.sendall(len(data).to_bytes(8, "big") + data)

    def read(self, count: int) -> bytes:
        """Up to `count` bytes of the driver's standard output; none at its end. Raises OSError for a broken frame."""
        while self._in_frame == 0:
            header = self._exactly(STREAM_HEADER_BYTES)
            if not header:
                return b""
            if header[0] != STANDARD_OUTPUT:
                raise ConnectionError("a container wrote to another stream than its standard output")
            self._in_frame = int.from_bytes(header[4:], "big")
        part = self._socket.recv(min(count, self._in_frame))
        self._in_frame -= len(part)
        return part

    def end(self, *, by_itself: bool = False) -> int:
        """Kill the container and see to it that it is removed; the exit status of its first process."""
        if self._status is None:
            self._status = self._wait() if by_itself else -9
            with contextlib.suppress(OSError):
                _asked(self._container.kill)
            self._close()
            self._later(self._remove)
        return self._status

    def _exactly(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count and (part := self._socket.recv(count - len(parts))):
            parts += part
        return parts if len(parts) == count else b""

    def _wait(self) -> int:
        try:
            return int(_asked(lambda: self._container.wait(timeout=2))["StatusCode"])
        except OSError:
            return -9

    def _close(self) -> None:
        self._file.close()
        self._socket.close()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            _asked(lambda: self._container.remove(force=True, v=True))


def _engine(options: ContainerOptions) -> Any:
    """The engine, seen to answer and to have what is asked for."""
    wanted = "code_feedback.isolation 'docker'"
    try:
        if options.host is None:
            engine = docker.from_env(timeout=ENGINE_TIMEOUT_S)
        else:
            engine = docker.DockerClient(options.host, timeout=ENGINE_TIMEOUT_S)
        runtimes = engine.info().get("Runtimes", {})
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise SettingsError(f"{wanted}: no Docker engine answers ({error}): set code_feedback.docker_host.") from error
    if options.runtime is not None and options.runtime not in runtimes:
        known = ", ".join(sorted(runtimes))
        raise SettingsError(f"{wanted}: the engine has no runtime '{options.runtime}'; it has {known}.")
    try:
        engine.images.get(options.image)
    except docker.errors.DockerException as error:
        raise SettingsError(f"{wanted}: the engine has no image '{options.image}': pull or build it first.") from error
    return engine


def _plain_socket(attached: Any) -> socket.socket:
    """The socket below what the engine's client gives. Raises OSError for one that is encrypted."""
    found = getattr(attached, "_sock", attached)
    if not isinstance(found, socket.socket) or isinstance(found, ssl.SSLSocket):
        raise OSError("an engine is reached at a unix:// or an unencrypted tcp:// address only")
    found.setblocking(True)
    # An engine that stops in the middle of a frame must not stop us.
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", ENGINE_TIMEOUT_S, 0))
    return found


def _asked(ask: Callable[[], Any]) -> Any:
    """What the engine answers. Raises OSError for whatever its client raises."""
    try:
        return ask()
    except (docker.errors.DockerException, requests.RequestException) as error:
        raise OSError(str(error)) from error


def _source(name: str) -> str:
    return (Path(__file__).parent / "inside" / f"{name}.py").read_text(encoding="utf-8")


def _driver_modules() -> bytes:
    return marshal.dumps([(name, _source(name)) for name in INSIDE])
