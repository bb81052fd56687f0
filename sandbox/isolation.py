"""How a sandbox is closed off, and the proof that it holds.

    bubblewrap   namespaces: no other processes, no network, an empty file system with read-only libraries
    landlock     the same denials by Landlock rules, without any privilege or extra program
    docker       a container of its own for each candidate, on an engine that must be configured: `containers.py`
    unsafe       resource limits alone; must be asked for

In all real tiers a program also runs under seccomp filters: one process, no sockets, no signals to others. This file
says what is started and what it may read; `inside/confine.py` is the lock itself, `attack.py` tries it.
"""

from __future__ import annotations

import os
import py_compile
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from sandbox.inside import scratch
from sandbox.own_directory import OwnDirectory, remove_tree
from sandbox.processes import DriverProcess, Forked, Servers, Started

Tier = Literal["bubblewrap", "landlock", "docker", "unsafe"]
STRONGEST_FIRST: tuple[Tier, ...] = ("bubblewrap", "landlock")

INSIDE = ("syscalls", "confine", "scratch", "where", "candidate", "asserting", "driver")
SCRIPTS = {"run": "driver", "serve": "server"}
PYTHON_FLAGS = ("-S", "-s", "-B")
BOUND_AT = "/sandbox"
FIRST_OWN_UID = 1 << 24
"""Each driver of a root service runs under this plus the number of its process: a user nobody else is."""
NAMESPACES = ("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try")
OWN_USER = ("--unshare-user", "--uid", "65534", "--gid", "65534")
# Root of a user namespace is root to the files below /proc: a root service keeps what it needs to become nobody.
BECOME_ANOTHER = ("--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_CHOWN")


@dataclass(frozen=True)
class Place:
    """What a driver is told about where it is: its directory, what it may read, the user a root service's driver
    becomes, and whether it is already a user that nobody else is."""

    scratch: str
    readable: tuple[str, ...]
    user: int
    own_user: bool


@dataclass(frozen=True)
class ContainerOptions:
    """Which containers the tier docker takes: `image` has Python 3.11 or later as `python3`; `runtime` None is the
    engine's own; `host` None is the environment's engine (DOCKER_HOST); `memory_mb` is what one container may hold."""

    image: str
    runtime: str | None = None
    host: str | None = None
    memory_mb: int = 1024


class Isolation:
    """One tier, ready to start drivers. Owns a directory with the compiled driver until `close`.

    In bubblewrap each driver is started, since namespaces are made at a start; elsewhere warm servers fork them.
    """

    def __init__(self, tier: Tier) -> None:
        self.tier: Tier = tier
        self.closed = False
        self._own_directory = OwnDirectory()
        self._directory = self._own_directory.path
        self._directory.chmod(0o755)
        self._compile_driver()
        self._servers = Servers((self._python, *PYTHON_FLAGS, str(self._directory / "serve.pyc")))
        if tier != "bubblewrap":
            self._servers.warm()

    def close(self) -> None:
        """Remove the compiled driver; nothing can be started afterwards, and what runs gives up within a moment."""
        self.closed = True
        self._servers.close()
        self._own_directory.remove()

    def make_scratch(self) -> Path:
        """An empty private directory for one candidate, or for bubblewrap the place it stands for."""
        if self.tier == "bubblewrap":
            return self._directory
        return Path(tempfile.mkdtemp(prefix="scratch-", dir=self._directory))

    def remove_scratch(self, directory: Path) -> None:
        """Remove what `make_scratch` made, with whatever the candidate left in it."""
        if directory != self._directory:
            remove_tree(directory)

    def start(self) -> DriverProcess:
        """A new driver. Raises OSError if there is none to be had."""
        if self.tier == "bubblewrap":
            return Started((*self._bubblewrap, self._python, *PYTHON_FLAGS, f"{BOUND_AT}/run.pyc"))
        return Forked(self._servers)

    def place(self, directory: Path, process: DriverProcess) -> Place:
        """What to tell driver `process` that is to work in `directory`."""
        user = FIRST_OWN_UID + process.number
        if self.tier == "bubblewrap":
            return Place("/tmp", (), user, own_user=True)
        return Place(str(directory), self._readable, user, own_user=False)

    def _compile_driver(self) -> None:
        source = Path(__file__).parent
        package = self._directory / "sandbox" / "inside"
        package.mkdir(parents=True)
        for script, name in SCRIPTS.items():
            target = self._directory / f"{script}.pyc"
            py_compile.compile(str(source / "inside" / f"{name}.py"), str(target), doraise=True)
        for name in INSIDE:
            py_compile.compile(str(source / "inside" / f"{name}.py"), str(package / f"{name}.pyc"), doraise=True)
        empty = self._directory / "empty.py"
        empty.touch()
        for directory in (package.parent, package):
            py_compile.compile(str(empty), str(directory / "__init__.pyc"), doraise=True)

    @cached_property
    def _python(self) -> str:
        # The interpreter behind a virtual environment: the environment's packages are none of the candidate's business.
        base = getattr(sys, "_base_executable", None) or sys.executable
        return os.path.realpath(base)

    @cached_property
    def _readable(self) -> tuple[str, ...]:
        """What an interpreter needs to start and import its standard library: nothing else may be read."""
        variables = {"installed_base": sys.base_prefix, "base": sys.base_prefix}
        library = sysconfig.get_path("stdlib", vars=variables)
        shared = [
            str(Path(sys.base_prefix) / "lib" / name) for name in _shared_libraries(Path(sys.base_prefix) / "lib")
        ]
        system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo"]
        return tuple(dict.fromkeys([library, *shared, *system, "/dev/null", "/dev/urandom", "/dev/zero"]))

    @cached_property
    def _bubblewrap(self) -> tuple[str, ...]:
        """The bubblewrap command up to the program. `Confined` starts it with an almost empty environment, since
        its own can be read inside as that of process 1."""
        program = shutil.which("bwrap") or "bwrap"
        options = [*NAMESPACES, "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"]
        options += BECOME_ANOTHER if os.geteuid() == 0 else OWN_USER
        for path in (*self._readable, self._python):
            if not path.startswith("/dev/") and Path(path).exists():
                options += _bind(path)
        options += ["--ro-bind", str(self._directory), BOUND_AT, "--proc", "/proc", "--dev", "/dev"]
        options += ["--size", "4096", "--tmpfs", "/dev/shm", "--remount-ro", "/dev/shm", "--remount-ro", "/dev"]
        options += ["--size", str(scratch.MAX_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
        return (program, *options, "--")


def _bind(path: str) -> list[str]:
    if Path(path).is_symlink() and Path(path).parent == Path("/"):
        return ["--symlink", str(Path(path).readlink()), path]
    parents = [str(parent) for parent in reversed(Path(path).parents) if parent != Path("/")]
    # Left to itself, bubblewrap makes those that only their owner may enter.
    return [part for parent in parents for part in ("--perms", "0755", "--dir", parent)] + ["--ro-bind", path, path]


def _shared_libraries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("libpython*.so*"))
