"""The routes of vLLM's server that the engine uses, each a method; written against vLLM 0.32.

Those that change weights exist only under VLLM_SERVER_DEV_MODE=1 and obey everybody who reaches them: the server must
be in reach of nobody else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import structlog
from pydantic import SecretStr
from pydantic_core import from_json, to_json

from shared.errors import DataError, EngineFailure

Json = dict[str, Any]

# vLLM's server closes a connection after 5 s without a request, and a request that is sent in that moment fails.
_LIMITS = httpx.Limits(keepalive_expiry=2.0)


class VLLMClient:
    """A client of one server, at `url` or, in its place, on the Unix socket `socket`.

    Every method raises EngineFailure when the server does not answer or fails, and DataError with the server's own
    sentence when it refuses.
    """

    def __init__(
        self, *, url: str = "http://vllm", socket: Path | None = None, api_key: SecretStr | None = None
    ) -> None:
        self._url = url
        self._socket = socket
        self._headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
        self._tls = httpx.create_ssl_context()
        self._client = self._connection()
        # httpx's pool looks at all its connections, and at all others for each of them, for every request.
        self._free: list[httpx.AsyncClient] = []
        self._made = [self._client]

    async def aclose(self) -> None:
        """Close the connections; what is being generated over them ends."""
        for client in self._made:
            await client.aclose()

    def _connection(self) -> httpx.AsyncClient:
        uds = str(self._socket) if self._socket else None
        return httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            timeout=httpx.Timeout(None, connect=5.0),
            transport=httpx.AsyncHTTPTransport(uds=uds, verify=self._tls, limits=_LIMITS),
        )

    @contextmanager
    def _own_connection(self) -> Iterator[httpx.AsyncClient]:
        """A connection that nobody else uses meanwhile."""
        if not self._free:
            self._free.append(self._connection())
            self._made.append(self._free[-1])
        client = self._free.pop()
        try:
            yield client
        finally:
            self._free.append(client)

    # ------------------------------------------------------------------------------------------------ what it is

    async def health(self, *, timeout_s: float = 5.0) -> int | None:
        """The status of `/health`: 200, or 503 when the engine process is dead; None: no answer in time."""
        try:
            return (await self._client.get("/health", timeout=timeout_s)).status_code
        except httpx.HTTPError:
            return None

    async def max_context(self) -> int:
        """Tokens of prompt and response."""
        models = await self._ask("GET", "/v1/models")
        return int(models["data"][0]["max_model_len"])

    async def world_size(self) -> int:
        """Workers, over all ranks of parallelism."""
        return int((await self._ask("GET", "/get_world_size"))["world_size"])

    async def metrics(self) -> bytes:
        """Its `/metrics`, in Prometheus' text format."""
        return (await self._send("GET", "/metrics")).content

    # -------------------------------------------------------------------------------------------------- sampling

    async def generate(self, body: Json) -> Json:
        """`/inference/v1/generate`: token ids in, token ids out."""
        with self._own_connection() as client:
            return await self._ask("POST", "/inference/v1/generate", body, client)

    async def stream(self, body: Json) -> AsyncIterator[Json]:
        """The same, in chunks as they come."""
        content = to_json({**body, "stream": True})
        with self._own_connection() as client:
            request = client.stream("POST", "/inference/v1/generate", content=content, headers=_headers())
            try:
                async with request as response:
                    if response.is_error:
                        await response.aread()
                        _raise_for(response)
                    async for line in response.aiter_lines():
                        if line.startswith("data: ") and line != "data: [DONE]":
                            yield _chunk(line.removeprefix("data: "))
            except httpx.HTTPError as error:
                raise _no_answer(error) from error

    # --------------------------------------------------------------------------------------------------- weights

    async def pause(self) -> None:
        """Hold what is being sampled: it goes on after `resume`, computed anew under the weights there are then."""
        await self._ask("POST", "/pause?mode=keep")

    async def resume(self) -> None:
        """Go on."""
        await self._ask("POST", "/resume")

    async def stamp(self, version: str) -> None:
        """Name the weights; every token made from now on carries the name."""
        await self._ask("POST", "/update_weight_version", {"new_version": version})

    async def stamped(self) -> str:
        """The name of the weights."""
        return str((await self._ask("GET", "/weight_info"))["weight_version"])

    async def call_workers(self, method: str, *args: str) -> list[Json]:
        """Call a method of the worker extension; what each worker returned."""
        results = await self._ask("POST", "/collective_rpc", {"method": method, "args": list(args)})
        return [result if isinstance(result, dict) else {} for result in results["results"]]

    async def transfer(self, step: str, body: Json | None = None) -> None:
        """One of the four steps of vLLM's weight transfer: `init_weight_transfer_engine`, `start_weight_update`,
        `update_weights`, `finish_weight_update`."""
        await self._ask("POST", f"/{step}", body)

    async def load_adapter(self, name: str, directory: Path) -> None:
        """Load a LoRA adapter under a name that has not been used."""
        await self._send("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory)})

    async def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        await self._send("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    # -------------------------------------------------------------------------------------------------- one call

    async def _ask(
        self, method: str, path: str, body: Json | None = None, client: httpx.AsyncClient | None = None
    ) -> Json:
        answer: Json = from_json((await self._send(method, path, body, client)).content)
        return answer

    async def _send(
        self, method: str, path: str, body: Json | None = None, client: httpx.AsyncClient | None = None
    ) -> httpx.Response:
        content = None if body is None else to_json(body)
        try:
            response = await (client or self._client).request(method, path, content=content, headers=_headers())
        except httpx.HTTPError as error:
            raise _no_answer(error) from error
        _raise_for(response)
        return response


def _headers() -> dict[str, str]:
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    return {"Content-Type": "application/json"} | ({"X-Request-Id": request_id} if request_id else {})


def _chunk(text: str) -> Json:
    chunk: Json = from_json(text)
    if "error" in chunk:
        raise EngineFailure(f"vLLM failed: {_sentence(chunk)}")
    return chunk


def _raise_for(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        sentence = _sentence(from_json(response.content))
    except ValueError:
        sentence = " ".join(response.text.split())[:300] or response.reason_phrase
    if response.status_code == 404:
        raise EngineFailure(f"vLLM has no route {response.request.url.path}: {sentence}")
    if response.is_client_error:
        raise DataError(f"vLLM refused: {sentence}")
    raise EngineFailure(f"vLLM failed: {sentence}")


def _sentence(document: Any) -> str:
    error = document.get("error", document.get("detail", document)) if isinstance(document, dict) else document
    return str(error.get("message", error) if isinstance(error, dict) else error).strip()[:300]


def _no_answer(error: httpx.HTTPError) -> EngineFailure:
    return EngineFailure(f"vLLM does not answer ({str(error) or type(error).__name__}).")
