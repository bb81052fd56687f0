"""A file written tensor by tensor is the one that the safetensors library writes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from trainer import tensor_file

tensors = st.dictionaries(
    # One name is the format's own.
    st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=20).filter(
        lambda name: name != "__metadata__"
    ),
    st.builds(
        lambda shape, dtype: torch.arange(float(torch.Size(shape).numel())).reshape(shape).to(dtype),
        st.lists(st.integers(1, 4), max_size=3),
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    ),
    min_size=1,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tensors") / "model.safetensors"


@given(tensors)
def test_its_bytes_are_the_library_s_and_its_digest_that_of_its_bytes(
    file: Path, tensors: dict[str, torch.Tensor]
) -> None:
    header, names = tensor_file.layout({name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()})
    digest = tensor_file.write(file, header, (tensors[name] for name in names))
    assert file.read_bytes() == save(tensors, metadata={"format": "pt"})
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
