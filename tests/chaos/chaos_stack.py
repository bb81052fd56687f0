"""A stack whose processes can be killed at any moment, and the run that goes on in it.

Every part is a process of its own, with real HTTP and a real Redis between them. What a signal killed is started again
when its time has come; what exits with an error fails the run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx
from fork_server import fork_server
from tiny_model import make_tiny_model
from vpd_run import free_base_port

from shared.redis_server import RedisServer
from shared.settings import Settings

SERVICES = ("inference", "judge", "critic")
JOBS = ("collector", "learner")
KINDS = ("collector", "learner", "redis", *SERVICES)
STEPS = 6
LIMIT_S = 90.0
_POLL_S = 0.004
_READY_S = 60.0


@dataclass(frozen=True)
class Kill:
    """Once `after` lines are in the ledger, and `delay_s` seconds later: SIGKILL to `kinds`, away for `down_s` seconds.

    Redis then lacks what it was told in its last `forgets_s` seconds, as after a power cut.
    """

    kinds: tuple[str, ...]
    after: int
    delay_s: float = 0.0
    down_s: float = 0.0
    forgets_s: float = 0.0


@dataclass
class Outcome:
    """What came of a run: its files that must not differ, and what was done to it."""

    directory: Path
    weights: str
    metrics: bytes
    killed: list[str] = field(default_factory=list)
    restarts: int = 0
    seconds: float = 0.0


class Stack:
    """Services and Redis that stay up from one run to the next. Use it in `with`: it leaves nothing running."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._logs = root / "logs"
        self._logs.mkdir()
        self._ports = {name: free_base_port() + i for i, name in enumerate(SERVICES)}
        self._model = make_tiny_model(root / "model", context=1024)
        _write_tasks(root)
        self._context = fork_server("chaos_processes")
        self._running: dict[str, ForkServerProcess] = {}
        # A socket's path has at most 107 bytes.
        directory = Path(tempfile.mkdtemp(prefix="vpd-chaos-"))
        self._redis = RedisServer(directory, unix_socket=directory / "redis.sock")
        self._settings: dict[str, Settings] = dict.fromkeys(SERVICES, self.settings("services"))
        self._aof: list[tuple[float, int]] = []
        self._away: dict[str, float] = {}
        self.restarts = 0

    def __enter__(self) -> Stack:
        self._redis.start()
        for name in SERVICES:
            self._start(name)
        for name, path in (("inference", "readyz"), ("judge", "v1/capabilities"), ("critic", "v1/capabilities")):
            self._until_ready(name, path)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.kill()
            process.join()
        self._redis.kill()
        shutil.rmtree(self._redis.directory, ignore_errors=True)

    def settings(self, name: str) -> Settings:
        """Settings of a run of that name in this stack."""
        urls = {service: f"http://127.0.0.1:{port}" for service, port in self._ports.items()}
        return Settings.model_validate(
            {
                "run": {"name": name, "dir": str(self.root / "runs"), "seed": 5, "steps": STEPS},
                "model": {"path": str(self._model), "device": "cpu"},
                "tasks": {"source": str(self.root / "tasks.jsonl"), "held_out": str(self.root / "held_out.jsonl")},
                "rollout": {"prompts_per_step": 2, "samples_per_prompt": 3, "max_tokens": 8},
                "feedback": {
                    "sources": {
                        "judge": {"url": urls["judge"], "role": "both", "timeout_s": 5.0},
                        "critic": {"url": urls["critic"], "role": "critique", "timeout_s": 5.0, "required": True},
                    },
                    "max_outage_s": 60.0,
                },
                "queue": {"url": self._redis.url, "max_outage_s": 60.0},
                "evaluation": {"every": 4, "tasks": 2, "final_tasks": 3},
                "learner": {"checkpoint_every": 2, "threads": 1},
                "inference": {
                    "url": urls["inference"],
                    "policy_root": str(self.root / "runs"),
                    "timeout_s": 60.0,
                    "threads": 1,
                },
            }
        )

    def run(self, name: str, kills: tuple[Kill, ...] = ()) -> Outcome:
        """A run to its end, while `kills` come one after the other."""
        settings = self.settings(name)
        directory = Path(settings.run.dir) / name
        before, began = self.restarts, time.monotonic()
        self._aof.clear()
        for job in JOBS:
            self._settings[job] = settings
        for part in (*SERVICES, *JOBS):
            if part not in self._running or not self._is_up(part):
                self._start(part)
        try:
            killed = [name for kill in kills for name in self._in_time(kill, directory, began)]
            while not self._is_over(began):
                pass
        finally:
            self._end_jobs()
        weights = (directory / "model" / "model.safetensors").read_bytes()
        return Outcome(
            directory,
            hashlib.sha256(weights).hexdigest(),
            (directory / "metrics.jsonl").read_bytes(),
            killed,
            self.restarts - before,
            time.monotonic() - began,
        )

    # ------------------------------------------------------------------------------------------------------ in steps

    def _in_time(self, kill: Kill, directory: Path, began: float) -> list[str]:
        """Wait for the moment of `kill`: what was killed then, and at which line of the ledger; nothing if the run is
        over before."""
        due = None
        while due is None or time.monotonic() < due:
            if self._is_over(began):
                return []
            if due is None and _ledger_lines(directory) >= kill.after:
                due = time.monotonic() + kill.delay_s
        return [f"{name} at {_ledger_lines(directory)}" for name in self._kill(kill)]

    def _is_over(self, began: float) -> bool:
        """Start again what is dead and due, wait a moment, and say whether the learner has done its work."""
        assert time.monotonic() < began + LIMIT_S, f"the run did not end in {LIMIT_S:.0f} s:\n{self._last_words()}"
        self._aof.append((time.monotonic(), self._aof_file().stat().st_size if self._aof_file() else 0))
        for name in KINDS:
            if time.monotonic() >= self._away.get(name, 0.0) and self._was_killed(name):
                self._away.pop(name, None)
                self.restarts += 1
                self._redis.start() if name == "redis" else self._start(name)
        time.sleep(_POLL_S)
        return self._running["learner"].exitcode == 0

    def _end_jobs(self) -> None:
        # A collector that was started after the last version was published waits for another, and `vpd up` ends it.
        for job in JOBS:
            self._running[job].kill()
            self._running[job].join()

    def _is_up(self, name: str) -> bool:
        return self._redis.process is not None if name == "redis" else self._running[name].exitcode is None

    def _was_killed(self, name: str) -> bool:
        if name == "redis":
            return self._redis.process is None
        code = self._running[name].exitcode
        assert code is None or code < 0 or (code == 0 and name in JOBS), f"{name} failed:\n{self._last_words(name)}"
        return code is not None and code < 0

    def _kill(self, kill: Kill) -> list[str]:
        """The names of those that were there to be killed."""
        killed = [name for name in kill.kinds if self._is_up(name)]
        for name in killed:
            self._away[name] = time.monotonic() + kill.down_s
            if name == "redis":
                self._redis.kill()
                self._forget(kill.forgets_s)
            else:
                self._running[name].kill()
        for name in set(killed) - {"redis"}:
            self._running[name].join()
        return killed

    def _forget(self, seconds: float) -> None:
        file = self._aof_file()
        sizes = [size for at, size in self._aof if at <= time.monotonic() - seconds]
        if file is not None and seconds and sizes:
            os.truncate(file, min(sizes[-1], file.stat().st_size))

    def _aof_file(self) -> Path | None:
        files = [f for f in self._redis.directory.rglob("*.aof") if "base" not in f.name]
        return max(files, key=lambda f: f.stat().st_mtime, default=None)

    def _start(self, name: str) -> None:
        from chaos_processes import run

        arguments = (name, self._settings[name], self._ports.get(name, 0), self._logs / f"{name}.log")
        self._running[name] = self._context.Process(target=run, args=arguments, daemon=True)
        self._running[name].start()

    def _until_ready(self, name: str, path: str) -> None:
        deadline = time.monotonic() + _READY_S
        url = f"http://127.0.0.1:{self._ports[name]}/{path}"
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(url, timeout=2.0, trust_env=False).status_code == 200:
                    return
            assert time.monotonic() < deadline, f"{name} is not ready:\n{self._last_words(name)}"
            time.sleep(_POLL_S)

    def _last_words(self, *names: str) -> str:
        files = [self._logs / f"{name}.log" for name in names or (*JOBS, *SERVICES)]
        ends = [(file.name, file.read_text(errors="replace").splitlines()[-15:]) for file in files if file.exists()]
        return "\n".join(f"--- {name}\n" + "\n".join(lines) for name, lines in ends)


@contextmanager
def chaos_stack(root: Path) -> Iterator[tuple[Stack, Outcome]]:
    """A stack, and what an undisturbed run in it comes to."""
    with Stack(root) as stack:
        yield stack, stack.run("undisturbed")


def _ledger_lines(directory: Path) -> int:
    file = directory / "ledger.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _write_tasks(root: Path) -> None:
    for file, prefix, word in (("tasks.jsonl", "t", "Question"), ("held_out.jsonl", "h", "Held-out question")):
        tasks = [
            {"id": f"{prefix}{i}", "kind": "bytes", "messages": [{"role": "user", "content": f"{word} {i}"}]}
            for i in range(10)
        ]
        (root / file).write_text("".join(json.dumps(task) + "\n" for task in tasks))
