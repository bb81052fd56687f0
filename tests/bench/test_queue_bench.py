"""bench/queue.py runs, and what it prints is about the groups that went through the queue."""

from __future__ import annotations

import re

import pytest
from queue_builders import own_redis

from bench.queue import measure, whole


def test_the_queue_is_measured_whole_and_beside_a_bare_client(capsys: pytest.CaptureFixture[str]) -> None:
    with own_redis() as server:
        measure(server, tokens=16, count=3)
    printed = capsys.readouterr().out
    spent = {part: float(ms) for part, ms in re.findall(r"(\w+) ([\d.]+)(?=,|$)", printed.splitlines()[2])}
    rate = float(re.findall(r"([\d.]+) groups/s", printed)[0])
    assert rate * whole(spent) == pytest.approx(1000, rel=0.1)
    assert 0 < spent["encode"] < spent["publish"]
    assert 0 < spent["decode"] < spent["take"]
    assert "XADD from redis-py" in printed
