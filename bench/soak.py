"""A long run of a trivial learner: what every process and Redis hold must not grow.

    .venv/bin/python -m bench.soak [STEPS]        # default: 10000

Collector, learner, inference service, a source and Redis are processes of their own, over a model of two layers.
Prints, every tenth of the way, the resident memory of each, their open files, what Redis holds, and the steps a second.
Exits with 1 if after the first tenth a process has grown by more than 16 MiB, or Redis by more than 2 MiB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis
import uvicorn
from fastapi import FastAPI

from shared.protocol import FeedbackRequest
from shared.redis_server import RedisServer
from shared.tether import tethered
from tests.tiny_model import make_tiny_model
from trainer.audit import audit

STEPS = 10_000
TENTHS = 10
ALLOWED_KIB = {"redis": 2 * 1024}
ALLOWED_PROCESS_KIB = 16 * 1024
SOURCE = "--source"


def main(steps: int) -> int:
    """Run to the end; 1 if something has grown."""
    root = Path(tempfile.mkdtemp(prefix="vpd-soak-"))
    ports = {"inference": 18201, "source": 18202}
    with RedisServer(root, unix_socket=root / "redis.sock") as server:
        settings = _settings(root, ports, server.url, steps)
        (root / "settings.json").write_text(json.dumps(settings))
        assert server.process is not None
        processes = _start(root, ports)
        pids = {"redis": server.process.pid, **{name: process.pid for name, process in processes.items()}}
        try:
            table = _watch(root / "runs" / "soak", pids, redis.Redis.from_url(server.url), steps, processes)
        finally:
            for process in processes.values():
                process.terminate()
    found = audit(root / "runs" / "soak")
    print(f"audit: {found.groups} groups in {found.steps} steps, {'clean' if not found.problems else found.problems}")
    grown = _grown(table)
    for name, kib in grown.items():
        print(f"GROWN: {name} by {kib} KiB")
    return 1 if grown or found.problems else 0


def _settings(root: Path, ports: dict[str, int], redis_url: str, steps: int) -> dict[str, Any]:
    for name in ("tasks", "held_out"):
        messages = [[{"role": "user", "content": f"{name} {i}"}] for i in range(64)]
        tasks = [{"id": f"{name}-t{i}", "kind": "bytes", "messages": chat} for i, chat in enumerate(messages)]
        (root / f"{name}.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    make_tiny_model(root / "model", hidden=16)
    source = {"url": f"http://127.0.0.1:{ports['source']}", "role": "both"}
    return {
        "api_key": "soak",
        "run": {"name": "soak", "dir": str(root / "runs"), "steps": steps},
        "model": {"path": str(root / "model"), "device": "cpu"},
        "tasks": {"source": str(root / "tasks.jsonl"), "held_out": str(root / "held_out.jsonl")},
        "rollout": {"prompts_per_step": 2, "samples_per_prompt": 2, "max_tokens": 4},
        "feedback": {"sources": {"code": source, "human": None}},
        "queue": {"url": redis_url},
        "algorithm": {"name": "vpd"},
        "evaluation": {"every": steps, "tasks": 1, "final_tasks": 1},
        "learner": {"threads": 1, "keep_batches": 50},
        "inference": {"url": f"http://127.0.0.1:{ports['inference']}", "policy_root": str(root / "runs"), "threads": 1},
    }


def _start(root: Path, ports: dict[str, int]) -> dict[str, subprocess.Popen[bytes]]:
    recipe = ["--recipe", str(root / "settings.json")]
    vpd = [sys.executable, "-P", "-m", "cli.main"]
    commands = {
        "source": [sys.executable, "-m", "bench.soak", SOURCE, str(ports["source"])],
        "inference": [*vpd, "serve", "inference", "--port", str(ports["inference"]), *recipe],
        "collector": [*vpd, "train", "--only", "collector", *recipe],
        "learner": [*vpd, "train", "--only", "learner", *recipe],
    }
    environment = {**os.environ, "VPD_API_KEY": "soak", "OMP_NUM_THREADS": "1"}
    started = {}
    for name, command in commands.items():
        with (root / f"{name}.log").open("wb") as log:
            started[name] = subprocess.Popen(tethered(command), stdout=log, stderr=subprocess.STDOUT, env=environment)
    print(f"logs and run: {root}")
    return started


Held = dict[str, int]


def _watch(
    run: Path, pids: dict[str, int], client: Any, steps: int, processes: dict[str, subprocess.Popen[bytes]]
) -> list[Held]:
    """What is held at each tenth of the way, in KiB, printed as it comes; for Redis what it says that it holds."""
    columns = [*pids, "open files", "steps/s"]
    print(f"{'step':>7} " + " ".join(f"{name:>12}" for name in columns) + "   (KiB)")
    table: list[Held] = []
    began, before = time.monotonic(), 0
    for tenth in range(1, TENTHS + 1):
        wanted = steps * tenth // TENTHS
        _wait(lambda wanted=wanted: _steps(run) >= wanted or (run / "summary.json").exists(), processes)
        done = _steps(run)
        held = {name: _rss_kib(pid) for name, pid in pids.items()}
        held["redis"] = int(client.info("memory")["used_memory"]) // 1024
        rate = (done - before) / (time.monotonic() - began)
        began, before = time.monotonic(), done
        cells = [*(str(held[name]) for name in pids), str(sum(map(_open_files, pids.values()))), f"{rate:.1f}"]
        print(f"{done:>7} " + " ".join(f"{cell:>12}" for cell in cells), flush=True)
        table.append(held)
    _wait(lambda: (run / "summary.json").exists(), processes)
    return table


def _open_files(pid: int) -> int:
    folder = Path(f"/proc/{pid}/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def _grown(table: list[Held]) -> dict[str, int]:
    """By how many KiB each has grown beyond what is allowed, since the first tenth."""
    grown = {name: table[-2][name] - table[0][name] for name in table[0]}
    return {name: kib for name, kib in grown.items() if kib > ALLOWED_KIB.get(name, ALLOWED_PROCESS_KIB)}


def _wait(condition: Callable[[], bool], processes: dict[str, subprocess.Popen[bytes]]) -> None:
    while not condition():
        for name, process in processes.items():
            if process.poll() not in (None, 0):
                raise SystemExit(f"{name} ended with code {process.returncode}; its log is beside the run.")
        time.sleep(0.5)


def _steps(run: Path) -> int:
    """How many steps are done, by the last line of the timings."""
    file = run / "timings.jsonl"
    if not file.exists():
        return 0
    with file.open("rb") as lines:
        lines.seek(max(0, file.stat().st_size - 4096))
        whole = [line for line in lines.read().split(b"\n")[:-1] if line.startswith(b"{")]
    return json.loads(whole[-1])["step"] + 1 if whole else 0


def _rss_kib(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")), 0)


def source(port: int) -> None:
    """A feedback source whose verdict depends on the response's length."""
    app = FastAPI()

    @app.get("/v1/capabilities")
    def capabilities() -> dict[str, Any]:
        return {"name": "length", "version": "1", "kind": "rule", "gives_reward": True, "gives_text": True}

    @app.post("/v1/feedback")
    def feedback(request: FeedbackRequest) -> dict[str, Any]:
        return {"results": [_verdict(item.trajectory_id, len(item.response.text)) for item in request.items]}

    uvicorn.run(app, port=port, log_level="warning")


def _verdict(trajectory_id: str, length: int) -> dict[str, Any]:
    success = length % 2 == 0
    about = {"trajectory_id": trajectory_id, "feedback_id": f"{trajectory_id}:length", "status": "ok"}
    text = None if success else f"The length {length} is odd."
    return {**about, "reward": float(success), "success": success, "text": text, "source": {"name": "length"}}


if __name__ == "__main__":
    if sys.argv[1:2] == [SOURCE]:
        source(int(sys.argv[2]))
    else:
        sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS))
