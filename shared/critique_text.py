"""A person's critique as the words that a teacher reads: the one place where its parts become one text.

human-feedback answers with it, and the learner joins late critique by it; both must give the same text, since the
learner tells by it whether a critique stood in a prompt.
"""

from __future__ import annotations

from shared.feedback_results import cut_middle
from shared.protocol import Critique, Span

MAX_QUOTE_CHARS = 400


def critique_text(critique: Critique, response: str) -> str:
    """The text, then each remark under the passage of `response` that it is about, then the corrected response.

    Remarks stand in the order of their passages. Characters of a span beyond the end of the response are nothing.
    """
    parts = [critique.text.strip()]
    parts += [_remark(span, response) for span in sorted(critique.spans, key=lambda s: (s.start, s.end))]
    if critique.corrected_response is not None and critique.corrected_response.strip():
        parts.append(f"A corrected response:\n{critique.corrected_response.strip()}")
    return "\n\n".join(part for part in parts if part)


def has_words(critique: Critique) -> bool:
    """Whether there is anything that a teacher could read."""
    remarks = [span.text for span in critique.spans]
    return any(said.strip() for said in (critique.text, critique.corrected_response or "", *remarks))


def _remark(span: Span, response: str) -> str:
    remark, passage = span.text.strip(), cut_middle(response[span.start : span.end].strip("\n"), MAX_QUOTE_CHARS)
    if not remark or not passage.strip():
        return remark
    if "\n" in passage:
        return f"On these lines:\n{passage}\nRemark: {remark}"
    return f"On `{passage}`: {remark}"
