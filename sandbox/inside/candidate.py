"""What happens in the forked process of one test: load the support files, run the program, send one answer.

The answer is a claim by code that may be hostile: the service compares it with an expected output which is not here.

What comes back starts with CONFINED, on a pipe that is closed before any candidate code runs: without it the failure
is ours. Then a tag and a payload: VALUE (the text of a value made of exact built-in types), DONE (a stdin program came
to its end), ERROR (what it raised) or WHERE (the place at which its time was up).
"""

from __future__ import annotations

import _frozen_importlib
import _sitebuiltins
import builtins
import marshal
import os
import sys
from _json import encode_basestring_ascii
from types import ModuleType

TYPE_CHECKING = False  # importing typing would cost every candidate milliseconds
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

FILE = "solution.py"
CONFINED = b"K"
VALUE, DONE, ERROR, WHERE = b"V", b"D", b"E", b"W"
OUT_OF_MEMORY = ERROR + b"MemoryError\0\0\0"
MAX_MESSAGE_CHARS = 4000
MAX_FRAMES = 3
ONLY_SYNTAX_TREE = 0x400
LEETCODE_NAMES = (
    "from typing import *; from collections import *; from functools import *; from itertools import *; "
    "from heapq import *; from bisect import *; from math import *; import math, collections, heapq, bisect, re"
)


class Program:
    """A compiled candidate. `entry` is the function to call; `solution` says it may be a method of `class Solution`;
    `bridge` is the module `asserting` where the kind needs it."""

    def __init__(self, kind: str, main: CodeType, files: dict[str, CodeType], entry: str, solution: bool) -> None:
        self.kind = kind
        self.main = main
        self.files = files
        self.entry = entry
        self.solution = solution
        self.bridge: Any = None


class SupportFiles:
    """Import hook for the modules a task supplies."""

    def __init__(self, files: dict[str, CodeType]) -> None:
        self.files = files

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of a support module, or None."""
        if f"{name}.py" not in self.files:
            return None
        return _frozen_importlib.ModuleSpec(name, self, origin=f"{name}.py")  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> None:
        """Leave it to the import system."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""
        exec(self.files[f"{module.__name__}.py"], module.__dict__)


def defines_solution(source: str) -> bool:
    """Whether the program has `class Solution` at its top level, as code and not in a comment or a string."""
    if "Solution" not in source:
        return False
    tree = compile(source, FILE, "exec", ONLY_SYNTAX_TREE, True)
    return any(type(node).__name__ == "ClassDef" and node.name == "Solution" for node in tree.body)


def run(program: Program, data: Any, answer_fd: int) -> None:
    """Run one test in this process, send its answer, end. `data`: see `_outcome`. Never returns."""
    status = 0
    try:
        answer = _outcome(program, data)
    except SystemExit as error:
        status, answer = _exit_answer(program, error)
    except BaseException as error:  # noqa: BLE001 - whatever the program raised is its answer
        status, answer = 1, ERROR + encode_error(error)
    try:
        if program.kind == "stdin":
            _finish()
    except BaseException as error:  # noqa: BLE001
        status, answer = 1, ERROR + encode_error(error)
    view = memoryview(answer)
    while view:
        view = view[os.write(answer_fd, view) :]
    os._exit(status)


def encode(value: Any) -> str:
    """JSON of a value made of exact built-in types. Raises TypeError for anything else.

    As in LiveCodeBench a tuple is an array if it is the value itself, and equal to none if it is inside: that one is
    written as Python writes it, and so are keys that are no strings. Such a text is no JSON.
    """
    return _encoded_value(list(value) if type(value) is tuple else value)


def _encoded_value(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return encode_basestring_ascii(value)
    if value is None:
        return "null"
    if kind is bool:
        return "true" if value else "false"
    if kind is int or kind is float:
        return _FLOATS.get(text := repr(value), text)
    if kind is list:
        return "[" + ", ".join([_encoded_value(item) for item in value]) + "]"
    if kind is dict:
        return "{" + ", ".join([f"{_encoded_value(k)}: {_encoded_value(v)}" for k, v in value.items()]) + "}"
    if kind is tuple:
        return "(" + ", ".join([_encoded_value(item) for item in value]) + ("," if len(value) == 1 else "") + ")"
    raise TypeError(f"returned a value of type {kind.__name__}, which JSON does not have")


def encode_error(error: BaseException) -> bytes:
    """What was raised and where in the candidate's own code: type and message, then line, function and repetitions of
    at most `MAX_FRAMES` own frames, the innermost first. NUL between them; a line is empty where there is none."""
    places = [str(part) for frame in _own_frames(error) for part in frame]
    try:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
    except BaseException:  # noqa: BLE001 - a hostile __str__
        message = ""
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[: MAX_MESSAGE_CHARS // 2] + " ... " + message[-MAX_MESSAGE_CHARS // 2 :]
    return _encoded(type(error).__name__, message, *places)


def encode_place(stack: list[tuple[int, str]]) -> bytes:
    """Where a program was when its time was up, in the shape of `encode_error`: type TimeLimit and no message."""
    places = [part for line, function in stack for part in (str(line), function, "1")]
    return _encoded("TimeLimit", "", *places)


def _encoded(*fields: str) -> bytes:
    return "\0".join(field.replace("\0", "\\x00") for field in fields).encode("utf-8", "backslashreplace")


def _outcome(program: Program, data: Any) -> bytes:
    """stdin: `data` was the standard input. functional: the marshalled arguments. called: arguments as a literal.
    asserting: the answers so far and how many assertions may fail, see `asserting.py`."""
    for name in ("exit", "quit"):  # the interpreter runs without `site`, which makes them
        setattr(builtins, name, _sitebuiltins.Quitter(name, "end of file"))
    sys.meta_path.insert(0, SupportFiles(program.files))
    sys.argv = [FILE]
    module = ModuleType("__main__" if program.kind == "stdin" else "solution")
    sys.modules[module.__name__] = module
    if program.solution:
        exec(LEETCODE_NAMES, module.__dict__)
    if program.kind == "asserting":
        return VALUE + _utf8(program.bridge.outcome(program.main, module, program.entry, data))
    exec(program.main, module.__dict__)
    if program.kind == "stdin":
        return DONE
    function = _entry(program, module)
    if program.kind == "called":
        arguments, keywords = program.bridge.from_literal(data)
        return VALUE + _utf8(program.bridge.to_literal(function(*arguments, **keywords)))
    return VALUE + encode(function(*marshal.loads(data))).encode("ascii")


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _entry(program: Program, module: ModuleType) -> Any:
    name = program.entry
    if program.solution and hasattr(module.__dict__["Solution"], name):
        return getattr(module.__dict__["Solution"](), name)
    if name in module.__dict__:
        return module.__dict__[name]
    raise NameError(f"the program defines no function {name!r}")


def _exit_answer(program: Program, error: SystemExit) -> tuple[int, bytes]:
    if program.kind == "stdin" and error.code in (None, 0):
        return 0, DONE
    return 1, ERROR + encode_error(error)


def _finish() -> None:
    """What the interpreter does at its end: join threads, run exit handlers, flush."""
    if "threading" in sys.modules:
        sys.modules["threading"]._shutdown()
    if "atexit" in sys.modules:
        sys.modules["atexit"]._run_exitfuncs()
    sys.stdout.flush()


def _own_frames(error: BaseException) -> list[tuple[int, str, int]]:
    """Line, function (empty at top level) and repetitions of own frames, the innermost first."""
    if isinstance(error, SyntaxError) and error.filename == FILE:
        return [(error.lineno, "", 1)] if error.lineno else []
    frames: list[tuple[int, str, int]] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code.co_filename == FILE:
            _add_frame(frames, trace.tb_lineno, code.co_name)
        trace = trace.tb_next
    return frames[::-1]


def _add_frame(frames: list[tuple[int, str, int]], line: int, name: str) -> None:
    count = 1
    if name.startswith("<"):
        # A comprehension or a lambda has no name of its own: it stands in the function around it.
        _, name, count = frames.pop() if frames else (0, "", 1)
    if frames and frames[-1][:2] == (line, name):
        count += frames.pop()[2]
    frames.append((line, name, count))
    del frames[:-MAX_FRAMES]


_FLOATS = {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}
