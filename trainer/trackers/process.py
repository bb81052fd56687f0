"""The process that delivers: `tracked` keeps one beside the learner, which runs `main`; `vpd track` is `deliver_now`.

It learns of the learner's end by its standard input, which closes however the learner ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from shared.errors import SettingsError, VPDError
from shared.load_settings import load_settings
from shared.settings import TrackingSettings
from trainer.trackers.choice import chosen_trackers, require_trackers
from trainer.trackers.delivery import Deliveries
from trainer.trackers.rows import TrackedRun

_OVERHEAD_S = 10.0
"""To start, and to end once nothing is waited for any more."""
_CHECK_S = 1.0
_LONGEST_PAUSE_S = 60.0
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextlib.contextmanager
def tracked(tracking: TrackingSettings, run: Path) -> Iterator[None]:
    """Inside, a process delivers what is written in `run`; at the end it has `flush_s` for the rest.

    Raises SettingsError where a tracker lacks what it needs.
    """
    require_trackers(tracking)
    if not chosen_trackers(tracking):
        yield
        return
    keeper = _Keeper(run, tracking)
    try:
        yield
    finally:
        keeper.end(tracking.flush_s + _OVERHEAD_S)


class _Keeper:
    """Starts the process, and again where it dies before the run's end."""

    def __init__(self, run: Path, tracking: TrackingSettings) -> None:
        self._command = [sys.executable, "-P", "-m", __name__, str(run), tracking.model_dump_json()]
        self._environment = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
        self._ended = threading.Event()
        self._process = self._start()
        self._watch = threading.Thread(target=self._restart, name="trackers", daemon=True)
        self._watch.start()

    def end(self, limit_s: float) -> None:
        """Have the rest delivered; a process that is not done within `limit_s` is killed, and one that died is started
        once more."""
        self._ended.set()
        self._watch.join()
        if self._done(limit_s) != 0:
            self._process = self._start()
            self._done(limit_s)

    def _done(self, limit_s: float) -> int:
        """Tell the process of the end and wait for its own: 0 where it came to one, or had its time."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return 0

    def _restart(self) -> None:
        pause_s = _CHECK_S
        while not self._ended.wait(pause_s):
            if self._process.poll() is None:
                pause_s = _CHECK_S
            else:
                self._process = self._start()
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in a terminal is for the learner, whose end this process then learns of.
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, env=self._environment, start_new_session=True, bufsize=0
        )


def main(arguments: Sequence[str]) -> None:
    """Deliver the run at `arguments[0]` by the tracking settings in `arguments[1]` until standard input closes."""
    run, tracking = Path(arguments[0]), TrackingSettings.model_validate_json(arguments[1])
    # The process of a learner that was killed may still be at it.
    with _alone(run, wait_s=tracking.flush_s + _OVERHEAD_S):
        deliveries = Deliveries(TrackedRun.of(run), tracking)
        sys.stdin.buffer.read()
        for sentence in deliveries.finish(tracking.flush_s):
            print(sentence, flush=True)
    # A thread that hangs in a tracker's package would keep the interpreter.
    os._exit(0)


def deliver_now(run: Path, recipes: Sequence[Path], overrides: Sequence[str]) -> list[str]:
    """Deliver what the trackers of the run's settings, with `recipes` and `overrides`, lack.

    Returns a sentence for each that still lacks something.

    Raises SettingsError where no tracker is set, VPDError where a process delivers this run already.
    """
    tracking = load_settings([run / "settings.json", *recipes], overrides).tracking
    require_trackers(tracking)
    if not chosen_trackers(tracking):
        raise SettingsError(
            "No tracker is set: name one, like --set tracking.tensorboard=true (docs/observability.md)."
        )
    with _alone(run, wait_s=0):
        return Deliveries(TrackedRun.of(run), tracking).finish(tracking.flush_s, patient=False)


@contextlib.contextmanager
def _alone(run: Path, *, wait_s: float) -> Iterator[None]:
    """Inside, no other process delivers this run. Raises VPDError where one goes on for longer than `wait_s`."""
    deadline = time.monotonic() + wait_s
    with (run / ".tracking.lock").open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise VPDError(
                        f"A process delivers the figures of {run} to its trackers already: wait until it has ended."
                    ) from None
                time.sleep(0.1)
        yield


if __name__ == "__main__":
    main(sys.argv[1:])
