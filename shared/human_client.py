"""The learner's door to human-feedback: late critiques, and reports of what became of them.

The collector asks human-feedback as it asks any source (`shared/feedback_client.py`).
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import SecretStr, TypeAdapter, ValidationError

from shared.errors import ServiceUnavailable
from shared.http_client import http_client
from shared.protocol import CritiquePage, CritiqueState, CritiqueUse

PAGE = 200
Answer = TypeVar("Answer")
_PAGE = TypeAdapter(CritiquePage)
_STATE = TypeAdapter(CritiqueState)


class HumanClient:
    """Talks to the human-feedback service at `url`; each call has `timeout_s` seconds."""

    def __init__(self, url: str, api_key: SecretStr | None, *, timeout_s: float = 5.0) -> None:
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key is not None else {}
        self._http = http_client(headers=headers)

    async def critiques(self, after: int, run_id: str) -> list[CritiqueState]:
        """All critiques of the run written after sequence number `after`, oldest first, whatever became of them: the
        last one's `seq` is the next `after`. Raises ServiceUnavailable."""
        found: list[CritiqueState] = []
        cursor: str | None = str(after)
        while cursor is not None:
            params = {"cursor": cursor, "run_id": run_id, "limit": PAGE}
            page = self._read(_PAGE, await self._call("GET", "/v1/critiques", params=params))
            found += page.items
            cursor = page.next_cursor
        return found

    async def report_use(
        self, state: CritiqueState, *, used: bool, step: int, reason: str | None = None
    ) -> CritiqueState | None:
        """Tell the writer what became of the critique read as `state`: used at training step `step`, which makes policy
        version `step` + 1, or stale. None if it has been deleted or changed since: then this use was not of it. Raises
        ServiceUnavailable."""
        made = step + 1 if used else None
        use = CritiqueUse(status="used" if used else "stale", step=step, policy_version=made, reason=reason)
        where = f"{quote(state.trajectory_id, safe='')}/critiques/{quote(state.identifier, safe='')}"
        response = await self._call(
            "POST", f"/v1/rollouts/{where}/use", params={"seq": state.seq}, json=use.model_dump()
        )
        return None if response.status_code in (404, 409) else self._read(_STATE, response)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._http.request(method, self.url + path, **options)
        except TimeoutError as error:
            raise ServiceUnavailable(f"{self._who()} did not answer within {self.timeout_s:g} seconds.") from error
        except httpx.HTTPError as error:
            reason = str(error).rstrip(".") or type(error).__name__
            raise ServiceUnavailable(f"{self._who()} cannot be reached: {reason}.") from error

    def _read(self, adapter: TypeAdapter[Answer], response: httpx.Response) -> Answer:
        if response.status_code != 200:
            raise ServiceUnavailable(f"{self._who()} answered {response.status_code}.")
        try:
            return adapter.validate_json(response.content)
        except ValidationError as error:
            raise ServiceUnavailable(f"{self._who()} answered what cannot be read.") from error

    def _who(self) -> str:
        return f"The human-feedback service at {self.url}"
