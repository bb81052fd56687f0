"""The HTTP side of asking a feedback source: one request with retries, slow jobs, bounded answers.

Everything that can go wrong on the wire leaves here as `SourceFailure`. The caller's `asyncio.timeout` is what ends a
call; `until` (of `time.monotonic`) only spares a wait that could not end in time. What answers mean is
`shared/feedback_results.py`.
"""

from __future__ import annotations

import asyncio
import email.utils
import random
import time
from typing import Any

import httpx
from pydantic import SecretStr, ValidationError

from shared.errors import ServiceUnavailable
from shared.feedback_results import FailureClass, read_json
from shared.http_client import http_client
from shared.protocol import Job

RETRIED_STATUS = frozenset({429, 502, 503, 504})
MAX_ATTEMPTS = 5
FIRST_WAIT_S = 0.1
MAX_ANSWER_BYTES = 64 * 2**20
MAX_DETAIL_CHARS = 300
FIRST_POLL_S = 0.1
MAX_POLL_S = 2.0
CANCEL_TIMEOUT_S = 2.0


class SourceFailure(ServiceUnavailable):
    """A source did not give an answer that can be read; `class_` says whether the items are to blame, `retryable`
    that it is the source's state, not what it was asked, that has to change."""

    def __init__(self, message: str, *, class_: FailureClass = "infra", retryable: bool = False) -> None:
        super().__init__(message)
        self.class_ = class_
        self.retryable = retryable


class FeedbackTransport:
    """Talks to the source `name` below the base path `url`."""

    def __init__(self, name: str, url: str, api_key: SecretStr | None) -> None:
        self.name = name
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key is not None else {}
        self._http = http_client(headers=headers)
        self._farewells: set[asyncio.Task[None]] = set()

    async def get(self, path: str, until: float) -> dict[str, Any]:
        """The JSON object at `path`; raises SourceFailure."""
        response, body = await self._with_retries("GET", path, until)
        return self._document(response, body)

    async def post_feedback(self, body: bytes, idempotency_key: str, until: float) -> dict[str, Any]:
        """Ask with a FeedbackRequest as JSON; a slow source's job is awaited, and given up when we are cancelled.
        Raises SourceFailure."""
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        response, answer = await self._with_retries("POST", "/v1/feedback", until, body, headers)
        document = self._document(response, answer)
        if response.status_code != 202:
            return document
        return await self._await_job(self._read_job(document), until)

    async def aclose(self) -> None:
        """Close the connections, after jobs given up have been told so."""
        await asyncio.gather(*self._farewells)
        await self._http.aclose()

    async def _await_job(self, job: Job, until: float) -> dict[str, Any]:
        wait_s = FIRST_POLL_S
        try:
            while True:
                await asyncio.sleep(wait_s)
                response, body = await self._with_retries("GET", f"/v1/jobs/{job.job_id}", until)
                document = self._document(response, body)
                # The results are read one by one later: a wrong one must not cost the others.
                job = self._read_job({name: value for name, value in document.items() if name != "results"})
                if job.status == "failed":
                    raise SourceFailure(f"Source '{self.name}' says that its job {job.job_id} failed.", retryable=True)
                if job.status == "done":
                    return document
                wait_s = _retry_after_s(response) or min(wait_s * 1.5, MAX_POLL_S)
        except asyncio.CancelledError:
            self._give_up(job)
            raise

    def _give_up(self, job: Job) -> None:
        farewell = asyncio.create_task(self._cancel_job(job))
        self._farewells.add(farewell)
        farewell.add_done_callback(self._farewells.discard)

    async def _cancel_job(self, job: Job) -> None:
        try:
            await self._http.delete(f"{self.url}/v1/jobs/{job.job_id}", timeout=CANCEL_TIMEOUT_S)
        except httpx.HTTPError:
            return  # The source is away; its job has nobody to report to.

    async def _with_retries(
        self,
        method: str,
        path: str,
        until: float,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[httpx.Response, bytes]:
        for attempt in range(1, MAX_ATTEMPTS + 1):
            asked_to_wait_s: float | None = None
            try:
                response, answer = await self._once(method, path, body, headers)
                if response.status_code not in RETRIED_STATUS:
                    return response, answer
                failure = self._status_failure(response, answer)
                asked_to_wait_s = _retry_after_s(response)
            except httpx.TransportError as error:
                failure = SourceFailure(f"{self._who()} cannot be reached: {_in_words(error)}.", retryable=True)
            except httpx.HTTPError as error:
                raise SourceFailure(f"{self._who()} answered in no way HTTP knows: {_in_words(error)}.") from error
            pause_s = FIRST_WAIT_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5) + (asked_to_wait_s or 0.0)
            if attempt == MAX_ATTEMPTS or time.monotonic() + pause_s >= until:
                break
            await asyncio.sleep(pause_s)
        raise failure

    async def _once(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str] | None
    ) -> tuple[httpx.Response, bytes]:
        async with self._http.stream(method, self.url + path, content=body, headers=headers) as response:
            answer = bytearray()
            async for piece in response.aiter_bytes():
                answer += piece
                if len(answer) > MAX_ANSWER_BYTES:
                    raise SourceFailure(f"{self._who()} answered with more than {MAX_ANSWER_BYTES} bytes.")
            return response, bytes(answer)

    def _document(self, response: httpx.Response, body: bytes) -> dict[str, Any]:
        if response.status_code not in (200, 202):
            raise self._status_failure(response, body)
        try:
            return read_json(body, f"The answer of source '{self.name}'")
        except ServiceUnavailable as error:
            raise SourceFailure(str(error)) from error

    def _read_job(self, document: dict[str, Any]) -> Job:
        try:
            return Job.model_validate(document)
        except ValidationError as error:
            raise SourceFailure(f"Source '{self.name}' answered 202 without a job that can be read.") from error

    def _status_failure(self, response: httpx.Response, body: bytes) -> SourceFailure:
        detail = _problem_detail(body)
        message = f"{self._who()} answered {response.status_code}" + (f": {detail}" if detail else ".")
        blames_the_items = response.status_code in (400, 413, 422)
        return SourceFailure(
            message,
            class_="data" if blames_the_items else "infra",
            retryable=response.status_code in RETRIED_STATUS,
        )

    def _who(self) -> str:
        return f"Source '{self.name}' at {self.url}"


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds the server asks to wait: `Retry-After` as a number or as an HTTP date."""
    given = response.headers.get("Retry-After", "")
    if given.isascii() and given.isdigit():
        return float(given[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _problem_detail(body: bytes) -> str:
    try:
        detail = read_json(body, "").get("detail", "")
    except ServiceUnavailable:
        return ""
    return detail[:MAX_DETAIL_CHARS] if isinstance(detail, str) else ""


def _in_words(error: httpx.HTTPError) -> str:
    return str(error).rstrip(".") or type(error).__name__
