"""How a sandbox is closed off, and the proof that it holds.

    bubblewrap   namespaces: no other processes, no network, an empty file system with read-only libraries
    landlock     the same denials by Landlock rules, without any privilege or extra program
    unsafe       resource limits alone; must be asked for

In both real tiers a program also runs under seccomp filters: one process, no sockets, no signals to others. This file
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

from sandbox.processes import DriverProcess, Forked, Servers, Started

Tier = Literal["bubblewrap", "landlock", "unsafe"]
STRONGEST_FIRST: tuple[Tier, ...] = ("bubblewrap", "landlock")

INSIDE = ("syscalls", "confine", "candidate", "asserting", "driver")
SCRIPTS = {"run": "driver", "serve": "server"}
PYTHON_FLAGS = ("-S", "-s", "-B")
BOUND_AT = "/sandbox"
SCRATCH_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Place:
    """What a driver is told about where it is."""

    scratch: str
    readable: tuple[str, ...]
    own_user: bool


class Isolation:
    """One tier, ready to start drivers. Owns a directory with the compiled driver until `close`.

    In bubblewrap each driver is started, since namespaces are made at a start; elsewhere warm servers fork them.
    """

    def __init__(self, tier: Tier) -> None:
        self.tier: Tier = tier
        self.closed = False
        self._directory = Path(tempfile.mkdtemp(prefix="vpd-sandbox-"))
        self._directory.chmod(0o755)
        self._compile_driver()
        self._servers = Servers((self._python, *PYTHON_FLAGS, str(self._directory / "serve.pyc")))
        if tier != "bubblewrap":
            self._servers.warm()

    def close(self) -> None:
        """Remove the compiled driver; nothing can be started afterwards, and what runs gives up within a moment."""
        self.closed = True
        self._servers.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def make_scratch(self) -> Path:
        """An empty private directory for one candidate, or for bubblewrap the place it stands for."""
        if self.tier == "bubblewrap":
            return self._directory
        return Path(tempfile.mkdtemp(prefix="scratch-", dir=self._directory))

    def remove_scratch(self, scratch: Path) -> None:
        """Remove what `make_scratch` made, with whatever the candidate left in it."""
        if scratch != self._directory:
            shutil.rmtree(scratch, ignore_errors=True)

    def start(self) -> DriverProcess:
        """A new driver. Raises OSError if there is none to be had."""
        if self.tier == "bubblewrap":
            return Started((*self._bubblewrap, self._python, *PYTHON_FLAGS, f"{BOUND_AT}/run.pyc"))
        return Forked(self._servers)

    def place(self, scratch: Path) -> Place:
        """What to tell a driver that is to work in `scratch`."""
        if self.tier == "bubblewrap":
            return Place("/tmp", (), own_user=True)
        return Place(str(scratch), self._readable, own_user=False)

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
        options = ["--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "sandbox"]
        options += ["--uid", "65534", "--gid", "65534"]
        for path in (*self._readable, self._python):
            if not path.startswith("/dev/") and Path(path).exists():
                options += _bind(path)
        options += ["--ro-bind", str(self._directory), BOUND_AT, "--proc", "/proc", "--dev", "/dev"]
        options += ["--size", "4096", "--tmpfs", "/dev/shm", "--remount-ro", "/dev/shm", "--remount-ro", "/dev"]
        options += ["--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
        return (program, *options, "--")


def _bind(path: str) -> list[str]:
    if Path(path).is_symlink() and Path(path).parent == Path("/"):
        return ["--symlink", str(Path(path).readlink()), path]
    return ["--ro-bind", path, path]


def _shared_libraries(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.glob("libpython*.so*"))
