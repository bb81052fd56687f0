"""All feedback sources of a run: the outcome first, then the others, who may see it; last who wants to know what all
of them said.

Asking one source is `shared/feedback_source.py`, re-exported here; what a trainer does with a judgement is not here.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import SecretStr

from shared.errors import SettingsError
from shared.feedback_source import FeedbackClient, SourceStats
from shared.protocol import Capabilities, Feedback, FeedbackFailure, FeedbackItem, Said, Sibling
from shared.settings import FeedbackSettings

__all__ = ["Ask", "FeedbackClient", "FeedbackSources", "Judgement", "SourceStats"]

Ask = Callable[[FeedbackClient, str, Sequence[FeedbackItem]], Awaitable[list[Feedback]]]
"""How one source is asked about the items of a run: one Feedback for each item, in order."""


@dataclass
class Judgement:
    """What was said about one rollout, in the order of the settings.

    `feedback` may be trained on; `shadow` is what shadow sources said, to be recorded only. `failure` says why the
    outcome is missing; it is None where there is one, and where its source abstained.
    """

    feedback: list[Feedback] = field(default_factory=list)
    reward: float | None = None
    success: bool | None = None
    shadow: list[Feedback] = field(default_factory=list)
    failure: FeedbackFailure | None = None


async def ask_once(client: FeedbackClient, run_id: str, items: Sequence[FeedbackItem]) -> list[Feedback]:
    """Ask, and take what comes."""
    return await client.ask(run_id, items)


class FeedbackSources:
    """The sources of `settings`, each asked through its own client; `api_key` is the stack's."""

    def __init__(self, settings: FeedbackSettings, *, api_key: SecretStr | None) -> None:
        self._clients = {
            name: FeedbackClient(name, source, api_key=api_key) for name, source in settings.sources.items()
        }
        self.outcome = next(c for c in self._clients.values() if _sets_reward(c) and not c.source.shadow)

    @property
    def clients(self) -> list[FeedbackClient]:
        """All sources, in the order of the settings; `outcome` is the one among them that sets the reward."""
        return list(self._clients.values())

    async def probe(self) -> dict[str, Capabilities]:
        """What every source can do. Raises ServiceUnavailable naming the first that does not answer and its URL,
        SettingsError if the source that is to set the reward gives none."""
        found = await asyncio.gather(*(client.capabilities() for client in self._clients.values()))
        capabilities = dict(zip(self._clients, found, strict=True))
        outcome = self.outcome
        if not capabilities[outcome.name].gives_reward:
            raise SettingsError(
                f"feedback.sources.{outcome.name} has role '{outcome.source.role}', but the source at "
                f"{outcome.source.url} gives no reward: give the role to another, or point its url to another."
            )
        return capabilities

    async def judge(self, run_id: str, items: Sequence[FeedbackItem], *, ask: Ask = ask_once) -> dict[str, Judgement]:
        """What all sources say about `items`, by trajectory id; trajectory ids must differ.

        The outcome source is asked first. Then the others, all at once, about items that carry their outcome and
        their siblings with theirs (items of one group are each other's siblings unless they name their own). Last, all
        at once, those that need feedback, about items that also carry what was said outside the shadow. If the outcome
        source failed on every item, nobody else is asked. Raises nothing but what `ask` raises.
        """
        unjudged = _with_siblings(items)
        outcomes = await ask(self.outcome, run_id, unjudged)
        judgements = {one.trajectory_id: _judgement(one) for one in outcomes}
        said = {self.outcome.name: outcomes}
        if not all(j.failure is not None and j.failure.class_ == "infra" for j in judgements.values()):
            judged = _with_outcomes(unjudged, judgements)
            others = [client for client in self._clients.values() if client is not self.outcome]
            first = [client for client in others if not client.needs_feedback]
            last = [client for client in others if client.needs_feedback]
            said |= await _ask_all(first, run_id, unjudged, judged, ask)
            heard = [said[name] for name, c in self._clients.items() if name in said and not c.source.shadow]
            said |= await _ask_all(last, run_id, unjudged, _with_said(judged, heard), ask)
        for name, client in self._clients.items():
            for one in said.get(name, []):
                judgement = judgements[one.trajectory_id]
                (judgement.shadow if client.source.shadow else judgement.feedback).append(one)
        return judgements

    async def aclose(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(client.aclose() for client in self._clients.values()))


async def _ask_all(
    clients: Sequence[FeedbackClient],
    run_id: str,
    unjudged: Sequence[FeedbackItem],
    judged: Sequence[FeedbackItem],
    ask: Ask,
) -> dict[str, list[Feedback]]:
    """What each of `clients` says, all asked at once."""
    asked = {
        # A shadow outcome must not copy the real one.
        client.name: asyncio.ensure_future(
            ask(client, run_id, _wanted(client, judged, unjudged if _sets_reward(client) else judged))
        )
        for client in clients
    }
    try:
        return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))
    finally:
        # Where one raises, the others would go on asking for nobody.
        for task in asked.values():
            task.cancel()
        await asyncio.gather(*asked.values(), return_exceptions=True)


def _sets_reward(client: FeedbackClient) -> bool:
    return client.source.role in ("outcome", "both")


def _wanted(
    client: FeedbackClient, judged: Sequence[FeedbackItem], shown: Sequence[FeedbackItem]
) -> list[FeedbackItem]:
    """Those of `shown` the source is to be asked about. An unknown outcome is not a failure."""
    if client.source.when == "always":
        return list(shown)
    return [item for known, item in zip(judged, shown, strict=True) if known.success is False]


def _judgement(outcome: Feedback) -> Judgement:
    """The outcome alone. A reward of 1 is a success unless the source says otherwise; a success is a reward of 1."""
    if outcome.status == "ok":
        reward, success = outcome.reward, outcome.success
        if success is None and reward is not None:
            success = reward == 1.0
        if reward is None and success is not None:
            reward = float(success)
        return Judgement(reward=reward, success=success)
    return Judgement(failure=outcome.error)


def _with_siblings(items: Sequence[FeedbackItem]) -> list[FeedbackItem]:
    groups: dict[str, list[FeedbackItem]] = defaultdict(list)
    for item in items:
        groups[item.group_id].append(item)
    return [
        item if item.siblings else item.model_copy(update={"siblings": _others(item, groups[item.group_id])})
        for item in items
    ]


def _others(item: FeedbackItem, group: Sequence[FeedbackItem]) -> list[Sibling]:
    return [
        Sibling(trajectory_id=other.trajectory_id, text=other.response.text)
        for other in group
        if other.trajectory_id != item.trajectory_id
    ]


def _with_outcomes(items: Sequence[FeedbackItem], judgements: Mapping[str, Judgement]) -> list[FeedbackItem]:
    def fill(sibling: Sibling) -> Sibling:
        known = judgements.get(sibling.trajectory_id)
        return sibling if known is None else sibling.model_copy(update=_outcome(known))

    return [
        item.model_copy(
            update={**_outcome(judgements[item.trajectory_id]), "siblings": [fill(s) for s in item.siblings]}
        )
        for item in items
    ]


def _with_said(items: Sequence[FeedbackItem], heard: Sequence[Sequence[Feedback]]) -> list[FeedbackItem]:
    """`items` with what each of the sources in `heard` said of them."""
    said: dict[str, list[Said]] = defaultdict(list)
    for one in (one for source in heard for one in source):
        words = {"status": one.status, "text": one.text, "reward": one.reward, "success": one.success}
        said[one.trajectory_id].append(Said(source=one.source.name, **words))
    return [item.model_copy(update={"said": said[item.trajectory_id]}) for item in items]


def _outcome(judgement: Judgement) -> dict[str, float | bool | None]:
    return {"reward": judgement.reward, "success": judgement.success}
