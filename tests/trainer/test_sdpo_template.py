"""With SDPO's released recipes the teacher's prompts are byte for byte those of its own template.

The template and its rules (arXiv 2601.20802 and its authors' configuration) are restated here from their description.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_builders import group, said, trajectory

from shared.algorithm_settings import SDPOSettings
from shared.load_settings import load_settings
from shared.protocol import Message, RolloutGroup
from shared.settings import Settings
from trainer.batch import BatchBuilder, Row
from trainer.policy import Policy

RECIPES = Path(__file__).parents[2] / "recipes"
OUTCOMES = load_settings((RECIPES / "sdpo_released.toml",), (), {})
FEEDBACK = load_settings((RECIPES / "sdpo_released_feedback.toml",), (), {})
SYSTEM = Message(role="system", content="Answer briefly.")
THRESHOLD = 0.5


@dataclass(frozen=True)
class Attempt:
    """One rollout as SDPO sees it: its decoded text, its summed reward, and what the environment said."""

    text: str
    reward: float
    feedback: str | None = None


def official(question: str, attempts: list[Attempt], *, environment_feedback: bool) -> list[str | None]:
    """The last user message of each attempt's teacher prompt; None where the attempt is masked out of the loss."""
    successes = [i for i, attempt in enumerate(attempts) if attempt.reward >= THRESHOLD]
    messages: list[str | None] = []
    for i, attempt in enumerate(attempts):
        others = [j for j in successes if j != i]  # never its own success
        solution = feedback = ""
        if others:
            shown = re.sub(r"<think>[\s\S]*?</think>\s*", "", attempts[others[0]].text)
            solution = "\nCorrect solution:\n\n" + shown
        elif environment_feedback and attempt.feedback is not None and attempt.feedback.strip():
            feedback = "\nThe following is feedback from your unsuccessful earlier attempt:\n\n" + attempt.feedback
        context = solution + feedback
        messages.append(question + context + "\n\nCorrectly solve the original question." if context else None)
    return messages


def group_of(question: str, attempts: list[Attempt]) -> RolloutGroup:
    """The attempts as this project has them: a reward of 1 is a success."""
    rows = [
        trajectory(
            i,
            text=attempt.text,
            success=attempt.reward == 1.0,
            feedback=[said(attempt.feedback)] if attempt.feedback is not None else [],
            token_ids=[20 + i, 30],
        )
        for i, attempt in enumerate(attempts)
    ]
    made = group(rows, question=question)
    return made.model_copy(
        update={"task": made.task.model_copy(update={"messages": [SYSTEM, Message(role="user", content=question)]})}
    )


def rows_of(recipe: Settings, made: RolloutGroup, render: Callable[..., list[int]]) -> list[Row]:
    builder = BatchBuilder(recipe.teacher_prompt, render=render, max_context=10**6, seed=0, shadow=frozenset())
    return builder.build(0, [made]).rows


def texts_of(recipe: Settings, question: str, attempts: list[Attempt]) -> list[str | None]:
    rows = rows_of(recipe, group_of(question, attempts), lambda messages: [len(messages)])
    return [None if row.m_prompt is None else row.m_prompt.text for row in rows]


FAILED, WITHOUT, SOLVED = Attempt("wrong", 0.0, "Runtime Error\nline 3"), Attempt("wrong", 0.0), Attempt("right", 1.0)
CASES = {
    "failed, a sibling succeeded": [FAILED, SOLVED],
    "failed, only feedback": [FAILED, FAILED],
    "succeeded, another sibling succeeded": [SOLVED, Attempt("right too", 1.0)],
    "the sibling thought first": [FAILED, Attempt("<think>\nwell\n</think>\n\nright <think>or</think> so", 1.0)],
    "succeeded alone": [SOLVED, WITHOUT],
    "failed with neither": [WITHOUT, WITHOUT],
}


@pytest.mark.parametrize("case", CASES)
def test_each_case_of_the_table_has_sdpo_s_message(case: str) -> None:
    for recipe, environment_feedback in ((FEEDBACK, True), (OUTCOMES, False)):
        expected = official("What is 2 + 2?", CASES[case], environment_feedback=environment_feedback)
        assert texts_of(recipe, "What is 2 + 2?", CASES[case]) == expected


def test_the_messages_are_these_bytes() -> None:
    """Guards the restatement itself: one newline before a section, a blank line after its header and before the end."""
    with_sibling, _ = texts_of(FEEDBACK, "Q?", CASES["failed, a sibling succeeded"])
    with_feedback, _ = texts_of(FEEDBACK, "Q?", CASES["failed, only feedback"])
    assert with_sibling == "Q?\nCorrect solution:\n\nright\n\nCorrectly solve the original question."
    assert with_feedback == (
        "Q?\nThe following is feedback from your unsuccessful earlier attempt:\n\nRuntime Error\nline 3"
        "\n\nCorrectly solve the original question."
    )


pieces = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<think>hm</think>\n\n",
            "{prompt}",
            "{",
            "}",
            "\n",
            "\n\n",
            " ",
            "a",
            "Ω",
            "%s",
            "\\1",
            "<|im_end|>",
        ]
    ),
    max_size=6,
).map("".join)
attempts_drawn = st.lists(
    st.builds(Attempt, pieces, st.sampled_from([0.0, 1.0]), st.none() | pieces), min_size=1, max_size=6
)


@given(pieces, attempts_drawn)
@settings(deadline=None, max_examples=200)
def test_every_group_of_attempts_has_sdpo_s_messages_with_rich_feedback(question: str, attempts: list[Attempt]) -> None:
    """SDPO's environments say nothing of a success."""
    said_of_failures = [a if a.reward < THRESHOLD else Attempt(a.text, a.reward) for a in attempts]
    expected = official(question, said_of_failures, environment_feedback=True)
    assert texts_of(FEEDBACK, question, said_of_failures) == expected
    assert texts_of(FEEDBACK, question, attempts) == expected


@given(pieces, attempts_drawn)
@settings(deadline=None, max_examples=100)
def test_every_group_of_attempts_has_sdpo_s_messages_with_outcomes_alone(
    question: str, attempts: list[Attempt]
) -> None:
    assert texts_of(OUTCOMES, question, attempts) == official(question, attempts, environment_feedback=False)


def test_the_prompt_keeps_the_system_message_and_the_response_its_own_token_ids(
    new_policy: Callable[..., Policy],
) -> None:
    render = new_policy().render
    attempts = CASES["failed, a sibling succeeded"]
    row = rows_of(FEEDBACK, group_of("Q?", attempts), render)[0]
    message = official("Q?", attempts, environment_feedback=True)[0]
    assert message is not None and row.m_prompt is not None
    assert row.m_prompt.token_ids == render([SYSTEM, Message(role="user", content=message)])
    assert row.response_ids == [20, 30]


# --------------------------------------------------------------------------------- the other values of the two scripts


def test_both_recipes_have_the_values_that_the_scripts_share() -> None:
    for recipe in (OUTCOMES, FEEDBACK):
        sampling = recipe.rollout
        assert (sampling.prompts_per_step, sampling.samples_per_prompt, sampling.max_tokens) == (32, 8, 8192)
        assert (sampling.temperature, sampling.top_p) == (1.0, 1.0)
        adamw = recipe.optimizer
        assert (adamw.beta1, adamw.beta2, adamw.weight_decay, adamw.max_grad_norm) == (0.9, 0.999, 0.01, 1.0)
        assert adamw.final_share == 1.0
        assert recipe.teacher_prompt.max_tokens == 10240
        assert (recipe.evaluation.temperature, recipe.evaluation.top_p, recipe.evaluation.every) == (0.6, 0.95, 5)
        m_step = recipe.algorithm.m_step  # type: ignore[union-attr]
        assert (m_step.importance_cap, m_step.epochs) == (2.0, 1)
        assert (m_step.aggregation, m_step.masked_rows) == ("sequence_mean", "counted")


@pytest.mark.parametrize(
    ("recipe", "rates", "step", "samples"),
    [(OUTCOMES, (1e-5, 10, 0.05), ("jsd", 100, 1), 16), (FEEDBACK, (1e-6, 0, 0.01), ("reverse_kl", 20, 32), 4)],
    ids=["outcomes", "feedback"],
)
def test_each_recipe_has_the_values_of_its_own_script(
    recipe: Settings, rates: tuple[float, int, float], step: tuple[str, int, int], samples: int
) -> None:
    algorithm = recipe.algorithm
    assert isinstance(algorithm, SDPOSettings)
    assert (algorithm.learning_rate, recipe.optimizer.warmup_steps, algorithm.teacher.rate) == rates
    assert algorithm.teacher.weights == "ema"
    assert (algorithm.m_step.divergence, algorithm.m_step.top_k, algorithm.m_step.minibatches) == step
    assert algorithm.m_step.jsd_alpha == 0.5
    assert recipe.evaluation.samples == samples
