"""Collector and learner as processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from shared.settings import Settings

JOB = "import sys; from shared.settings import Settings; from trainer.{job} import main; " + (
    "sys.exit(main(Settings.model_validate_json(open(sys.argv[1]).read())))"
)


def start(job: str, settings: Settings, file: Path) -> subprocess.Popen[bytes]:
    file.write_text(settings.model_dump_json())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", JOB.format(job=job), str(file)], env=environment)


def finish(process: subprocess.Popen[bytes], within_s: float = 240.0) -> int:
    try:
        return process.wait(within_s)
    finally:
        process.kill()
        process.wait()
