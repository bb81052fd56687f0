"""Rows as tensors: nothing is lost, lines are told apart, micro-batches fit and waste little."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask

from trainer.policy import Policy
from trainer.row_layout import Layout, by_length, packed, padded, spans, taken
from trainer.scores import Sequences

NewPolicy = Callable[..., Policy]
rows_of_tokens = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=9), min_size=1, max_size=6)
lengths = st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 200)), max_size=20)


def aligned(shapes: list[tuple[int, int, int]]) -> tuple[Sequences, Sequences]:
    """The same responses after short and after long prompts."""
    responses = [[0] * r for _, r, _ in shapes]
    return Sequences([[0] * p for p, _, _ in shapes], responses), Sequences([[0] * p for _, _, p in shapes], responses)


def widths(of: tuple[Sequences, Sequences]) -> list[tuple[int, int]]:
    short, long = ([len(p) + len(r) for p, r in zip(s.prompts, s.responses, strict=True)] for s in of)
    return list(zip(short, long, strict=True))


@given(rows_of_tokens)
def test_every_token_stands_where_its_row_starts_in_both_layouts(rows: list[list[int]]) -> None:
    for layout in (padded(rows), packed(rows)):
        line = layout.inputs["input_ids"].reshape(-1).tolist()
        assert [line[start : start + len(row)] for start, row in zip(layout.starts, rows, strict=True)] == rows


@given(rows_of_tokens)
def test_packed_rows_have_no_padding_and_positions_of_their_own(rows: list[list[int]]) -> None:
    inputs = packed(rows).inputs
    assert inputs["input_ids"].tolist() == [[token for row in rows for token in row]]
    assert inputs["position_ids"].tolist() == [[i for row in rows for i in range(len(row))]]
    assert [b - a for a, b in pairwise(inputs["cu_seq_lens_q"].tolist())] == [len(row) for row in rows]
    assert inputs["max_length_q"] == max(map(len, rows))


@given(rows_of_tokens)
def test_padding_is_masked_and_nothing_else(rows: list[list[int]]) -> None:
    layout = padded(rows)
    assert layout.inputs["attention_mask"].sum(1).tolist() == [len(row) for row in rows]
    assert (layout.inputs["input_ids"] > 0).equal(layout.inputs["attention_mask"] > 0)


@given(lengths, st.integers(64, 500))
def test_packed_micro_batches_are_counted_without_padding_and_are_as_full_as_they_can_be(
    shapes: list[tuple[int, int, int]], limit: int
) -> None:
    pair = aligned(shapes)
    found = list(spans(pair, limit, packs=True))
    assert [i for span in found for i in range(span.start, span.stop)] == list(range(len(shapes)))
    tokens = [max(sum(w[k] for w in widths(pair)[span]) for k in (0, 1)) for span in found]
    assert all(total <= limit or span.stop - span.start == 1 for total, span in zip(tokens, found, strict=True))
    for span, following in pairwise(found):
        with_next = widths(pair)[span.start : following.start + 1]
        assert max(sum(w[k] for w in with_next) for k in (0, 1)) > limit


@given(lengths, st.integers(64, 500))
def test_rows_in_order_of_length_never_need_more_padding(shapes: list[tuple[int, int, int]], limit: int) -> None:
    shapes = shapes[: len(shapes) // 4 * 4]

    def padding(of: tuple[Sequences, Sequences]) -> int:
        """Tokens of padding when all rows are cut into micro-batches of 4."""
        longest = [max(w) for w in widths(of)]
        return sum(max(longest[i : i + 4]) * len(longest[i : i + 4]) for i in range(0, len(longest), 4)) - sum(longest)

    pair = aligned(shapes)
    order = by_length(*pair)
    assert sorted(order) == list(range(len(shapes)))
    sorted_pair = taken(pair[0], order), taken(pair[1], order)
    assert padding(sorted_pair) <= padding(pair)
    found = list(spans(sorted_pair, limit, packs=False))
    assert all(
        max(map(max, widths(sorted_pair)[s])) * (s.stop - s.start) <= limit or s.stop - s.start == 1 for s in found
    )


def test_rows_of_one_length_keep_their_order() -> None:
    assert by_length(Sequences([[1], [1, 1], [1], [1]], [[2], [2], [2], [2]])) == [1, 0, 2, 3]


def test_response_log_probs_come_in_the_order_of_the_rows_however_they_are_cut(new_policy: NewPolicy) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = [40, 3, 25, 3, 60, 12]
    rows = [torch.randint(5, 200, (n,), generator=generator).tolist() for n in sizes]
    sequences = Sequences([row[:2] for row in rows], [row[2:] for row in rows])
    alone = torch.cat([new_policy().response_logprobs(sequences[i : i + 1]) for i in range(len(rows))])
    for limit in (64, 100, 10_000):
        policy = new_policy(microbatch_tokens=limit)
        torch.testing.assert_close(policy.response_logprobs(sequences), alone, rtol=1e-5, atol=1e-4)


# ------------------------------------------------------------------------------------------------- attention by lines


def attention_by_boundaries(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **given: Any
) -> tuple[Tensor, None]:
    """What a variable-length kernel does with the boundaries it is given: causal attention within each of them."""
    assert attention_mask is None
    bounds = given["cu_seq_lens_q"].tolist()
    assert given["cu_seq_lens_k"].tolist() == bounds
    assert given["max_length_q"] == given["max_length_k"] == max(b - a for a, b in pairwise(bounds))
    parts = [
        scaled_dot_product_attention(
            query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], is_causal=True, scale=scaling, enable_gqa=True
        )
        for a, b in pairwise(bounds)
    ]
    return torch.cat(parts, 2).transpose(1, 2), None


def test_the_boundaries_reach_every_layers_attention(new_policy: NewPolicy) -> None:
    AttentionInterface.register("by_boundaries", attention_by_boundaries)
    AttentionMaskInterface.register("by_boundaries", flash_attention_mask)
    rows = Sequences([[3, 4], [3, 60, 61, 62, 4], [3, 4]], [[102, 103, 104], [107], [100, 101]])
    expected = new_policy().response_logprobs(rows)
    policy = new_policy()
    network: Any = policy.network
    network.config._attn_implementation = "by_boundaries"
    policy.packs = True
    torch.testing.assert_close(policy.response_logprobs(rows), expected, rtol=1e-5, atol=1e-4)


def test_a_layout_moves_tensors_and_leaves_numbers() -> None:
    moved = Layout({"input_ids": torch.tensor([[1]]), "max_length_q": 3}, [0]).to(torch.device("meta"))
    assert moved["input_ids"].device.type == "meta" and moved["max_length_q"] == 3
