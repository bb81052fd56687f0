"""Programs that take all there is of something: each meets its limit, and the next one does not notice."""

# ruff: noqa: E501
from __future__ import annotations

from dataclasses import dataclass

import pytest

from sandbox.isolation import Isolation
from sandbox.verdicts import Verdict
from tests.sandbox.hostile import asked, judged
from tests.sandbox.programs import stdin_task

PASSED, RUNTIME, TIME = Verdict.PASSED, Verdict.RUNTIME_ERROR, Verdict.TIME_LIMIT
MEMORY, OUTPUT, COMPILE = Verdict.MEMORY_LIMIT, Verdict.OUTPUT_LIMIT, Verdict.COMPILE_ERROR


@dataclass(frozen=True)
class Case:
    """A program, the verdicts that are right for it, and its CPU seconds."""

    program: str
    verdicts: tuple[Verdict, ...]
    time_limit_s: float = 0.4
    memory_limit_mb: int = 64


CASES = {
    # CPU and wall-clock time
    "an endless loop": Case("while True: pass", (TIME,)),
    "a loop that swallows everything": Case(
        "import signal\n"
        "for s in set(signal.Signals) - {9, 19}: signal.signal(s, signal.SIG_IGN)\n"
        "while True:\n"
        "    try:\n        while True: pass\n"
        "    except BaseException: pass\n",
        (TIME,),
    ),
    "every signal blocked": Case(
        "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\nwhile True: pass", (TIME,)
    ),
    "one endless call into C": Case("10 ** 10 ** 8", (TIME,)),
    "a sum that takes an hour": Case("sum(range(10 ** 11))", (TIME,)),
    "catastrophic backtracking": Case("import re\nre.match('(a+)+$', 'a' * 40 + 'b')", (TIME,)),
    "spinning threads": Case(
        "import threading\ndef spin():\n    while True: pass\nfor _ in range(8): threading.Thread(target=spin).start()", (TIME,)
    ),
    "sleeping for ever": Case("import time\ntime.sleep(1e9)", (TIME,), time_limit_s=0.05),
    "a lock nobody opens": Case("import threading\nl = threading.Lock()\nl.acquire()\nl.acquire()", (TIME,), time_limit_s=0.05),
    "an exit handler that never ends": Case(
        "import atexit\n@atexit.register\ndef f():\n    while True: pass\nprint('right')", (TIME,)
    ),
    "a thread that outlives the main one": Case(
        "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()\nprint('right')", (TIME,)
    ),
    "a finalizer that never ends": Case("class A:\n    def __del__(self):\n        while True: pass\na = A()\ndel a", (TIME,)),
    "raising its own CPU limit": Case(
        "import resource\n"
        "try: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))\n"
        "except ValueError: pass\n"
        "try: resource.setrlimit(resource.RLIMIT_CPU, (resource.getrlimit(resource.RLIMIT_CPU)[1],) * 2)\n"
        "except ValueError: pass\n"
        "while True: pass",
        (TIME,),
    ),
    # Processes and threads
    "a fork bomb": Case("import os\nwhile True: os.fork()", (RUNTIME,)),
    "a fork bomb through ctypes": Case(
        "import ctypes\nlibc = ctypes.CDLL(None)\nfor _ in range(10000):\n    if libc.fork() >= 0: print('forked')\nprint('right')",
        (PASSED,),
    ),
    "a process pool": Case("from multiprocessing import Pool\nPool(2).map(abs, [1])", (RUNTIME,)),
    "an idle thread bomb": Case(
        "import threading\nthreading.stack_size(2 ** 16)\nwhile True: threading.Thread(target=threading.Event().wait, daemon=True).start()",
        (RUNTIME, MEMORY),
        time_limit_s=2.0,
    ),
    "timers without end": Case(
        "import ctypes\nlibc = ctypes.CDLL(None)\ni = ctypes.c_int()\n"
        "made = sum(libc.timer_create(1, None, ctypes.byref(i)) == 0 for _ in range(100000))\n"
        "print('right' if made < 1000 else made)",
        (PASSED,),
        time_limit_s=1.0,
    ),
    # Memory
    "eight gibibytes at once": Case("bytearray(8 << 30)", (MEMORY,)),
    "one mebibyte at a time": Case("x = []\nwhile True: x.append(bytearray(2 ** 20))", (MEMORY,), time_limit_s=2.0),
    "a memory error swallowed for ever": Case(
        "x = []\nwhile True:\n    try:\n        while True: x.append(bytearray(2 ** 20))\n    except MemoryError: pass", (TIME, MEMORY)
    ),
    "a mapping of a gibibyte": Case("import mmap\nmmap.mmap(-1, 2 ** 30)", (RUNTIME, MEMORY)),
    "a formatted gibibyte": Case("'%999999999d' % 1", (MEMORY,)),
    "pipes filled to the brim": Case(
        "import fcntl, os\n"
        "try:\n"
        "    for _ in range(200):\n"
        "        r, w = os.pipe2(os.O_NONBLOCK)\n"
        "        try: fcntl.fcntl(w, 1031, 2 ** 20)\n"
        "        except OSError: pass\n"
        "        try: os.write(w, bytes(2 ** 20))\n"
        "        except BlockingIOError: pass\n"
        "except OSError: print('right')\n",
        (PASSED,),
        time_limit_s=2.0,
    ),
    "a recursion without a limit": Case("import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()", (RUNTIME, MEMORY), time_limit_s=2.0),
    "a tower of nested lists taken apart": Case("x = []\nfor _ in range(10 ** 6): x = [x]\nprint('right')", (PASSED, MEMORY, RUNTIME), time_limit_s=2.0),
    # Output
    "endless lines": Case("while True: print('x' * 1000)", (OUTPUT,), time_limit_s=2.0),
    "one endless line": Case("import os\nwhile True: os.write(1, b'x' * 2 ** 16)", (OUTPUT,), time_limit_s=2.0),
    "an endless answer": Case("import os\nwhile True: os.write(3, b'x' * 2 ** 16)", (OUTPUT,), time_limit_s=2.0),
    "output from many threads": Case(
        "import os, threading\ndef f():\n    while True: os.write(1, b'x' * 4096)\nfor _ in range(8): threading.Thread(target=f).start()",
        (OUTPUT,),
        time_limit_s=2.0,
    ),
    "a flood of errors": Case(
        "import sys\nfor _ in range(200): sys.stderr.write('x' * 2 ** 20)\nprint('right')", (PASSED,), time_limit_s=2.0
    ),
    "output through exceptions": Case("raise ValueError('x' * 10 ** 7)", (RUNTIME,)),
    # Files and descriptors
    "every descriptor": Case("x = []\nwhile True: x.append(open('/dev/null'))", (RUNTIME,)),
    "one endless file": Case("with open('f', 'wb') as f:\n    while True: f.write(bytes(2 ** 20))", (RUNTIME, OUTPUT), time_limit_s=2.0),
    "files without end": Case("n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'w').close()", (OUTPUT, RUNTIME), time_limit_s=5.0),
    "files without end while it talks": Case(
        "import os\nn = 0\nwhile True:\n    n += 1\n    os.close(os.open(f'f{n}', os.O_CREAT))\n    os.write(1, b'x')",
        (OUTPUT, RUNTIME),
        time_limit_s=5.0,
    ),
    "directories ever deeper": Case(
        "import os\nwhile True:\n    os.mkdir('d')\n    os.chdir('d')", (OUTPUT, RUNTIME), time_limit_s=5.0
    ),
    "directories that nobody may list": Case(
        "import os, time\nos.mkdir('d', 0o300)\nfor n in range(1000): os.mkdir(f'd/{n}')\nwhile True: pass", (OUTPUT, RUNTIME), time_limit_s=5.0
    ),
    "blocks reserved beyond the end": Case(
        "import ctypes, os\nf = os.open('f', os.O_CREAT | os.O_RDWR)\nl = ctypes.CDLL(None, use_errno=True)\n"
        "print('right' if l.fallocate(f, 1, ctypes.c_long(0), ctypes.c_long(2 ** 33)) == -1 else 'reserved')",
        (PASSED,),
    ),
    "a hole of a tebibyte": Case("open('f', 'wb').truncate(2 ** 40)", (RUNTIME, OUTPUT)),
    "a full /dev/shm": Case("open('/dev/shm/hostile-residue', 'wb').write(bytes(2 ** 30))", (RUNTIME, MEMORY)),
    "System V memory": Case(
        "import ctypes\nl = ctypes.CDLL(None, use_errno=True)\nprint('right' if l.shmget(0, ctypes.c_long(2 ** 30), 0o1600) == -1 else 'made')", (PASSED,)
    ),
    # The compiler
    "nested parentheses": Case("(" * 10**5 + ")" * 10**5, (COMPILE,)),
    "nested unary operators": Case("x = " + "-" * 10**6 + "1", (COMPILE,)),
    "a power folded at compile time": Case("x = 9 ** 9 ** 9", (TIME, COMPILE)),
    "a literal of a mebibyte": Case("x = '" + "a" * 2**20 + "'\nprint('right')", (PASSED,)),
    "a number of a million digits": Case("x = " + "9" * 10**6, (COMPILE,)),
    "digits of a huge number": Case("print(10 ** 10 ** 6)", (RUNTIME, TIME)),
    # Crashes
    "a null pointer": Case("import ctypes\nctypes.string_at(0)", (RUNTIME,)),
    "an abort": Case("import os\nos.abort()", (RUNTIME,)),
    "its own bytecode forged": Case("def f(): pass\nf.__code__ = f.__code__.replace(co_code=bytes([100, 255] * 50))\nf()", (RUNTIME, TIME)),
    "every descriptor closed": Case("import os\nos.closerange(0, 4096)\nprint('right')", (RUNTIME, Verdict.WRONG_ANSWER)),
    "a call of another architecture": Case(
        "import ctypes, mmap\n"
        "m = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(bytes.fromhex('b814000000cd80c3'))\n"
        "print(ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))())",
        (RUNTIME,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_program_that_takes_all_there_is_meets_its_limit(isolation: Isolation, name: str) -> None:
    case = CASES[name]
    limits = {"time_limit_s": case.time_limit_s, "memory_limit_mb": case.memory_limit_mb}
    report = judged(isolation, stdin_task(("", "right"), **limits), case.program).tests[0]
    assert report.verdict in case.verdicts, report


RETURNED = {
    "a string of a gibibyte": ("def solve(x): return 'x' * 2 ** 30", (MEMORY,)),
    "a string beyond the limit": ("def solve(x): return 'x' * (3 * 2 ** 20)", (OUTPUT,)),
    "a cyclic list": ("def solve(x):\n    l = []\n    l.append(l)\n    return l", (RUNTIME,)),
    "a tower of lists": ("def solve(x):\n    l = []\n    for _ in range(10 ** 5): l = [l]\n    return l", (RUNTIME,)),
    "a tower of lists without a recursion limit": (
        "import sys\nsys.setrecursionlimit(10 ** 9)\ndef solve(x):\n    l = []\n    for _ in range(10 ** 6): l = [l]\n    return l",
        (RUNTIME, MEMORY),
    ),
    "a list shared exponentially": ("def solve(x):\n    l = [0]\n    for _ in range(60): l = [l, l]\n    return l", (MEMORY, TIME, OUTPUT)),
    "a number of a million digits": ("def solve(x): return 10 ** 10 ** 6", (RUNTIME, TIME)),
    "a generator": ("def solve(x):\n    while True: yield x", (RUNTIME,)),
    "an exception that cannot be printed": (
        "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef solve(x): raise E", (TIME,),
    ),
    "an exception whose name is endless": ("def solve(x): raise type('E' * 10 ** 6, (Exception,), {})", (RUNTIME,)),
    "a class whose name is hostile": ("def solve(x): return type('a\\n```\\x00\\x1b[2J', (), {})()", (RUNTIME,)),
}  # fmt: skip


@pytest.mark.parametrize("name", RETURNED)
def test_an_answer_too_big_or_too_odd_is_the_programs_failure(isolation: Isolation, name: str) -> None:
    program, verdicts = RETURNED[name]
    assert asked(isolation, program, "3").verdict in verdicts


@pytest.mark.parametrize("size", [150_000, 1_000_000])
def test_much_right_output_passes(isolation: Isolation, size: int) -> None:
    task = stdin_task(("", "x" * size), time_limit_s=2.0)
    assert judged(isolation, task, f"print('x' * {size})").success
