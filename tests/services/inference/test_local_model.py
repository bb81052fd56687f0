"""Weights are read from a safetensors file as the library itself reads them, and nothing stays behind."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.inference.local_model import LocalModel, _read_tensors
from shared.errors import SettingsError
from shared.settings import ModelSettings
from tests.tiny_model import make_tiny_model

TENSORS = {
    "bfloat16": torch.randn(3, 5, generator=torch.Generator().manual_seed(1)).bfloat16(),
    "float16": torch.tensor([[1.5, -2.25]], dtype=torch.float16),
    "float32": torch.linspace(-1, 1, 24).reshape(2, 3, 4),
    "float64": torch.tensor([0.1], dtype=torch.float64),
    "int64": torch.arange(4),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(2.5),
    "empty": torch.zeros(0, 3),
}


def test_every_type_and_shape_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "all.safetensors")
    ours, theirs = _read_tensors(tmp_path / "all.safetensors"), load_file(tmp_path / "all.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype and ours[name].shape == tensor.shape
        assert torch.equal(ours[name], tensor)


def test_a_type_that_no_model_has_is_refused_by_name(tmp_path: Path) -> None:
    save_file({"weight": torch.zeros(4, dtype=torch.uint8)}, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="weight is cut, or of type U8"):
        _read_tensors(tmp_path / "odd.safetensors")


def test_reading_again_and_again_holds_no_more_memory(tmp_path: Path) -> None:
    file = tmp_path / "many.safetensors"
    save_file({f"layer.{i}.weight": torch.zeros(17, 3) for i in range(50)}, file)
    for _ in range(20):
        _read_tensors(file)
    tracemalloc.start()
    try:
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(100):
            _read_tensors(file)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    # Two integers a tensor would be 280,000 bytes.
    assert grown < 50_000


def test_a_model_that_does_not_say_how_many_positions_it_has_needs_the_setting(tmp_path: Path) -> None:
    """A state-space model has none."""
    from transformers import MambaConfig, MambaForCausalLM

    directory = make_tiny_model(tmp_path)
    MambaForCausalLM(MambaConfig(vocab_size=261, hidden_size=16, num_hidden_layers=1)).save_pretrained(directory)
    settings = ModelSettings(path=str(directory), device="cpu")
    with pytest.raises(SettingsError, match=r"no max_position_embeddings .* set inference\.max_context") as caught:
        LocalModel(settings, max_batch_rows=1)
    assert "\n" not in str(caught.value)
    assert LocalModel(settings, max_batch_rows=1, max_context=50).info.max_context == 50
