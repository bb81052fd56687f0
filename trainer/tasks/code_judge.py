"""What code-feedback says about a response, found in this process: its verdict on any text, without the service.

Where no program is found or the compiler refuses it, the words are found without running anything; else the program
runs in a sandbox that is opened once, when it is first needed. A world that can work out an outcome from the text of
a response asks here only about the rest.
"""

from __future__ import annotations

import atexit
import hashlib
import threading
import warnings
from functools import lru_cache

from sandbox.attack import open_isolation
from sandbox.diagnosis import describe
from sandbox.extract import extract_program
from sandbox.inside.candidate import FILE, encode_error
from sandbox.isolation import Isolation
from sandbox.judge import Defaults, decode_error
from sandbox.judge import judge as run
from sandbox.reference import CodeTask, parse_task
from sandbox.verdicts import Report, TestReport, Verdict
from shared.protocol import Task
from shared.settings import CodeFeedbackSettings
from trainer.tasks.outcome import Outcome

MAX_VERDICTS = 100_000
MAX_COMPILED_CHARS = 2000
"""Longer programs are compiled in the sandbox alone: small ones exist that take a compiler gigabytes."""


class CodeJudge:
    """Verdicts of code-feedback at its default settings, each found once. Safe to share among threads."""

    def __init__(self) -> None:
        self._verdicts: dict[bytes, Outcome] = {}
        self._lock = threading.Lock()

    def judge(self, task: Task, text: str) -> Outcome:
        """The verdict on response `text`, finished by itself. Raises DataError for a reference that is wrong,
        SandboxFailure or SettingsError where no sandbox can be had."""
        key = _key(task, text)
        with self._lock:
            found = self._verdicts.get(key)
            if found is None:
                if len(self._verdicts) >= MAX_VERDICTS:
                    self._verdicts.clear()
                found = self._verdicts[key] = _judge(task, text)
        return found


def _judge(task: Task, text: str) -> Outcome:
    limits = CodeFeedbackSettings()
    extracted = extract_program(text)
    if extracted.program is None:
        return Outcome(False, extracted.failure)
    parsed = parse_task(task.kind, task.reference)
    report = _refusal(parsed, extracted.program)
    if report is None:
        defaults = Defaults(limits.time_limit_s, limits.memory_limit_mb, limits.max_failures)
        report = run(_isolation(), parsed, extracted.program, defaults)
    return Outcome(report.success, describe(report, limits.max_feedback_chars))


def _refusal(task: CodeTask, program: str) -> Report | None:
    """The report on a program that Python does not compile; None for any other and for a long one."""
    if len(program) > MAX_COMPILED_CHARS:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a program's style: they are for nobody here
            compile(program, FILE, "exec", 0, True)
    except (SyntaxError, ValueError) as error:
        refused = decode_error(encode_error(error), program)
        return Report((TestReport(Verdict.COMPILE_ERROR),) * max(1, len(task.tests)), refused)
    except (OverflowError, RecursionError, MemoryError):
        return None  # what is too much depends on the process
    return None


@lru_cache(1)
def _isolation() -> Isolation:
    isolation = open_isolation(CodeFeedbackSettings().isolation)
    atexit.register(isolation.close)
    return isolation


def _key(task: Task, text: str) -> bytes:
    """The same for questions whose verdict must be the same, whatever the task's id."""
    reference = task.model_dump_json(include={"kind", "reference"})
    return hashlib.sha256(f"{len(reference)}:{reference}{text}".encode(errors="surrogatepass")).digest()
