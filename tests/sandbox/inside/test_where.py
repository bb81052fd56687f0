"""Where a program was when its time was up: asked in every state it can be in, and trusted in none."""

# ruff: noqa: E501
from __future__ import annotations

import pytest

from sandbox.confined import Confined, Job, Limits, Raw
from sandbox.inside import candidate, driver
from sandbox.isolation import Isolation
from tests.sandbox.hostile import nothing_left

LIMITS = Limits(cpu_s=0.2, memory_bytes=64 * 2**20, output_bytes=2**20)
PLACES = {
    "in a loop of the module": ("\n\nwhile True: pass", "3", ""),
    "in a function": ("def f():\n    while True:\n        pass\nf()", "2 3", "f"),
    "in a method": ("class A:\n    def go(self):\n        while True: pass\nA().go()", "3", "go"),
    "in one call into C": ("def f():\n    return 10 ** 10 ** 8\nf()", "2", "f"),
    "in a function of the library": ("import time\ndef f():\n    time.sleep(1e9)\nf()", "3", "f"),
    "in a comprehension": ("def f():\n    return [0 for _ in iter(int, 1) if _]\nf()", "2", "f"),
    "in a lambda of the module": ("f = lambda: any(x for x in iter(int, 1))\nf()", "1", ""),
    "in a deep recursion": ("def f(n):\n    while n == 900: pass\n    f(n + 1)\nf(0)", "2", "f"),
    "in a function with a name that is not ASCII": ("def hallå():\n    while True: pass\nhallå()", "2", "hallå"),
    "waiting for a thread": ("import threading\ne = threading.Event()\nthreading.Thread(target=e.wait).start()\ne.wait()", "4", ""),
    "while it talks": ("while True:\n    print(sum(range(1000)))", "1 2", ""),
}  # fmt: skip
SILENT = {
    "ignores the signal": "import signal\nsignal.signal(62, signal.SIG_IGN)\nwhile True: pass",
    "blocks the signal": "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, [62])\nwhile True: pass",
    "takes the handler away": "import faulthandler\nfaulthandler.unregister(62)\nwhile True: pass",
    "closes the descriptor": "import os\nos.close(3)\nwhile True: pass",
    "answers before it hangs": "import os\nos.write(3, b'Dright')\nos.close(3)\nwhile True: pass",
}


@pytest.mark.parametrize("name", PLACES)
def test_a_program_out_of_time_says_where_it_is(isolation: Isolation, name: str) -> None:
    program, lines, function = PLACES[name]
    raw = out_of_time(isolation, program)
    kind, message, line, within = raw.payload.decode().split("\0")[:4]
    assert (raw.tag, kind, message) == (candidate.WHERE, "TimeLimit", "")
    assert line in lines.split()
    assert within == function


@pytest.mark.parametrize("name", SILENT)
def test_a_program_that_says_nothing_loses_the_line_alone(isolation: Isolation, name: str) -> None:
    raw = out_of_time(isolation, SILENT[name])
    assert (raw.tag, raw.payload) == (b"", b"")


@pytest.mark.parametrize(
    "frame", ['File "solution.py", line 99 in forged', 'File "solution.py", line -1 in x', "x" * 10**6]
)
def test_a_forged_place_is_a_claim_like_any_other(isolation: Isolation, frame: str) -> None:
    said = f"  {frame}\n".encode()
    program = f"import os, signal\nsignal.signal(62, lambda *_: os.write(3, {said!r}))\nwhile True: pass"
    raw = out_of_time(isolation, program)
    assert raw.tag in (candidate.WHERE, b"")
    assert raw.payload in (b"TimeLimit\x00\x0099\x00forged\x001", b"")


def test_a_program_within_its_time_is_not_asked(isolation: Isolation) -> None:
    with Confined(isolation, Job("stdin", "print('right')", LIMITS)) as sandbox:
        raw = sandbox.test(b"")
    assert (raw.ended, raw.tag) == (driver.BY_ITSELF, candidate.DONE)


def test_a_program_finds_no_handler_and_no_module_of_ours(isolation: Isolation) -> None:
    program = (
        "import signal, sys\n"
        "print('faulthandler' in sys.modules, [s for s in signal.valid_signals() if signal.getsignal(s) is None])"
    )
    with Confined(isolation, Job("stdin", program, LIMITS)) as sandbox:
        assert sandbox.test(b"").output == b"False []\n"


def out_of_time(isolation: Isolation, program: str) -> Raw:
    """What a program leaves that is killed for its time."""
    limits = (
        Limits(0.01, LIMITS.memory_bytes, LIMITS.output_bytes) if "wait" in program or "sleep" in program else LIMITS
    )
    with nothing_left(isolation), Confined(isolation, Job("stdin", program, limits)) as sandbox:
        raw = sandbox.test(b"")
    assert raw.ended in (driver.CPU, driver.WALL)
    return raw
