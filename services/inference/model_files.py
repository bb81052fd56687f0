"""The files of the model that the settings name, on this machine: where they are and what their JSON says."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from shared.errors import SettingsError
from shared.models import resolve_model

_WANTED = ["*.json", "*.jinja", "tokenizer*", "*.safetensors"]


@lru_cache(maxsize=8)
def model_directory(path: str) -> Path:
    """The directory of `model.path`; a hub id is downloaded first, once. Raises SettingsError."""
    source = resolve_model(path)
    return source if isinstance(source, Path) else _downloaded(source)


def read_json(directory: Path, name: str) -> dict[str, Any]:
    """The JSON object in a model's file; {} where there is no such file. Raises SettingsError."""
    try:
        document = json.loads((directory / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"model.path: {directory} cannot be loaded: {name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"model.path: {directory} cannot be loaded: {name} holds no JSON object.")
    return document


def configured_end_ids(directory: Path) -> set[int]:
    """Ids after which a response is over, as the model's configuration names them."""
    for name in ("generation_config.json", "config.json"):
        ends = read_json(directory, name).get("eos_token_id")
        if ends is not None:
            return {int(end) for end in (ends if isinstance(ends, list) else [ends])}
    return set()


def _downloaded(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_WANTED, ignore_patterns=["*/*"]))
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SettingsError(
            f"model.path: {hub_id} is no directory here and cannot be downloaded from the hub: {reason}"
        ) from error
