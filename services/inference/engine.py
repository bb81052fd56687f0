"""The seam between the gateway and what runs the model. Importing this loads neither torch nor an engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from shared.protocol import Message, Rollout, Sampling
from shared.settings import Settings


@dataclass(frozen=True)
class EngineInfo:
    """What the gateway must know to refuse what the engine cannot do: tokens of context, number of token ids."""

    max_context: int
    vocabulary: int


class Engine(Protocol):
    """Runs one model under one policy version at a time.

    `start` must have returned before anything else is called. The text methods are quick and run on the caller's
    thread; the others are awaited.
    """

    @property
    def info(self) -> EngineInfo:
        """Limits of the loaded model."""

    async def start(self) -> None:
        """Load the model that the settings name. Raises SettingsError or EngineFailure."""

    async def stop(self) -> None:
        """Give up what is running and free everything."""

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Prompt token ids of a chat, up to where the assistant begins. Raises DataError if the template refuses."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""

    async def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Rollout]:
        """One rollout of each prompt, in order, with the versions they were sampled under.

        A prompt that stands there several times is sampled several times. With a seed, the same prompts and the
        same policy give the same tokens. Raises EngineFailure.
        """

    async def load(self, directory: Path, version: int) -> None:
        """Serve the weights of `directory` as `version` from the next batch on.

        Raises DataError when the checkpoint does not fit the model, before anything is changed.
        """


def make_engine(settings: Settings) -> Engine:
    """The engine the settings ask for."""
    from services.inference.transformers_engine import TransformersEngine

    return TransformersEngine(settings.model, settings.inference)
