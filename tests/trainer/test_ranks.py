"""Rows are divided so that each counts once, every rank has as many rounds, and no rank has much more to do."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from trainer.policy import Policy
from trainer.ranks import ALONE, Ranks
from trainer.row_layout import by_length, taken
from trainer.scores import Sequences


class Spans:
    """What is asked of a policy here."""

    packs = False

    def __init__(self, microbatch_tokens: int) -> None:
        self.microbatch_tokens = microbatch_tokens

    spans = Policy.spans


rows = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), max_size=20)


def sequences(lengths: list[tuple[int, int]]) -> Sequences:
    return Sequences([[i] * p for i, (p, _) in enumerate(lengths)], [[i] * r for i, (_, r) in enumerate(lengths)])


def rounds_of(lengths: list[tuple[int, int]], size: int, limit: int) -> list[list[Any]]:
    policy: Any = Spans(limit)
    return [Ranks(rank, size).rounds(policy, sequences(lengths)) for rank in range(size)]


@given(rows, st.integers(1, 5), st.integers(20, 200))
def test_every_row_counts_on_one_rank_in_one_round_and_no_rank_has_a_round_more(
    lengths: list[tuple[int, int]], size: int, limit: int
) -> None:
    of_ranks = rounds_of(lengths, size, limit)
    assert len({len(rounds) for rounds in of_ranks}) == 1
    counted = [row for rounds in of_ranks for part in rounds if part.counts for row in part.mine]
    assert sorted(counted) == list(range(len(lengths)))
    for together in zip(*of_ranks, strict=True):
        everyone = [row for part in together if part.counts for row in part.mine]
        assert everyone and all(part.everyone == everyone and part.mine for part in together)


@given(rows, st.integers(1, 5))
def test_no_rank_has_more_tokens_than_another_by_more_than_the_longest_row(
    lengths: list[tuple[int, int]], size: int
) -> None:
    of_ranks = rounds_of(lengths, size, 100)
    tokens = [sum(sum(lengths[i]) for part in rounds if part.counts for i in part.mine) for rounds in of_ranks]
    assert max(tokens) - min(tokens) <= max(map(sum, lengths), default=0)


@given(rows, st.integers(20, 200))
def test_one_rank_has_the_micro_batches_of_the_policy_longest_rows_first(
    lengths: list[tuple[int, int]], limit: int
) -> None:
    policy: Any = Spans(limit)
    whole = taken(sequences(lengths), by_length(sequences(lengths)))
    found = [taken(sequences(lengths), part.mine) for part in ALONE.rounds(policy, sequences(lengths))]
    assert found == [whole[span] for span in policy.spans(whole)]
