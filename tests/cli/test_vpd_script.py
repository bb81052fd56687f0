"""`./vpd`, the script at the root: it becomes `vpd` when all is installed, and fails in one sentence."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest
from cli_support import environment

from cli.development import ROOT

PROJECT = '[project]\ndependencies = [\n  "torch==2.13.0",\n]\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the script and a `cli` that only says how it was called."""
    root = tmp_path / "check out"
    (root / "cli").mkdir(parents=True)
    shutil.copy(ROOT / "vpd", root / "vpd")
    (root / "pyproject.toml").write_text(PROJECT)
    return root


def install(root: Path) -> None:
    """What a finished installation leaves, with a python that echoes its arguments."""
    (root / ".venv" / "bin").mkdir(parents=True)
    python = root / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\nprintf "<%s>" "$@"\n')
    python.chmod(0o755)
    with (root / "pyproject.toml").open("rb") as project:
        sums = subprocess.run(["cksum"], stdin=project, capture_output=True, text=True, check=True).stdout.strip()
    (root / ".venv" / ".installed").write_text(f"{root} {sums}\n")


def run(root: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(root / "vpd"), *arguments], env=environment(**extra), capture_output=True, text=True, timeout=100
    )


def test_an_installed_checkout_becomes_vpd_with_its_arguments_untouched(checkout: Path) -> None:
    install(checkout)
    done = run(checkout, "up", "--set", "run.name=a b", "*")
    assert (done.stdout, done.stderr) == ("<-P><-m><cli.main><up><--set><run.name=a b><*>", "")


def test_a_link_to_the_script_works_from_anywhere(checkout: Path, tmp_path: Path) -> None:
    install(checkout)
    (tmp_path / "link").symlink_to(checkout / "vpd")
    done = subprocess.run([str(tmp_path / "link")], env=environment(), capture_output=True, text=True, cwd="/")
    assert done.stdout == "<-P><-m><cli.main>"


def test_without_a_python_that_is_new_enough_it_says_which_is_needed(checkout: Path, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "cat", "cksum", "dirname", "readlink", "grep", "tail", "mkdir"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "python3").write_text("#!/bin/sh\nexit 1\n")
    (tools / "python3").chmod(0o755)
    done = run(checkout, PATH=str(tools))
    assert done.returncode == 1
    assert done.stderr.startswith("error: Python 3.11 or later is needed and none was found on the PATH")


def test_a_failed_installation_is_said_and_tried_again_the_next_time(checkout: Path) -> None:
    pip_has_nothing = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": "/dev/null"}
    done = run(checkout, https_proxy="http://127.0.0.1:9", **pip_has_nothing)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("Installing the dependencies into .venv, once")
    assert done.stderr.splitlines()[-1].startswith("error: torch==2.13.0 could not be installed.")
    assert "No matching distribution" in (checkout / ".venv" / "install.log").read_text()
    assert not (checkout / ".venv" / ".installed").exists()


def test_a_second_call_waits_for_the_first_one_s_installation(checkout: Path) -> None:
    with (checkout / "pyproject.toml").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        second = subprocess.Popen(
            [str(checkout / "vpd")], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert second.stderr is not None
        assert second.stderr.readline() == "Another ./vpd is installing; waiting for it.\n"
        install(checkout)
        assert second.poll() is None
    out, err = second.communicate(timeout=100)
    assert (out, err) == ("<-P><-m><cli.main>", "")


def test_the_pinned_torch_is_read_from_the_project() -> None:
    found = subprocess.run(
        ["sed", "-n", r's/^ *"\(torch==[^"]*\)".*/\1/p', str(ROOT / "pyproject.toml")],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert found.count("torch==") == 1
