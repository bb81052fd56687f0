"""What the teacher sees: the question, a sibling's solution, feedback, and the request to solve it again.

The text is put together in one pass by concatenation, so that braces or template words in untrusted feedback do
nothing. Which context belongs to which rollout is the table of `docs/algorithm.md`; here is its code. The failed
attempt itself is never in the prompt; the response's own token ids follow it, unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.protocol import Feedback, Message, Trajectory
from shared.settings import TeacherPromptSettings

Render = Callable[[Sequence[Message]], list[int]]
"""Chat messages -> prompt token ids, ending with the generation prompt."""

_BETWEEN = "\n\n"
_THINKING = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


class Part(NamedTuple):
    """Whose text stands where in a context's feedback."""

    source: str
    start: int
    end: int


@dataclass(frozen=True)
class Context:
    """What the teacher knows and the student does not. `succeeded` chooses the header above the feedback, `parts` say
    whose words the feedback is."""

    demonstration: str | None = None
    feedback: str | None = None
    succeeded: bool = False
    parts: tuple[Part, ...] = ()

    def __bool__(self) -> bool:
        return self.demonstration is not None or self.feedback is not None

    @classmethod
    def of(cls, demonstration: str | None, said: Sequence[Feedback], *, succeeded: bool = False) -> Context:
        """With the texts of feedback, in their order."""
        parts: list[Part] = []
        end = 0
        for feedback in said:
            start = end + (len(_BETWEEN) if parts else 0)
            end = start + len(feedback.text or "")
            parts.append(Part(feedback.source.name, start, end))
        return cls(demonstration, _joined(said), succeeded, tuple(parts))


@dataclass(frozen=True)
class TeacherPrompt:
    """A rendered prompt: its last user message as text, its token ids, characters of feedback cut to fit, and the
    sources whose text stands in it, whole or in part."""

    text: str
    token_ids: list[int]
    feedback_chars_cut: int = 0
    sources: tuple[str, ...] = ()


def compose(
    question: str, *, demonstration: str | None, feedback: str | None, succeeded: bool, settings: TeacherPromptSettings
) -> str:
    """The teacher's last user message (SDPO's shape: question, solution, feedback, closing)."""
    parts = [question]
    if demonstration is not None:
        parts += [settings.demonstration_header, demonstration]
    if feedback is not None:
        parts += [settings.success_header if succeeded else settings.feedback_header, feedback]
    return "".join([*parts, settings.closing])


def build(
    messages: Sequence[Message],
    context: Context,
    *,
    settings: TeacherPromptSettings,
    render: Render,
    max_tokens: int,
) -> TeacherPrompt | None:
    """Render the teacher's prompt in at most `max_tokens` tokens.

    Feedback is cut in the middle to fit, never the question or the closing. None where even without feedback there
    is no room: such a rollout has no context.
    """
    limit = min(max_tokens, settings.max_tokens)

    def attempt(feedback: str | None, kept: int) -> TeacherPrompt:
        text = compose(
            messages[-1].content,
            demonstration=context.demonstration,
            feedback=feedback,
            succeeded=context.succeeded,
            settings=settings,
        )
        cut = len(context.feedback or "") - kept
        shown = _sources_left(context.parts, len(context.feedback or ""), kept)
        return TeacherPrompt(text, render([*messages[:-1], Message(role="user", content=text)]), cut, shown)

    kept = len(context.feedback or "")
    prompt = attempt(context.feedback, kept)
    while len(prompt.token_ids) > limit and kept > 0:
        kept = kept // 2 if kept > 32 else 0
        prompt = attempt(_middle_cut(context.feedback or "", kept) if kept else None, kept)
    fits = len(prompt.token_ids) <= limit
    has_context = context.demonstration is not None or kept > 0
    return prompt if fits and has_context else None


def m_step_context(
    trajectory: Trajectory, siblings: Sequence[Trajectory], settings: TeacherPromptSettings, shadow: frozenset[str]
) -> Context:
    """The context a rollout is distilled under: the first successful sibling, else its own feedback.

    A lone success has none: its own success is never its demonstration. What a person wrote is always shown.
    """
    demonstration = _demonstration(trajectory, siblings, settings)
    show_all = settings.feedback == "always" or (settings.feedback != "never" and demonstration is None)
    human_only = trajectory.success is True or not show_all
    own = [] if settings.feedback == "never" else _shown(trajectory, shadow, human_only=human_only)
    return Context.of(demonstration, own, succeeded=trajectory.success is not False)


def e_step_context(
    trajectory: Trajectory, siblings: Sequence[Trajectory], settings: TeacherPromptSettings, shadow: frozenset[str]
) -> Context:
    """The context an outcome is scored under: a success has a sibling's demonstration, else the feedback that it
    passed; a failure has its own feedback, or another failure's if so set, else a demonstration."""
    demonstration = _demonstration(trajectory, siblings, settings)
    own = [] if settings.feedback == "never" else _shown(trajectory, shadow)
    if settings.failure_feedback == "sibling" and trajectory.success is False and own:
        failed = [s for s in siblings if s.success is False and s.trajectory_id != trajectory.trajectory_id]
        own = next((said for s in failed if (said := _shown(s, shadow))), own)
    if trajectory.success:
        human = [f for f in own if f.source.kind == "human"]
        return Context.of(demonstration, human if demonstration is not None else own, succeeded=True)
    return Context.of(None, own) if own else Context(demonstration)


def feedback_text(trajectory: Trajectory, shadow: frozenset[str], *, human_only: bool = False) -> str | None:
    """The texts of all sources outside the shadow, in their order, joined by blank lines; None if there are none."""
    return _joined(_shown(trajectory, shadow, human_only=human_only))


def _shown(trajectory: Trajectory, shadow: frozenset[str], *, human_only: bool = False) -> list[Feedback]:
    """The feedback with a text, of sources outside the shadow."""
    return [
        f
        for f in trajectory.feedback
        if f.status == "ok"
        and f.text is not None
        and f.text.strip()
        and f.source.name not in shadow
        and (f.source.kind == "human" or not human_only)
    ]


def _joined(said: Sequence[Feedback]) -> str | None:
    return _BETWEEN.join(f.text or "" for f in said) or None


def _demonstration(
    trajectory: Trajectory, siblings: Sequence[Trajectory], settings: TeacherPromptSettings
) -> str | None:
    if not settings.demonstration:
        return None
    for sibling in siblings:
        if sibling.success and sibling.trajectory_id != trajectory.trajectory_id:
            text = sibling.rollout.text
            return _THINKING.sub("", text) if settings.remove_thinking else text
    return None


def _sources_left(parts: Sequence[Part], length: int, keep: int) -> tuple[str, ...]:
    """Whose text is not cut out of the middle altogether, where `keep` of `length` characters are kept."""
    head, tail = _ends_kept(keep)
    left = [part.source for part in parts if part.start < head or part.end > length - tail]
    return tuple(dict.fromkeys(left))


def _ends_kept(keep: int) -> tuple[int, int]:
    """Characters kept at the beginning and at the end."""
    head = (keep + 1) // 2
    return head, keep - head


def _middle_cut(text: str, keep: int) -> str:
    head, tail = _ends_kept(keep)
    return text[:head] + f"\n... [{len(text) - keep} characters cut] ...\n" + (text[-tail:] if tail else "")
