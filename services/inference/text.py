"""Text to token ids and back, with the model's own tokenizer and chat template, without torch.

What is rendered is byte for byte what the learner renders (`trainer/policy.py`), which asks transformers' tokenizer
classes; those cannot be had without torch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from services.inference.model_files import configured_end_ids, model_directory, read_json
from shared import chat_template
from shared.errors import DataError, EngineFailure, SettingsError
from shared.protocol import Message

_RENDERED = 4096
"""Prompts whose token ids are kept: held-out tasks come again at every evaluation."""
# Those that transformers hands to a chat template.
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Text:
    """The tokenizer and the chat template of `model.path`; `load` must have returned before anything else is called."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._loaded: _Loaded | None = None

    def load(self) -> None:
        """Read the files; a hub id is downloaded. Raises SettingsError."""
        if self._loaded is None:
            self._loaded = _Loaded(model_directory(self._path))

    @property
    def ends(self) -> frozenset[int]:
        """Ids after which a response is over."""
        return self._of_model.ends

    def render(self, messages: Sequence[Message]) -> list[int]:
        """Prompt token ids of a chat, up to where the assistant begins, thinking off. Raises DataError."""
        return list(self._of_model.render(tuple((message.role, message.content) for message in messages)))

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain text."""
        return self._of_model.encode(text, special=True)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, without special tokens and without the end token."""
        return self._of_model.decode(token_ids)

    def stream(self) -> TextStream:
        """A reader of tokens that come one at a time."""
        return TextStream(self._of_model)

    @property
    def _of_model(self) -> _Loaded:
        if self._loaded is None:
            raise EngineFailure("The model is still being loaded.")
        return self._loaded


class TextStream:
    """The text of tokens that come one at a time, never with half a character at its end."""

    def __init__(self, loaded: _Loaded) -> None:
        from tokenizers.decoders import DecodeStream

        self._loaded = loaded
        self._stream = DecodeStream(skip_special_tokens=True)
        self._token_ids: list[int] = []
        self._length = 0

    def next(self, token_id: int) -> str:
        """What `token_id` adds to the text; empty while a character is not complete."""
        self._token_ids.append(token_id)
        if token_id in self._loaded.ends:
            return ""
        piece = self._loaded.step(self._stream, token_id)
        self._length += len(piece)
        return piece

    def rest(self) -> str:
        """What is left when no more tokens come: characters that were never completed are replaced (U+FFFD)."""
        return self._loaded.decode(self._token_ids)[self._length :]


class _Loaded:
    def __init__(self, directory: Path) -> None:
        config = read_json(directory, "tokenizer_config.json")
        self._special = _special_tokens(directory, config)
        self._tokenizer = _tokenizer(directory, self._special.values())
        template = _chat_template(directory, config)
        self._template = None if template is None else chat_template.with_fixed_date(template)
        end = self._tokenizer.token_to_id(self._special.get("eos_token", ""))
        self.ends = frozenset(configured_end_ids(directory) | ({end} if end is not None else set()))
        # The tokenizer and a stream's state must not be used by two threads at once.
        self._lock = threading.Lock()
        self.render = lru_cache(_RENDERED)(self._render_anew)

    def encode(self, text: str, *, special: bool) -> list[int]:
        with self._lock:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=special).ids
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        shown = [token for token in token_ids if token not in self.ends]
        with self._lock:
            return str(self._tokenizer.decode(shown, skip_special_tokens=True))

    def step(self, stream: Any, token_id: int) -> str:
        with self._lock:
            return stream.step(self._tokenizer, token_id) or ""

    def _render_anew(self, messages: tuple[tuple[str, str], ...]) -> tuple[int, ...]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        if self._template is None:
            raise DataError("The model has no chat template: send token_ids.", field="messages")
        special: dict[str, Any] = dict(self._special)
        chat: list[Any] = [{"role": role, "content": content} for role, content in messages]
        try:
            rendered = render_jinja_template(
                conversations=[chat],
                chat_template=self._template,
                **chat_template.ARGUMENTS,
                **special,
            )[0][0]
        except (TemplateError, ValueError, TypeError) as error:
            raise DataError(f"The model's chat template refuses these messages: {error}", field="messages") from error
        return tuple(self.encode(rendered, special=False))


def _tokenizer(directory: Path, special: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer

    file = directory / "tokenizer.json"
    if not file.is_file():
        raise SettingsError(
            f"model.path: {directory} cannot be loaded: it has no tokenizer.json. Load its tokenizer once with "
            "transformers' AutoTokenizer and save it there (save_pretrained)."
        )
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower
        raise SettingsError(f"model.path: {directory} cannot be loaded: tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    known = tokenizer.get_vocab(with_added_tokens=True)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special if token not in known])
    return tokenizer


def _special_tokens(directory: Path, config: dict[str, Any]) -> dict[str, str]:
    """Names and texts of the special tokens that a chat template sees."""
    found = {**config}
    if "added_tokens_decoder" not in config:
        found |= read_json(directory, "special_tokens_map.json")
    texts = {name: found[name] for name in _SPECIAL if found.get(name) is not None}
    return {name: str(token["content"] if isinstance(token, dict) else token) for name, token in texts.items()}


def _chat_template(directory: Path, config: dict[str, Any]) -> str | None:
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((one.get("template") for one in template if one.get("name") == "default"), None)
    return template if isinstance(template, str) else None
