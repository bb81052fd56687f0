"""Seccomp filters as classic BPF, made in plain Python. Which syscalls no sandboxed process needs, and the few whose
arguments decide. A denied call fails with an errno instead of killing, so that a program sees an ordinary OSError.
"""

from __future__ import annotations

import struct

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
X32_BIT = 0x40000000

# Numbers as (x86_64, aarch64); None where the architecture has no such call.
Numbers = tuple[int | None, int | None]

NETWORK: dict[str, Numbers] = {
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "bind": (49, 200),
    "listen": (50, 201),
}
OTHER_PROCESSES: dict[str, Numbers] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "get_robust_list": (274, 100),
    "pidfd_getfd": (438, 438),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
}
# Landlock says nothing about these, nor about watching a directory or writing all disks out.
FILE_ATTRIBUTES: dict[str, Numbers] = {
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "sync": (162, 81),
    "syncfs": (306, 267),
}
# The driver sets modes, of files that are the candidate's alone.
MODES: dict[str, Numbers] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
}
KERNEL: dict[str, Numbers] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "setns": (308, 268),
    "unshare": (272, 97),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "lookup_dcookie": (212, 18),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}
ASYNCHRONOUS_IO: dict[str, Numbers] = {
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
# A candidate is one process in the group it was given; these only the driver may use.
ONE_PROCESS: dict[str, Numbers] = {
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "seccomp": (317, 277),
}
# Reserves blocks beyond a file's size, where no limit on sizes sees them. The C library then writes zeros instead.
RESERVING: dict[str, Numbers] = {"fallocate": (285, 47)}
CLONE: Numbers = (56, 220)
CLONE3: Numbers = (435, 435)
KILL: Numbers = (62, 129)
TGKILL: Numbers = (234, 131)
PRLIMIT64: Numbers = (302, 261)
PRCTL: Numbers = (157, 167)
FCNTL: Numbers = (72, 25)
IOCTL: Numbers = (16, 29)
SOCKETPAIR: Numbers = (53, 199)

CLONE_THREAD = 0x00010000
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP = 1, 4, 22
# Whom the kernel sends a signal, and which, when a descriptor is ready: any process of the same user, SIGKILL too.
F_SETOWN, F_SETSIG, F_SETOWN_EX = 8, 10, 15
FIOSETOWN, SIOCSPGRP = 0x8901, 0x8902
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
AF_UNIX, SOCK_STREAM, SOCK_SEQPACKET, SOCK_TYPE_MASK = 1, 1, 5, 0xF

_LOAD, _AND, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY_BIT, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EOPNOTSUPP = _ERRNO | 1, _ERRNO | 38, _ERRNO | 95
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT, _ARGUMENT_BYTES = 0, 4, 16, 8


def number(name: str, machine: str) -> int:
    """The number of a call that is denied somewhere here. Raises KeyError for one that is not, or not on `machine`."""
    for group in (NETWORK, OTHER_PROCESSES, FILE_ATTRIBUTES, MODES, KERNEL, ASYNCHRONOUS_IO, ONE_PROCESS, RESERVING):
        if name in group and (found := _pick(group[name], machine)) is not None:
            return found
    raise KeyError(name)


def driver_filter(machine: str) -> bytes:
    """The filter of everything in the sandbox: no network, no other processes, no kernel surface.

    `machine` is uname's name of the architecture. Raises KeyError for one that is not known here.
    """
    program = _preamble(machine)
    for group in (NETWORK, OTHER_PROCESSES, FILE_ATTRIBUTES, KERNEL):
        program += _deny(group, machine, _EPERM)
    program += _deny(ASYNCHRONOUS_IO, machine, _ENOSYS)
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def candidate_filter(machine: str, pid: int) -> bytes:
    """What is added for the candidate, whose process id is `pid`: threads, but no new process, program or session,
    and signals and limits for itself alone."""
    program = _preamble(machine) + _deny(ONE_PROCESS, machine, _EPERM) + _deny(MODES, machine, _EPERM)
    program += _deny(RESERVING, machine, _EOPNOTSUPP)
    # The C library takes ENOSYS as "use clone", whose flags a filter can read.
    program += _deny({"clone3": CLONE3}, machine, _ENOSYS)
    program += _allow_if(CLONE, machine, [_argument(0), _step(_IF_ANY_BIT, CLONE_THREAD, 1, 0)])
    program += _allow_if(KILL, machine, [_argument(0), *_one_of(pid)])
    program += _allow_if(TGKILL, machine, [_argument(0), *_one_of(pid)])
    program += _allow_if(PRLIMIT64, machine, [_argument(0), *_one_of(0, pid)])
    program += _allow_if(PRCTL, machine, [_argument(0), *_none_of(PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP)])
    program += _allow_if(FCNTL, machine, [_argument(1), *_none_of(F_SETOWN, F_SETSIG, F_SETOWN_EX)])
    program += _allow_if(IOCTL, machine, [_argument(1), *_none_of(FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX)])
    # A pair of datagram sockets sends to any other socket of the file system by name.
    kind = [_argument(1), _step(_AND, SOCK_TYPE_MASK), *_one_of(SOCK_STREAM, SOCK_SEQPACKET)]
    program += _allow_if(SOCKETPAIR, machine, [_argument(0), *_one_of(AF_UNIX)], kind)
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def _preamble(machine: str) -> list[bytes]:
    program = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_IF_EQUAL, ARCHITECTURES[machine], 1, 0),
        _step(_RETURN, _KILL_PROCESS),
        _step(_LOAD, _NUMBER_AT),
    ]
    if machine == "x86_64":
        program += [_step(_IF_AT_LEAST, X32_BIT, 0, 1), _step(_RETURN, _ENOSYS)]
    return program


def _deny(group: dict[str, Numbers], machine: str, answer: int) -> list[bytes]:
    numbers = (number for pair in group.values() if (number := _pick(pair, machine)) is not None)
    return [step for number in numbers for step in (_step(_IF_EQUAL, number, 0, 1), _step(_RETURN, answer))]


def _allow_if(numbers: Numbers, machine: str, *conditions: list[bytes]) -> list[bytes]:
    """Allow the call if every condition jumps over the refusal that follows it, else refuse it."""
    number = _pick(numbers, machine)
    assert number is not None
    refused = [step for condition in conditions for step in (*condition, _step(_RETURN, _EPERM))]
    body = [*refused, _step(_RETURN, _ALLOW)]
    return [_step(_IF_EQUAL, number, 0, len(body)), *body]


def _argument(index: int) -> bytes:
    """Load the lower half of an argument: all that the kernel looks at in those that are asked for here."""
    return _step(_LOAD, _ARGUMENTS_AT + index * _ARGUMENT_BYTES)


def _one_of(*values: int) -> list[bytes]:
    """Jump over the next step if what is loaded is one of `values`."""
    return [_step(_IF_EQUAL, value, len(values) - index, 0) for index, value in enumerate(values)]


def _none_of(*values: int) -> list[bytes]:
    """Jump over the next step if what is loaded is none of `values`."""
    last = len(values) - 1
    return [_step(_IF_EQUAL, value, last - index, int(index == last)) for index, value in enumerate(values)]


def _pick(numbers: Numbers, machine: str) -> int | None:
    return numbers[0] if machine == "x86_64" else numbers[1]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
