"""What the processes of a chaos run do, each forked from a server that has imported all of this already.

Nothing is computed at import, so that what is forked shares no thread and no lock with its server.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers.models.qwen3.modeling_qwen3
from fastapi import FastAPI

from services.inference import local_model, transformers_engine
from services.inference.app import create_app
from shared.errors import VPDError
from shared.logs import configure_logging
from shared.protocol import FeedbackRequest
from shared.service import serve
from shared.settings import Settings
from shared.tether import PR_SET_PDEATHSIG
from trainer import collector, learner

# Imported where they are first used, which would be in every process anew.
LATE_IMPORTS = (transformers.models.qwen3.modeling_qwen3, local_model, transformers_engine)


def run(kind: str, settings: Settings, port: int, log: Path) -> None:
    """Be the process of that kind, its output appended to `log`; services listen on `port`. An error is a sentence at
    the log's end and exit code 1."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    with log.open("ab") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    configure_logging(kind, "json")
    try:
        sys.exit(_WORK[kind](settings, port))
    except VPDError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def source(name: str, *, gives_reward: bool) -> FastAPI:
    """A feedback source whose verdict depends on the response's text alone."""
    app = FastAPI(title=name)

    @app.get("/v1/capabilities")
    def capabilities() -> dict[str, Any]:
        return {"name": name, "version": "1", "kind": "rule", "gives_reward": gives_reward, "gives_text": True}

    @app.post("/v1/feedback")
    def feedback(request: FeedbackRequest) -> dict[str, Any]:
        return {"results": [_verdict(name, i.trajectory_id, i.response.text, gives_reward) for i in request.items]}

    return app


def _verdict(name: str, trajectory_id: str, text: str, gives_reward: bool) -> dict[str, Any]:
    total = sum(text.encode())
    reward = {"reward": float(total % 3 == 0), "success": total % 3 == 0} if gives_reward else {}
    return {
        "trajectory_id": trajectory_id,
        "feedback_id": f"{trajectory_id}:{name}",
        "status": "ok",
        "source": {"name": name, "kind": "rule"},
        "text": f"{name}: the bytes of {len(text)} letters come to {total % 3} modulo 3.",
        **reward,
    }


def _serve(app: FastAPI, settings: Settings, port: int) -> int:
    serve(app, settings, port)
    return 0


_WORK: dict[str, Callable[[Settings, int], int]] = {
    "learner": lambda settings, _: learner.main(settings),
    "collector": lambda settings, _: collector.main(settings),
    "inference": lambda settings, port: _serve(create_app(settings), settings, port),
    "judge": lambda settings, port: _serve(source("judge", gives_reward=True), settings, port),
    "critic": lambda settings, port: _serve(source("critic", gives_reward=False), settings, port),
}
