"""Talking to the inference service: sample, score, publish a policy version, wait for one."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, SecretStr, ValidationError

from shared.errors import DataError, ServiceUnavailable
from shared.http_client import http_client
from shared.protocol import (
    PolicyPublication,
    PolicyState,
    Prompt,
    RolloutRequest,
    RolloutResponse,
    Sampling,
    ScoredSequence,
    ScoreRequest,
    ScoreResponse,
    ScoreSequence,
    TokenCountRequest,
    TokenCounts,
    TransferGroup,
    TransferInit,
)
from shared.settings import InferenceSettings

Answer = TypeVar("Answer", bound=BaseModel)

# These calls are safe to repeat: publishing files is idempotent, and a sample nobody received did nothing.
_AGAIN = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 3.0


class InferenceClient:
    """A client of one inference service; close it with `aclose`, or use it in `async with`.

    A service that does not answer, or answers that it cannot, is asked again with growing, jittered pauses until
    `settings.timeout_s` has passed; then ServiceUnavailable names its URL and the last reason. What the service
    refuses is a DataError with its own sentence and field, at once.
    """

    def __init__(self, settings: InferenceSettings, *, api_key: SecretStr | None) -> None:
        self._url = settings.url.rstrip("/")
        self._timeout_s = settings.timeout_s
        headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
        self._client = http_client(base_url=self._url, headers=headers)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def host(self) -> str:
        """Where the service is, without scheme and port."""
        return httpx.URL(self._url).host

    async def rollouts(self, prompts: Sequence[Prompt], *, n: int, sampling: Sampling) -> RolloutResponse:
        """`n` rollouts of each prompt, in order."""
        request = RolloutRequest(prompts=list(prompts), n=n, sampling=sampling)
        response = await self._ask("POST", "/v1/rollouts", RolloutResponse, body=request)
        if [len(prompt.rollouts) for prompt in response.prompts] != [n] * len(request.prompts):
            raise self._unavailable(f"answered with other rollouts than {n} for each of {len(request.prompts)} prompts")
        return response

    async def token_counts(self, prompts: Sequence[Prompt]) -> TokenCounts:
        """How many tokens each prompt has, in order, and what the model's context is."""
        request = TokenCountRequest(prompts=list(prompts))
        response = await self._ask("POST", "/v1/token_counts", TokenCounts, body=request)
        if len(response.tokens) != len(request.prompts):
            raise self._unavailable(f"answered with {len(response.tokens)} counts for {len(request.prompts)} prompts")
        return response

    async def score(self, sequences: Sequence[ScoreSequence]) -> list[ScoredSequence]:
        """Log-probs, at temperature 1, of the tokens of each sequence after its prompt, in order."""
        request = ScoreRequest(sequences=list(sequences))
        response = await self._ask("POST", "/v1/score", ScoreResponse, body=request)
        if [len(one.logprobs) for one in response.sequences] != [len(one.token_ids) for one in request.sequences]:
            raise self._unavailable("answered with other scores than one for each token")
        return response.sequences

    async def policy(self, *, unlike: tuple[str | None, int] | None = None, wait_s: float = 0) -> PolicyState:
        """What is served now; with `unlike` (run id, version), as soon as it is not that, or after `wait_s` seconds
        (60 at most) as it is. `(None, 0)` is the initial model."""
        if unlike is None:
            return await self._ask("GET", "/v1/policy", PolicyState)
        params = {"unlike": f"{unlike[0] or ''}:{unlike[1]}", "wait_s": str(wait_s)}
        return await self._ask("GET", "/v1/policy", PolicyState, params=params, timeout_s=self._timeout_s + wait_s)

    async def publish(self, publication: PolicyPublication) -> PolicyState:
        """Serve a policy version. Raises DataError when the service refuses the weights, and ServiceUnavailable at once
        when its canary shows that it does not serve them."""
        # A transfer that is asked for again finds no sender.
        again = publication.transfer is None
        return await self._ask("POST", "/v1/policy", PolicyState, body=publication, again=again)

    async def transfer_group(self) -> TransferGroup:
        """Who takes part in a transfer of weights. Raises DataError where the engine takes none."""
        return await self._ask("GET", "/v1/policy/transfer", TransferGroup)

    async def join_transfer(self, init: TransferInit) -> None:
        """Make the engine join a transfer of weights; for nccl, answered when the trainer has joined as well."""
        await self._ask("POST", "/v1/policy/transfer", TransferGroup, body=init, again=False)

    async def wait_ready(self, timeout_s: float) -> None:
        """Return once `/readyz` says 200. Raises ServiceUnavailable with its reason after `timeout_s` seconds."""
        await self._send("GET", "/readyz", timeout_s=timeout_s)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    # ------------------------------------------------------------------------------------------- a call, in steps

    async def _ask(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        *,
        body: BaseModel | None = None,
        params: dict[str, str] | None = None,
        timeout_s: float | None = None,
        again: bool = True,
    ) -> Answer:
        timeout_s = timeout_s or self._timeout_s
        response = await self._send(method, path, body=body, params=params, timeout_s=timeout_s, again=again)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise self._unavailable(f"answered {method} {path} with something else than a {kind.__name__}") from error

    async def _send(
        self,
        method: str,
        path: str,
        *,
        timeout_s: float,
        body: BaseModel | None = None,
        params: dict[str, str] | None = None,
        again: bool = True,
    ) -> httpx.Response:
        """The successful response. Raises DataError or ServiceUnavailable."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_s
        content = body.model_dump_json().encode() if body else None
        headers = {"Content-Type": "application/json"} if body else None
        reason: str | None = None
        for attempt in itertools.count():
            try:
                async with asyncio.timeout_at(deadline):
                    response = await self._client.request(method, path, content=content, headers=headers, params=params)
            except TimeoutError as error:
                # The last attempt may be cut short; what the one before it met says more.
                raise self._unavailable(reason or f"did not answer {method} {path} within {timeout_s:g} s") from error
            except httpx.HTTPError as error:
                reason = f"cannot be reached ({str(error) or type(error).__name__})"
            else:
                if response.status_code not in _AGAIN:
                    return self._checked(response)
                reason = f"cannot serve: {_detail(response)[0]}"
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.5)
            if not again or clock() + pause_s >= deadline:
                raise self._unavailable(reason)
            await asyncio.sleep(pause_s)
        raise AssertionError("unreachable")

    def _checked(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        detail, field = _detail(response)
        if response.is_client_error:
            raise DataError(f"The inference service at {self._url} refused: {detail}", field=field)
        raise self._unavailable(f"failed: {detail}")

    def _unavailable(self, what: str) -> ServiceUnavailable:
        return ServiceUnavailable(f"The inference service at {self._url} {what.rstrip('.')}.")


def _detail(response: httpx.Response) -> tuple[str, str | None]:
    """The sentence and the field of a problem document, or the status of anything else."""
    try:
        document: Any = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("detail"), str):
        return f"status {response.status_code} {response.reason_phrase}", None
    field = document.get("field")
    return document["detail"], field if isinstance(field, str) else None
