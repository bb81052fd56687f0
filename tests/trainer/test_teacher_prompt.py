"""What the teacher sees: the table of docs/algorithm.md, SDPO's template, one-pass composition, cuts to fit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from trainer_builders import said, trajectory

from shared.protocol import Message, Trajectory
from shared.settings import TeacherPromptSettings
from trainer.teacher_prompt import (
    Context,
    TeacherPrompt,
    build,
    compose,
    e_step_context,
    feedback_text,
    m_step_context,
)

DEFAULT = TeacherPromptSettings()
NO_SHADOW: frozenset[str] = frozenset()
ASK = "\n\nCorrectly solve the original question."
DEMO = "\n\nCorrect solution:\n\n"
FAILED = "\n\nThe following is feedback from your unsuccessful earlier attempt:\n\n"
PASSED = "\n\nThe following is feedback from your earlier attempt:\n\n"
HUMAN = said("Look at line 2.", name="human", kind="human")


def bytes_of(messages: list[Message]) -> list[int]:
    """A renderer that counts bytes: one header byte a message, one for the generation prompt."""
    return [b for m in messages for b in [0, *m.content.encode()]] + [1]


def prompt_of(
    own: Trajectory,
    siblings: list[Trajectory],
    *,
    step: str = "m",
    question: str = "Q",
    settings: TeacherPromptSettings = DEFAULT,
    max_tokens: int = 100_000,
) -> TeacherPrompt | None:
    context = (m_step_context if step == "m" else e_step_context)(own, siblings, settings, NO_SHADOW)
    if not context:
        return None
    messages = [Message(role="system", content="S"), Message(role="user", content=question)]
    return build(messages, context, settings=settings, render=bytes_of, max_tokens=max_tokens)


def siblings_of(*outcomes: bool | None, feedback: bool = True) -> list[Trajectory]:
    return [
        trajectory(i, text=f"attempt {i}", success=s, feedback=[said(f"said of {i}")] if feedback else [])
        for i, s in enumerate(outcomes)
    ]


# ------------------------------------------------------------------------------- SDPO's template and its five cases


def official(question: str, *, solution: str | None = None, feedback: str | None = None) -> str:
    """SDPO's template with its three pieces filled in, restated; our section breaks are two newlines, theirs one."""
    pieces = {
        "prompt": question,
        "solution": "" if solution is None else "\n" + "\nCorrect solution:\n\n" + solution,
        "feedback": ""
        if feedback is None
        else "\n" + "\nThe following is feedback from your unsuccessful earlier attempt:\n\n" + feedback,
    }
    return (
        pieces["prompt"] + pieces["solution"] + pieces["feedback"] + "\n\n" + "Correctly solve the original question."
    )


def text_of(index: int, group: list[Trajectory], **keywords: object) -> str | None:
    prompt = prompt_of(group[index], group, **keywords)  # type: ignore[arg-type]
    return None if prompt is None else prompt.text


def test_failed_with_a_successful_sibling_sees_the_sibling_alone() -> None:
    assert text_of(0, siblings_of(False, True)) == official("Q", solution="attempt 1")


def test_failed_without_one_sees_its_feedback() -> None:
    assert text_of(0, siblings_of(False, False)) == official("Q", feedback="said of 0")


def test_succeeded_beside_another_success_sees_the_other() -> None:
    group = siblings_of(True, True, True)
    assert [text_of(i, group) for i in range(3)] == [
        official("Q", solution="attempt 1"),
        official("Q", solution="attempt 0"),
        official("Q", solution="attempt 0"),
    ]


def test_succeeded_alone_has_no_context() -> None:
    assert text_of(0, siblings_of(True, False, None)) is None


def test_failed_with_neither_has_no_context() -> None:
    assert text_of(0, siblings_of(False, False, feedback=False)) is None


def test_with_feedback_always_a_failure_sees_the_sibling_and_then_the_feedback() -> None:
    always = TeacherPromptSettings(feedback="always")
    expected = official("Q", solution="attempt 1", feedback="said of 0")
    assert text_of(0, siblings_of(False, True), settings=always) == expected


# ------------------------------------------------------------------------------------------- all cases of the table


OUTCOMES = [True, False, None]


@pytest.mark.parametrize("human", [True, False])
@pytest.mark.parametrize("mode", ["without_demonstration", "always", "never"])
@pytest.mark.parametrize("demonstrations", [True, False])
def test_every_case_of_the_m_step_s_table(human: bool, mode: str, demonstrations: bool) -> None:
    settings = TeacherPromptSettings.model_validate({"feedback": mode, "demonstration": demonstrations})
    for own, *others, feedback in itertools.product(OUTCOMES, OUTCOMES, OUTCOMES, [True, False]):
        group = siblings_of(own, *others, feedback=bool(feedback))
        if human:
            group[0] = group[0].model_copy(update={"feedback": [*group[0].feedback, HUMAN]})
        demonstration = next((f"attempt {i + 1}" for i, s in enumerate(others) if s and demonstrations), None)
        wanted = []
        if feedback and own is not True and (mode == "always" or (mode != "never" and demonstration is None)):
            wanted.append("said of 0")
        if human and mode != "never":
            wanted.append("Look at line 2.")
        text = "Q" + (DEMO + demonstration if demonstration else "")
        text += (FAILED if own is False else PASSED) + "\n\n".join(wanted) if wanted else ""
        expected = text + ASK if text != "Q" else None
        assert text_of(0, group, settings=settings) == expected, (own, others, feedback)


@pytest.mark.parametrize(
    ("own", "other", "feedback", "expected"),
    [
        (True, True, True, "Q" + DEMO + "attempt 1" + ASK),
        (True, False, True, "Q" + PASSED + "said of 0" + ASK),
        (True, False, False, None),
        (False, True, True, "Q" + FAILED + "said of 0" + ASK),
        (False, True, False, "Q" + DEMO + "attempt 1" + ASK),
        (False, False, True, "Q" + FAILED + "said of 0" + ASK),
        (False, False, False, None),
    ],
)
def test_the_e_step_s_contexts(own: bool, other: bool, feedback: bool, expected: str | None) -> None:
    assert text_of(0, siblings_of(own, other, feedback=feedback), step="e") == expected


@pytest.mark.parametrize(
    ("outcomes", "shown"),
    [((False, True, False), "said of 2"), ((False, True), "said of 0"), ((False, None), "said of 0")],
)
def test_a_failure_may_be_scored_under_another_failure_s_feedback(
    outcomes: tuple[bool | None, ...], shown: str
) -> None:
    settings = TeacherPromptSettings(failure_feedback="sibling")
    assert text_of(0, siblings_of(*outcomes), step="e", settings=settings) == "Q" + FAILED + shown + ASK
    assert text_of(0, siblings_of(False, False), settings=settings) == "Q" + FAILED + "said of 0" + ASK


def test_in_the_e_step_a_success_shows_its_critique_beside_the_demonstration() -> None:
    group = siblings_of(True, True)
    group[0] = group[0].model_copy(update={"feedback": [*group[0].feedback, HUMAN]})
    assert text_of(0, group, step="e") == "Q" + DEMO + "attempt 1" + PASSED + "Look at line 2." + ASK


# ----------------------------------------------------------------------------------------------- what never appears


@given(st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=6), st.sampled_from(["m", "e"]))
def test_a_rollout_s_own_text_is_never_in_its_prompt_and_the_demonstration_is_the_first_other_success(
    outcomes: list[bool | None], step: str
) -> None:
    group = [
        trajectory(i, text=f"own words {i};", success=s, feedback=[said("something")]) for i, s in enumerate(outcomes)
    ]
    for index, own in enumerate(group):
        prompt = prompt_of(own, group, step=step)
        if prompt is not None:
            assert own.rollout.text not in prompt.text
            shown = [t for t in group if t.rollout.text in prompt.text]
            first = next((t for i, t in enumerate(group) if t.success and i != index), None)
            assert shown in ([], [first])


def test_shadow_sources_and_failed_sources_are_never_shown() -> None:
    own = trajectory(
        feedback=[
            said("from the shadow", name="trial"),
            said("from a person", name="human", kind="human"),
            said("half an answer", name="broken", status="error"),
            said("late", name="slow", status="timeout"),
            said("nothing to add", name="shy", status="abstain"),
            said("  \n", name="blank"),
            said(None, name="mute"),
        ]
    )
    assert feedback_text(own, frozenset({"trial"})) == "from a person"
    assert feedback_text(own, frozenset({"trial", "human"})) is None


def test_a_human_shadow_source_is_not_shown_either() -> None:
    assert feedback_text(trajectory(feedback=[HUMAN]), frozenset({"human"}), human_only=True) is None


def test_several_sources_are_shown_in_order() -> None:
    assert feedback_text(trajectory(feedback=[said("one"), said("two", name="critic"), HUMAN]), NO_SHADOW) == (
        "one\n\ntwo\n\nLook at line 2."
    )


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<think>hm</think>answer", "answer"),
        ("<think>a\nb</think>\n\nanswer", "answer"),
        ("x<think>a</think> y<think>b</think>z", "xyz"),
        ("answer", "answer"),
        ("<think>never closed", "<think>never closed"),
    ],
)
def test_thinking_is_cut_from_demonstrations(written: str, shown: str) -> None:
    group = [trajectory(0), trajectory(1, text=written, success=True)]
    assert m_step_context(group[0], group, DEFAULT, NO_SHADOW).demonstration == shown
    kept = TeacherPromptSettings(remove_thinking=False)
    assert m_step_context(group[0], group, kept, NO_SHADOW).demonstration == written


# --------------------------------------------------------------------------------------------------- untrusted text


nasty = st.lists(
    st.sampled_from(
        ["{", "}", "{prompt}", "{0}", "{{feedback}}", "%s", "$question", "\\1", "{% if %}", "é", "\n", "x"]
    ),
    min_size=1,
).map("".join)


@given(nasty, nasty, nasty)
def test_braces_and_template_words_are_text_like_any_other(question: str, demonstration: str, feedback: str) -> None:
    text = compose(question, demonstration=demonstration, feedback=feedback, succeeded=False, settings=DEFAULT)
    assert text == question + DEMO + demonstration + FAILED + feedback + ASK


@given(nasty)
def test_headers_with_braces_are_not_templates_either(header: str) -> None:
    settings = TeacherPromptSettings(feedback_header=header, closing=header)
    text = compose("Q", demonstration=None, feedback="f", succeeded=False, settings=settings)
    assert text == "Q" + header + "f" + header


# ------------------------------------------------------------------------------------------------------- cut to fit


@given(
    st.text(alphabet="abc{}\n", min_size=0, max_size=40),
    st.none() | st.text(alphabet="xyz", max_size=60),
    st.text(alphabet="0123456789", min_size=1, max_size=400),
    st.integers(16, 700),
)
@settings(max_examples=200)
def test_feedback_is_cut_to_fit_and_never_the_question_the_solution_or_the_closing(
    question: str, demonstration: str | None, feedback: str, limit: int
) -> None:
    messages = [Message(role="system", content="system"), Message(role="user", content=question)]
    context = Context(demonstration, feedback)
    prompt = build(messages, context, settings=DEFAULT, render=bytes_of, max_tokens=limit)
    whole = question + (DEMO + demonstration if demonstration is not None else "")
    bare = len(bytes_of([messages[0], Message(role="user", content=whole + ASK)]))
    full = bare + len(FAILED + feedback)
    if prompt is None:
        assert bare > limit or (demonstration is None and full > limit)
        return
    assert len(prompt.token_ids) <= limit
    assert prompt.text.startswith(whole) and prompt.text.endswith(ASK)
    assert prompt.token_ids == bytes_of([messages[0], Message(role="user", content=prompt.text)])
    assert (prompt.feedback_chars_cut == 0) == (full <= limit)
    shown = prompt.text[len(whole) : -len(ASK)]
    digits_of_marker = str(prompt.feedback_chars_cut) if "characters cut" in shown else ""
    shown_digits = sum(c.isdigit() for c in shown) - len(digits_of_marker)
    assert prompt.feedback_chars_cut == len(feedback) - shown_digits


def test_both_ends_of_long_feedback_stay() -> None:
    prompt = build(
        [Message(role="user", content="Q")],
        Context(None, "START" + "." * 1000 + "END"),
        settings=DEFAULT,
        render=bytes_of,
        max_tokens=600,
    )
    assert prompt is not None
    assert "START" in prompt.text and "END" in prompt.text and "characters cut" in prompt.text


def sources_of(prompt: TeacherPrompt | None) -> tuple[str, ...]:
    assert prompt is not None
    return prompt.sources


def test_a_prompt_knows_the_sources_whose_text_stands_in_it() -> None:
    own = trajectory(
        feedback=[said("one"), said(None, name="mute"), said("two", name="critic"), said("3", name="code")]
    )
    assert sources_of(prompt_of(own, [own])) == ("code", "critic")
    assert sources_of(prompt_of(own, [own], step="e")) == ("code", "critic")
    solved = trajectory(1, success=True, feedback=[said("passed"), HUMAN])
    assert sources_of(prompt_of(own, [own, solved])) == ()
    assert sources_of(prompt_of(solved, [own, solved])) == ("human",)
    assert sources_of(prompt_of(solved, [own, solved], step="e")) == ("code", "human")


def test_a_source_whose_text_was_cut_out_altogether_does_not_stand_in_the_prompt() -> None:
    texts = {"first": "1" * 300, "middle": "2" * 300, "last": "3" * 300}
    own = trajectory(feedback=[said(text, name=name) for name, text in texts.items()])
    seen = set()
    for room in range(100, 1200, 10):
        prompt = prompt_of(own, [own], max_tokens=room)
        if prompt is not None:
            shown = tuple(name for name, text in texts.items() if text[0] * 3 in prompt.text)
            assert prompt.sources == shown
            seen.add(shown)
    assert seen == {("first", "last"), ("first", "middle", "last")}


def test_the_settings_limit_holds_where_the_context_has_more_room() -> None:
    context = Context(None, "long " * 100)
    small = TeacherPromptSettings(max_tokens=200)
    prompt = build([Message(role="user", content="Q")], context, settings=small, render=bytes_of, max_tokens=10_000)
    assert prompt is not None and len(prompt.token_ids) <= 200


@given(st.integers(-5, 60))
def test_without_room_even_for_the_demonstration_there_is_no_prompt(limit: int) -> None:
    messages = [Message(role="user", content="Q" * 20)]
    assume(limit < 20 + len(DEMO + "solution" + ASK))
    context = Context("solution", "feedback")
    assert build(messages, context, settings=DEFAULT, render=bytes_of, max_tokens=limit) is None


def test_all_messages_before_the_question_stay() -> None:
    messages = [
        Message(role="system", content="S"),
        Message(role="user", content="u"),
        Message(role="assistant", content="a"),
        Message(role="user", content="Q"),
    ]
    prompt = build(messages, Context(None, "f"), settings=DEFAULT, render=bytes_of, max_tokens=1000)
    assert prompt is not None
    expected = [*messages[:3], Message(role="user", content="Q" + FAILED + "f" + ASK)]
    assert prompt.token_ids == bytes_of(expected)
