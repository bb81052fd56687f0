"""Feedback for rollouts from sources that may fail: an outage costs time, never a label.

Asking one source once is `shared/feedback_source.py`; how many rollouts may stay without an outcome is
`trainer/failures.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from shared.errors import ServiceUnavailable
from shared.feedback_client import FeedbackClient, FeedbackSources, Judgement
from shared.protocol import Capabilities, Feedback, FeedbackItem
from shared.settings import FeedbackSettings
from trainer.failures import FailureBudgets, in_one_line

log = structlog.get_logger("judging")
_FIRST_PAUSE_S = 0.5
_START_PATIENCE_S = 20.0
_LONGEST_PAUSE_S = 5.0
_FURTHER_ASKS = 3


async def probe(sources: FeedbackSources, settings: FeedbackSettings) -> dict[str, Capabilities]:
    """What every source can do, before a run goes on. One that was killed together with us is given time to come back.

    Raises ServiceUnavailable naming one that stays away, SettingsError if no source gives a reward.
    """
    began = time.monotonic()
    warned = False
    while True:
        try:
            return await sources.probe()
        except ServiceUnavailable as error:
            if time.monotonic() - began > min(_START_PATIENCE_S, settings.max_outage_s):
                raise
            if not warned:
                log.warning("a source does not answer yet; trying again", reason=in_one_line(str(error)))
            warned = True
            await asyncio.sleep(_FIRST_PAUSE_S)


class Judge:
    """Asks all sources about rollouts, and each again about those it failed on, until `feedback.max_outage_s` is over.

    Only failures of class infra are asked about again. A source that answers others is asked `_FURTHER_ASKS` times
    more, unless it calls the failure retryable. One that stays away altogether stops the run where it is required;
    where it is not, the run goes on: from then on it is asked once and not waited for, until it answers.
    `rollouts_per_step` is what the failure budgets count in; None counts nothing, as in evaluations.
    """

    def __init__(
        self, sources: FeedbackSources, settings: FeedbackSettings, *, rollouts_per_step: int | None = None
    ) -> None:
        self._sources = sources
        self._max_outage_s = settings.max_outage_s
        self._budgets = (
            FailureBudgets(sources.outcome, settings, rollouts_per_step) if rollouts_per_step is not None else None
        )
        self._given_up: set[str] = set()

    async def __call__(self, run_id: str, items: Sequence[FeedbackItem]) -> dict[str, Judgement]:
        """What all sources say of each item, by trajectory id.

        Raises ServiceUnavailable where a required source stays away, or infra failures pass their budget; DataError
        where data failures pass theirs.
        """
        judged = await self._sources.judge(run_id, items, ask=self._ask)
        if self._budgets is not None:
            self._budgets.count(list(judged.values()))
        return judged

    def log_totals(self) -> None:
        """One line for each source: what became of the items it was asked about."""
        for client in self._sources.clients:
            counts = {name: value for name, value in vars(client.stats).items() if name != "seconds"}
            log.info(
                "what a feedback source said in all",
                source=client.name,
                **counts,
                seconds=round(client.stats.seconds, 3),
                breaker=client.breaker.state,
                given_up=client.name in self._given_up,
            )

    async def _ask(self, client: FeedbackClient, run_id: str, items: Sequence[FeedbackItem]) -> list[Feedback]:
        question = _Question(client, run_id, items, self._max_outage_s)
        waits = client.name not in self._given_up
        await question.ask(insist=waits)
        if not waits and question.source_is_there:
            self._take_back(client)
        if question.failed and client.name not in self._given_up:
            await self._ask_again(client, question)
        return question.feedback()

    async def _ask_again(self, client: FeedbackClient, question: _Question) -> None:
        log.warning("a feedback source failed; asking again", **question.description())
        while question.failed and not question.is_over:
            await question.pause()
            await question.ask(insist=True)
        if not question.failed:
            log.info("a feedback source that had failed has answered", source=client.name)
        elif question.source_is_there:
            log.warning("rollouts go on without a source's feedback", **question.description())
        elif client is self._sources.outcome or client.source.required:
            raise self._away(client, question)
        elif client.name not in self._given_up:
            self._given_up.add(client.name)
            log.error(
                f"The run goes on without feedback source '{client.name}' at {client.source.url}: it stayed away for "
                f"{self._max_outage_s:g} s (feedback.max_outage_s), and feedback.sources.{client.name}.required is "
                f"false. Its last failure: {question.last_failure} It is used again as soon as it answers."
            )

    def _take_back(self, client: FeedbackClient) -> None:
        self._given_up.discard(client.name)
        log.error(f"Feedback source '{client.name}' at {client.source.url} answers again: the run goes on with it.")

    def _away(self, client: FeedbackClient, question: _Question) -> ServiceUnavailable:
        sets_reward = client is self._sources.outcome
        who = "outcome source" if sets_reward else "required feedback source"
        meanwhile = "nothing was given a reward" if sets_reward else "nothing was trained on without it"
        return ServiceUnavailable(
            f"The {who} '{client.name}' at {client.source.url} stayed away for {self._max_outage_s:g} s "
            f"(feedback.max_outage_s); {meanwhile}. Its last failure: {question.last_failure} Bring it back and start "
            "the run again: it resumes."
        )


class _Question:
    """What one source has said of `items` so far, and how long it is asked about those it `failed` on."""

    def __init__(self, client: FeedbackClient, run_id: str, items: Sequence[FeedbackItem], max_outage_s: float) -> None:
        self.failed = list(items)
        self._client = client
        self._run_id = run_id
        self._items = items
        self._answers: dict[str, Feedback] = {}
        self._max_outage_s = max_outage_s
        self._began = time.monotonic()
        self._until = self._began + max_outage_s
        self._pause_s = _FIRST_PAUSE_S
        self._refusals = 0

    @property
    def source_is_there(self) -> bool:
        """Whether it has answered anything since this question was put, in this or another call."""
        return self._client.answered_at >= self._began

    @property
    def is_over(self) -> bool:
        """Whether asking on is of no use: the time is up, or it is the items that the source fails on."""
        return time.monotonic() >= self._until or (self.source_is_there and self._refusals > _FURTHER_ASKS)

    @property
    def last_failure(self) -> str:
        """What the source, or the connection to it, last said of an item that it failed on: a sentence."""
        error = self._answers[self.failed[-1].trajectory_id].error
        assert error is not None
        return in_one_line(error.message)

    async def ask(self, *, insist: bool) -> None:
        """Ask about all items that it has not answered; the siblings they carry are whole."""
        again = [self._answers[i.trajectory_id] for i in self.failed if i.trajectory_id in self._answers]
        self._client.stats.take_back(again)
        said = await self._client.ask(self._run_id, self.failed, insist=insist)
        self._answers |= {one.trajectory_id: one for one in said}
        failures = {one.trajectory_id: one.error for one in said if one.error and one.error.class_ == "infra"}
        if len(failures) < len(self.failed):
            self._until = time.monotonic() + self._max_outage_s
            self._pause_s = _FIRST_PAUSE_S
            self._refusals = 0
        self.failed = [item for item in self.failed if item.trajectory_id in failures]
        retryable = any(failure.retryable for failure in failures.values())
        self._refusals = 0 if retryable else self._refusals + 1

    async def pause(self) -> None:
        """Longer each time, but for the last ask, which is made when the time is up."""
        await asyncio.sleep(min(self._pause_s, max(0.0, self._until - time.monotonic())))
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def feedback(self) -> list[Feedback]:
        """One for each item, in order."""
        return [self._answers[item.trajectory_id] for item in self._items]

    def description(self) -> dict[str, str | int]:
        """For the log: who failed on how many rollouts, and how."""
        return {"source": self._client.name, "rollouts": len(self.failed), "reason": self.last_failure}
