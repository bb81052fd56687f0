"""The engine over vLLM: tokens, log-probs and the version of each token, and new weights without a restart.

Every load of weights is stamped with a name that vLLM puts on each token made from then on. An answer whose stamp this
engine did not give, in this life of the server, is no answer: stale weights cannot pass for new ones.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

from services.inference.engine import Checkpoint, EngineInfo, Figures, Piece, Sampled, Scored, Weights
from services.inference.model_files import model_directory, read_json
from services.inference.vllm.client import Json, VLLMClient
from services.inference.vllm.environment import python
from services.inference.vllm.generate_route import (
    asking_for,
    check,
    logprob_asked_for,
    logprobs_of,
    of_part,
    sampling_request,
)
from services.inference.vllm.server import VLLMServer
from shared.errors import DataError, EngineFailure, SettingsError
from shared.protocol import Sampling, VersionSpan, WeightTransfer
from shared.settings import Settings

T = TypeVar("T")

BASE_MODEL = "policy"
_POLL_S = 1.0
_PATIENCE = 20
"""Polls without an answer after which a server counts as hung."""
_DEAD = 503
_FRESH = "default"
"""What vLLM calls the weights it was started with."""
_LAST_WORDS_S = 15.0
"""vLLM's server ends within seconds of its engine process."""
_FOREIGN = "vLLM answered under weights that this service did not load"


class VLLMEngine:
    """One vLLM server: a child of this process, or the one at `inference.vllm.url`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._directory = Path()
        self._python = python(settings) if settings.inference.vllm.url is None else None
        self._info: EngineInfo | None = None
        self._server: VLLMServer | None = None
        self._client: VLLMClient | None = None
        self._versions: dict[str, int] = {}
        self._adapter: str | None = None
        self._unusable: str | None = None
        self._given_up = asyncio.Event()
        self._loading = asyncio.Lock()

    # ------------------------------------------------------------------------------------------------- its life

    @property
    def info(self) -> EngineInfo:
        """Limits of the loaded model."""
        if self._info is None:
            raise EngineFailure("The model is still being loaded.")
        return self._info

    async def start(self) -> None:
        """Start the server, or find the one that runs, and stamp its weights as version 0."""
        await self.stop()
        self._directory = await asyncio.to_thread(model_directory, self._settings.model.path)
        self._versions, self._adapter, self._unusable = {}, None, None
        self._given_up.clear()
        if self._python is None:
            await self._find()
        else:
            self._server = VLLMServer(self._settings, self._python, self._directory)
            self._client = VLLMClient(socket=self._server.socket)
            await self._server.start(self._client)
        context = min(await self._there.max_context(), self._settings.inference.max_context or 2**31)
        self._info = EngineInfo(max_context=context, vocabulary=_vocabulary(self._directory))
        await self._try_out()
        if self._server is None and await self._there.stamped() != _FRESH:
            # Who published there last is not known.
            await self._load_checkpoint(Checkpoint(self._directory), 0)
        else:
            await self._stamp(0)

    async def died(self) -> str:
        """Return when the server is gone, hung, or serves weights that this engine did not load."""
        ends = {asyncio.create_task(self._end_of_server()), asyncio.create_task(self._given_up.wait())}
        unanswered = 0
        try:
            while not (await asyncio.wait(ends, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED))[0]:
                status = await self._there.health()
                unanswered = unanswered + 1 if status is None else 0
                if reason := await self._fault(status, unanswered):
                    self.give_up(reason)
        except EngineFailure as error:
            self.give_up(str(error))
        finally:
            for end in ends:
                end.cancel()
        return self._unusable or f"vLLM {await self._end_of_server()}"

    async def _end_of_server(self) -> str:
        if self._server is not None:
            return await self._server.ended()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    async def stop(self) -> None:
        """End the child, if there is one, and the connections."""
        client, server, self._client, self._server = self._client, self._server, None, None
        if client is not None:
            await client.aclose()
        if server is not None:
            await server.stop()

    # ------------------------------------------------------------------------------------------------- sampling

    async def generate(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> list[list[Sampled]]:
        """`n` responses to each prompt, in order."""
        check(sampling)
        parts = self._parts(len(prompts), n)
        made = await _together(
            [self._generate(prompts[index], of_part(sampling, index, start), count) for index, start, count in parts]
        )
        responses: list[list[Sampled]] = [[] for _ in prompts]
        for (index, _, _), some in zip(parts, made, strict=True):
            responses[index] += some
        return responses

    def _parts(self, prompts: int, n: int) -> list[tuple[int, int, int]]:
        """Prompt, first response and number of responses of each request: vLLM takes no more than it has rows."""
        most = self._settings.inference.max_batch_rows
        return [(index, start, min(most, n - start)) for index in range(prompts) for start in range(0, n, most)]

    async def _generate(self, prompt: Sequence[int], sampling: Sampling, n: int) -> list[Sampled]:
        adapter = self._adapter
        answer = await self._there.generate(sampling_request(prompt, sampling, n, adapter or BASE_MODEL))
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
        made = [self._sampled(choice, adapter, sampling) for choice in choices]
        return made * (n // len(made))

    async def stream(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> AsyncIterator[Piece]:
        """As `generate`, in pieces as they come."""
        check(sampling)
        pieces: asyncio.Queue[Piece | BaseException | None] = asyncio.Queue()

        async def follow(index: int, start: int, count: int) -> None:
            try:
                part = of_part(sampling, index, start)
                async for piece in self._stream(prompts[index], part, count, place=index * n + start):
                    pieces.put_nowait(piece)
                pieces.put_nowait(None)
            except Exception as error:  # noqa: BLE001  raised again where the pieces are taken
                pieces.put_nowait(error)

        tasks = [asyncio.create_task(follow(*part)) for part in self._parts(len(prompts), n)]
        try:
            left = len(tasks)
            while left:
                piece = await pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                if piece is None:
                    left -= 1
                else:
                    yield piece
        finally:
            for task in tasks:
                task.cancel()

    async def _stream(self, prompt: Sequence[int], sampling: Sampling, n: int, *, place: int) -> AsyncIterator[Piece]:
        """Of `n` responses, the first of which is response `place` of the whole stream."""
        adapter = self._adapter
        async for chunk in self._there.stream(sampling_request(prompt, sampling, n, adapter or BASE_MODEL)):
            for choice in chunk["choices"]:
                reason = choice["finish_reason"]
                if reason is not None:
                    self._spans(choice, adapter)
                ids, logprobs = list(choice["token_ids"] or ()), logprobs_of(choice, sampling)
                for index in range(n) if sampling.temperature == 0 else (int(choice["index"]),):
                    yield Piece(place + index, ids, logprobs, reason)

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        """Log-probs, at temperature 1, of the tokens of each sequence after its first."""
        # With adapters, vLLM on a CPU dies of a request for the log-probs of a prompt.
        stepwise = self._settings.inference.vllm.lora_rank is not None
        one = self._score_stepwise if stepwise else self._score
        return await _together([one(list(sequence)) for sequence in sequences])

    async def _score(self, ids: list[int]) -> Scored:
        # One more token than the prompt: the last position of a full context is scored as if it were sampled.
        full = len(ids) >= self.info.max_context
        parameters: Json = {"max_tokens": 1, "logprobs": 0, "prompt_logprobs": 0, "temperature": 1.0}
        if full:
            parameters |= asking_for(ids[-1])
        body = {"token_ids": ids[:-1] if full else ids, "model": BASE_MODEL, "sampling_params": parameters}
        answer = await self._there.generate(body)
        choice = answer["choices"][0]
        inside = zip(ids[1:], answer["prompt_logprobs"][1:], strict=False)
        logprobs = [float(entry[str(token)]["logprob"]) for token, entry in inside]
        if full:
            logprobs.append(logprob_asked_for(choice, ids[-1]))
        return Scored(logprobs, self._spans(choice, None)[0].version)

    async def _score_stepwise(self, ids: list[int]) -> Scored:
        adapter = self._adapter

        async def last(prefix: list[int], token: int) -> tuple[float, int]:
            parameters = {"max_tokens": 1, "temperature": 1.0, **asking_for(token)}
            body = {"token_ids": prefix, "model": adapter or BASE_MODEL, "sampling_params": parameters}
            choice = (await self._there.generate(body))["choices"][0]
            return logprob_asked_for(choice, token), self._spans(choice, adapter)[0].version

        steps = await _together([last(ids[:end], ids[end]) for end in range(1, len(ids))])
        return Scored([logprob for logprob, _ in steps], min(version for _, version in steps))

    # -------------------------------------------------------------------------------------------------- weights

    async def load(self, weights: Weights, version: int) -> None:
        """Serve these weights as `version`; what is being sampled goes on under them."""
        async with self._loading:
            if isinstance(weights, WeightTransfer):
                await self._receive(weights, version)
            elif weights.adapter:
                await self._load_adapter(weights.directory, version)
            else:
                await self._load_checkpoint(weights, version)

    async def transfer_world(self) -> int:
        """Workers that take part in a transfer of weights."""
        return await self._there.world_size()

    async def join_transfer(self, init: Json) -> None:
        """Make the workers join a transfer of weights; for nccl, returns when the trainer has joined as well."""
        await self._there.transfer("init_weight_transfer_engine", {"init_info": init})

    async def _load_checkpoint(self, checkpoint: Checkpoint, version: int) -> None:
        directory = str(checkpoint.directory)
        results = await self._there.call_workers("read_checkpoint", directory)
        if errors := [result["error"] for result in results if "error" in result]:
            raise DataError(f"The checkpoint is refused: vLLM cannot read it: {errors[0]}", field="path")
        await self._there.pause()
        async with self._all_or_nothing():
            await self._there.call_workers("swap_weights")
            await self._stamp(version)
            self._adapter = None
            await self._there.resume()

    async def _receive(self, transfer: WeightTransfer, version: int) -> None:
        await self._there.pause()
        async with self._all_or_nothing():
            await self._there.transfer("start_weight_update")
            await self._there.transfer("update_weights", {"update_info": transfer.update})
            await self._there.transfer("finish_weight_update", {"weight_version": self._new_stamp(version)})
            self._adapter = None
            await self._there.resume()

    async def _load_adapter(self, directory: Path, version: int) -> None:
        name, before = f"{BASE_MODEL}-v{version}-{secrets.token_hex(4)}", self._adapter
        await self._there.load_adapter(name, directory)
        self._versions[name] = version
        self._adapter = name
        if before is not None:
            # Requests that run under it keep their copy.
            await self._there.unload_adapter(before)

    @asynccontextmanager
    async def _all_or_nothing(self) -> AsyncIterator[None]:
        """Whatever fails inside leaves vLLM paused, or with weights of which nobody knows: its end."""
        try:
            yield
        except BaseException as error:
            sentence = f"vLLM failed while it took new weights ({error})."
            self.give_up(sentence)
            if isinstance(error, DataError):
                raise EngineFailure(sentence) from error
            raise

    def give_up(self, reason: str) -> None:
        """The server's weights are in pieces: it must not answer any more."""
        self._unusable = self._unusable or reason
        self._given_up.set()
        if self._server is not None:
            self._server.kill()

    async def _stamp(self, version: int) -> None:
        await self._there.stamp(self._new_stamp(version))

    def _new_stamp(self, version: int) -> str:
        stamp = f"{version}-{secrets.token_hex(8)}"
        self._versions[stamp] = version
        return stamp

    # -------------------------------------------------------------------------------------------------- figures

    async def figures(self) -> Figures:
        """What vLLM's own metrics say, summed over its engines."""
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families((await self._there.metrics()).decode()):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return Figures(
            running=int(sums.get("vllm:num_requests_running", 0)),
            waiting=int(sums.get("vllm:num_requests_waiting", 0)),
            kv_use=sums.get("vllm:kv_cache_usage_perc"),
            tokens=int(sums.get("vllm:generation_tokens_total", 0)),
        )

    async def exposition(self) -> bytes:
        """vLLM's own metrics, without those of its Python process."""
        lines = (await self._there.metrics()).splitlines(keepends=True)
        return b"".join(line for line in lines if line.startswith((b"vllm:", b"# HELP vllm:", b"# TYPE vllm:")))

    # ------------------------------------------------------------------------------------------------ inside it

    @property
    def _there(self) -> VLLMClient:
        if self._client is None or self._unusable is not None:
            raise EngineFailure(self._unusable or "vLLM is not running.")
        return self._client

    async def _find(self) -> None:
        settings = self._settings.inference.vllm
        assert settings.url is not None
        self._client = VLLMClient(url=settings.url, api_key=settings.api_key)
        try:
            async with asyncio.timeout(settings.start_timeout_s):
                while await self._client.health() != 200:  # noqa: ASYNC110
                    await asyncio.sleep(_POLL_S)
                # It may have been left in the midst of a publication.
                await self._client.resume()
        except TimeoutError as error:
            raise EngineFailure(
                f"The vLLM server at {settings.url} was not healthy within {settings.start_timeout_s:g} s."
            ) from error

    async def _try_out(self) -> None:
        """Sample one token: some models load and then cannot run, some servers are not prepared as they must be."""
        parameters = {"max_tokens": 1, "temperature": 1.0, "logprobs": 0, "allowed_token_ids": [0]}
        try:
            answer = await self._there.generate({"token_ids": [0], "sampling_params": parameters})
            prepared = await self._there.call_workers("read_checkpoint", "/nonexistent")
        except EngineFailure as error:
            if self._server is None:
                raise SettingsError(f"{error} Start the server at inference.vllm.url as {_PREPARED}.") from error
            raise EngineFailure(await self._last_words(self._server, str(error))) from error
        processed = logprobs_of(answer["choices"][0], Sampling()) == [0.0]
        if not processed or not all("error" in result for result in prepared):
            raise SettingsError(f"The vLLM server at inference.vllm.url must be started as {_PREPARED}.")

    @staticmethod
    async def _last_words(server: VLLMServer, otherwise: str) -> str:
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                return f"vLLM {await server.ended()}"
        except TimeoutError:
            return otherwise

    async def _fault(self, status: int | None, unanswered: int) -> str | None:
        if status == _DEAD:
            return "vLLM's engine process is dead."
        if unanswered >= _PATIENCE:
            return "vLLM does not answer any more."
        alone = self._server is None and not self._loading.locked()
        if alone and status == 200 and await self._there.stamped() not in self._versions:
            return "The vLLM server was started again, or somebody else changed its weights."
        return None

    def _sampled(self, choice: Json, adapter: str | None, sampling: Sampling) -> Sampled:
        reason = choice["finish_reason"]
        if reason not in ("stop", "length", "abort"):
            raise EngineFailure(f"vLLM gave a response up ({reason}).")
        return Sampled(list(choice["token_ids"]), logprobs_of(choice, sampling), reason, self._spans(choice, adapter))

    def _spans(self, choice: Json, adapter: str | None) -> list[VersionSpan]:
        """Which version made which tokens. Raises EngineFailure for weights that this engine did not load."""
        spans = []
        for span in choice["weight_versions"] or ():
            stamp = adapter if adapter is not None else span["version"]
            if span["version"] not in self._versions or stamp not in self._versions:
                self.give_up(f"{_FOREIGN}.")
                raise EngineFailure(f"{_FOREIGN}; asking again may help.")
            spans.append(VersionSpan(version=self._versions[stamp], start=span["start"], end=span["end"]))
        return spans


_PREPARED = (
    "docs/inference.md says: VLLM_SERVER_DEV_MODE=1, --enable-scale-out, --logprobs-mode processed_logprobs and the "
    "worker extension"
)


def _vocabulary(directory: Path) -> int:
    """How many token ids the model has. Raises SettingsError when its config.json does not say."""
    config = read_json(directory, "config.json")
    size = (config.get("text_config") or config).get("vocab_size")
    if not isinstance(size, int):
        raise SettingsError(f"model.path: the config.json of {directory} does not give the vocab_size.")
    return size


async def _together(coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results, in order; the first failure cancels the rest and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None
    return [task.result() for task in tasks]
