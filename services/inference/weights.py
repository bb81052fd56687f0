"""Reading a published checkpoint, and refusing what does not fit, before the model is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from shared.errors import DataError

WEIGHTS_FILE = "model.safetensors"


def read_weights(directory: Path, model: Any) -> dict[str, Tensor]:
    """The tensors of `directory`, by name, in the types of the file; all that `model` needs and nothing else.

    Raises DataError (field `path`) when the file is missing or damaged, or a name, shape, type or value is wrong.
    """
    expected: dict[str, Tensor] = model.state_dict()
    try:
        with safe_open(directory / WEIGHTS_FILE, framework="pt") as file:
            names = set(file.keys())
            _check_names(names, expected)
            return {name: _checked(name, file.get_tensor(name), expected[name]) for name in sorted(names)}
    except (SafetensorError, OSError) as error:
        raise _refused(f"{WEIGHTS_FILE} cannot be read: {error}") from error


@torch.no_grad()
def apply_weights(weights: dict[str, Tensor], model: Any) -> None:
    """Copy checked weights into the model, in place."""
    parameters: dict[str, Tensor] = model.state_dict()
    for name, tensor in weights.items():
        parameters[name].copy_(tensor)


def _check_names(names: set[str], expected: dict[str, Tensor]) -> None:
    if unknown := sorted(names - expected.keys()):
        raise _refused(f"it has {len(unknown)} tensors that the model has not, such as {unknown[0]}")
    # Tied tensors share memory and are stored under one of their names.
    present = {_place(expected[name]) for name in names}
    if missing := sorted(name for name, tensor in expected.items() if _place(tensor) not in present):
        raise _refused(f"it lacks {len(missing)} tensors of the model, such as {missing[0]}")


def _checked(name: str, tensor: Tensor, expected: Tensor) -> Tensor:
    if tensor.shape != expected.shape:
        raise _refused(f"{name} has shape {list(tensor.shape)}, the model {list(expected.shape)}")
    if tensor.is_floating_point() != expected.is_floating_point():
        raise _refused(f"{name} has type {tensor.dtype}, the model {expected.dtype}")
    if not bool(torch.isfinite(tensor).all()):
        raise _refused(f"{name} holds NaN or infinite values")
    return tensor


def _place(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.numel()


def _refused(reason: str) -> DataError:
    return DataError(f"The checkpoint is refused: {reason}.", field="path")
