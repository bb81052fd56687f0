"""`vpd status`: the stacks that are up below a runs folder, how far their runs are, and what the other runs came to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from cli.claim import Stack, stacks_below
from cli.progress import eta, percent
from services.dashboard.runs import RunFiles, RunsFolder
from shared.errors import DataError

SHOWN = 20
"""Runs without a stack that are shown, those that were written last."""


def status_lines(runs: Path) -> list[str]:
    """A paragraph for each stack, then a line for each other run, the newest first."""
    lines: list[str] = []
    stacks = stacks_below(runs)
    with httpx.Client(timeout=2.0, trust_env=False) as client:
        for path, stack in stacks.items():
            lines += _of_stack(client, path, stack)
    others = [name for name in RunsFolder(runs).names() if runs / name not in stacks]
    left_out = [f"{len(others) - SHOWN} older runs are not shown."] if len(others) > SHOWN else []
    lines = lines or [f"No stack is up below {runs}."]
    return [*lines, *(_of_run(runs / name) for name in others[:SHOWN]), *left_out]


def _of_stack(client: httpx.Client, path: Path, stack: Stack) -> Iterator[str]:
    alive = stack.alive()
    yield f"{path}: {'a run goes on' if stack.supervised() else 'kept up after its run'}"
    if figures := _figures(RunFiles(path), live=stack.supervised()):
        yield f"  {figures}"
    for name in stack.pids:
        pid = f"process {alive[name]}" if name in alive else "gone"
        url = stack.services.get(name)
        ready = f", {url} {_readiness(client, url)}" if url and name in alive else ""
        yield f"  {name}: {pid}{ready}"


def _of_run(path: Path) -> str:
    files = RunFiles(path)
    states = {"finished": "finished", "stopped": "stopped", "running": "goes on elsewhere, or was stopped just now"}
    try:
        figures = _figures(files, live=False)
        return f"{path}: {', '.join(filter(None, [files.identity.algorithm, states[files.state()], figures]))}"
    except DataError as error:
        return f"{path}: {error}"


def _figures(files: RunFiles, *, live: bool) -> str:
    """How far the run is and what it came to; of one that goes on, the time left and the queue as well."""
    records = files.metrics()
    steps = [r for r in records if r["kind"] == "step"]
    of_steps = ((files.settings or {}).get("run") or {}).get("steps", "?")
    parts = [f"step {steps[-1]['step'] + 1 if steps else 0} of {of_steps}", *_accuracy(records)]
    timings = files.timings()
    if live and steps and timings:
        waiting, pending = (timings[-1].get(f"queue/{what}", 0) for what in ("waiting", "pending"))
        parts += [f"{eta(timings[-1])} left", f"queue {waiting} waiting, {pending} in work"]
    return ", ".join(parts)


def _accuracy(records: list[dict[str, Any]]) -> Iterator[str]:
    known = [r for r in records if r["kind"] == "evaluation" and r.get("student_accuracy") is not None]
    if known:
        yield f"held-out accuracy {' → '.join(_share(r) for r in ([known[0]] if len(known) > 1 else []) + [known[-1]])}"


def _share(record: Mapping[str, Any]) -> str:
    return percent(record["student_accuracy"])


def _readiness(client: httpx.Client, url: str) -> str:
    try:
        answer = client.get(f"{url}/readyz")
    except httpx.HTTPError:
        return "does not answer"
    return "is ready" if answer.status_code == 200 else "is not ready"
