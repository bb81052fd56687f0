"""Which evaluation this is: everything that its rollouts and verdicts depend on, and a digest of it.

An evaluation goes on where it was stopped only under the same digest; anything else starts a new one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shared.models import resolve_model
from shared.protocol import PolicyState, Task
from shared.settings import Settings
from trainer.evaluate import Teacher, outcome_only

Identity = dict[str, Any]
_WEIGHTS = ("*.safetensors", "*.bin", "config.json", "adapter_config.json")


def identity(settings: Settings, policy: Identity, tasks: Sequence[Task], teacher: Teacher) -> Identity:
    """`policy` is `served_policy` or `policy_of_files`."""
    evaluation = settings.evaluation
    ((name, source),) = outcome_only(settings.feedback).sources.items()
    return {
        "policy": policy,
        "tasks": {
            "source": settings.tasks.source,
            "held_out": settings.tasks.held_out,
            "count": len(tasks),
            "sha256": _sha256([task.model_dump(mode="json") for task in tasks]),
        },
        "sampling": {
            "samples": evaluation.samples,
            "temperature": evaluation.temperature,
            "top_p": evaluation.top_p,
            "max_tokens": settings.rollout.max_tokens,
            "seed": settings.run.seed,
        },
        "engine": {
            "name": settings.inference.engine,
            "dtype": settings.model.dtype,
            "max_context": settings.inference.max_context,
        },
        "teacher": {
            "told": teacher,
            "prompt": None if teacher == "none" else settings.teacher_prompt.model_dump(mode="json"),
        },
        "outcome": {"source": name, "url": source.url},
    }


def served_policy(state: PolicyState) -> Identity:
    """The policy that a service serves."""
    return {"model": state.model, "run_id": state.run_id, "version": state.version, "sha256": state.sha256}


def policy_of_files(model: str) -> Identity:
    """The model in a directory, known by its files' names, sizes and times: reading gigabytes takes minutes.

    Raises SettingsError where there is none.
    """
    found = resolve_model(model)
    if not isinstance(found, Path):
        return {"model": model, "sha256": None}
    files = sorted(file for pattern in _WEIGHTS for file in found.glob(pattern))
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"model": model, "sha256": _sha256(stats)}


def digest(identity: Identity) -> str:
    """Twelve hexadecimal digits."""
    return _sha256(identity)[:12]


def differences(before: Identity, now: Identity) -> list[str]:
    """`sampling.temperature (1.0, now 0.6)` for each value that is not the same."""
    old, new = dict(_leaves(before)), dict(_leaves(now))
    return [
        f"{key} ({_short(old.get(key))}, now {_short(new.get(key))})"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]


def _leaves(value: Identity, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
