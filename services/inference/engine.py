"""The seam between the gateway and what runs the model. Importing this loads neither torch nor an engine.

An engine deals in tokens alone: text is the gateway's (`text.py`), and so is what a version means (`policy_store.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from shared.protocol import Sampling, VersionSpan, WeightTransfer
from shared.settings import Settings

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True)
class EngineInfo:
    """What the gateway must know to refuse what the engine cannot do: tokens of context, number of token ids."""

    max_context: int
    vocabulary: int


@dataclass(frozen=True)
class Sampled:
    """A response: `token_ids` with the end token if one was sampled, a log-prob under the sampling distribution for
    each, and the versions they were sampled under."""

    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    versions: list[VersionSpan]


@dataclass(frozen=True)
class Piece:
    """The next tokens of response `index` (prompt-major) of a stream; the last piece of each has a finish reason."""

    index: int
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None


@dataclass(frozen=True)
class Scored:
    """Log-probs, at temperature 1, of a sequence's tokens after the first, and the version that gave them."""

    logprobs: list[float]
    version: int


@dataclass(frozen=True)
class Checkpoint:
    """Weights in a Hugging Face directory that `checkpoint.py` has checked; a LoRA adapter's if `adapter`."""

    directory: Path
    adapter: bool = False


Weights = Checkpoint | WeightTransfer


@dataclass(frozen=True)
class Figures:
    """What an engine says of itself: requests that run and wait, the used share of keys and values (None: it has no
    such limit), and all tokens generated since it started."""

    running: int
    waiting: int
    kv_use: float | None
    tokens: int


class Engine(Protocol):
    """Runs one model; each token it makes is of one policy version.

    `start` must have returned before anything else is called. A call that is cancelled stops its tokens.
    """

    @property
    def info(self) -> EngineInfo:
        """Limits of the loaded model."""

    async def start(self) -> None:
        """Serve the model that the settings name, as version 0. Raises SettingsError or EngineFailure.

        Called again after `died` has returned.
        """

    async def died(self) -> str:
        """Return only when the engine cannot serve any more and must be started again; the reason, in one sentence."""

    async def stop(self) -> None:
        """Give up what is running and free everything."""

    async def generate(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> list[list[Sampled]]:
        """`n` responses to each prompt, in order. With a seed, the same prompts and policy give the same tokens (vLLM:
        up to rounding, which depends on what else runs). At temperature 0 log-probs are 0. Raises EngineFailure.
        """

    def stream(self, prompts: Sequence[Sequence[int]], n: int, sampling: Sampling) -> AsyncIterator[Piece]:
        """As `generate`, in pieces as they come. Raises EngineFailure."""

    async def score(self, sequences: Sequence[Sequence[int]]) -> list[Scored]:
        """Log-probs of the tokens of each sequence (two tokens or more) after its first. Raises EngineFailure."""

    async def load(self, weights: Weights, version: int) -> None:
        """Serve these weights as `version` from now on; what is being sampled goes on under them or ends under the old.

        Raises DataError when the engine refuses them and serves the old ones still, EngineFailure when it cannot say.
        """

    async def transfer_world(self) -> int:
        """Workers that take part in a `WeightTransfer`. Raises DataError where the engine takes none, EngineFailure."""

    async def join_transfer(self, init: dict[str, Any]) -> None:
        """Make the workers join the transfer that `init` describes. Raises DataError and EngineFailure."""

    async def figures(self) -> Figures:
        """What `/metrics` shows. Raises EngineFailure."""

    async def exposition(self) -> bytes:
        """The engine's own metrics in Prometheus' text format; may be empty. Raises EngineFailure."""


def make_engine(settings: Settings) -> Engine:
    """The engine the settings ask for."""
    if settings.inference.engine == "vllm":
        from services.inference.vllm.engine import VLLMEngine

        return VLLMEngine(settings)
    from services.inference.transformers_engine import TransformersEngine

    return TransformersEngine(settings.model, settings.inference)
