"""A checkpoint of divided weights: a directory that torch.distributed.checkpoint (DCP) writes, each rank its own part.

    step_000010/
        __0_0.distcp ...   parts of weights and moments, one file a rank    .metadata      DCP's: which part is where
        state.pt           everything else, as rank 0 has it               digests.json   SHA-256 of each other file

It is written beside and renamed; the rename is the mark that it is whole. Any number of ranks can read it, and one
process alone.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed.tensor as distributed
from torch import Tensor
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, Shard

from trainer.checkpoint_files import DIGESTS, file_digest
from trainer.disk import sync_directory, write_atomically
from trainer.ranks import Ranks

State = dict[str, Any]
Keys = tuple[Any, ...]
_REST = "state.pt"


def write(temporary: Path, state: State, ranks: Ranks) -> None:
    """Fill the empty directory `temporary`; durable on every rank when it returns. All ranks call it with their parts.

    Raises what DCP and the disk raise.
    """
    tensors = {_key(path): tensor for path, tensor in _sharded(state)}
    save(tensors, checkpoint_id=temporary)
    if ranks.leads:
        paths = [path for path, _ in _sharded(state)]
        with (temporary / _REST).open("wb") as out:
            torch.save({"state": _without_sharded(state), "sharded": paths}, out)
            out.flush()
            os.fsync(out.fileno())
    ranks.gathered(None)  # all of them see all files
    files = sorted(file.name for file in temporary.iterdir())
    own = {name: file_digest(temporary / name) for name in files[ranks.rank :: ranks.size]}
    digests = {name: digest for found in ranks.gathered(own) for name, digest in found.items()}
    if ranks.leads:
        write_atomically(temporary / DIGESTS, json.dumps(dict(sorted(digests.items())), indent=1))
        sync_directory(temporary)


def read(directory: Path, ranks: Ranks) -> State:
    """What was saved, weights and moments divided over `ranks`, or whole where there is one. All ranks call it.

    Raises ValueError where a file is not the one that was written, and what DCP and the disk raise.
    """
    if not all(ranks.gathered(_is_whole(directory, ranks))):
        raise ValueError("its files are not those that were saved")
    rest = torch.load(directory / _REST, map_location="cpu", weights_only=True)
    metadata = FileSystemReader(directory).read_metadata().state_dict_metadata
    tensors = {_key(path): _empty(metadata[_key(path)], ranks) for path in rest["sharded"]}
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there is one process
        load(tensors, checkpoint_id=directory, no_dist=ranks.size == 1)
    state: State = rest["state"]
    for path in rest["sharded"]:
        *parents, last = path
        inner = state
        for name in parents:
            inner = inner[name]
        inner[last] = tensors[_key(path)]
    return state


def _is_whole(directory: Path, ranks: Ranks) -> bool:
    """Of this rank's share of the files."""
    try:
        noted: dict[str, str] = json.loads((directory / DIGESTS).read_text())
        own = sorted(noted)[ranks.rank :: ranks.size]
        return all(file_digest(directory / name) == noted[name] for name in own)
    except (OSError, ValueError, AttributeError):
        return False


def _empty(saved: Any, ranks: Ranks) -> Tensor:
    assert isinstance(saved, TensorStorageMetadata)
    size, dtype = saved.size, saved.properties.dtype
    if ranks.size == 1:
        return torch.empty(size, dtype=dtype)
    return distributed.empty(*size, dtype=dtype, device_mesh=ranks.mesh, placements=[Shard(0)])


def _sharded(state: Any, path: Keys = ()) -> Iterator[tuple[Keys, DTensor]]:
    """The divided tensors of nested dictionaries, with the keys that lead to each."""
    if isinstance(state, DTensor):
        yield path, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from _sharded(value, (*path, key))


def _without_sharded(state: Any) -> Any:
    """The same dictionaries with None where a divided tensor was."""
    if isinstance(state, dict):
        return {key: None if isinstance(value, DTensor) else _without_sharded(value) for key, value in state.items()}
    return state


def _key(path: Keys) -> str:
    return "/".join(map(str, path))
