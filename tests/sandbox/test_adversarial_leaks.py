"""What a program can learn: nothing of the service, of other programs, of the machine; and every run is the same."""

# ruff: noqa: E501
from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.diagnosis import describe
from sandbox.isolation import Isolation
from sandbox.judge import judge
from sandbox.verdicts import Report, Verdict
from tests.sandbox.hostile import LIMITS, judged, printed
from tests.sandbox.programs import call_task, stdin_task

SECRET = "a-key-no-program-may-find"
SEARCH = """
import glob, os, sys
wanted = bytes.fromhex(input())
found = []
def look(path):
    try:
        with open(path, "rb") as file:
            if wanted in file.read(1 << 20): found.append(path)
    except (OSError, ValueError): pass
for pattern in PATTERNS:
    for path in glob.glob(pattern): look(path)
for path in sys.argv + sys.path + list(os.environ.values()):
    if wanted in os.fsencode(path): found.append(path)
print(found or "held")
"""
EVERYWHERE = (
    *("/proc/*/environ", "/proc/*/cmdline", "/proc/*/task/*/environ", "/dev/shm/*", "/tmp/*", "/tmp/*/*", "/var/tmp/*"),
    *("/run/*", "/run/secrets/*", "/keys/*", "/etc/*", "/root/*", "/home/*/*", "/sandbox/*"),
)
FIND_BY_OBJECTS = """
import gc, sys
def strings(limit=10 ** 5):
    todo, seen = [o for o in gc.get_objects()] + [sys._getframe()], set()
    while todo and len(seen) < limit:
        o = todo.pop()
        if id(o) in seen: continue
        seen.add(id(o))
        if isinstance(o, (str, bytes, int, float)): yield o
        else: todo.extend(gc.get_referents(o))
def solve(x):
    frame = sys._getframe()
    while frame: frame = frame.f_back
    return [repr(s)[:80] for s in strings() if repr(s).strip("'b") == str(123456 * 8)] != []
"""


def test_a_secret_of_the_service_is_nowhere(
    isolation: Isolation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VPD_API_KEY", SECRET)
    (tmp_path / "key").write_text(SECRET)
    fresh = Isolation(isolation.tier)  # its processes are started with the secret in our environment
    try:
        assert printed(fresh, SEARCH.replace("PATTERNS", repr(EVERYWHERE)), SECRET.encode().hex()) == "held"
    finally:
        fresh.close()


def test_that_search_finds_a_secret_where_there_is_no_wall(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = Path(f"/tmp/hostile-secret-{os.getpid()}")
    secret.write_text(SECRET)
    unsafe = Isolation("unsafe")
    try:
        assert str(secret) in printed(
            unsafe, SEARCH.replace("PATTERNS", "('/tmp/hostile-secret-*',)"), SECRET.encode().hex()
        )
    finally:
        unsafe.close()
        secret.unlink()


def test_the_expected_output_is_in_no_object_it_can_reach(isolation: Isolation) -> None:
    report = judged(isolation, call_task(("3", str(123456 * 8)), time_limit_s=5.0), FIND_BY_OBJECTS)
    assert report.tests[0].output == "false", report


def test_the_expected_output_is_nowhere_in_its_memory(isolation: Isolation) -> None:
    program = (
        "import ctypes, re\n"
        "wanted = re.compile(b'unheard-of answe[r]')\n"
        "try:\n    lines = open('/proc/self/maps').read().splitlines()\nexcept OSError:\n    lines = []\n"
        "n = 0\n"
        "for line in lines:\n"
        "    where, rights = line.split()[:2]\n"
        "    if rights[0] != 'r' or '[v' in line: continue\n"
        "    a, b = (int(x, 16) for x in where.split('-'))\n"
        "    n += len(wanted.findall(ctypes.string_at(a, b - a)))\n"
        "print('held' if n == 0 else n)\n"
    )
    report = judged(isolation, stdin_task(("", "held"), ("", "unheard-of answer"), time_limit_s=5.0), program)
    assert [test.verdict for test in report.tests] == [Verdict.PASSED, Verdict.WRONG_ANSWER]


REMEMBER = {
    "a global": "import builtins\nprint(getattr(builtins, 'seen', 'held'))\nbuiltins.seen = 'seen'",
    "a module": "import sys, types\nprint('seen' if 'marked' in sys.modules else 'held')\nsys.modules['marked'] = types.ModuleType('marked')",
    "a patched library": "import json\nprint(getattr(json, 'seen', 'held'))\njson.seen = 'seen'",
    "the environment": "import os\nprint(os.environ.get('SEEN', 'held'))\nos.environ['SEEN'] = 'seen'\nos.putenv('SEEN', 'seen')",
    "a file": "import os\nprint('seen' if os.path.exists('f') else 'held')\nopen('f', 'w').write('x')",
    "the working directory": "import os\nprint('held' if os.listdir('.') == [] else 'seen')\nos.mkdir('d')\nos.chdir('d')",
    "the umask": "import os\nprint('held' if os.umask(0) != 0 else 'seen')",
    "shared memory": "import os\ntry:\n    print('seen' if os.listdir('/dev/shm') else 'held')\nexcept OSError: print('held')\ntry: open('/dev/shm/hostile-residue', 'w')\nexcept OSError: pass",
    "its name": "import ctypes\nb = ctypes.create_string_buffer(16)\nctypes.CDLL(None).prctl(16, b)\nprint('seen' if b.value == b'seen' else 'held')\nctypes.CDLL(None).prctl(15, b'seen')",
    "a frame of its driver": "import sys\nf = sys._getframe()\nwhile f.f_back: f = f.f_back\nprint(f.f_globals.get('seen', 'held'))\nf.f_globals['seen'] = 'seen'",
    "a descriptor": "import os\ntry:\n    os.fstat(9)\n    print('seen')\nexcept OSError: print('held')\nos.dup2(1, 9)",
    "a limit": "import resource as r\nprint('held' if r.getrlimit(r.RLIMIT_NOFILE)[0] > 20 else 'seen')\nr.setrlimit(r.RLIMIT_NOFILE, (20, 20))",
    "the random state": "import random\nprint('held' if random.getstate()[1][0] != 0 else 'seen')",
}  # fmt: skip


@pytest.mark.parametrize("name", REMEMBER)
def test_a_test_learns_nothing_from_the_one_before(isolation: Isolation, name: str) -> None:
    report = judged(isolation, stdin_task(("", "held"), ("", "held"), ("", "held")), REMEMBER[name])
    assert report.success, report


def test_two_at_once_see_nothing_of_each_other(isolation: Isolation) -> None:
    program = (
        "import os, time\n"
        "open('mine', 'w').write(input())\n"
        "def listed(path):\n"
        "    try: return os.listdir(path)\n"
        "    except OSError: return []\n"
        "ends = time.monotonic() + 0.2\n"
        "seen = set()\n"
        "while time.monotonic() < ends:\n"
        "    for name in listed('..') + listed('/tmp') + listed('/dev/shm'):\n"
        "        if name.startswith(('scratch-', 'vpd-')): seen.add(name)\n"
        "print(seen or open('mine').read())\n"
    )
    with ThreadPoolExecutor(3) as threads:
        reports = threads.map(
            lambda n: judge(isolation, stdin_task((str(n), str(n)), time_limit_s=2.0), program, LIMITS), range(6)
        )
    assert all(report.success for report in reports)


def test_it_is_told_nothing_of_the_machine(isolation: Isolation) -> None:
    program = "import os, sys\nprint(dict(os.environ), sys.argv, os.getenv('HOME'), os.getppid() != int(input()))"
    assert printed(isolation, program, str(os.getpid())) == "{} ['solution.py'] None True"


def test_its_error_names_no_place_of_the_service(isolation: Isolation) -> None:
    for program in ("1 / 0", "import nothing_like_it", "open('missing')", "def solve(x): return solve", "int('x')"):
        report = judged(isolation, stdin_task(("", "")), program).tests[0]
        said = repr(report.error)
        assert str(isolation._directory) not in said
        assert sys.prefix not in said


SAME_EVERY_TIME = {
    "hashes": "print(hash('a'), hash(b'b'), {'x', 'y', 'z', 'w'})",
    "the time zone": "import time\nprint(time.tzname, time.localtime(0)[:6])",
    "the locale": "import locale, sys\nprint(sys.getfilesystemencoding(), sys.stdout.encoding, locale.getpreferredencoding(), sys.flags.utf8_mode)",
    "limits": "import resource, sys\nprint(sys.getrecursionlimit(), [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)])",
    "signals": "import signal\nprint([(s, str(signal.getsignal(s))) for s in sorted(signal.valid_signals()) if s != 2])",
    "an error": "raise ValueError({'x', 'y', 'z'})",
    "modules": "import sys\nprint(sorted(n for n in sys.modules if not n.startswith('_')))",
    "the umask": "import os\nprint(oct(os.umask(0)))",
}  # fmt: skip


@pytest.mark.parametrize("name", SAME_EVERY_TIME)
def test_every_run_of_a_program_is_the_same(isolation: Isolation, name: str) -> None:
    one, two = (judged(isolation, stdin_task(("", "-"), ("", "-")), SAME_EVERY_TIME[name]) for _ in range(2))
    assert one == two
    assert one.tests[0].output or one.tests[0].error


@pytest.mark.parametrize(
    "text",
    [
        "\\xff\\xfe",
        "\\x00",
        "\\xef\\xbb\\xbf",
        "a\\r\\nb",
        "\\x1b[2J\\x1b]0;x\\x07",
        "\\xed\\xa0\\x80",
        "\\xf4\\x90\\x80\\x80",
    ],
)
def test_any_bytes_can_be_printed_and_reported(isolation: Isolation, text: str) -> None:
    program = f"import os\nos.write(1, b'{text}')"
    report = judged(isolation, stdin_task(("", "something else")), program).tests[0]
    assert report.verdict is Verdict.WRONG_ANSWER
    assert describe(Report((report,))).encode("utf-8").isascii()
