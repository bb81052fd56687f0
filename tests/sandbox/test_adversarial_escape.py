"""Programs that reach for what is outside: the kernel refuses each, and the next one does not notice."""

# ruff: noqa: E501
from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.inside import syscalls
from sandbox.isolation import Isolation
from sandbox.verdicts import Verdict
from tests.sandbox.hostile import MARK, judged, printed
from tests.sandbox.programs import stdin_task

DRIVER_GROUPS = (syscalls.NETWORK, syscalls.OTHER_PROCESSES, syscalls.FILE_ATTRIBUTES, syscalls.KERNEL)
DENIED = {
    **{name: numbers for group in DRIVER_GROUPS for name, numbers in group.items()},
    **syscalls.ASYNCHRONOUS_IO,
    **syscalls.ONE_PROCESS,
    **syscalls.MODES,
    **syscalls.RESERVING,
    "clone3": syscalls.CLONE3,
}
EVERY_DENIED_CALL = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
refusals = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)
for pair in input().split():
    name, number = pair.split(":")
    # An impossible first argument: a call that was let through would fail in another way, or do nothing.
    result = libc.syscall(ctypes.c_long(int(number)), *[ctypes.c_long(-1)] * 6)
    if result != -1 or ctypes.get_errno() not in refusals:
        print(name, result, errno.errorcode.get(ctypes.get_errno()))
print("held")
"""
REFUSED = """
import ctypes, os, signal, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *arguments):
    if getattr(libc, name)(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]) == -1:
        raise OSError(ctypes.get_errno(), name)
def attempt():
    {action}
try:
    attempt()
except (OSError, ValueError):
    print("held")
else:
    print("not held")
"""
ACTIONS = {
    "unshare a user namespace": "call('unshare', 0x10000000)",
    "clone into namespaces": "call('syscall', 56, 0x10000000 | 17, 0, 0, 0, 0)",
    "mount a file system": "call('mount', b'none', b'.', b'tmpfs', 0, None)",
    "pivot the root": "call('syscall', 155, b'.', b'.')",
    "change the root": "os.chroot('.')",
    "trace its parent": "call('ptrace', 16, os.getppid(), 0, 0)",
    "be traced": "call('ptrace', 0, 0, 0, 0)",
    "read its parent's memory": "open(f'/proc/{os.getppid()}/mem', 'rb').read(1)",
    "list its parent's descriptors": "os.listdir(f'/proc/{os.getppid()}/fd')",
    "follow its parent's descriptors": "open(f'/proc/{os.getppid()}/fd/0', 'rb')",
    "kill everything": "os.kill(-1, 9)",
    "kill the first process": "os.kill(1, 9)",
    "kill its group": "os.killpg(0, 9)",
    "have the kernel kill its parent": "__import__('fcntl').fcntl(0, 8, os.getppid())",
    "have the kernel send SIGKILL": "__import__('fcntl').fcntl(0, 10, 9)",
    "own a descriptor by ioctl": "__import__('fcntl').ioctl(0, 0x8901, struct.pack('i', os.getppid()))",
    "type into a terminal": "__import__('fcntl').ioctl(0, 0x5412, b'x')",
    "make itself dumpable": "call('prctl', 4, 1, 0, 0, 0)",
    "outlive its parent": "call('prctl', 1, 0, 0, 0, 0)",
    "reach the metadata service": "socket.create_connection(('169.254.169.254', 80), 1)",
    "resolve a name": "socket.create_connection(socket.getaddrinfo('example.org', 80)[0][4], 1)",
    "open an IPv6 socket": "socket.socket(socket.AF_INET6)",
    "open a virtual machine socket": "socket.socket(40, socket.SOCK_STREAM)",
    "open a raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
    "open a packet socket": "socket.socket(17, socket.SOCK_RAW)",
    "bind an abstract socket": "socket.socket(socket.AF_UNIX).bind('\\0hostile')",
    "make a pair of datagram sockets": "socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "reach the Docker socket": "socket.socket(socket.AF_UNIX).connect('/var/run/docker.sock')",
    "write below /proc/sys": "open('/proc/sys/kernel/core_pattern', 'w')",
    "write its cgroup": "open('/sys/fs/cgroup/cgroup.procs', 'w')",
    "write a release agent": "open('/sys/fs/cgroup/release_agent', 'w')",
    "press the magic key": "open('/proc/sysrq-trigger', 'w')",
    "become root": "os.setuid(0)",
    "run sudo": "os.execv('/usr/bin/sudo', ['sudo', 'true'])",
    "run su": "os.execv('/bin/su', ['su'])",
    "run what it wrote": "open('x', 'w').write('#!/bin/sh'); os.execv('./x', ['x'])",
    "run anonymous memory": "os.execve(os.memfd_create('x'), ['x'], {})",
    "set the clock": "__import__('time').clock_settime(0, 0)",
    "rename the host": "socket.sethostname('x')",
    "make a device": "os.mknod('d', 0o20666, os.makedev(1, 1))",
    "set a file's set-user-id bit": "open('s', 'w').close(); os.chmod('s', 0o4755)",
    "watch a directory outside by the later call": "call('inotify_add_watch', libc.inotify_init1(0), b'/', 0xfff)",
    "watch a directory outside": "call('inotify_add_watch', libc.inotify_init(), b'/', 0xfff)",
    "write out all disks": "call('syscall', 306, 0)",
    "raise its priority": "os.nice(-5)",
    "pin itself to a core": "os.sched_setaffinity(0, {0})",
    "run in real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))",
    "lock memory": "call('mlock', ctypes.create_string_buffer(2 ** 20), 2 ** 20)",
    "load a program into the kernel": "call('syscall', 321, 5, 0, 0)",
    "raise a limit": "__import__('resource').setrlimit(__import__('resource').RLIMIT_NPROC, (9999, 9999))",
    "write into a shared directory": f"open('/var/tmp/{MARK}', 'w')",
    "write into the home directory": f"open('/root/{MARK}', 'w')",
    "write into its own library": f"open(os.__file__.replace('os.py', '{MARK}.py'), 'w')",
    "write beside its own directory": f"open('../{MARK}', 'w')",
    "leave its directory for another": "os.rename('.', '../other')",
}  # fmt: skip


@pytest.mark.skipif(platform.machine() not in syscalls.ARCHITECTURES, reason="no filter for this architecture")
def test_every_call_of_the_filters_is_refused(isolation: Isolation) -> None:
    numbers = {name: syscalls._pick(pair, platform.machine()) for name, pair in DENIED.items()}
    given = " ".join(f"{name}:{number}" for name, number in numbers.items() if number is not None)
    assert len(given.split()) > 100
    assert printed(isolation, EVERY_DENIED_CALL, given) == "held"


@pytest.mark.parametrize("name", ACTIONS)
def test_it_cannot(isolation: Isolation, name: str) -> None:
    if name == "write into a shared directory" and isolation.tier == "bubblewrap":
        pytest.skip("there is no /var/tmp in it")
    if "'syscall'" in ACTIONS[name] and platform.machine() != "x86_64":
        pytest.skip("the numbers are those of x86_64; the filters' test knows the others")
    assert printed(isolation, REFUSED.replace("{action}", ACTIONS[name])) == "held"


def test_threads_and_pairs_of_streams_are_left_to_it(isolation: Isolation) -> None:
    program = (
        "import asyncio, threading\n"
        "async def main():\n    return await asyncio.to_thread(lambda: 'held')\n"
        "threading.Thread(target=print, args=(asyncio.run(main()),)).start()\n"
    )
    assert printed(isolation, program) == "held"


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[socket.socket]:
    """A datagram socket in the file system that anybody may write to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as box:
        path = f"/tmp/hostile-mailbox-{os.getpid()}.sock"
        box.bind(path)
        os.chmod(path, 0o777)  # noqa: PTH101
        box.setblocking(False)
        yield box
        Path(path).unlink()


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET", "SOCK_DGRAM", "SOCK_DGRAM | 2048"])
def test_no_datagram_reaches_a_socket_of_the_file_system(
    isolation: Isolation, mailbox: socket.socket, kind: str
) -> None:
    program = f"import socket\ntry: socket.socketpair(1, socket.{kind.replace('| ', '| 0+')})[0].sendto(b'x', input())\nexcept OSError: pass\nprint('held')"
    assert printed(isolation, program, mailbox.getsockname()) == "held"
    with pytest.raises(BlockingIOError):
        mailbox.recv(1)


def test_the_mailbox_of_that_test_takes_datagrams(mailbox: socket.socket) -> None:
    socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", mailbox.getsockname())
    assert mailbox.recv(1) == b"x"


LEFT_BEHIND = {
    "a tree nested deeper than any path": "import os\nfor _ in range(60):\n    os.mkdir('d' * 200)\n    os.chdir('d' * 200)\nopen('f', 'w').close()",
    "directories nobody may read": "import os\nfor m in (0o000, 0o100, 0o300, 0o600):\n    os.mkdir(f'd{m}', m)\n    try: open(f'd{m}/f', 'w').close()\n    except OSError: pass\nos.umask(0o777)\nos.mkdir('u')\nopen('w', 'w').close()",
    "names that are no text": "import os\nopen(b'\\xff\\xfe', 'w').close()\nopen('\\n', 'w').close()\nos.mkdir(b'\\x80')\nopen(b'-rf', 'w').close()",
    "links out of it": "import os\nfor t in ('/', '/etc/passwd', '..', 'nowhere'):\n    try: os.symlink(t, t.replace('/', '_') + 'l')\n    except OSError: pass",
    "a pipe with a name": "import os\ntry: os.mkfifo('fifo')\nexcept OSError: pass",
    "many small files": "for n in range(400): open(f'f{n}', 'w').write('x')",
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_BEHIND)
@pytest.mark.parametrize("end", ["killed by itself", "killed for time"])
def test_nothing_it_makes_is_left_on_the_machine(isolation: Isolation, name: str, end: str) -> None:
    ending = "import os\nos.kill(os.getpid(), 9)" if end == "killed by itself" else "while True: pass"
    report = judged(isolation, stdin_task(("", "-")), f"{LEFT_BEHIND[name]}\n{ending}")
    assert report.tests[0].verdict in (Verdict.RUNTIME_ERROR, Verdict.TIME_LIMIT, Verdict.OUTPUT_LIMIT)


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_the_next_test_finds_nothing_of_the_one_before(isolation: Isolation, name: str) -> None:
    program = f"import os\nprint(len(os.listdir('.')))\nif input() == '1':\n{_indented(LEFT_BEHIND[name])}\n"
    report = judged(isolation, stdin_task(("1", "0"), ("2", "0"), ("1", "0"), ("2", "0"), time_limit_s=2.0), program)
    assert report.success, report


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))
