"""bench/learner.py and bench/learner_head.py run on small shapes, and what they print is of the same step."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from bench.learner import FULL, SHAPES, compare, in_a_process
from bench.learner_head import measure as measure_head
from bench.learner_side import make_model, measure

TINY = SHAPES["tiny"]


@pytest.mark.parametrize("top_k", [FULL, 20])
def test_ours_and_trl_s_step_have_one_gradient_and_each_is_measured(tmp_path: Path, top_k: int) -> None:
    make_model(TINY, tmp_path)
    side = partial(measure, shape=TINY, model=tmp_path, top_k=top_k, device="cpu")
    found = compare(side, rounds=1, tolerance=1e-4)
    assert all(side.seconds > 0 and side.grad_norm > 0 for side in found.values())
    assert found["vpd"].e_step_share is not None and found["vpd"].e_step_share > 0
    assert found["vpd"].tflop > 5 * found["sdpo"].tflop


@pytest.mark.parametrize("who", ["trl", "sdpo"])
def test_a_step_in_a_process_of_its_own_takes_memory(who: str) -> None:
    # Gradients and moments are new there; here they may come from what earlier tests have left.
    found = in_a_process(who, "tiny", FULL, "cpu")
    assert found.peak_gib > 3 * 4 * TINY.vocabulary * TINY.hidden / 2**30


def test_a_long_response_needs_a_fraction_of_the_dense_memory_in_chunks() -> None:
    tokens, vocabulary = 400, 150_000
    _, peak = measure_head(tokens, 8, vocabulary, dense=False)
    assert peak < 2 * 4 * tokens * vocabulary / 2**30  # the dense one makes four such tensors at the least
