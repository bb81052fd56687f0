"""The Redis server of a local stack."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import redis

from shared.errors import QueueUnavailable, SettingsError
from shared.redis_server import RedisServer, find_redis_server


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_the_server_keeps_what_was_written_across_a_stop_and_never_evicts(tmp_path: Path) -> None:
    port = free_port()
    with RedisServer(tmp_path, port=port) as server:
        client = redis.Redis.from_url(server.url, decode_responses=True)
        client.set("key", "value")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with RedisServer(tmp_path, port=port) as server:
        assert redis.Redis.from_url(server.url, decode_responses=True).get("key") == "value"


def test_a_port_in_use_is_one_sentence_even_if_another_redis_answers_on_it(tmp_path: Path) -> None:
    port = free_port()
    with (
        RedisServer(tmp_path / "first", port=port),
        pytest.raises(QueueUnavailable, match=rf"{port}.*Address already in use"),
    ):
        RedisServer(tmp_path / "second", port=port).start()


def test_a_machine_without_redis_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"vpd\[local\]"):
        find_redis_server()
