"""Put into the directory argv[1] what vLLM's own image needs to be the engine of `inference` in the same pod.

vllm.sh, the worker extension, a built-in model, and vllm.env, which is what vllm.sh reads of the settings. A model of a
hub is fetched into HF_HOME. Further arguments are those of `vpd`: --recipe FILE.
"""

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path

import services.inference.vllm.server as server
from services.inference.model_files import model_directory
from shared.errors import VPDError
from shared.load_settings import load_settings
from shared.models import BUILTIN
from shared.settings import Settings


def prepare(directory: Path, settings: Settings) -> None:
    """Raises VPDError where there is no such model."""
    shutil.copy(Path(__file__).with_name("vllm.sh"), directory)
    shutil.copytree(server.WORKER_DIRECTORY, directory / "worker", dirs_exist_ok=True)
    path = settings.model.path
    model = model_directory(path)
    if path.startswith(BUILTIN):
        # vllm.sh looks for builtin/WORLD/model.
        shutil.copytree(model, directory / "builtin" / model.parent.name / model.name, dirs_exist_ok=True)
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables(settings).items()]
    (directory / "vllm.env").write_text("".join(lines), encoding="utf-8")


def variables(settings: Settings) -> dict[str, str]:
    """The settings that vllm.sh reads, by the variables' names."""
    inference = settings.inference
    found = {
        "VPD_MODEL__PATH": settings.model.path,
        "VPD_MODEL__DTYPE": settings.model.dtype,
        "VPD_INFERENCE__MAX_CONTEXT": inference.max_context,
        "VPD_INFERENCE__MAX_BATCH_ROWS": inference.max_batch_rows,
        "VPD_INFERENCE__VLLM__LORA_RANK": inference.vllm.lora_rank,
    }
    return {name: str(value) for name, value in found.items() if value is not None}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("--recipe", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    try:
        prepare(arguments.directory, load_settings(arguments.recipe, environ=os.environ))
    except VPDError as error:
        sys.exit(f"error: {error}")
