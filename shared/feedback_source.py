"""Ask one feedback source by URL. All those of a run together are in `shared/feedback_client.py`.

A failing source never raises in `ask`: what it failed to say is Feedback of status `error` or `timeout`, and never a
reward. The wire is in `shared/feedback_transport.py`, reading answers in `shared/feedback_results.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import SecretStr, ValidationError

from shared.circuit_breaker import CircuitBreaker
from shared.errors import ServiceUnavailable
from shared.feedback_results import abstention, cut_middle, failure, read_results
from shared.feedback_transport import FeedbackTransport, SourceFailure
from shared.protocol import PROTOCOL, Capabilities, Feedback, FeedbackItem, SourceInfo
from shared.settings import SourceSettings

CHUNKS_AT_ONCE = 4
ENVELOPE_BYTES = 1024


@dataclass
class SourceStats:
    """What became of the `asked` items: each is counted once, under the status it ended with. `asked_again` counts
    the failures that another call was made for; `seconds` sums over the `calls` of `ask`."""

    calls: int = 0
    asked: int = 0
    ok: int = 0
    abstain: int = 0
    error: int = 0
    timeout: int = 0
    asked_again: int = 0
    cut: int = 0
    seconds: float = 0.0

    def count(self, feedback: Sequence[Feedback], seconds: float) -> None:
        """Add one call of `ask`."""
        self.calls += 1
        self.asked += len(feedback)
        self.seconds += seconds
        for one in feedback:
            setattr(self, one.status, getattr(self, one.status) + 1)

    def take_back(self, failed: Sequence[Feedback]) -> None:
        """Count these no longer: their items are about to be asked about again."""
        self.asked -= len(failed)
        self.asked_again += len(failed)
        for one in failed:
            setattr(self, one.status, getattr(self, one.status) - 1)


class FeedbackClient:
    """Asks the source called `name` in the settings; `api_key` is the stack's, used if the source has none.

    `answered_at` (of `time.monotonic`) is when it last said anything of an item but that it failed, in any call.
    """

    def __init__(
        self, name: str, source: SourceSettings, *, api_key: SecretStr | None, breaker: CircuitBreaker | None = None
    ) -> None:
        self.name = name
        self.source = source
        self.stats = SourceStats()
        self.breaker = breaker or CircuitBreaker()
        self.answered_at = -math.inf
        self._transport = FeedbackTransport(name, source.url, source.api_key or api_key)
        self._capabilities: Capabilities | None = None

    @property
    def needs_feedback(self) -> bool:
        """Whether it wants to know what the others said; False until its capabilities are known."""
        return self._capabilities is not None and self._capabilities.needs_feedback

    async def capabilities(self) -> Capabilities:
        """What the source can do, asked anew; raises ServiceUnavailable naming the source and its URL."""
        until = time.monotonic() + self.source.timeout_s
        try:
            async with asyncio.timeout(self.source.timeout_s):
                return await self._fetch_capabilities(until)
        except TimeoutError as error:
            raise ServiceUnavailable(self._too_late()) from error

    async def ask(self, run_id: str, items: Sequence[FeedbackItem], *, insist: bool = False) -> list[Feedback]:
        """What the source says about each item, in order, within `timeout_s` seconds whatever it does.

        `insist` asks also while the circuit breaker would spare the source: for callers that wait between their calls.
        """
        if not items:
            return []
        started = time.monotonic()
        answers = await self._answers(run_id, items, insist)
        feedback = [self._trim(answers[item.trajectory_id]) for item in items]
        self.stats.count(feedback, time.monotonic() - started)
        return feedback

    async def aclose(self) -> None:
        """Close the connections."""
        await self._transport.aclose()

    async def _answers(self, run_id: str, items: Sequence[FeedbackItem], insist: bool) -> dict[str, Feedback]:
        if not insist and not self.breaker.allow():
            message = (
                f"{self._where()} failed repeatedly; it is asked again in {self.breaker.retry_in_s():.0f} seconds."
            )
            return self._all_failed(items, SourceFailure(message, retryable=True))
        answers: dict[str, Feedback] = {}
        broken = await self._collect(run_id, items, answers)
        if broken is None:
            self.breaker.succeeded()
        else:
            self.breaker.failed()
            unanswered = [item for item in items if item.trajectory_id not in answers]
            answers |= self._all_failed(unanswered, broken)
        return answers

    async def _collect(
        self, run_id: str, items: Sequence[FeedbackItem], answers: dict[str, Feedback]
    ) -> SourceFailure | None:
        """Put the answers that come in time into `answers`; the failure, if the source as a whole has one."""
        until = time.monotonic() + self.source.timeout_s
        try:
            async with asyncio.timeout(self.source.timeout_s):
                capabilities = self._capabilities or await self._fetch_capabilities(until)
                askable = self._answer_unaskable(items, capabilities, answers)
                gate = asyncio.Semaphore(CHUNKS_AT_ONCE)
                async with asyncio.TaskGroup() as group:
                    chunks = [
                        group.create_task(self._ask_chunk(run_id, chunk, gate, until, answers))
                        for chunk in _chunks(askable, capabilities)
                    ]
        except TimeoutError:
            return _TooLate(self._too_late())
        except SourceFailure as failed:
            return failed
        except ServiceUnavailable as error:
            return SourceFailure(str(error), retryable=True)
        return next((broken for chunk in chunks if (broken := chunk.result()) is not None), None)

    def _answer_unaskable(
        self, items: Sequence[FeedbackItem], capabilities: Capabilities, answers: dict[str, Feedback]
    ) -> list[tuple[FeedbackItem, bytes]]:
        """The items the source can be asked about, each with its JSON; the others are answered here."""
        askable = []
        info = self._info(capabilities)
        for item in items:
            seen = item if capabilities.needs_siblings else item.model_copy(update={"siblings": []})
            # A source written before there was `said` may refuse a field that it does not know.
            body = seen.model_dump_json(exclude=None if capabilities.needs_feedback else {"said"}).encode()
            if "*" not in capabilities.task_kinds and item.task.kind not in capabilities.task_kinds:
                answers[item.trajectory_id] = self._wrong_kind(item, info)
            elif len(body) + ENVELOPE_BYTES > capabilities.max_bytes:
                message = f"The item is {len(body)} bytes; source '{self.name}' takes {capabilities.max_bytes} at once."
                answers[item.trajectory_id] = failure(item, info, message, class_="data")
            else:
                askable.append((item, body))
        return askable

    async def _ask_chunk(
        self,
        run_id: str,
        chunk: Sequence[tuple[FeedbackItem, bytes]],
        gate: asyncio.Semaphore,
        until: float,
        answers: dict[str, Feedback],
    ) -> SourceFailure | None:
        items = [item for item, _ in chunk]
        async with gate:
            started = time.monotonic()
            # The body is made once: a retry under the same idempotency key must repeat it byte for byte.
            body = _request_body(run_id, [body for _, body in chunk], until - started)
            try:
                document = await self._transport.post_feedback(body, uuid.uuid4().hex, until)
                feedback = read_results(document, items, self._info(self._capabilities))
            except SourceFailure as failed:
                answers |= self._all_failed(items, failed)
                if failed.class_ == "infra":
                    return failed
                self.answered_at = time.monotonic()
                return None
            except ServiceUnavailable as error:
                broken = SourceFailure(str(error))
                answers |= self._all_failed(items, broken)
                return broken
        if any(one.error is None or one.error.class_ == "data" for one in feedback):
            self.answered_at = time.monotonic()
        latency_ms = 1000 * (time.monotonic() - started)
        for one in feedback:
            answers[one.trajectory_id] = one if one.latency_ms else one.model_copy(update={"latency_ms": latency_ms})
        return None

    async def _fetch_capabilities(self, until: float) -> Capabilities:
        document = await self._transport.get("/v1/capabilities", until)
        try:
            capabilities = Capabilities.model_validate(document)
        except ValidationError as error:
            wrong = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise ServiceUnavailable(
                f"{self._where()} has capabilities that cannot be read: field '{wrong}'."
            ) from error
        if capabilities.protocol != PROTOCOL:
            message = f"speaks feedback protocol {capabilities.protocol}, this stack speaks {PROTOCOL}"
            raise ServiceUnavailable(f"{self._where()} {message}.")
        self._capabilities = capabilities
        return capabilities

    def _all_failed(self, items: Sequence[FeedbackItem], failed: SourceFailure) -> dict[str, Feedback]:
        status: Literal["error", "timeout"] = "timeout" if isinstance(failed, _TooLate) else "error"
        info = self._info(self._capabilities)
        return {
            item.trajectory_id: failure(
                item, info, str(failed), class_=failed.class_, status=status, retryable=failed.retryable
            )
            for item in items
        }

    def _wrong_kind(self, item: FeedbackItem, info: SourceInfo) -> Feedback:
        if self.source.role == "critique":
            return abstention(item, info)
        message = f"Source '{self.name}' does not judge tasks of kind '{item.task.kind}'."
        return failure(item, info, message, class_="data")

    def _trim(self, feedback: Feedback) -> Feedback:
        """Only what the source's role is for, with a text of `max_chars` at most."""
        if self.source.role == "outcome" and (feedback.text is not None or feedback.spans):
            silent = feedback.reward is None and feedback.success is None
            status = "abstain" if silent else feedback.status
            return feedback.model_copy(update={"text": None, "spans": [], "status": status})
        if feedback.text is None or len(feedback.text) <= self.source.max_chars:
            return feedback
        self.stats.cut += 1
        return feedback.model_copy(update={"text": cut_middle(feedback.text, self.source.max_chars)})

    def _info(self, capabilities: Capabilities | None) -> SourceInfo:
        if capabilities is None:
            return SourceInfo(name=self.name)
        return SourceInfo(name=self.name, kind=capabilities.kind, version=capabilities.version)

    def _where(self) -> str:
        return f"Source '{self.name}' at {self.source.url}"

    def _too_late(self) -> str:
        return f"{self._where()} did not answer within {self.source.timeout_s:g} seconds."


class _TooLate(SourceFailure):
    """The deadline passed."""


def _chunks(
    items: Sequence[tuple[FeedbackItem, bytes]], capabilities: Capabilities
) -> Iterator[list[tuple[FeedbackItem, bytes]]]:
    """`items` in order, each chunk within the source's `max_items` and `max_bytes`."""
    chunk: list[tuple[FeedbackItem, bytes]] = []
    size = ENVELOPE_BYTES
    for item, body in items:
        if chunk and (len(chunk) == capabilities.max_items or size + len(body) + 1 > capabilities.max_bytes):
            yield chunk
            chunk, size = [], ENVELOPE_BYTES
        chunk.append((item, body))
        size += len(body) + 1
    if chunk:
        yield chunk


def _request_body(run_id: str, items: Sequence[bytes], deadline_s: float) -> bytes:
    """A FeedbackRequest as JSON, from items that are JSON already."""
    head = json.dumps({"run_id": run_id, "deadline_s": min(max(deadline_s, 0.001), 3600.0)})
    return head[:-1].encode() + b', "items": [' + b",".join(items) + b"]}"
