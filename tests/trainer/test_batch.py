"""Rows of a step: which have a prompt, what the negative controls exchange, and late rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_builders import RUN_ID, group, random_groups, said, trajectory

from shared.protocol import Message, RolloutGroup
from shared.settings import TeacherPromptSettings
from trainer.batch import Batch, BatchBuilder


def render(messages: list[Message]) -> list[int]:
    return [b for m in messages for b in m.content.encode()]


def builder(*, max_context: int = 10_000, shadow: frozenset[str] = frozenset(), **prompt: Any) -> BatchBuilder:
    prompt_settings = TeacherPromptSettings(**prompt)
    return BatchBuilder(prompt_settings, render=render, max_context=max_context, seed=7, shadow=shadow)


def marked_groups(outcomes: list[list[bool | None]], *, feedback: bool = True) -> list[RolloutGroup]:
    """Groups whose every text names its group: `gN`."""
    made = []
    for g, row in enumerate(outcomes):
        name = f"{RUN_ID}-s000000-g{g:03d}"
        rows = [
            trajectory(r, group=name, text=f"g{g};", success=s, feedback=[said(f"g{g};")] if feedback else [])
            for r, s in enumerate(row)
        ]
        made.append(group(rows, index=g, question="Q"))
    return made


def prompts(batch: Batch) -> list[tuple[str | None, str | None]]:
    return [
        (row.m_prompt.text if row.m_prompt else None, row.e_prompt.text if row.e_prompt else None) for row in batch.rows
    ]


def test_rows_stand_in_the_order_of_groups_and_siblings() -> None:
    groups = random_groups(0, groups=3)
    batch = builder().build(0, groups)
    assert [r.trajectory.trajectory_id for r in batch.rows] == [t.trajectory_id for g in groups for t in g.trajectories]
    assert batch.fresh == batch.rows


def test_a_rollout_that_was_not_judged_has_no_place_in_the_e_step() -> None:
    (row,) = builder().build(0, [group([trajectory(success=None, feedback=[said("hm")])])]).rows
    assert row.e_prompt is None
    assert row.m_prompt is not None


def test_an_empty_response_has_no_prompt() -> None:
    (row,) = builder().build(0, [group([trajectory(token_ids=[], feedback=[said("empty")])])]).rows
    assert row.m_prompt is None and row.e_prompt is None


def test_prompt_and_response_fit_the_context_together() -> None:
    own = trajectory(token_ids=[9] * 100, feedback=[said("word " * 200)])
    (row,) = builder(max_context=400).build(0, [group([own])]).rows
    assert row.m_prompt is not None
    assert len(row.m_prompt.token_ids) + 100 <= 400
    assert row.m_prompt.feedback_chars_cut > 0


def test_shadow_sources_are_recorded_and_never_shown() -> None:
    own = trajectory(feedback=[said("from the trial", name="trial")])
    (row,) = builder(shadow=frozenset({"trial"})).build(0, [group([own])]).rows
    assert row.m_prompt is None and row.e_prompt is None
    assert row.trajectory.feedback[0].text == "from the trial"


outcome_tables = st.lists(st.lists(st.sampled_from([True, False]), min_size=1, max_size=4), min_size=2, max_size=4)


@given(outcome_tables, st.booleans())
@settings(deadline=None)
def test_in_the_shuffled_control_every_context_comes_from_another_prompt(
    outcomes: list[list[bool | None]], feedback: bool
) -> None:
    groups = marked_groups(outcomes, feedback=feedback)
    plain = prompts(builder().build(0, groups))
    shuffled = builder(control="shuffled").build(0, groups)
    for row, before, after in zip(shuffled.rows, plain, prompts(shuffled), strict=True):
        own = f"g{int(row.group.task.id.removeprefix('task-'))};"
        for text in after:
            assert text is None or own not in text
        for was, now in zip(before, after, strict=True):
            assert was is not None or now is None


def test_the_shuffled_control_keeps_which_rows_have_a_context() -> None:
    groups = marked_groups([[True, False, False], [False, True], [False, False]])
    plain, shuffled = (prompts(builder(control=c).build(0, groups)) for c in ("none", "shuffled"))
    assert [[t is None for t in row] for row in shuffled] == [[t is None for t in row] for row in plain]
    assert any(t is None for row in plain for t in row)


def test_a_control_is_the_same_at_every_call_and_another_at_every_step() -> None:
    groups = marked_groups([[False] * 3] * 4)
    control = builder(control="shuffled")
    first = [prompts(control.build(step, groups)) for step in range(4)]
    assert first == [prompts(control.build(step, groups)) for step in range(4)]
    assert len({str(p) for p in first}) > 1


def test_with_a_single_prompt_there_is_nothing_to_exchange() -> None:
    batch = builder(control="shuffled").build(0, marked_groups([[True, False]]))
    assert prompts(batch) == [(None, None)] * 2


def test_the_dropped_control_leaves_no_context() -> None:
    assert set(prompts(builder(control="dropped").build(0, random_groups(0)))) == {(None, None)}


@pytest.mark.parametrize("wanted", [[0], [2], [0, 2]])
def test_late_rows_are_those_named_and_stand_apart_from_the_fresh(wanted: list[int]) -> None:
    earlier, now = random_groups(0, groups=1), random_groups(1, groups=1)
    late = [(earlier[0], earlier[0].trajectories[i].trajectory_id) for i in wanted]
    batch = builder().build(1, now, late)
    assert [r.trajectory.trajectory_id for r in batch.rows if r.late] == [i for _, i in late]
    assert [r.trajectory for r in batch.fresh] == now[0].trajectories


def test_the_repeated_control_shows_every_row_the_step_s_first_context() -> None:
    groups = random_groups(0)
    plain, repeated = (builder(control=c).build(0, groups) for c in ("none", "repeated"))
    asked = {row.group.task.messages[-1].content for row in plain.rows}
    for step in ("m_prompt", "e_prompt"):
        shown = {
            prompt.text.removeprefix(row.group.task.messages[-1].content)
            for row in repeated.rows
            if (prompt := getattr(row, step)) is not None
        }
        first = next(prompt for row in plain.rows if (prompt := getattr(row, step)) is not None)
        assert len(asked) > 1 and len(shown) == 1
        assert next(iter(shown)) in first.text
        assert [getattr(r, step) is None for r in repeated.rows] == [getattr(r, step) is None for r in plain.rows]
