"""How a process locks itself in: privileges, Landlock, seccomp, resource limits. Raw system calls through ctypes; each
function raises OSError if the kernel refuses, and nothing but the limits on compiling is ever undone.
"""

# ruff: noqa: PTH112, PTH116
from __future__ import annotations

import ctypes
import os
import resource
import time

from sandbox.inside import syscalls

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 1, 4, 8, 38, 22
PR_SET_CHILD_SUBREAPER = 36
SECCOMP_MODE_FILTER = 2
SIGKILL = 9

LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_VERSION_FLAG = 1
LANDLOCK_RULE_PATH_BENEATH = 1
READ_FILE, READ_DIR = 1 << 2, 1 << 3
# By Landlock version: every file access right it knows. Version 2 adds REFER, 3 TRUNCATE, 5 IOCTL_DEV.
ALL_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
# Everything but EXECUTE, MAKE_CHAR, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM, REFER and IOCTL_DEV.
SCRATCH_RIGHTS = sum(1 << bit for bit in (1, 2, 3, 4, 5, 7, 8, 14))
NOWHERE = "/dev/null"
NOWHERE_RIGHTS = READ_FILE | 1 << 1
FILE_ONLY_RIGHTS = sum(1 << bit for bit in (0, 1, 2, 14, 15))
NET_BIND_AND_CONNECT = 3
SCOPE_SOCKETS_AND_SIGNALS = 3

CAPABILITY_VERSION_3 = 0x20080522
CAP_DAC_READ_SEARCH = 1 << 2

_libc = ctypes.CDLL(None, use_errno=True)
_MACHINE = os.uname().machine


def volunteer_to_be_killed() -> None:
    """When memory runs out, let the kernel take this process and those it forks before any other."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:  # noqa: PTH123
            file.write("1000")
    except OSError:  # no /proc here
        return


def adopt_orphans() -> None:
    """Become the parent of every process below this one whose own parent ends, so that none is lost."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def end_children() -> None:
    """Kill and reap all processes below this one, in whatever session they are; needs `adopt_orphans`."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] != 0:
                continue
        except ChildProcessError:
            return
        for child in _children():
            os.kill(child, SIGKILL)
        time.sleep(0.001)


def drop_privileges(scratch: str, must_read: tuple[str, ...], own: int) -> bool:
    """Leave root, if we are root, for user `own`; True if we are that user now, who is ours alone, so that a limit on
    its threads counts only ours. A capability to read is kept if `must_read` needs one: Landlock decides then."""
    if os.geteuid() != 0:
        return False
    capabilities = 0 if all(_world_readable(path) for path in must_read) else CAP_DAC_READ_SEARCH
    try:
        _prctl(PR_SET_KEEPCAPS, 1)
        os.chown(scratch, own, own)
        os.setgroups([])
        os.setresgid(own, own, own)
        os.setresuid(own, own, own)
    except OSError:  # a user namespace without other users: we are its root, with no rights outside
        capabilities, own = 0, 0
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)(capabilities, capabilities, 0, 0, 0, 0)))
    return own != 0


def die_with_parent() -> None:
    """Be killed when the parent ends. A change of user forgets this, so it comes after."""
    _prctl(PR_SET_PDEATHSIG, SIGKILL)


def forbid_new_privileges() -> None:
    """No set-user-id program gives privileges from here on (Landlock and seccomp need this), and no process of the
    same user may look into our memory."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _prctl(PR_SET_DUMPABLE, 0)


def restrict_files(readable: tuple[str, ...], scratch: str) -> None:
    """Landlock: read below `readable`, read and write below `scratch` and into nowhere, nothing else; no TCP, and no
    signals or abstract sockets to the outside, as far as the kernel's version of Landlock knows them."""
    version = _check(_libc.syscall(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), LANDLOCK_VERSION_FLAG))
    files = ALL_FILE_RIGHTS[min(version, 5)]
    network = NET_BIND_AND_CONNECT if version >= 4 else 0
    scope = SCOPE_SOCKETS_AND_SIGNALS if version >= 6 else 0
    attributes = (ctypes.c_uint64 * 3)(files, network, scope)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _check(_libc.syscall(LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    for path in readable:
        _allow(ruleset, path, (READ_FILE | READ_DIR) & files)
    _allow(ruleset, scratch, SCRATCH_RIGHTS & files)
    _allow(ruleset, NOWHERE, NOWHERE_RIGHTS)
    _check(_libc.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def filter_driver() -> None:
    """Seccomp for everything in the sandbox."""
    _install(syscalls.driver_filter(_MACHINE))


def filter_candidate() -> None:
    """Seccomp for the calling candidate process, on top of the driver's."""
    _install(syscalls.candidate_filter(_MACHINE, os.getpid()))


def limit(memory_bytes: int, cpu_s: int, file_bytes: int, own_user: bool) -> None:
    """Resource limits of a candidate. `memory_bytes` is address space; `own_user`: the user is nobody else's."""
    hard = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_SIGPENDING: 64,
    }
    # Counts every thread of the user: of a user who is not ours alone, only a bomb should meet it.
    hard[resource.RLIMIT_NPROC] = 64 if own_user else 4096
    for which, value in hard.items():
        most = resource.getrlimit(which)[1]
        value = value if most < 0 else min(value, most)
        resource.setrlimit(which, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
    stack = min(64 * 2**20, memory_bytes)
    most = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (stack if most < 0 else min(stack, most), most))


def limit_compiling(memory_bytes: int, cpu_s: int) -> None:
    """Soft limits for the compiler in a driver: MemoryError at the one, death by SIGXCPU at the other."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_softly(resource.RLIMIT_AS, memory_bytes)
    _limit_softly(resource.RLIMIT_CPU, int(usage.ru_utime + usage.ru_stime) + 1 + cpu_s)


def lift_compiling_limits() -> None:
    """Undo `limit_compiling`: what is read from a candidate needs memory of its own."""
    for which in (resource.RLIMIT_AS, resource.RLIMIT_CPU):
        _limit_softly(which, resource.getrlimit(which)[1])


def _limit_softly(which: int, value: int) -> None:
    most = resource.getrlimit(which)[1]
    resource.setrlimit(which, (value if most < 0 else min(value, most), most))


def _children() -> list[int]:
    pid = os.getpid()
    with open(f"/proc/{pid}/task/{pid}/children") as file:  # noqa: PTH123
        return [int(child) for child in file.read().split()]


def _world_readable(path: str) -> bool:
    parts = path.rstrip("/").split("/")
    parents = ["/".join(parts[:i]) or "/" for i in range(1, len(parts) + 1)]
    try:
        return all(os.stat(parent).st_mode & 0o001 for parent in parents)
    except OSError:
        return False


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            rights &= FILE_ONLY_RIGHTS
        rule = ctypes.create_string_buffer(rights.to_bytes(8, "little") + handle.to_bytes(4, "little"), 12)
        _check(_libc.syscall(LANDLOCK_ADD_RULE, ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0))
    finally:
        os.close(handle)


def _install(program: bytes) -> None:
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    steps = ctypes.create_string_buffer(program, len(program))
    filter_ = Program(len(program) // 8, ctypes.addressof(steps))
    _prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(filter_))


def _prctl(option: int, *arguments: int) -> None:
    padded = [ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded))


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
