"""Checking checkpoints without torch, against torch and the safetensors library as oracles."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file

from services.inference import checkpoint
from services.inference.checkpoint import Reference, check_adapter, check_weights, tensors_of_transfer
from shared.errors import DataError, SettingsError
from tests.tiny_model import make_tiny_model

WEIGHTS = {
    "model.embed_tokens.weight": torch.arange(12, dtype=torch.float32).reshape(4, 3),
    "model.norm.weight": torch.ones(3, dtype=torch.bfloat16),
    "model.steps": torch.arange(5),
}
FLOATS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has the tensors WEIGHTS and ties its head."""
    directory = tmp_path_factory.mktemp("reference")
    save_file(WEIGHTS, directory / "model.safetensors")
    (directory / "config.json").write_text('{"tie_word_embeddings": true}')
    return directory


def check(model: Path, directory: Path, content: bytes) -> None:
    """Publish `content` under its own digest."""
    (directory / "model.safetensors").write_bytes(content)
    check_weights(directory, Reference.of(model), hashlib.sha256(content).hexdigest())


def changed(**tensors: torch.Tensor | None) -> bytes:
    names = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return save({name: tensor for name, tensor in {**WEIGHTS, **names}.items() if tensor is not None})


def test_what_has_the_models_tensors_is_accepted_in_any_floating_point_type(model: Path, tmp_path: Path) -> None:
    check(model, tmp_path, save(WEIGHTS))
    for dtype in FLOATS:
        check(model, tmp_path, changed(model__norm__weight=torch.zeros(3, dtype=dtype)))


@given(share=st.floats(0, 1, exclude_max=True))
def test_any_truncation_is_refused(model: Path, tmp_path_factory: pytest.TempPathFactory, share: float) -> None:
    content = save(WEIGHTS)
    with pytest.raises(DataError, match="cannot be read") as refused:
        check(model, tmp_path_factory.mktemp("cut"), content[: int(share * len(content))])
    assert refused.value.field == "path"


@given(data=st.data())
def test_a_changed_header_is_refused_or_says_the_same(
    model: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(save(WEIGHTS, metadata={"format": "pt"}))
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, header - 1))] ^= data.draw(st.integers(1, 255))
    try:
        check(model, tmp_path_factory.mktemp("flipped"), bytes(content))
    except DataError as refused:
        assert refused.field == "path"
        return
    read = load(bytes(content))
    assert read.keys() == WEIGHTS.keys()
    assert all(read[name].shape == tensor.shape for name, tensor in WEIGHTS.items())
    assert all(bool(torch.isfinite(tensor).all()) for tensor in read.values())


@given(content=st.binary(max_size=200))
def test_garbage_is_refused(model: Path, tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        check(model, tmp_path_factory.mktemp("garbage"), content)


@given(shape=st.lists(st.integers(0, 4), max_size=3))
def test_any_other_shape_is_refused(model: Path, tmp_path_factory: pytest.TempPathFactory, shape: list[int]) -> None:
    content = changed(model__embed_tokens__weight=torch.zeros(shape))
    if shape == [4, 3]:
        check(model, tmp_path_factory.mktemp("shape"), content)
        return
    with pytest.raises(DataError, match=r"model.embed_tokens.weight has shape .*, the model \[4, 3\]"):
        check(model, tmp_path_factory.mktemp("shape"), content)


@given(
    name=st.text(min_size=1, max_size=20).filter(lambda name: name not in {*WEIGHTS, "lm_head.weight", "__metadata__"})
)
def test_any_other_name_is_refused(model: Path, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    with pytest.raises(DataError, match="it has 1 tensors that the model has not"):
        check(model, tmp_path_factory.mktemp("name"), save({**WEIGHTS, name: torch.ones(3)}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (changed(model__steps=None), "lacks 1 tensors of the model, such as model.steps"),
        (changed(model__steps=torch.ones(5)), "model.steps has type torch.float32, the model torch.int64"),
        (
            changed(model__norm__weight=torch.ones(3).int()),
            "model.norm.weight has type torch.int32, the model torch.bfloat16",
        ),
        (
            changed(model__steps=torch.ones(5, dtype=torch.bool)),
            "model.steps has type torch.bool, the model torch.int64",
        ),
    ],
)
def test_missing_names_and_other_types_are_refused(model: Path, tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        check(model, tmp_path, content)


@given(data=st.data(), dtype=st.sampled_from(list(FLOATS)))
def test_values_are_finite_when_torch_says_so(
    model: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, dtype: torch.dtype
) -> None:
    bits = torch.iinfo(FLOATS[dtype]).bits
    special = [value << bits - 16 for value in (0x7F80, 0x7F81, 0x7C00, 0x7BFF, 0x7FF0, 0x7FEF, 0x7FFF, 0)]
    drawn = st.integers(0, 2**bits - 1) | st.sampled_from(special)
    patterns = data.draw(st.lists(drawn, min_size=3, max_size=3))
    signed = [pattern - 2**bits if pattern >= 2 ** (bits - 1) else pattern for pattern in patterns]
    values = torch.tensor(signed, dtype=FLOATS[dtype]).view(dtype)
    content = changed(model__norm__weight=values)
    if bool(torch.isfinite(values).all()):
        check(model, tmp_path_factory.mktemp("values"), content)
        return
    with pytest.raises(DataError, match=r"model\.norm\.weight holds NaN or infinite values"):
        check(model, tmp_path_factory.mktemp("values"), content)


@pytest.mark.parametrize("place", [0, 999, 1000, 2047])
def test_a_single_bad_value_is_found_wherever_the_chunks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", 4000)
    (tmp_path / "model").mkdir()
    save_file({"a": torch.zeros(7), "b": torch.zeros(2048)}, tmp_path / "model" / "model.safetensors")
    values = torch.zeros(2048)
    check(tmp_path / "model", tmp_path, save({"a": torch.zeros(7), "b": values}))
    values[place] = math.nan
    with pytest.raises(DataError, match="b holds NaN"):
        check(tmp_path / "model", tmp_path, save({"a": torch.zeros(7), "b": values}))


def test_another_digest_is_refused_before_anything_is_said_about_values(model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(changed(model__norm__weight=torch.full((3,), math.inf)))
    with pytest.raises(DataError, match="not the one announced") as refused:
        check_weights(tmp_path, Reference.of(model), "0" * 64)
    assert refused.value.field == "sha256"


# ----------------------------------------------------------------------------------------------------------- references


def test_a_tied_head_may_stand_in_the_checkpoint_or_not(model: Path, tmp_path: Path) -> None:
    check(model, tmp_path, save({**WEIGHTS, "lm_head.weight": torch.zeros(4, 3)}))
    with pytest.raises(DataError, match=r"lm_head\.weight has shape"):
        check(model, tmp_path, save({**WEIGHTS, "lm_head.weight": torch.zeros(3, 4)}))
    tied = tmp_path / "with-head"
    tied.mkdir()
    save_file({**WEIGHTS, "lm_head.weight": torch.zeros(4, 3)}, tied / "model.safetensors")
    (tied / "config.json").write_text('{"text_config": {"tie_word_embeddings": true}}')
    check(tied, tmp_path, save(WEIGHTS))


def test_an_untied_head_may_not_be_left_out(tmp_path: Path) -> None:
    untied = make_tiny_model(tmp_path / "untied", tied=False)
    content = (untied / "model.safetensors").read_bytes()
    check(untied, tmp_path, content)
    with pytest.raises(DataError, match=r"lacks 1 tensors of the model, such as lm_head\.weight"):
        check(untied, tmp_path, save({n: t for n, t in load(content).items() if n != "lm_head.weight"}))


def test_a_model_in_several_files_is_read_from_all_of_them(model: Path, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    files = {name: f"model-{index:05d}-of-00003.safetensors" for index, name in enumerate(WEIGHTS)}
    for name, file in files.items():
        save_file({name: WEIGHTS[name]}, sharded / file)
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    assert set(Reference.of(sharded).tensors) == set(WEIGHTS)
    check(sharded, tmp_path, save(WEIGHTS))


@pytest.mark.parametrize("damage", ["none", "garbage", "index"])
def test_a_model_without_readable_safetensors_is_a_settings_error(tmp_path: Path, damage: str) -> None:
    if damage == "garbage":
        (tmp_path / "model.safetensors").write_bytes(b"nothing")
    elif damage == "index":
        (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "gone.safetensors"}}')
    with pytest.raises(SettingsError, match=r"^model\.path: .* cannot be loaded: "):
        Reference.of(tmp_path)


# ------------------------------------------------------------------------------------------------------------- adapters


def adapter(directory: Path, *, rank: int = 2, r: Any = 2, **more: Any) -> str:
    """Write an adapter and return its digest."""
    factors = {
        "base_model.model.q_proj.lora_A.weight": torch.ones(rank, 8),
        "base_model.model.q_proj.lora_B.weight": torch.zeros(8, rank),
    }
    save_file({**factors, **more}, directory / "adapter_model.safetensors")
    (directory / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": r, "lora_alpha": 4}))
    return hashlib.sha256((directory / "adapter_model.safetensors").read_bytes()).hexdigest()


def test_an_adapter_of_a_small_enough_rank_is_accepted(tmp_path: Path) -> None:
    check_adapter(tmp_path, adapter(tmp_path), rank=2)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda d: adapter(d, rank=4, r=4), r"rank 4; inference\.vllm\.lora_rank allows 2"),
        (lambda d: adapter(d, rank=4), r"rank 4; inference\.vllm\.lora_rank allows 2"),
        (lambda d: adapter(d, r=None), "no rank r"),
        (lambda d: adapter(d, r=0), "no rank r"),
        (lambda d: adapter(d, r="x"), "no rank r"),
        (lambda d: adapter(d, bias=torch.ones(3)), "bias, which is no factor"),
        (
            lambda d: adapter(d, **{"base_model.model.k_proj.lora_A.weight": torch.full((2, 8), math.nan)}),
            "holds NaN or infinite",
        ),
        (lambda d: (adapter(d), (d / "adapter_config.json").unlink())[0], "adapter_config.json cannot be read"),
        (lambda d: (adapter(d), (d / "adapter_config.json").write_text("[]"))[0], "not that of a LoRA adapter"),
        (
            lambda d: (adapter(d), shutil.copy(d / "adapter_config.json", d / "adapter_model.safetensors"))[0],
            "cannot be read",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, spoil: Callable[[Path], str], says: str) -> None:
    digest = spoil(tmp_path)
    with pytest.raises(DataError, match=says):
        check_adapter(tmp_path, digest, rank=2)


# ------------------------------------------------------------------------------------------------------------ transfers


def announced(**changes: Any) -> dict[str, Any]:
    update: dict[str, Any] = {
        "names": list(WEIGHTS),
        "shapes": [list(tensor.shape) for tensor in WEIGHTS.values()],
        "dtype_names": ["float32", "bfloat16", "I64"],
    }
    return {**update, **changes}


def test_what_a_transfer_announces_is_measured_like_a_file(model: Path) -> None:
    Reference.of(model).check(tensors_of_transfer(announced()), "transfer.update")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"names": None}, "must have names, shapes and dtype_names"),
        ({"names": ["a"]}, "equally long"),
        ({"names": ["a", "a", "a"]}, "no name may stand twice"),
        ({"shapes": [[4, 3], [3], ["x"]]}, "lists of integers"),
        ({"shapes": [[4, 3], [3], 5]}, "lists of integers"),
        ({"names": [*list(WEIGHTS)[:2], "other"]}, "tensors that the model has not, such as other"),
        ({"shapes": [[4, 4], [3], [5]]}, r"has shape \[4, 4\]"),
        ({"dtype_names": ["float32", "int8", "I64"]}, "has type torch.int8"),
    ],
)
def test_a_transfer_that_does_not_fit_is_refused(model: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says) as refused:
        Reference.of(model).check(tensors_of_transfer(announced(**changes)), "transfer.update")
    assert refused.value.field == "transfer.update"
