"""Drawing tokens: the distribution itself, which log-probs alone would not show to be right."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.inference.decoding import draw
from shared.protocol import Sampling

DRAWS = 40_000
LOGITS = torch.tensor([1.0, 0.0, -1.0, 0.5, -3.0])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.8), (1.0, 0.5), (1.0, 1e-9)])
def test_tokens_come_as_often_as_their_logprobs_say(temperature: float, top_p: float) -> None:
    generator = torch.Generator().manual_seed(1)
    sampling = Sampling(temperature=temperature, top_p=top_p)
    tokens, logprobs = draw(LOGITS.expand(DRAWS, -1), sampling, generator)
    total = 0.0
    for token in tokens.unique():
        share = (tokens == token).float().mean().item()
        claimed = logprobs[tokens == token].exp().unique()
        assert claimed.numel() == 1
        # Five standard deviations of a share of at most a half.
        assert share == pytest.approx(claimed.item(), abs=5 * 0.5 / DRAWS**0.5)
        total += claimed.item()
    assert total == pytest.approx(1, abs=1e-3)
    if top_p == 1:
        assert tokens.unique().numel() == len(LOGITS)


@given(
    st.lists(st.floats(-30, 30), min_size=1, max_size=8),
    st.floats(1e-30, 10) | st.just(0.0),
    st.floats(1e-6, 1),
)
def test_any_temperature_and_top_p_give_a_finite_logprob_of_at_most_zero(
    logits: list[float], temperature: float, top_p: float
) -> None:
    sampling = Sampling(temperature=temperature, top_p=top_p)
    tokens, logprobs = draw(torch.tensor([logits]), sampling, torch.Generator().manual_seed(0))
    assert 0 <= tokens.item() < len(logits)
    assert -1e4 < logprobs.item() <= 1e-6
