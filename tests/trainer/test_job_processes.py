"""Collector and learner as processes: SIGTERM between steps, then the same weights as an undisturbed run."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from job_processes import finish, start
from loop_stack import final_weights, metrics, records, stack, summary
from trainer_algorithms import same


@pytest.mark.e2e
@pytest.mark.timeout(900)
def test_a_run_terminated_between_steps_and_resumed_ends_with_the_same_weights(
    tmp_path: Path, tiny_model_directory: Path, redis_url: str
) -> None:
    with stack(tmp_path, tiny_model_directory, redis_url) as services:
        whole, broken = services.settings("whole"), services.settings("broken")
        for settings, file in ((whole, tmp_path / "whole.json"), (broken, tmp_path / "broken.json")):
            collector, learner = (start(job, settings, file) for job in ("collector", "learner"))
            try:
                if settings is broken:
                    lines = tmp_path / "runs" / "broken" / "metrics.jsonl"
                    deadline = time.monotonic() + 240
                    while not (lines.exists() and '"kind": "step"' in lines.read_text()):
                        assert learner.poll() is None and time.monotonic() < deadline
                        time.sleep(0.002)
                    for process in (learner, collector):
                        process.send_signal(signal.SIGTERM)
                    assert finish(learner) == 0 and finish(collector) == 0
                    collector, learner = (start(job, settings, file) for job in ("collector", "learner"))
                assert finish(learner) == 0 and finish(collector) == 0
            finally:
                for process in (collector, learner):
                    process.kill()
                    process.wait()
        assert same(final_weights(broken), final_weights(whole))
        assert metrics(broken) == metrics(whole)
        assert [r["step"] for r in records(broken) if r["kind"] == "step"] == [0, 1, 2]
        assert summary(broken)["rows_trained"] == summary(whole)["rows_trained"]
