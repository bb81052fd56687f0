"""What is asked of vLLM's `/inference/v1/generate`, and how its answers are read; written against vLLM 0.32."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from services.inference.vllm.client import Json
from shared.errors import DataError
from shared.protocol import Sampling

COLDEST, HOTTEST = 0.01, 2.0
"""Temperatures beside 0. vLLM refuses hotter ones, and takes colder ones for the coldest without saying so."""


def check(sampling: Sampling) -> None:
    """Raises DataError (field `sampling.temperature`) for a temperature that vLLM does not sample at."""
    if sampling.temperature != 0 and not COLDEST <= sampling.temperature <= HOTTEST:
        raise DataError(
            f"vLLM takes temperatures from {COLDEST:g} to {HOTTEST:g}, and 0, not {sampling.temperature:g}.",
            field="sampling.temperature",
        )


def sampling_request(prompt: Sequence[int], sampling: Sampling, n: int, model: str) -> Json:
    """`n` responses to a prompt; one at temperature 0, where vLLM takes no more."""
    parameters: Json = {
        "n": 1 if sampling.temperature == 0 else n,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "ignore_eos": sampling.ignore_end,
        "logprobs": 0,
        "detokenize": False,
    }
    if sampling.seed is not None:
        parameters["seed"] = sampling.seed
    return {"token_ids": list(prompt), "model": model, "sampling_params": parameters}


def of_part(sampling: Sampling, index: int, start: int) -> Sampling:
    """With a seed of its own for each part: two prompts under one seed would share their random numbers."""
    if sampling.seed is None:
        return sampling
    digest = hashlib.sha256(f"{sampling.seed} {index} {start}".encode()).digest()
    return sampling.model_copy(update={"seed": int.from_bytes(digest[:8]) >> 2})


def logprobs_of(choice: Json, sampling: Sampling) -> list[float]:
    """Of the tokens of a choice; 0 at temperature 0, where each was certain."""
    content = (choice["logprobs"] or {}).get("content") or []
    return [0.0 if sampling.temperature == 0 else float(token["logprob"]) for token in content]


def asking_for(token: int) -> Json:
    """Parameters for the log-prob of a token that may not be the one sampled. A second one must be asked for: vLLM
    shows as many as were asked for, the sampled one before all others."""
    return {"logprobs": 2, "logprob_token_ids": [token, 1 if token == 0 else 0]}


def logprob_asked_for(choice: Json, token: int) -> float:
    """What the answer to `asking_for` says."""
    first = choice["logprobs"]["content"][0]
    return next(float(entry["logprob"]) for entry in [first, *first["top_logprobs"]] if entry["token_id"] == token)
