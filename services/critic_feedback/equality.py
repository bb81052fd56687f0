"""Whether two mathematical answers are equal, by math-verify (github.com/huggingface/Math-Verify), in processes apart.

An answer is hostile text: sympy can be made to compute for hours, or to fill the memory. Each comparison has a limit on
the CPU time and on the memory of its process; what exceeds one ends that process alone, and another takes its place.
CPU time judges, since a busy machine must not decide a reward; the wall clock is the backstop.
"""

from __future__ import annotations

import importlib.util
import resource
import signal
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

from shared.errors import DataError, InfrastructureError
from shared.settings import CriticFeedbackSettings

MAX_CHARS = 2000
"""Longer answers are equal to nothing but themselves."""
MEMORY_BYTES = 2 * 2**30
WALL_S = 120.0
"""Wall-clock limit of one comparison, for a process that gets no core; never the answer's fault."""
MAX_CACHED = 100_000
_BY_THE_ANSWER = {signal.SIGPROF, signal.SIGSEGV, signal.SIGABRT}
"""Ends of a process that its input brought about: the time was up, or the stack overflowed."""


class Equality:
    """Processes that compare, started when first needed. Safe to share among threads."""

    def __init__(self, settings: CriticFeedbackSettings) -> None:
        self.threads = ThreadPoolExecutor(settings.equality_workers, thread_name_prefix="equality")
        """As many as there are processes, for callers that must not wait themselves."""
        self._settings = settings
        self._lock = threading.Lock()
        self._pool: Any = None
        self._known = lru_cache(MAX_CACHED)(self._compared)

    def same(self, given: str, expected: str) -> bool:
        """Whether `given` is equal to the reference `expected`; blocks. An answer over the limits is not equal.

        Raises DataError for a reference that is itself over the limits, InfrastructureError where no process could
        answer.
        """
        if max(len(given), len(expected)) > MAX_CHARS:
            return given.strip() == expected.strip()
        return self._known(given, expected)

    def close(self) -> None:
        """End the processes."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            if self._pool is not None:
                self._pool.stop()
                self._pool.join()
                self._pool = None

    def _compared(self, given: str, expected: str) -> bool:
        verdict = self._ask(given, expected)
        if verdict is None and self._ask("0", expected) is None:
            raise DataError(
                f"The reference {expected[:80]!r} takes more than {self._settings.equality_limit_s:g} s of CPU or "
                f"{MEMORY_BYTES // 2**30} GiB to read; write it more simply."
            )
        return bool(verdict)

    def _ask(self, given: str, expected: str) -> bool | None:
        """The verdict; None where the process went over a limit."""
        if not all(importlib.util.find_spec(name) for name in ("math_verify", "pebble")):
            raise InfrastructureError(
                "Comparing mathematics needs libraries that are not installed; run: pip install 'vpd[math]'."
            )
        import pebble

        limit_s = self._settings.equality_limit_s
        try:
            found: bool | None = self._submit(given, expected, limit_s).result()
        except pebble.ProcessExpired as error:
            if -(error.exitcode or 0) in _BY_THE_ANSWER:
                return None
            raise InfrastructureError(f"A process that compares answers ended with {error.exitcode}.") from error
        except (TimeoutError, CancelledError) as error:
            raise InfrastructureError(f"A comparison was not done in {WALL_S:g} s: the machine is busy.") from error
        return found

    def _submit(self, given: str, expected: str, limit_s: float) -> Future[bool | None]:
        import pebble

        with self._lock:
            if self._pool is None:
                context = get_context("forkserver")
                context.set_forkserver_preload(["math_verify"])  # takes seconds, which each new process would take
                self._pool = pebble.ProcessPool(self._settings.equality_workers, initializer=_prepare, context=context)
            scheduled: Future[bool | None] = self._pool.schedule(
                _compare, args=[given, expected, limit_s], timeout=WALL_S
            )
        return scheduled


# ------------------------------------------------------------------------------------------- in a process of its own


def _prepare() -> None:
    import logging

    import math_verify  # noqa: F401 - before the limits, and once

    # It says at each call that its own limits are off: they need a main thread, ours do not.
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _compare(given: str, expected: str, limit_s: float) -> bool | None:
    from math_verify import verify

    # The signal's default action ends the process even in the middle of one long operation on integers.
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        return bool(verify(_parse(expected), _parse(given), timeout_seconds=None))
    except (MemoryError, RecursionError):
        return None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _parse(answer: str) -> list[Any]:
    from math_verify import LatexExtractionConfig, parse

    formula = answer.replace("\\$", "").strip().strip("$").strip()
    if "$" in formula or "\\boxed" in formula:
        return []  # Several formulas are no answer: which of them was meant would be a guess in the writer's favour.
    return list(parse(f"${formula}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=None))
