"""What one process of an experiment does: one run, its log in a file, its failure as a sentence.

Importing this loads torch and transformers: the pool's fork server does it once, so that a run starts at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
from multiprocessing.connection import Connection
from pathlib import Path

import matplotlib.backends.backend_agg
import matplotlib.figure
import matplotlib.pyplot  # noqa: F401
from transformers.models.qwen3 import modeling_qwen3  # noqa: F401

from cli.in_process import run
from shared.errors import VPDError
from shared.logs import configure_logging
from shared.settings import Settings


def work(settings: Settings, critiques_per_step: int, log_file: Path, failure: Connection) -> bool:
    """Run to the end, or until SIGTERM (False). An error is sent as a sentence and raised.

    Of a run that is done, what only resuming needs is removed: experiments have many.
    """
    # Ctrl-C reaches the whole terminal: it is the pool that says when runs stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _log_to(log_file)
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    try:
        if run(settings, critiques_per_step=critiques_per_step) is None:
            return False
    except VPDError as error:
        failure.send(str(error))
        raise
    except BaseException as error:
        failure.send(f"Unexpected {type(error).__name__}: {error}. {log_file} says where.")
        raise
    for folder in ("checkpoints", "policy"):
        shutil.rmtree(Path(settings.run.dir) / settings.run.name / folder, ignore_errors=True)
    return True


def _log_to(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    # Also what native code writes.
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.close(log)
    configure_logging("run", "console")


def _stop_without_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGTERM)
