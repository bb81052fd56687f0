"""Checking a published checkpoint before the engine is touched, without torch: bytes, names, shapes, types, values.

The measure is the model's own checkpoint: what is published must have the same tensors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from services.inference.model_files import read_json
from shared.errors import DataError, SettingsError

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
HEAD = "lm_head.weight"
CHUNK_BYTES = 2**24
"""Bytes of a checkpoint in memory at once; a multiple of every element's size."""

_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# (unsigned integer of the element's size, bits that are all ones in NaN and in infinity and in nothing else)
_NOT_FINITE = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}


@dataclass(frozen=True)
class Tensor:
    """What a safetensors header says of a tensor; `bytes` is where it stands in the file, start and end."""

    dtype: str
    shape: tuple[int, ...]
    bytes: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> str:
        """ "float" for what can train, the type itself for anything else."""
        return "float" if self.dtype in _NOT_FINITE else self.dtype


@dataclass(frozen=True)
class Reference:
    """The tensors that a checkpoint of the model has, by name; `tied`: its head is its embeddings, and may be left
    out."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    tied: bool = False

    @classmethod
    def of(cls, directory: Path) -> Reference:
        """That of the model in `directory`, in one file or several. Raises SettingsError."""
        tensors: dict[str, Tensor] = {}
        try:
            for file in _shards(directory):
                tensors |= read_header(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise SettingsError(
                f"model.path: {directory} cannot be loaded: its weights cannot be read: {error}"
            ) from error
        config = read_json(directory, "config.json")
        text = config.get("text_config")
        tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings") if isinstance(text, dict) else False)
        return cls(tensors, bool(tied))

    def check(self, tensors: Mapping[str, Tensor], field: str) -> None:
        """Raises DataError unless `tensors` are those of the model."""
        expected = dict(self.tensors)
        if self.tied:
            embeddings = [tensor for name, tensor in expected.items() if name.endswith("embed_tokens.weight")]
            expected.update({HEAD: embeddings[0]} if embeddings and HEAD not in expected else {})
        if unknown := sorted(tensors.keys() - expected.keys()):
            raise _refused(f"it has {len(unknown)} tensors that the model has not, such as {unknown[0]}", field)
        optional = {HEAD} if self.tied else set()
        if missing := sorted(expected.keys() - tensors.keys() - optional):
            raise _refused(f"it lacks {len(missing)} tensors of the model, such as {missing[0]}", field)
        for name in sorted(tensors):
            _check_alike(name, tensors[name], expected[name], field)


def check_weights(directory: Path, reference: Reference, sha256: str) -> None:
    """Raises DataError unless the weights in `directory` have that digest, fit the model and are finite.

    The file is read once.
    """
    tensors = _header(directory / WEIGHTS_FILE)
    reference.check(tensors, "path")
    _sweep(directory / WEIGHTS_FILE, tensors, sha256)


def check_adapter(directory: Path, sha256: str, *, rank: int) -> None:
    """Raises DataError unless `directory` has a LoRA adapter of that digest, finite and of at most that rank."""
    config = _adapter_config(directory)
    pattern = config.get("rank_pattern")
    ranks = [config.get("r"), *(pattern.values() if isinstance(pattern, dict) else ())]
    if not all(isinstance(one, int) and one > 0 for one in ranks):
        raise _refused(f"{ADAPTER_CONFIG} has no rank r above 0", "path")
    tensors = _header(directory / ADAPTER_FILE)
    ranks += [_rank(name, tensor) for name, tensor in tensors.items()]
    if max(ranks) > rank:
        raise _refused(f"the adapter has rank {max(ranks)}; inference.vllm.lora_rank allows {rank}, raise it", "path")
    _sweep(directory / ADAPTER_FILE, tensors, sha256)


def tensors_of_transfer(update: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors that a transfer announces. Raises DataError."""
    names, shapes, types = (update.get(key) for key in ("names", "shapes", "dtype_names"))
    if not (isinstance(names, list) and isinstance(shapes, list) and isinstance(types, list)):
        raise DataError(
            "transfer.update must have names, shapes and dtype_names, a list each, with one entry for each tensor.",
            field="transfer.update",
        )
    if not len(names) == len(shapes) == len(types) == len(set(map(str, names))):
        raise DataError(
            "names, shapes and dtype_names of transfer.update must be equally long, and no name may stand twice.",
            field="transfer.update",
        )
    short = {name: code for code, name in _NAMES.items()}
    try:
        return {
            str(name): Tensor(short.get(str(dtype).removeprefix("torch."), str(dtype)), tuple(map(int, shape)))
            for name, shape, dtype in zip(names, shapes, types, strict=True)
        }
    except (TypeError, ValueError) as error:
        raise DataError("transfer.update.shapes must hold lists of integers.", field="transfer.update") from error


# ------------------------------------------------------------------------------------------------------------ files


def read_header(file: Path) -> dict[str, Tensor]:
    """What the file says of its tensors. Raises SafetensorError, OSError or ValueError."""
    # The library refuses a header that lies about the file: offsets with holes, a length that is not the file's.
    with safe_open(file, framework="numpy"):
        pass
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    start = 8 + length

    def tensor(entry: Mapping[str, Any]) -> Tensor:
        first, end = entry["data_offsets"]
        return Tensor(entry["dtype"], tuple(entry["shape"]), (start + first, start + end))

    return {name: tensor(entry) for name, entry in header.items()}


def _shards(directory: Path) -> list[Path]:
    if (directory / WEIGHTS_FILE).is_file():
        return [directory / WEIGHTS_FILE]
    names = read_json(directory, INDEX_FILE).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise SettingsError(
            f"model.path: {directory} cannot be loaded: it has neither {WEIGHTS_FILE} nor {INDEX_FILE}; save its "
            "weights as safetensors."
        )
    return [directory / name for name in sorted(set(names.values()))]


def _header(file: Path) -> dict[str, Tensor]:
    try:
        return read_header(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise _refused(f"{file.name} cannot be read: {error}", "path") from error


def _sweep(file: Path, tensors: Mapping[str, Tensor], sha256: str) -> None:
    """One pass over the file: its digest, and whether its values are finite."""
    digest, broken = hashlib.sha256(), None
    try:
        with file.open("rb") as stream:
            digest.update(stream.read(min((t.bytes[0] for t in tensors.values()), default=0)))
            for name, tensor in sorted(tensors.items(), key=lambda item: item[1].bytes):
                finite = True
                for chunk in _chunks(stream, tensor.bytes[1] - tensor.bytes[0]):
                    digest.update(chunk)
                    finite = finite and _finite(chunk, tensor.dtype)
                broken = broken or (None if finite else name)
            for rest in iter(lambda: stream.read(CHUNK_BYTES), b""):
                digest.update(rest)
    except OSError as error:
        raise _refused(f"{file.name} cannot be read: {error.strerror}", "path") from error
    if digest.hexdigest() != sha256:
        raise DataError(
            f"{file.name} has sha256 {digest.hexdigest()[:12]}..., not the one announced: write the directory under "
            "another name and rename it before publishing.",
            field="sha256",
        )
    if broken is not None:
        raise _refused(f"{broken} holds NaN or infinite values", "path")


def _chunks(stream: BinaryIO, length: int) -> Iterator[bytes]:
    while length > 0 and (chunk := stream.read(min(length, CHUNK_BYTES))):
        length -= len(chunk)
        yield chunk


def _finite(chunk: bytes, dtype: str) -> bool:
    if dtype not in _NOT_FINITE:
        return True
    unsigned, ones = _NOT_FINITE[dtype]
    # A file that is cut while it is read ends anywhere; its digest tells.
    whole = len(chunk) // np.dtype(unsigned).itemsize * np.dtype(unsigned).itemsize
    bits = np.frombuffer(chunk[:whole], unsigned)
    return not bool(((bits & ones) == ones).any())


def _check_alike(name: str, tensor: Tensor, expected: Tensor, field: str) -> None:
    if tensor.shape != expected.shape:
        raise _refused(f"{name} has shape {list(tensor.shape)}, the model {list(expected.shape)}", field)
    if tensor.kind != expected.kind:
        raise _refused(f"{name} has type {_type(tensor)}, the model {_type(expected)}", field)


def _type(tensor: Tensor) -> str:
    name = _NAMES.get(tensor.dtype, tensor.dtype.lower())
    return f"torch.{'int' + name[1:] if name[:1] == 'i' and name[1:].isdigit() else name}"


def _adapter_config(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refused(f"{ADAPTER_CONFIG} cannot be read: {error}", "path") from error
    if not isinstance(config, dict) or config.get("peft_type", "LORA") != "LORA":
        raise _refused(f"{ADAPTER_CONFIG} is not that of a LoRA adapter", "path")
    return config


def _rank(name: str, tensor: Tensor) -> int:
    """The rank of one of an adapter's two factors: A is [rank, in], B is [out, rank]."""
    side = 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
    if side is None or len(tensor.shape) != 2 or tensor.kind != "float":
        raise _refused(
            f"{ADAPTER_FILE} holds {name}, which is no factor lora_A or lora_B of floating-point type", "path"
        )
    return tensor.shape[side]


def _refused(reason: str, field: str) -> DataError:
    return DataError(f"The checkpoint is refused: {reason}.", field=field)
