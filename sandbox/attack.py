"""Attacks on a sandbox, run for real before it is trusted, and the choice of the tier that withstands them."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from sandbox.confined import SandboxFailure
from sandbox.inside.syscalls import number
from sandbox.isolation import STRONGEST_FIRST, ContainerOptions, Isolation, Tier
from sandbox.judge import Defaults, judge
from sandbox.reference import CodeTask, CodeTest
from sandbox.verdicts import Report, Verdict
from shared.errors import SettingsError
from shared.settings import CodeFeedbackSettings

LIMITS = Defaults(time_limit_s=1.0, memory_limit_mb=64, output_bytes=2**16)
KERNEL_CALLS = (
    *("unshare", "setns", "mount", "open_by_handle_at", "ptrace", "process_vm_readv", "pidfd_getfd", "kcmp"),
    *("bpf", "keyctl", "perf_event_open", "userfaultfd", "io_uring_setup", "memfd_create"),
)
OWN_TO_THE_TIER = {"docker": ("read a file of the system",)}
"""What a program can do in a tier by its nature: the system it sees there is the image."""
PROBE = """
import ctypes, errno, fcntl, os, socket, sys
victim, directory, parent = input(), input(), int(input())
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, action):
    try:
        action()
    except BaseException:
        return
    print(name)

def write(path):
    with open(path, "w") as file:
        file.write("x")

def read(path):
    with open(path) as file:
        file.read(1)

def fork():
    if os.fork() == 0:
        os._exit(0)

def udp():
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9))

def kernel(number):
    # With arguments that mean nothing, so that only the refusal of the call itself counts as one.
    if libc.syscall(*[ctypes.c_long(a) for a in (number, -1, -1, -1, -1, -1, -1)]) == -1:
        assert ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS)

def watch(path):
    assert libc.inotify_add_watch(libc.inotify_init(), path.encode(), 0xFFF) >= 0

def environment(pid):
    with open(f"/proc/{pid}/environ") as file:
        names = {line.partition("=")[0] for line in file.read().split(chr(0)) if line}
    assert names - {"PYTHONHASHSEED", "PYTHONUTF8", "MALLOC_ARENA_MAX", "TZ", "LANG", "PWD"}

attempt("read a file outside", lambda: read(victim))
attempt("read a file of the system", lambda: read("/etc/passwd"))
attempt("list a directory outside", lambda: os.listdir(directory))
attempt("write a file outside", lambda: write(directory + "/written"))
attempt("truncate a file outside", lambda: os.truncate(victim, 0))
attempt("delete a file outside", lambda: os.unlink(victim))
attempt("rename a file outside", lambda: os.rename(victim, victim + "2"))
attempt("change the mode of a file outside", lambda: os.chmod(victim, 0o777))
attempt("reach a file through a link", lambda: (os.symlink(victim, "link"), read("link")))
attempt("read the environment of the service", lambda: environment(parent))
attempt("read the environment of the first process", lambda: environment(1))
attempt("write the memory of its parent", lambda: open(f"/proc/{os.getppid()}/mem", "r+b"))
attempt("open a TCP socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
attempt("open a UDP socket", udp)
attempt("open a Unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("open a netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
attempt("open a socket to a host of virtual machines", lambda: socket.socket(40, socket.SOCK_STREAM))
attempt("make a socket that sends to any other", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
attempt("write a setting of the kernel", lambda: open("/proc/sys/kernel/domainname", "r+"))
attempt("write into its control group", lambda: open("/sys/fs/cgroup/cgroup.procs", "r+"))
attempt("write into shared memory", lambda: (write("/dev/shm/vpd-probe"), os.unlink("/dev/shm/vpd-probe")))
attempt("watch a directory outside", lambda: watch(directory))
for name, number in (pair.split(":") for pair in input().split()):
    attempt("call " + name, lambda: kernel(int(number)))
attempt("start a process", fork)
attempt("signal the service", lambda: os.kill(parent, 0))
attempt("signal its parent", lambda: os.kill(os.getppid(), 0))
attempt("signal every process", lambda: os.kill(-1, 0))
attempt("have the kernel signal its parent", lambda: fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid()))
attempt("leave its session", os.setsid)
if os.environ:
    print("read the environment")
write("allowed")
print("end", flush=True)
attempt("start a program", lambda: os.execv(sys.executable, [sys.executable, "-c", "print('start a program')"]))
"""
HUNGRY = "blocks = [bytearray(2**20) for _ in range(256)]"
SPINNING = "while True: pass"
CHATTY = "while True: print('x' * 4096)"


def weaknesses(isolation: Isolation) -> list[str]:
    """What a program in this sandbox can do that it should not, each a few words. Empty: it holds.

    Raises SandboxFailure if nothing can be run in it at all.
    """
    found = _escapes(isolation)
    limits = ((HUNGRY, Verdict.MEMORY_LIMIT), (SPINNING, Verdict.TIME_LIMIT), (CHATTY, Verdict.OUTPUT_LIMIT))
    for program, wanted in limits:
        verdict = _run(isolation, program, "").tests[0].verdict
        if verdict is not wanted:
            found.append(f"pass the {wanted.replace('_', ' ')}")
    return found


def open_configured(settings: CodeFeedbackSettings) -> Isolation:
    """The tier that the settings name, attacked and found to hold. Raises SettingsError saying why it does not."""
    if settings.isolation != "docker" or settings.docker_image is None:
        return open_isolation(settings.isolation)
    names = settings.docker_image, settings.docker_runtime, settings.docker_host, settings.docker_memory_mb
    return open_containers(ContainerOptions(*names))


def open_containers(options: ContainerOptions) -> Isolation:
    """The tier docker, attacked and found to hold. Raises SettingsError saying why it does not."""
    try:
        from sandbox.containers import ContainerIsolation
    except ImportError as error:
        raise SettingsError(
            "code_feedback.isolation 'docker' needs the engine's client: pip install 'vpd[docker]'."
        ) from error
    isolation = ContainerIsolation(options)
    if reason := _why_not(isolation):
        isolation.close()
        raise SettingsError(f"code_feedback.isolation 'docker' does not hold with image '{options.image}': {reason}.")
    return isolation


def open_isolation(wanted: Tier | str) -> Isolation:
    """The wanted tier of this machine, attacked and found to hold; "auto": the strongest that does. `unsafe` is not
    attacked.

    Raises SettingsError saying why, if none does.
    """
    if wanted == "unsafe":
        return Isolation("unsafe")
    reasons = []
    for tier in STRONGEST_FIRST if wanted == "auto" else [t for t in STRONGEST_FIRST if t == wanted]:
        if tier == "bubblewrap" and shutil.which("bwrap") is None:
            reasons.append("bubblewrap: bwrap is not installed")
            continue
        isolation = Isolation(tier)
        reason = _why_not(isolation)
        if reason is None:
            return isolation
        isolation.close()
        reasons.append(f"{tier}: {reason}")
    raise SettingsError(
        f"code_feedback.isolation '{wanted}' does not hold on this machine ({'; '.join(reasons)}): allow user "
        "namespaces for bubblewrap, or run a kernel with Landlock, or accept the risk with 'unsafe'."
    )


def _why_not(isolation: Isolation) -> str | None:
    try:
        found = weaknesses(isolation)
    except SandboxFailure as error:
        return str(error).rstrip(".")
    return f"a program can {', '.join(found)}" if found else None


def _escapes(isolation: Isolation) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="vpd-victim-") as directory:
        victim = Path(directory) / "victim"
        victim.write_text("secret")
        victim.chmod(0o666)
        Path(directory).chmod(0o777)  # only the sandbox stands between a program and these
        calls = " ".join(f"{name}:{number(name, os.uname().machine)}" for name in KERNEL_CALLS)
        report = _run(isolation, PROBE, f"{victim}\n{directory}\n{os.getpid()}\n{calls}\n")
        output = (report.tests[0].output or "").splitlines()
        if "end" not in output:
            error = report.tests[0].error
            raise SandboxFailure(f"The attack did not run to its end: {error.message if error else 'no output'}.")
        found = [line for line in output if line not in ("end", *OWN_TO_THE_TIER.get(isolation.tier, ()))]
        if victim.exists() and victim.read_text() != "secret":
            found.append("change a file outside")
    return found


def _run(isolation: Isolation, program: str, given: str) -> Report:
    task = CodeTask(kind="code.stdin", tests=(CodeTest(input=given, output="end"),))
    return judge(isolation, task, program, LIMITS)
