"""Who waits for whom: collectors and learner in lockstep and overlapped mode, and what more collectors bring.

    .venv/bin/python -m bench.overlap [STEPS]        # default: 24

Runs the built-in world through `vpd up`, first with its own sources, then with a critique source beside them that takes
a second to answer, as a language model elsewhere would. For each run: steps a minute as a ratio to lockstep, the share
of the time that the learner and the collectors waited, and how old the groups were.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from shared.protocol import FeedbackRequest
from shared.tether import tethered
from trainer.batch_store import BatchStore

STEPS = 24
SOURCE = "--source"
PORT, BASE_PORT = 18502, 18510
ANSWER_S = 1.0
MODES: list[tuple[str, list[str]]] = [
    ("lockstep", []),
    *[
        (f"overlapped, {n} collector{'s' * (n > 1)}", ["rollout.mode=overlapped", f"rollout.collectors={n}"])
        for n in (1, 2, 4)
    ],
]


def main(steps: int) -> None:
    root = Path(tempfile.mkdtemp(prefix="vpd-overlap-"))
    print(f"{steps} steps of 16 prompts x 8 rollouts each")
    _compare(root / "own", steps, "the world's own sources", [])
    with _slow_source():
        slow = f"feedback.sources.slow={{url='http://127.0.0.1:{PORT}', role='critique'}}"
        _compare(root / "slow", steps, f"a critic beside them that takes {ANSWER_S:g} s", [slow])


def _compare(folder: Path, steps: int, what: str, chosen: list[str]) -> None:
    print(f"\n{what}")
    print(f"  {'':<26} {'steps/min':>9} {'ratio':>6} {'learner waits':>14} {'collectors wait':>16}   groups by lag")
    base: float | None = None
    for index, (name, mode) in enumerate(MODES):
        rate, learner, collectors, lags = _measure(folder, f"run{index}", steps, [*chosen, *mode])
        base = base or rate
        told = ", ".join(f"{lag}: {count}" for lag, count in sorted(lags.items()))
        print(
            f"  {name:<26} {rate:>9.1f} {rate / base:>6.2f} {learner:>14.0%} {collectors:>16.0%}   {told}", flush=True
        )


def _measure(folder: Path, name: str, steps: int, chosen: list[str]) -> tuple[float, float, float, Counter[int]]:
    """Steps a minute from the second step on, the shares of waiting, and groups by lag."""
    settings = [f"run.dir={folder}", f"run.name={name}", f"run.steps={steps}", "evaluation.every=1000", *chosen]
    few = ["evaluation.tasks=1", "evaluation.final_tasks=1"]
    overrides = [part for one in (*settings, *few) for part in ("--set", one)]
    command = [sys.executable, "-P", "-m", "cli.main", "up", "--base-port", str(BASE_PORT), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vpd up ended with code {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    run = folder / name
    timings = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()]
    wall_s = timings[-1]["wall_s"] - timings[0]["wall_s"]
    waited = sum(t["seconds/wait"] for t in timings[1:]) / wall_s
    busy, idle, lags = 0.0, 0.0, Counter[int]()
    store = BatchStore(run / "batches")
    seen: set[tuple[float, ...]] = set()
    for step in store.steps():
        batch = store.read(step)
        assert batch is not None
        for group in batch.groups:
            lags[step - group.policy_version] += 1
            spent = group.timings_s
            request = (spent["rollout"], spent["feedback"], spent["collector_wait"])
            if step and request not in seen:
                seen.add(request)
                busy, idle = busy + request[0] + request[1], idle + request[2]
    return 60 * (len(timings) - 1) / wall_s, waited, idle / (idle + busy), lags


@contextmanager
def _slow_source() -> Iterator[None]:
    process = subprocess.Popen(tethered([sys.executable, "-m", "bench.overlap", SOURCE]))
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def source() -> None:
    """Says something of every rollout, after a while."""
    app = FastAPI()

    @app.get("/v1/capabilities")
    def capabilities() -> dict[str, Any]:
        return {"name": "slow", "version": "1", "kind": "other", "gives_text": True}

    @app.post("/v1/feedback")
    def feedback(request: FeedbackRequest) -> dict[str, Any]:
        time.sleep(ANSWER_S)
        return {"results": [_abstain(item.trajectory_id) for item in request.items]}

    uvicorn.run(app, port=PORT, log_level="warning")


def _abstain(trajectory_id: str) -> dict[str, Any]:
    about = {"trajectory_id": trajectory_id, "feedback_id": f"{trajectory_id}:slow", "source": {"name": "slow"}}
    return {**about, "status": "abstain"}


if __name__ == "__main__":
    if sys.argv[1:2] == [SOURCE]:
        source()
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
