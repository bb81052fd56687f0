"""Ask the feedback sources until the outcome source is back: an outage costs time, never a label."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import structlog

from shared.errors import ServiceUnavailable
from shared.feedback_client import FeedbackSources, Judgement
from shared.protocol import FeedbackItem
from shared.settings import FeedbackSettings

log = structlog.get_logger("judging")
_LONGEST_PAUSE_S = 5.0


async def judge(
    sources: FeedbackSources, settings: FeedbackSettings, run_id: str, items: Sequence[FeedbackItem]
) -> dict[str, Judgement]:
    """What all sources say of each item, by trajectory id.

    Where the outcome source failed it is asked again, until `max_outage_s` is over. If it then still answers for
    nothing, ServiceUnavailable stops the run with a sentence; items that it alone fails on stay without an outcome.
    """
    waiting = {item.trajectory_id: item for item in items}
    judged: dict[str, Judgement] = {}
    deadline = time.monotonic() + settings.max_outage_s
    pause_s = 0.5
    while True:
        judged |= await sources.judge(run_id, list(waiting.values()))
        failed = [i for i in waiting if judged[i].outage is not None]
        if not failed:
            return judged
        reason = judged[failed[0]].outage
        if time.monotonic() > deadline:
            if len(failed) == len(judged):
                raise _away(settings, reason)
            log.warning("rollouts go on without an outcome", rollouts=len(failed), reason=reason)
            return judged
        log.warning("the outcome source failed; asking again", rollouts=len(failed), reason=reason)
        # Siblings are asked about together, so that sources which compare them see the whole group.
        unsettled = {waiting[i].group_id for i in failed}
        waiting = {i: item for i, item in waiting.items() if item.group_id in unsettled}
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _away(settings: FeedbackSettings, reason: str | None) -> ServiceUnavailable:
    name = next(n for n, s in settings.sources.items() if s.role != "critique" and not s.shadow)
    return ServiceUnavailable(
        f"The outcome source '{name}' at {settings.sources[name].url} stayed away for {settings.max_outage_s:g} s "
        f"(feedback.max_outage_s); nothing was given a reward. Its last failure: {reason} Bring it back and start the "
        "run again: it resumes."
    )
