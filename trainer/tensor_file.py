"""Writing a safetensors file tensor by tensor, so that no more than one of them is in memory whole.

The format (github.com/huggingface/safetensors): 8 bytes, little-endian, that give the header's length; the header, JSON
padded with spaces; the tensors' bytes, in the order of their offsets.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

# In the library's order.
_TYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def layout(shapes: Mapping[str, tuple[torch.Size, torch.dtype]]) -> tuple[bytes, list[str]]:
    """The bytes before the tensors, and the order in which the tensors come after them: the safetensors library's."""
    names = sorted(shapes, key=lambda name: (list(_TYPES).index(shapes[name][1]), name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        shape, dtype = shapes[name]
        begin, end = end, end + shape.numel() * dtype.itemsize
        header[name] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, names


def write(file: Path, header: bytes, tensors: Iterable[Tensor]) -> str:
    """Write header and tensors, which come one after the other; the file's SHA-256. Raises OSError."""
    found = hashlib.sha256()
    with file.open("wb") as out:
        _put(out, header, found)
        for tensor in tensors:
            _put(out, as_bytes(tensor), found)
    return found.hexdigest()


def as_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor's elements, in order."""
    elements: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return memoryview(elements)


def _put(out: BinaryIO, data: bytes | memoryview, found: hashlib._Hash) -> None:
    out.write(data)
    found.update(data)
