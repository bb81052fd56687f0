"""What a feedback source answered, read item by item: one wrong result costs that item alone.

Pure functions from bytes to `Feedback`, and the small pieces that sources write theirs with; who fetched the bytes is
`shared/feedback_transport.py`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError

from shared.errors import ServiceUnavailable
from shared.protocol import Feedback, FeedbackFailure, FeedbackItem, SourceInfo

FailureClass = Literal["infra", "data"]


def read_json(body: bytes, what: str) -> dict[str, Any]:
    """Parse `body`, a JSON object; raises ServiceUnavailable naming `what` otherwise."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ServiceUnavailable(f"{what} is not JSON.") from error
    if not isinstance(document, dict):
        raise ServiceUnavailable(f"{what} is not a JSON object.")
    return document


def read_results(document: Mapping[str, Any], items: Sequence[FeedbackItem], source: SourceInfo) -> list[Feedback]:
    """One Feedback for each item, in order. A result that is missing, doubled or malformed becomes an `error` of
    that item; results for unknown trajectories are ignored. Raises ServiceUnavailable if there is no list."""
    results = document.get("results")
    if not isinstance(results, list):
        raise ServiceUnavailable(f"The answer of source '{source.name}' has no list 'results'.")
    by_id: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for result in results:
        if isinstance(result, dict) and isinstance(result.get("trajectory_id"), str):
            by_id[result["trajectory_id"]].append(result)
    return [_read_one(by_id.get(item.trajectory_id, []), item, source) for item in items]


def failure(
    item: FeedbackItem,
    source: SourceInfo,
    message: str,
    *,
    class_: FailureClass,
    status: Literal["error", "timeout"] = "error",
    retryable: bool = False,
) -> Feedback:
    """Feedback that says why there is none."""
    return Feedback(
        trajectory_id=item.trajectory_id,
        feedback_id=feedback_id(item, source),
        status=status,
        error=FeedbackFailure(class_=class_, message=message, retryable=retryable),
        source=source,
    )


def abstention(item: FeedbackItem, source: SourceInfo) -> Feedback:
    """Feedback that says nothing."""
    return Feedback(
        trajectory_id=item.trajectory_id, feedback_id=feedback_id(item, source), status="abstain", source=source
    )


def feedback_id(item: FeedbackItem, source: SourceInfo) -> str:
    """The id of what a source that keeps no ids of its own says about `item`."""
    return f"{item.trajectory_id[: 199 - len(source.name)]}:{source.name}"


def cut_middle(text: str, max_chars: int) -> str:
    """At most `max_chars` characters of `text`: its two ends, and how many characters are missing between them."""
    if len(text) <= max_chars:
        return text
    marker = "\n[... {} characters left out ...]\n"
    kept = max_chars - len(marker.format(len(text)))
    if kept < 2:
        return text[:max_chars]
    head = (kept + 1) // 2
    tail = kept - head
    return text[:head] + marker.format(len(text) - kept) + text[len(text) - tail :]


def _read_one(results: Sequence[Mapping[str, Any]], item: FeedbackItem, source: SourceInfo) -> Feedback:
    if not results:
        return failure(item, source, f"Source '{source.name}' left this item unanswered.", class_="infra")
    if len(results) > 1:
        message = f"Source '{source.name}' answered this item {len(results)} times."
        return failure(item, source, message, class_="data")
    try:
        feedback = Feedback.model_validate(results[0])
    except (ValidationError, RecursionError) as error:
        return failure(item, source, _malformed(source, *_first_error(error)), class_="data")
    wrong = _contradiction(feedback, item)
    if wrong is not None:
        return failure(item, source, _malformed(source, *wrong), class_="data")
    if feedback.status in ("error", "timeout") and feedback.error is None:
        unexplained = FeedbackFailure(class_="infra", message=f"Source '{source.name}' failed and gave no reason.")
        feedback = feedback.model_copy(update={"error": unexplained})
    # The settings' name is the provenance a run is read by; what the source calls itself stays with it.
    told = source.model_copy(update={"kind": feedback.source.kind, "version": feedback.source.version})
    return _without_empty_words(feedback.model_copy(update={"source": told}))


def _contradiction(feedback: Feedback, item: FeedbackItem) -> tuple[str, str] | None:
    """The field in which a well-formed result breaks the protocol, and how."""
    if feedback.status != "ok":
        carried = {"reward": feedback.reward, "success": feedback.success, "text": feedback.text}
        said = next((name for name, value in carried.items() if value is not None), None)
        return (said, f"only status 'ok' may carry it, not '{feedback.status}'") if said is not None else None
    for number, span in enumerate(feedback.spans):
        if not span.start <= span.end <= len(item.response.text):
            return f"spans.{number}.end", "it must lie between start and the end of the response"
    return None


def _without_empty_words(feedback: Feedback) -> Feedback:
    if feedback.status != "ok" or (feedback.text is not None and feedback.text.strip()):
        return feedback
    silent = feedback.reward is None and feedback.success is None and not feedback.spans
    return feedback.model_copy(update={"text": None, "status": "abstain" if silent else "ok"})


def _malformed(source: SourceInfo, field: str, message: str) -> str:
    return f"Source '{source.name}' answered this item with a wrong field '{field}': {message}."


def _first_error(error: ValidationError | RecursionError) -> tuple[str, str]:
    if isinstance(error, RecursionError):
        return "result", "it is nested too deeply"
    first = error.errors(include_input=False, include_url=False)[0]
    return ".".join(str(part) for part in first["loc"])[:200] or "result", first["msg"]
