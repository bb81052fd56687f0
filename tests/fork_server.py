"""A process that forks others which have imported torch and the like already."""

from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.context import ForkServerContext


def fork_server(*modules: str) -> ForkServerContext:
    """Start it with `modules` imported and one thread for torch; there is one for each test process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "OMP_NUM_THREADS")}
    os.environ |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    try:
        from multiprocessing import forkserver

        forkserver.ensure_running()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return context
