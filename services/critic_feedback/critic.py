"""Critique written by a language model behind any OpenAI-compatible chat URL.

What to write to it and what to make of its answer; routes are in `app.py`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping

import httpx
from pydantic import SecretStr

from shared.errors import DataError, ServiceUnavailable
from shared.feedback_results import cut_middle, read_json
from shared.http_client import http_client
from shared.protocol import FeedbackItem
from shared.settings import Settings

CALLS_AT_ONCE = 8
MAX_PART_CHARS = 8000

TEMPLATE = """You review an attempt at a task. Say in a few sentences what is wrong with it and how to mend it, or \
that nothing is wrong. Do not solve the task yourself.

Task:
{task}

Attempt:
{attempt}

Outcome: {outcome}"""

_OUTCOMES = {True: "the attempt was judged correct.", False: "the attempt was judged wrong.", None: "not known."}
_PLACE = re.compile(r"\{(task|attempt|outcome)\}")


class Critic:
    """Asks the chat model of `settings.critic_feedback`, with at most a few calls in flight."""

    def __init__(self, settings: Settings) -> None:
        own = settings.critic_feedback
        self.url = (own.critic_url or f"{settings.inference.url.rstrip('/')}/v1").rstrip("/")
        self._model = own.critic_model
        self._max_tokens = own.max_tokens
        self._gate = asyncio.Semaphore(CALLS_AT_ONCE)
        self._http = http_client(headers=_bearer(own.critic_api_key or settings.api_key))

    async def critique(self, item: FeedbackItem) -> str:
        """What the model says about `item`; empty if it said nothing. Raises ServiceUnavailable, or DataError when
        the model refuses this very item."""
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": prompt(item)}],
            "max_tokens": self._max_tokens,
            "temperature": 0.0,
        }
        async with self._gate:
            try:
                response = await self._http.post(f"{self.url}/chat/completions", json=body)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reason = str(error).rstrip(".") or type(error).__name__
                raise ServiceUnavailable(f"The critic at {self.url} cannot be reached: {reason}.") from error
        if response.status_code in (400, 413, 422):
            raise DataError(f"The critic at {self.url} refused the prompt with {response.status_code}.")
        if response.status_code != 200:
            raise ServiceUnavailable(f"The critic at {self.url} answered {response.status_code}.")
        return _content(response.content, self.url).strip()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def prompt(item: FeedbackItem) -> str:
    """The critic's prompt about `item`, filled in one pass: braces in what was written stay what they are."""
    parts = {
        "task": cut_middle("\n\n".join(message.content for message in item.task.messages), MAX_PART_CHARS),
        "attempt": cut_middle(item.response.text, MAX_PART_CHARS),
        "outcome": _OUTCOMES[item.success],
    }
    return _PLACE.sub(lambda place: parts[place.group(1)], TEMPLATE)


def _content(body: bytes, url: str) -> str:
    what = f"The answer of the critic at {url}"
    try:
        content = read_json(body, what)["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise ServiceUnavailable(f"{what} is no chat completion.") from error
    if not isinstance(content, str | None):
        raise ServiceUnavailable(f"{what} is no chat completion.")
    return content or ""


def _bearer(api_key: SecretStr | None) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key is not None else {}
