"""Hostile programs: they gain nothing, reach nothing and leave nothing behind."""

# ruff: noqa: E501
from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.attack import open_isolation, weaknesses
from sandbox.inside import syscalls
from sandbox.isolation import Isolation
from sandbox.verdicts import Verdict
from shared.errors import SettingsError
from tests.sandbox.programs import call_task, first, run

ALWAYS_EQUAL = (
    "class E(int):\n    def __eq__(self, o): return True\n    def __repr__(self): return '6'\n    __hash__ = None\n"
)
FORGERIES = {
    "an object equal to everything": ALWAYS_EQUAL + "def solve(x): return E(0)\n",
    "a list subclass": "class L(list):\n    def __eq__(self, o): return True\ndef solve(x): return L()\n",
    "a clean exit": "import sys\nsys.exit(0)",
    "an immediate exit": "import os\nos._exit(0)",
    "an exit inside the call": "import os\ndef solve(x): os._exit(0)\n",
    "walking the frames for the expected output": (
        "import sys, gc\n"
        "def solve(x):\n"
        "    f, found = sys._getframe(), []\n"
        "    while f:\n"
        "        found += [v for v in (*f.f_locals.values(), *f.f_globals.values()) if v in ('987654', 987654, b'987654')]\n"
        "        f = f.f_back\n"
        "    found += [o for o in gc.get_objects() if isinstance(o, (list, tuple, dict)) and '987654' in repr(o)[:10000]]\n"
        "    return 987654 if found else 0\n"
    ),
    "a forged answer on every descriptor": (
        "import os\n"
        "def solve(x):\n"
        "    for fd in range(64):\n"
        "        for text in (b'KV1', b'V1', b'D', b'T\\0\\0\\0\\0\\0\\0\\0\\x080 0 0\\nKV', b'{\"verdict\": \"passed\"}'):\n"
        "            try: os.write(fd, text)\n"
        "            except OSError: pass\n"
        "    os._exit(0)\n"
    ),
    "a patched encoder": (
        "import sys\n"
        "g = sys._getframe(1).f_globals\n"
        "g['encode'] = lambda v: 'true'\n"
        "g['_outcome'] = lambda *a: b'Vpassed'\n"
        "def solve(x): return 0\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_gains_nothing(quick: Isolation, name: str) -> None:
    report = run(quick, call_task(("3", "987654")), FORGERIES[name])
    assert report.reward == 0.0
    assert report.tests[0].verdict in (Verdict.WRONG_ANSWER, Verdict.RUNTIME_ERROR)


def test_the_attacks_of_the_start_up_probe_find_nothing(isolation: Isolation) -> None:
    assert weaknesses(isolation) == []


def test_the_attacks_do_find_a_sandbox_that_is_open() -> None:
    isolation = Isolation("unsafe")
    try:
        found = weaknesses(isolation)
    finally:
        isolation.close()
    wanted = {"read a file outside", "write a file outside", "open a TCP socket", "start a process", "start a program"}
    wanted |= {"watch a directory outside", "write into shared memory", "make a socket that sends to any other"}
    wanted |= {"call io_uring_setup", "call memfd_create", "call process_vm_readv", "have the kernel signal its parent"}
    assert wanted <= set(found)


def test_a_tier_that_does_not_hold_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SettingsError, match=r"code_feedback\.isolation 'bubblewrap' does not hold.*'unsafe'"):
        open_isolation("bubblewrap")


def test_auto_takes_a_tier_that_holds() -> None:
    isolation = open_isolation("auto")
    try:
        assert isolation.tier in ("bubblewrap", "landlock")
    finally:
        isolation.close()


@pytest.mark.parametrize(
    "action",
    [
        f"open({str(Path(__file__).resolve())!r})",
        "open('/etc/passwd')",
        "open('/root/.bashrc')",
        "os.listdir('/home')",
        "os.listdir('/var')",
        "open('/proc/1/environ').read().index('PATH')",
        "open(f'/proc/{os.getppid()}/mem', 'rb')",
        "os.open('/usr/lib/forged', os.O_CREAT | os.O_WRONLY)",
        "os.mkfifo('fifo') or os.mknod('device', 0o20666, os.makedev(1, 3))",
        "os.link('/etc/passwd', 'link')",
        "socket.create_connection(('127.0.0.1', 80))",
        "socket.getaddrinfo('localhost', 80, type=socket.SOCK_STREAM)[0] and socket.socket()",
        "subprocess.run(['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.fork()",
        "os.kill(os.getppid(), 9)",
        "os.kill(-1, 9)",
        "os.killpg(0, 9)",
        "os.setsid()",
        "resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (0, 0))",
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "os.chmod('.', 0o777)",
        "os.memfd_create('x')",
        "ctypes.CDLL(None).ptrace(0, 0, 0, 0) + 1 or 1 / 0",
        "ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) + 1 or 1 / 0",
        "ctypes.CDLL(None).unshare(0x10000000) + 1 or 1 / 0",
    ],
)
def test_an_escape_is_refused(isolation: Isolation, action: str) -> None:
    imports = "import ctypes, os, resource, socket, subprocess\n"
    program = f"{imports}try:\n    {action}\nexcept (OSError, ValueError, ZeroDivisionError, OverflowError):\n    print('refused')\n"
    report = first(isolation, program, "", "refused")
    assert report.verdict is Verdict.PASSED, report


def test_the_environment_is_empty(isolation: Isolation) -> None:
    assert first(isolation, "import os\nprint(dict(os.environ))", "", "{}").verdict is Verdict.PASSED


def test_only_the_standard_descriptors_are_open(isolation: Isolation) -> None:
    program = (
        "import os\nn = 0\nfor fd in range(3, 64):\n    try: os.fstat(fd); n += 1\n    except OSError: pass\nprint(n)"
    )
    assert first(isolation, program, "", "1").verdict is Verdict.PASSED  # the pipe its own error would go through


def test_a_thread_bomb_ends_in_an_error(isolation: Isolation) -> None:
    program = (
        "import threading\nthreading.stack_size(2**15 * 2)\n"
        "try:\n    for _ in range(20000): threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "except (RuntimeError, MemoryError): print('refused')\n"
    )
    assert first(isolation, program, "", "refused").verdict is Verdict.PASSED


def test_a_full_scratch_directory_ends_the_program(isolation: Isolation) -> None:
    program = "n = 0\nwhile True:\n    n += 1\n    open(f'f{n}', 'w').write('x' * 2**18)\n"
    verdict = first(isolation, program, time_limit_s=5.0).verdict
    assert verdict in (Verdict.OUTPUT_LIMIT, Verdict.RUNTIME_ERROR)


def test_nothing_is_left_behind(isolation: Isolation) -> None:
    directory = isolation._directory
    before = sorted(directory.rglob("*"))
    children = _children()
    first(
        isolation, "import os\nos.mkdir('a')\nopen('a/b', 'w').write('x')\nos.symlink('/', 'c') if 0 else None", "", ""
    )
    first(isolation, "while True: pass", time_limit_s=0.1)
    assert sorted(directory.rglob("*")) == before
    assert _children() == children


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_two_candidates_cannot_read_each_others_files(isolation: Isolation) -> None:
    found = f"import os\ntry:\n    print(len(os.listdir({str(isolation._directory)!r})))\nexcept OSError:\n    print('refused')"
    assert first(isolation, found, "", "refused").verdict is Verdict.PASSED


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_filters_end_in_allow_and_jump_nowhere_outside(machine: str) -> None:
    for program in (syscalls.driver_filter(machine), syscalls.candidate_filter(machine, 1234)):
        steps = [program[i : i + 8] for i in range(0, len(program), 8)]
        assert len(steps) < 4096
        for index, step in enumerate(steps):
            assert index + 1 + max(step[2], step[3]) < len(steps) or step[:2] == b"\x06\0"
        assert steps[-1] == syscalls._step(0x06, 0x7FFF0000)
