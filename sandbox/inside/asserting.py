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
_PASSED = "__assertion_passed__"
_assertions: dict[int, str] = {}
_check_called: list[bool] = []


class NeededError(BaseException):
    """The test code has come to a call that is not answered yet."""


def instrument(source: str) -> CodeType:
    """Test code that counts its assertions: those at top level and those directly in a function `check`."""
    tree = ast.parse(source, TESTS)
    for body in [tree.body, *(n.body for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "check")]:
        for index in range(len(body) - 1, -1, -1):
            statement = body[index]
            if isinstance(statement, ast.Assert):
                _assertions[statement.lineno] = ast.unparse(statement)
                body.insert(index + 1, ast.Expr(ast.Call(ast.Name(_PASSED, ast.Load()), [], [])))
            elif _calls_check(statement):
                _check_called.append(True)
    return compile(ast.fix_missing_locations(tree), TESTS, "exec", 0, True)


def outcome(code: CodeType, module: ModuleType, entry: str, answers: list[tuple[str, str, str]]) -> tuple[str, str]:
    """Run test code with the answers so far, each (arguments, "value", literal) or (arguments, type, message).

    ("needs", literal of (passed, total, arguments)) if a call is to be answered, else ("done", literal of
    (passed, total, how, what)): how is "passed", "asserted" (what: the assertion), "raised" (by the candidate) or
    "broken" (what: the error in the test code).
    """
    calls: list[str] = []
    passed: list[int] = []
    raised: list[BaseException] = []
    total = max(1, len(_assertions))

    def candidate(*arguments: Any, **keywords: Any) -> Any:
        literal = to_literal((list(arguments), keywords))
        calls.append(literal)
        if len(calls) > len(answers):
            raise NeededError
        asked, kind, text = answers[len(calls) - 1]
        if asked != literal:
            raise RuntimeError("the test code does not make the same calls each time")
        if kind == "value":
            return from_literal(text)
        raised.append(_exception(kind, text))
        raise raised[-1]

    module.__dict__.update({entry: candidate, "candidate": candidate, _PASSED: lambda: passed.append(1)})
    how, what = "passed", ""
    try:
        if "random" in sys.modules:
            sys.modules["random"].seed(0)
        exec(code, module.__dict__)
        if "check" in module.__dict__ and not _check_called:
            module.__dict__["check"](candidate)
    except NeededError:
        pass
    except BaseException as error:  # noqa: BLE001 - whatever the test code raised is its outcome
        if raised and error is raised[-1]:
            how = "raised"
        elif isinstance(error, AssertionError):
            how, what = "asserted", _assertion(error)
        else:
            how, what = "broken", f"{type(error).__name__}: {error}"
    if len(calls) > len(answers):
        return "needs", to_literal((min(len(passed), total - 1), total, calls[len(answers)]))
    count = total if how == "passed" else min(len(passed), total - 1)
    return "done", to_literal((count, total, how, what))


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
