"""Where a program was when its time was up, in words that do not depend on the moment at which it was asked.

Two runs are stopped at different lines of the same loop, and at different depths of the same recursion. What they have
in common is the outermost loop or recursion: that is where the time went.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from sandbox.verdicts import Frame, Stop

MAX_PARSED_CHARS = 50_000
"""Longer programs are not parsed here."""
_LINE_END = re.compile(r"\r\n|\r|\n")
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def own_line(source: str, line: int | None) -> str | None:
    """Line `line` (1-based) of a program's text, or None if it has no such line."""
    lines = _LINE_END.split(source)
    return lines[line - 1] if line is not None and 0 < line <= len(lines) else None


def find_stop(stack: Sequence[Frame], source: str) -> Stop | None:
    """The stop of a program with `stack`, its own frames, the innermost first. None if nothing is known."""
    if not stack or len(source) > MAX_PARSED_CHARS:
        return None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    calls = [frame.function for frame in stack]
    for frame in reversed(stack):
        function = _function_at(tree, frame)
        if frame.function is not None and (frame.repeated > 1 or calls.count(frame.function) > 1):
            return Stop("recursion", _frame(source, function.lineno if function else frame.line, frame.function))
        if loop := _outermost_loop(function or tree, frame.line):
            return Stop("loop", _frame(source, loop, frame.function))
    return Stop("line", _frame(source, stack[0].line, stack[0].function))


def _frame(source: str, line: int, function: str | None) -> Frame:
    return Frame(line, function, own_line(source, line) or "")


def _function_at(tree: ast.AST, frame: Frame) -> _Function | None:
    around = [node for node in ast.walk(tree) if isinstance(node, _Function) and _holds(node, frame.line)]
    named = [node for node in around if node.name == frame.function]
    return max(named, key=lambda node: node.lineno, default=None)


def _outermost_loop(scope: ast.AST, line: int) -> int | None:
    """The first line of the outermost loop of `scope` around `line`; loops of functions inside are not of `scope`."""
    for node in ast.iter_child_nodes(scope):
        if isinstance(node, _SCOPES) or (hasattr(node, "lineno") and not _holds(node, line)):
            continue
        if isinstance(node, _LOOPS):
            return node.lineno
        if (found := _outermost_loop(node, line)) is not None:
            return found
    return None


def _holds(node: ast.AST, line: int) -> bool:
    first, last = getattr(node, "lineno", 0), getattr(node, "end_lineno", None) or 0
    return bool(first <= line <= last)


_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
