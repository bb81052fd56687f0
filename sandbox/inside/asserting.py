"""`code.assert`: the task's test code runs in a sandbox of its own, without the candidate.

Where it calls the candidate it stops and says with which arguments; the service has the call made in the candidate's
sandbox and runs the test code again with one more answer. So expected values, which stand in the test code, never
meet the candidate. Values cross as Python literals of exact built-in types.
"""

from __future__ import annotations

import ast
import builtins
import sys
from types import CodeType, ModuleType
from typing import Any

TESTS = "tests.py"
MAX_ASSERTIONS = 10_000
Answer = tuple[str, str, str]
_TRY = """
try:
    pass
except BaseException as _assertion_error_:
    _assertion_failed_(_assertion_error_)
else:
    _assertion_passed_()
"""
_assertions: dict[int, str] = {}
_check_called: list[bool] = []


class NeededError(BaseException):
    """The test code has come to a call that is not answered yet."""


class EnoughError(BaseException):
    """As many assertions have failed as may."""


class EndedError(BaseException):
    """The candidate was ended in a call: nothing of the test code may pass that over."""


def instrument(source: str) -> CodeType:
    """Test code that counts its assertions, those at top level and those directly in a function `check`, and goes on
    after one that fails."""
    if "random" in source:
        import random  # noqa: F401 - imported here, every run can seed it before the test code draws
    tree = ast.parse(source, TESTS)
    for body in [tree.body, *(n.body for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check")]:
        for index, statement in enumerate(body):
            if isinstance(statement, ast.Assert):
                _assertions[statement.lineno] = ast.unparse(statement)
                body[index] = _counted(statement)
            elif _calls_check(statement):
                _check_called.append(True)
    return compile(ast.fix_missing_locations(tree), TESTS, "exec", 0, True)


def outcome(code: CodeType, module: ModuleType, entry: str, data: tuple[list[Answer], int]) -> str:
    """Run test code with the answers so far, each (arguments, "value", literal), (arguments, "ended", "") or
    (arguments, type, message); at most so many assertions may fail, 0: all of them.

    A literal of (passed, total, failed, arguments): the last are those of a call that is to be answered, None if
    there is none. Each that failed is (how, what, index of the last answer before it, -1 if none): how is "asserted"
    (what: the assertion), "raised" (by the candidate) or "broken" (what: the error in the test code).
    """
    answers, max_failures = data
    run = _Run(answers, min(max_failures or MAX_ASSERTIONS, max(1, len(_assertions))))
    module.__dict__.update(
        {entry: run.call, "candidate": run.call, "_assertion_passed_": run.count, "_assertion_failed_": run.fail}
    )
    try:
        if "random" in sys.modules:
            sys.modules["random"].seed(0)
        exec(code, module.__dict__)
        if "check" in module.__dict__ and not _check_called:
            module.__dict__["check"](run.call)
        run.fail_if_ended()
    except (NeededError, EnoughError):
        pass
    except BaseException as error:  # noqa: BLE001 - whatever the test code raised is its outcome
        run.note_uncounted(error)
    return to_literal(run.state())


class _Run:
    """What one run of the test code has come to so far."""

    def __init__(self, answers: list[Answer], max_failures: int) -> None:
        self.answers = answers
        self.max_failures = max_failures
        self.calls: list[str] = []
        self.passed = 0
        self.failed: list[tuple[str, str, int]] = []
        self.raised: BaseException | None = None
        self.ended = False

    def call(self, *arguments: Any, **keywords: Any) -> Any:
        """Stands for the candidate."""
        literal = to_literal((list(arguments), keywords))
        self.calls.append(literal)
        if len(self.calls) > len(self.answers):
            raise NeededError
        asked, kind, text = self.answers[len(self.calls) - 1]
        if asked != literal:
            raise RuntimeError("the test code does not make the same calls each time")
        if kind == "value":
            return from_literal(text)
        self.ended = self.ended or kind == "ended"
        self.raised = EndedError() if kind == "ended" else _exception(kind, text)
        raise self.raised

    def count(self) -> None:
        """An assertion holds."""
        if not self.fail_if_ended():
            self.passed += 1

    def fail(self, error: BaseException) -> None:
        """An assertion does not hold, or could not be tried. Raises what ends the run."""
        if isinstance(error, NeededError):
            raise error
        self.note(error)
        if len(self.failed) >= self.max_failures:
            raise EnoughError

    def fail_if_ended(self) -> bool:
        """Whether the candidate was ended and the test code passed that over: then it is a failure."""
        if self.ended:
            self.fail(self.raised if isinstance(self.raised, EndedError) else EndedError())
            return True
        return False

    def note_uncounted(self, error: BaseException) -> None:
        """Note a failure outside the counted assertions, as that of one that was not reached, if there is any; else
        only if it is the first."""
        if not self.failed or self.passed + len(self.failed) < max(1, len(_assertions)):
            self.note(error)

    def note(self, error: BaseException) -> None:
        """Note how the test code failed."""
        how, what = "broken", f"{type(error).__name__}: {error}"
        if error is self.raised or isinstance(error, EndedError):
            how, what = "raised", ""
        elif isinstance(error, AssertionError):
            how, what = "asserted", _assertion(error)
        self.failed.append((how, what, min(len(self.calls), len(self.answers)) - 1))
        self.ended = False

    def state(self) -> tuple[int, int, list[tuple[str, str, int]], str | None]:
        """What `outcome` says."""
        total = max(1, len(_assertions))
        failed = self.failed[:total]
        if len(self.calls) > len(self.answers):
            return min(self.passed, total - len(failed)), total, failed, self.calls[len(self.answers)]
        return min(self.passed, total - len(failed)) if failed else total, total, failed, None


def to_literal(value: Any) -> str:
    """A Python literal of a value made of exact built-in types. Raises TypeError for anything else."""
    kind = type(value)
    if kind in (str, bytes, int, bool, type(None), complex):
        return repr(value)
    if kind is float:
        return {"inf": "1e999", "-inf": "-1e999"}.get(repr(value), repr(value))
    if kind is list:
        return "[" + ", ".join([to_literal(item) for item in value]) + "]"
    if kind is tuple:
        return "(" + "".join([to_literal(item) + ", " for item in value]) + ")"
    if kind is set:
        return "{" + ", ".join([to_literal(item) for item in value]) + "}" if value else "set()"
    if kind is dict:
        return "{" + ", ".join([f"{to_literal(k)}: {to_literal(v)}" for k, v in value.items()]) + "}"
    raise TypeError(f"a value of type {kind.__name__} cannot leave the sandbox")


def from_literal(text: str) -> Any:
    """The value of a literal. Raises ValueError or SyntaxError if it is none."""
    return ast.literal_eval(text)


def _counted(statement: ast.Assert) -> ast.Try:
    (counted,) = ast.parse(_TRY).body
    assert isinstance(counted, ast.Try)
    for node in ast.walk(counted):
        ast.copy_location(node, statement)
    counted.body = [statement]
    return counted


def _calls_check(statement: ast.stmt) -> bool:
    called = statement.value.func if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) else None
    return isinstance(called, ast.Name) and called.id == "check"


def _exception(name: str, message: str) -> BaseException:
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        try:
            return kind(message)
        except TypeError:  # UnicodeDecodeError and its like want more than a message
            pass
    return RuntimeError(f"{name}: {message}")


def _assertion(error: BaseException) -> str:
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == TESTS:
            line = trace.tb_lineno
        trace = trace.tb_next
    return _assertions.get(line, f"line {line} of the tests" if line else "")
