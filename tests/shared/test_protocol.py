"""The wire types themselves."""

from __future__ import annotations

import gc
import json
import tracemalloc

from shared.protocol import FeedbackResponse


def test_answers_read_and_let_go_hold_no_memory() -> None:
    read = [FeedbackResponse.model_validate_json(_answer(i)) for i in range(100)]
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for i in range(100, 2100):
            FeedbackResponse.model_validate_json(_answer(i))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(read) == 100
    # Two cached strings an answer would be 250,000 bytes.
    assert grown < 50_000


def _answer(number: int) -> bytes:
    about = {"trajectory_id": f"run-s{number}", "feedback_id": f"run-s{number}:length", "source": {"name": "length"}}
    return json.dumps({"results": [{**about, "status": "ok", "reward": 1.0, "success": True}]}).encode()
