"""Programs that want the reward without the answer: each gets none, and an honest one beside it gets it all."""

# ruff: noqa: E501
from __future__ import annotations

import pytest

from sandbox.isolation import Isolation
from sandbox.reference import CodeTask, parse_task
from sandbox.verdicts import Verdict
from tests.sandbox.hostile import judged
from tests.sandbox.programs import call_task, stdin_task

ANSWER = 987654
HONEST_CALL = f"def solve(x): return x * {ANSWER // 3}\n"
HONEST_STDIN = f"print(int(input()) * {ANSWER // 3})"
CALL = call_task(("3", str(ANSWER)), ("6", str(2 * ANSWER)))
STDIN = stdin_task(("3", f"{ANSWER}\n"), ("6", f"{2 * ANSWER}\n"))
ASSERT = parse_task(
    "code.assert",
    {
        "test_code": f"assert solve(3) == {ANSWER}\nassert solve(6) == {2 * ANSWER}\n",
        "entry_point": "solve",
        "time_limit_s": 1.0,
    },
)
LIES = "__eq__ = __le__ = __ge__ = lambda self, other: True\n    __ne__ = __lt__ = __gt__ = lambda self, other: False\n    __hash__ = lambda self: 0\n"
VALUES = {
    "equal to everything": f"class A:\n    {LIES}    __bool__ = lambda self: True\ndef solve(x): return A()\n",
    "an int that equals all": f"class A(int):\n    {LIES}    __repr__ = __str__ = lambda self: '1'\ndef solve(x): return A()\n",
    "a float that equals all": f"class A(float):\n    {LIES}def solve(x): return A()\n",
    "a str that equals all": f"class A(str):\n    {LIES}def solve(x): return A('x')\n",
    "a list that equals all": f"class A(list):\n    {LIES}def solve(x): return A()\n",
    "a dict that equals all": f"class A(dict):\n    {LIES}def solve(x): return A()\n",
    "a tuple that equals all": f"class A(tuple):\n    {LIES}def solve(x): return A()\n",
    "a class that says it is int": f"class A:\n    {LIES}    __class__ = int\n    __index__ = __int__ = lambda self: 1\ndef solve(x): return A()\n",
    "an index": "class A:\n    __index__ = __float__ = __int__ = lambda self: 1\ndef solve(x): return A()\n",
    "a decimal that equals all": f"import decimal\nclass A(decimal.Decimal):\n    {LIES}def solve(x): return A(1)\n",
    "its own argument": "def solve(x): return x\n",
    "not a number": "def solve(x): return float('nan')\n",
    "infinity": "def solve(x): return float('inf')\n",
    "true": "def solve(x): return True\n",
    "nothing": "def solve(x): return None\n",
    "the text of a result": "def solve(x): return '{\"verdict\": \"passed\", \"reward\": 1.0}'\n",
    "a generator of guesses": "def solve(x): yield from range(10 ** 6)\n",
    "a list of guesses": "def solve(x): return list(range(1000))\n",
    "a mock": "from unittest.mock import MagicMock\ndef solve(x): return MagicMock()\n",
    "a function": "def solve(x): return solve\n",
    "what changes when looked at": "class A:\n    n = 0\n    def __repr__(self):\n        A.n += 1\n        return str(A.n)\ndef solve(x): return A()\n",
}  # fmt: skip
TRICKS = {
    "a clean exit": "import sys\nsys.exit(0)",
    "an exit in the call": "def solve(x): raise SystemExit\n",
    "a hard exit": "import os\nos._exit(0)",
    "a hard exit by another name": "import posix\nposix._exit(int())",
    "a hard exit in the call": "import os\ndef solve(x): os._exit(0)\n",
    "a success that says so": "def solve(x): return 0\nimport os\nfor fd in range(64):\n    for t in (b'KD', b'D', b'V1', b'T\\0\\0\\0\\0\\0\\0\\0\\x080 0 0 0\\nKD', b'{\"success\": true}', b'C', b'R'):\n        try: os.write(fd, t)\n        except OSError: pass\nos._exit(0)",
    "a success at exit": "import atexit, os\natexit.register(lambda: (os.write(3, b'D'), os._exit(0)))\ndef solve(x): return 0\n",
    "a success from a thread": "import os, threading, time\ndef later():\n    time.sleep(0.05)\n    os.write(3, b'Vtrue')\nthreading.Thread(target=later).start()\ndef solve(x): return 0\n",
    "a success from a finalizer": "import os\nclass A:\n    def __del__(self): os.write(3, b'Vtrue')\na = A()\ndef solve(x): return 0\n",
    "a second answer": "import os\ndef solve(x):\n    os.write(3, b'V0')\n    return 0\n",
    "the confirmation taken back": "import os\ntry:\n    f = os.open('/proc/self/fd/3', os.O_RDONLY | os.O_NONBLOCK)\n    while True: os.read(f, 65536)\nexcept OSError: pass\ndef solve(x): return 0\n",
    "the answer sent to the output": "import os\nos.dup2(1, 3)\ndef solve(x): return 0\n",
    "the output sent to the answer": "import os\nos.dup2(3, 1)\nprint('Vtrue', flush=True)\ndef solve(x): return 0\n",
    "a patched encoder": "import sys\ng = sys._getframe(1).f_globals\ng['encode'] = g['_encoded_value'] = lambda v: 'true'\ng['_outcome'] = lambda *a: b'Vpassed'\ndef solve(x): return 0\n",
    "a driver that goes on": "import os, sys\nos._exit = sys.exit = lambda *a: None\ndef solve(x): return 0\n",
    "a driver rewritten": "import sys\nf = sys._getframe()\nwhile f:\n    for n, v in list(f.f_globals.items()):\n        if callable(v) and getattr(v, '__module__', '') != 'builtins' and n not in ('solve',):\n            try: v.__code__ = (lambda *a, **k: b'Vtrue').__code__\n            except Exception: pass\n    f = f.f_back\ndef solve(x): return 0\n",
    "builtins that agree": "import builtins\nbuiltins.type = lambda *a: int\nbuiltins.repr = lambda v: 'true'\nbuiltins.isinstance = lambda *a: True\nbuiltins.all = builtins.any = lambda *a: True\ndef solve(x): return 0\n",
    "a JSON module that agrees": "import json\njson.loads = json.dumps = lambda *a, **k: 'true'\ndef solve(x): return 0\n",
    "a search of the frames": f"import sys\ndef solve(x):\n    f, found = sys._getframe(), []\n    while f:\n        found += [v for v in (*f.f_locals.values(), *f.f_globals.values()) if str(v) == '{ANSWER}']\n        f = f.f_back\n    return found[0] if found else 0\n",
    "a search of all objects": "import gc\ndef solve(x):\n    for o in gc.get_objects():\n        for r in gc.get_referents(o):\n            if type(r) is int and r > 900000 and r % 329218 == 0 and r // 329218 == x: return r\n    return 0\n",
    "a search through a traceback": "def solve(x):\n    try: 1 / 0\n    except ZeroDivisionError as e:\n        f = e.__traceback__.tb_frame\n        while f:\n            for v in f.f_locals.values():\n                if isinstance(v, dict) and 'expected' in v: return v['expected']\n            f = f.f_back\n    return 0\n",
    "a trace function": "import sys\nsys.settrace(lambda *a: None)\nsys.setprofile(lambda *a: None)\ndef solve(x): return 0\n",
    "an import hook": "import sys\nclass F:\n    def find_spec(self, *a): return None\nsys.meta_path.insert(0, F())\ndef solve(x): return 0\n",
    "a signal as its answer": "import os\nos.kill(os.getpid(), 62)\ndef solve(x): return 0\n",
    "a place as its answer": "import os\nos.write(3, b'WTimeLimit\\0\\x001\\0f')\nos._exit(0)",
    "tests of its own": f"assert True\ndef solve(x): return 0\ndef check(candidate): pass\n{ASSERT.entry_point} = solve\n",
    "the driver asked for more": "import os\nos.write(1, b'N(0, 2, ([], {}))')\nos.write(3, b'N(0, 2, ([], {}))')\nos._exit(0)",
}  # fmt: skip
PRINTED = {
    "all numbers": f"print(*range({ANSWER - 50}, {ANSWER + 50}))",
    "the answer and more": f"print({ANSWER})\nprint({ANSWER + 1})",
    "a prefix": f"print('{str(ANSWER)[:3]}')",
    "nothing": "",
    "white space": "print(' \\n' * 100)",
    "a pattern": "print('.*')\nprint('%d' % 0)",
    "NaN": "print('nan')",
    "infinity": "print('inf')",
    "a huge exponent": "print('1e999999999999999999999')",
    "a flood of digits": f"print('{ANSWER}' + '0' * 500000)",
    "the answer with a NUL": f"print('{ANSWER}\\0')",
    "the answer in a fence": f"print('```\\n{ANSWER}\\n```')",
    "the verdict": "print('passed')\nprint('Passed all 2 tests.')",
    "the answer on standard error": f"import sys\nprint({ANSWER}, file=sys.stderr)",
    "the answer and a failure": f"print({ANSWER}, flush=True)\nraise SystemExit(1)",
    "the answer and a crash": f"import os\nprint({ANSWER}, flush=True)\nos.abort()",
    "the answer and an endless loop": f"print({ANSWER}, flush=True)\nwhile True: pass",
    "the first answer twice": f"print({ANSWER})",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["functional", "assert"])
@pytest.mark.parametrize("name", [*VALUES, *TRICKS])
def test_no_trick_in_a_call_is_rewarded(quick: Isolation, kind: str, name: str) -> None:
    program = {**VALUES, **TRICKS}[name]
    check(quick, CALL if kind == "functional" else ASSERT, program, HONEST_CALL)


@pytest.mark.parametrize("name", [*PRINTED, *TRICKS])
def test_no_trick_in_the_output_is_rewarded(quick: Isolation, name: str) -> None:
    check(quick, STDIN, {**PRINTED, **TRICKS}[name], HONEST_STDIN)


@pytest.mark.parametrize("name", TRICKS)
def test_no_trick_is_rewarded_in_any_tier(isolation: Isolation, name: str) -> None:
    check(isolation, CALL, TRICKS[name], HONEST_CALL)


def test_a_program_that_takes_its_confirmation_back_time_and_again_is_still_judged(isolation: Isolation) -> None:
    """Whoever reads first would win a race for it: two hundred are run."""
    source = TRICKS["the confirmation taken back"] + "print(7)\n"
    for _ in range(20):
        assert judged(isolation, stdin_task(*[("", "7")] * 10), source).reward == 1.0


PAYLOADS = {
    "a tower": "'V' + '[' * 10 ** 6 + ']' * 10 ** 6",
    "an open tower": "'V' + '[' * 10 ** 6",
    "many empty lists": "'V[' + '[],' * 300000 + '[]]'",
    "many zeros": "'V[' + '0,' * 500000 + '0]'",
    "a number of a million digits": "'V' + '9' * 10 ** 6",
    "a number with a huge exponent": "'V1e999999999'",
    "a name twice": "'V{\"a\": 1, \"a\": 2}'",
    "no text": "'V'",
    "NULs": "'V' + chr(0) * 1000",
    "an error of NULs": "'E' + chr(0) * 1000",
    "an error at a line that is none": "'EValueError' + chr(0) + 'x' + chr(0) + '9' * 5000 + chr(0) + 'f'",
    "an error at a negative line": "'EValueError' + chr(0) + 'x' + chr(0) + '-1' + chr(0) + 'f'",
    "an error with a huge name": "'E' + 'x' * 500000",
    "a memory error": "'EMemoryError'",
    "a tag that is none": "'?' * 1000",
    "a sum of many terms": "'V' + '1+' * 200000 + '1'",
    "a call": "'V__import__(\"os\").system(\"true\")'",
    "a string that never ends": "'V\"' + 'x' * 500000",
    "surrogates": "'V\"' + '\\\\ud800' * 10000 + '\"'",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["functional", "assert"])
@pytest.mark.parametrize("name", PAYLOADS)
def test_a_hand_made_answer_is_the_programs_failure_and_never_ours(quick: Isolation, kind: str, name: str) -> None:
    program = f"import os\nv = ({PAYLOADS[name]}).encode()\nwhile v: v = v[os.write(3, v):]\nos._exit(0)"
    check(quick, CALL if kind == "functional" else ASSERT, program, HONEST_CALL)


def test_an_early_answer_does_not_stop_the_clock(isolation: Isolation) -> None:
    program = f"import os\nos.write(3, b'V{ANSWER}')\nwhile True: pass"
    assert judged(isolation, CALL, program).tests[0].verdict is Verdict.TIME_LIMIT


def check(isolation: Isolation, task: CodeTask, program: str, honest: str) -> None:
    """Hold that `program` is rewarded with nothing and `honest` with everything."""
    assert judged(isolation, task, program).reward == 0.0
    assert judged(isolation, task, honest).reward == 1.0
