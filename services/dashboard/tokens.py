"""The token view: the response in the texts of its tokens."""

from __future__ import annotations

from itertools import pairwise

from services.dashboard.runs import Rollout


def token_texts(rollout: Rollout) -> list[str] | None:
    """The text of each response token, in the order of `token_lift`, and then what no token ends in, if there is any.

    Of tokens that share a character the first has its text, the others none. None where no teacher scored the row, or
    the run does not say where its tokens end.
    """
    ends, lifts = rollout.token_ends, rollout.token_lift
    if ends is None or lifts is None or len(ends) != len(lifts) or ends != sorted(ends) or (ends and ends[0] < 0):
        return None
    rest = rollout.response[ends[-1] if ends else 0 :]
    return [rollout.response[start:end] for start, end in pairwise([0, *ends])] + ([rest] if rest else [])
