"""The connection of one run's queue to Redis: its keys, its scripts, and what its errors mean in a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import EqualJitterBackoff
from redis.retry import Retry

from shared.errors import QueueUnavailable
from shared.settings import QueueSettings

_ANSWER_TIMEOUT_S = 10.0
_CONNECT_TIMEOUT_S = 3.0


class QueueConnection:
    """Redis as the user named `consumer` of run `run_id` sees it. Connects at the first call; not for several threads.

    Every method of it, and of what derives from it, raises QueueUnavailable when Redis does not answer or refuses to
    store; calling again later is safe.
    """

    def __init__(self, settings: QueueSettings, run_id: str, *, consumer: str) -> None:
        self.run_id = run_id
        self.consumer = consumer
        self._where = _without_password(settings.url)
        self._prefix = f"vpd:{{{run_id}}}:"
        options: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": _ANSWER_TIMEOUT_S,
            "socket_connect_timeout": _CONNECT_TIMEOUT_S,
            "retry": Retry(EqualJitterBackoff(cap=0.5, base=0.05), 3),
        }
        # Any: the shape of a reply depends on the command, and the type stubs of redis disagree about them.
        self._client: Any = redis.Redis.from_url(settings.url, **options)

    def drop(self) -> None:
        """Delete every key of the run, dedupe included."""
        with self._errors():
            for key in self._client.scan_iter(match=_escaped(self._prefix) + "*", count=1000):
                self._client.unlink(key)

    def close(self) -> None:
        """Close the connections. What is pending stays pending."""
        self._client.close()

    def _key(self, name: str) -> str:
        return self._prefix + name

    def _body(self, group_id: str) -> str:
        return self._key(f"body:{group_id}")

    def _run(self, script: str, keys: Sequence[str], *values: Any) -> Any:
        """The answer of a script of `shared/queue_scripts.py`."""
        with self._errors():
            return self._client.eval(script, len(keys), *keys, *values)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except redis.RedisError as error:
            raise QueueUnavailable(_sentence(error, self._where)) from error


def _sentence(error: redis.RedisError, where: str) -> str:
    text = str(error)
    if "maxmemory" in text:
        return f"Redis at {where} is full and stores nothing more: raise its maxmemory, or wait for the learner."
    if "MISCONF" in text or isinstance(error, redis.ReadOnlyError):
        return f"Redis at {where} cannot write ({text}): free its disk, or point queue.url at a primary."
    if isinstance(error, redis.AuthenticationError):
        return f"Redis at {where} refused the password in queue.url."
    if isinstance(error, redis.TimeoutError):
        return f"Redis at {where} did not answer in time."
    if isinstance(error, redis.ConnectionError):
        return f"Redis at {where} cannot be reached ({text}): start it, or correct queue.url."
    return f"Redis at {where} refused: {text}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _escaped(prefix: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]\\" else c for c in prefix)
