"""What a container of the Docker tier starts with: it gets the driver itself over its standard input, so that nothing
of this machine is mounted and any image with a Python will do. Only its text is used, as `python -c`."""

from __future__ import annotations

import marshal
import os
import sys
from types import ModuleType

CONTAINER_PREFIX = "sandbox.inside"


def read(count: int) -> bytes:
    """`count` bytes of standard input; less at its end."""
    parts = []
    while count and (part := os.read(0, min(count, 1 << 20))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def main() -> None:
    """Take the modules of the driver, run it in a process of its own, end as it ends.

    The first process of a container takes no signal it has no handler for, so it cannot be the one that is limited.
    """
    package = ModuleType(CONTAINER_PREFIX)
    sys.modules.update({"sandbox": ModuleType("sandbox"), CONTAINER_PREFIX: package})
    sources = marshal.loads(read(int.from_bytes(read(8), "big")))
    for name, source in sources:
        module = ModuleType(f"{CONTAINER_PREFIX}.{name}")
        sys.modules[module.__name__] = module
        setattr(package, name, module)
        exec(compile(source, f"{name}.py", "exec"), module.__dict__)
    confine, driver = sys.modules[f"{CONTAINER_PREFIX}.confine"], sys.modules[f"{CONTAINER_PREFIX}.driver"]
    confine.forbid_new_privileges()
    pid = os.fork()
    if pid == 0:
        driver.main()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
