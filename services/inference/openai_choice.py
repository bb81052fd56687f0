"""A response as the OpenAI-compatible routes show it: its text as tokens come, ended before the first stop string."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.inference.text import TextStream


@dataclass(frozen=True)
class Shown:
    """The next part of a response: text, its tokens with their log-probs, and with the last part why it is the last."""

    text: str
    tokens: list[tuple[int, float]]
    finish_reason: str | None


class Choice:
    """One response. However its tokens are cut into pieces, the parts shown add up to the same.

    A stop string ends the text before its first occurrence; text that may be the beginning of one is held back. A
    token is shown with the text at which it starts.
    """

    def __init__(self, text: TextStream, stops: Sequence[str]) -> None:
        self._stream = text
        self._stops = stops
        self._text = ""
        self._shown = 0
        self._held: list[tuple[int, tuple[int, float]]] = []
        self.finished = False

    def feed(self, token_ids: Sequence[int], logprobs: Sequence[float], finish_reason: str | None) -> Shown:
        """What the next tokens let be shown; the last ones have a finish reason."""
        for token, logprob in zip(token_ids, logprobs, strict=True):
            self._held.append((len(self._text), (token, logprob)))
            self._text += self._stream.next(token)
        if finish_reason is not None:
            self._text += self._stream.rest()
        found = min((at for stop in self._stops if (at := self._text.find(stop, self._shown)) >= 0), default=None)
        begun = None if finish_reason is not None else self._begun()
        if found is not None and (begun is None or found < begun):
            return self._show(found, "stop", self._tokens_before(found))
        if finish_reason is not None:
            return self._show(len(self._text), finish_reason, [token for _, token in self._held])
        end = len(self._text) if begun is None else begun
        return self._show(end, None, self._tokens_before(end))

    def _begun(self) -> int | None:
        """Where the text ends with what may become a stop string."""
        longest = max(map(len, self._stops), default=1)
        for at in range(max(self._shown, len(self._text) - longest + 1), len(self._text)):
            if any(stop.startswith(self._text[at:]) for stop in self._stops):
                return at
        return None

    def _tokens_before(self, end: int) -> list[tuple[int, float]]:
        return [token for start, token in self._held if start < end]

    def _show(self, end: int, finish_reason: str | None, tokens: list[tuple[int, float]]) -> Shown:
        text = self._text[self._shown : end]
        self._shown, self._held = end, self._held[len(tokens) :]
        self.finished = finish_reason is not None
        return Shown(text, tokens, finish_reason)
