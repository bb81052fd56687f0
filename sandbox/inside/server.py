"""A warm interpreter that forks a driver for each candidate, so that none pays for a start.

It is started with nothing in it, reads no program and keeps nothing: the pipes of a driver pass through it unread.
On its standard input, a socket, it gets two descriptors, forks the driver that has them as standard input and output,
and waits for one byte to end that driver. It answers with the exit status. It ends when the service hangs up.
"""

from __future__ import annotations

import _socket
import os
import sys

from sandbox.inside import confine, driver

DESCRIPTOR_BYTES = 4


def main() -> None:
    """Serve one driver after the other until the service hangs up."""
    control = _socket.socket(fileno=0)
    confine.forbid_new_privileges()
    confine.adopt_orphans()
    while True:
        _, ancillary, _, _ = control.recvmsg(1, _socket.CMSG_SPACE(2 * DESCRIPTOR_BYTES))
        if not ancillary:
            return
        data = ancillary[0][2]
        given = [int.from_bytes(data[i : i + DESCRIPTOR_BYTES], sys.byteorder) for i in (0, DESCRIPTOR_BYTES)]
        pid = os.fork()
        if pid == 0:
            _become_driver(control, given)
        for fd in given:
            os.close(fd)
        asked = control.recv(1)
        status = _end(pid)
        if not asked:
            return
        control.sendall(b"%d" % status)


def _become_driver(control: _socket.socket, given: list[int]) -> None:
    """Never returns: whatever happens in a driver, the loop of the server is not for it."""
    try:
        os.setsid()
        control.detach()
        for fd, given_fd in enumerate(given):
            os.dup2(given_fd, fd)  # over the socket to the service, too
        os.closerange(3, 1 << 10)
        driver.main()
    finally:
        os._exit(0)


def _end(pid: int) -> int:
    """Kill the driver and all below it, if it still runs; its exit status (negative: the signal). When this returns
    they are gone, and nothing writes into the candidate's directory any more."""
    try:
        os.killpg(pid, confine.SIGKILL)
    except ProcessLookupError:  # it is not the leader of its session yet
        os.kill(pid, confine.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    confine.end_children()
    return status


if __name__ == "__main__":
    main()
    os._exit(0)
