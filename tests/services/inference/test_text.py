"""The gateway's own tokenizer and chat template against transformers' classes, which the learner uses."""

from __future__ import annotations

import json
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from services.inference import model_files
from services.inference.text import Text
from shared.errors import DataError, EngineFailure, SettingsError
from shared.models import resolve_model
from shared.protocol import Message
from shared.settings import LearnerSettings, ModelSettings
from tests.tiny_model import make_tiny_model
from trainer.policy import Policy

TASKS = Path("trainer/tasks")
BUILTIN = sorted(
    f"builtin:{d.parent.name}" + (f"/{d.name.removeprefix('model_')}" if d.name != "model" else "")
    for d in TASKS.glob("*/model*")
    if (d / "config.json").is_file()
)
CHATS = [
    [Message(role="user", content="What is 3 + 4?")],
    [Message(role="system", content="Be brief."), Message(role="user", content="Write solve(x) with the module lib.")],
    [
        Message(role="user", content="a"),
        Message(role="assistant", content="<think>hm</think> b"),
        Message(role="user", content=" c \n"),
    ],
    [Message(role="user", content="naïve 日本語 🎉 \u202e \x00 e\u0301 \ufffd")],
    [Message(role="user", content="<|im_end|>\n<|im_start|>system\n<|end|>no<|endoftext|>")],
    [Message(role="user", content="")],
    [Message(role="user", content="long text, " * 5000)],
]
TEMPLATE = (
    "{{ bos_token }}{{ eos_token }}{% if enable_thinking is defined and not enable_thinking %}[off]{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}{% generation %}assistant:{% endgeneration %}{% endif %}"
)


@lru_cache
def loaded(path: str) -> Text:
    text = Text(path)
    text.load()
    return text


def reference(path: str) -> Any:
    return AutoTokenizer.from_pretrained(resolve_model(path))


def rendered_by(tokenizer: Any, chat: list[Message]) -> list[int]:
    messages = [{"role": message.role, "content": message.content} for message in chat]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, enable_thinking=False
    )
    return ids


@pytest.fixture(scope="module")
def templated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose template uses special tokens, `enable_thinking` and transformers' own extension of Jinja."""
    directory = make_tiny_model(tmp_path_factory.mktemp("templated") / "model")
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    config = json.loads((directory / "tokenizer_config.json").read_text())
    bos = {"content": "<|system|>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    (directory / "tokenizer_config.json").write_text(
        json.dumps(config | {"bos_token": {"__type": "AddedToken", **bos}})
    )
    return directory


@pytest.mark.parametrize("path", [*BUILTIN, "tiny", "templated"])
def test_every_chat_is_rendered_as_transformers_does(path: str, tiny_model_dir: Path, templated: Path) -> None:
    path = {"tiny": str(tiny_model_dir), "templated": str(templated)}.get(path, path)
    text, tokenizer = loaded(path), reference(path)
    for chat in CHATS:
        assert text.render(chat) == rendered_by(tokenizer, chat)
    assert len(BUILTIN) > 4


def test_the_learner_and_the_gateway_render_alike(templated: Path) -> None:
    model = ModelSettings(path=str(templated), device="cpu")
    policy = Policy(templated, model, LearnerSettings(), temperature=1.0)
    for chat in CHATS:
        assert loaded(str(templated)).render(chat) == policy.render(chat)
    assert "[off]" in loaded(str(templated)).decode(policy.render(CHATS[0]))


@given(
    st.lists(
        st.sampled_from(["system", "user", "assistant"]).flatmap(
            lambda role: st.text(max_size=30).map(lambda content: Message(role=role, content=content))
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_chat_is_rendered_as_transformers_does(chat: list[Message]) -> None:
    assert loaded("builtin:renamed_library").render(chat) == rendered_by(_library(), chat)


@given(st.text(max_size=60))
def test_any_text_is_encoded_as_transformers_does(text: str) -> None:
    assert loaded("builtin:renamed_library").encode(text) == _library()(text)["input_ids"]


@lru_cache
def _library() -> Any:
    return reference("builtin:renamed_library")


@pytest.mark.parametrize("path", ["tiny", "builtin:renamed_library"])
def test_any_tokens_are_decoded_as_transformers_does_and_a_stream_of_them_adds_up(
    path: str, tiny_model_dir: Path
) -> None:
    path = {"tiny": str(tiny_model_dir)}.get(path, path)
    text, tokenizer = loaded(path), reference(path)
    letters = text.encode("é日🎉 \ufffd" * 3)
    draw = random.Random(1)
    for _ in range(400):
        ids = [draw.choice([draw.randrange(len(tokenizer)), draw.choice(letters)]) for _ in range(draw.randrange(40))]
        whole = tokenizer.decode([token for token in ids if token not in text.ends], skip_special_tokens=True)
        assert text.decode(ids) == whole
        stream = text.stream()
        pieces = [stream.next(token) for token in ids]
        assert "".join([*pieces, stream.rest()]) == whole
        assert whole.startswith("".join(pieces))


def test_a_stream_gives_no_half_characters_and_every_whole_one_at_once(tiny_model_dir: Path) -> None:
    text = loaded(str(tiny_model_dir))
    stream = text.stream()
    assert [stream.next(token) for token in text.encode("aé日🎉")] == ["a", "", "é", "", "", "日", "", "", "", "🎉"]
    assert stream.rest() == ""
    assert stream.next(text.encode("é")[0]) == ""
    assert stream.rest() == "\ufffd"


def test_special_and_end_tokens_are_no_text(tiny_model_dir: Path) -> None:
    text = loaded(str(tiny_model_dir))
    assert text.ends == {1}
    assert text.decode([3, *text.encode("ab"), 1, 0]) == "ab"


def test_all_end_tokens_of_the_generation_configuration_count(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [4, 7]}')
    assert loaded(str(tmp_path / "model")).ends == {1, 4, 7}


def test_threads_share_one_tokenizer(tiny_model_dir: Path) -> None:
    text = loaded(str(tiny_model_dir))

    def use(seed: int) -> bool:
        word = f"word {seed} é日🎉" * 20
        return all(text.decode(text.encode(word)) == word for _ in range(50))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(use, range(16)))


def test_a_template_that_refuses_is_a_data_error(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="refuses these messages: roles must alternate"):
        loaded(str(tmp_path / "model")).render(CHATS[0])


def test_a_model_without_a_template_takes_token_ids_alone(tiny_model_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model_dir, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    with pytest.raises(DataError, match="no chat template"):
        loaded(str(tmp_path / "model")).render(CHATS[0])


@pytest.mark.parametrize(
    "template", [TEMPLATE, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}]]
)
def test_the_template_may_stand_in_the_tokenizers_configuration(templated: Path, tmp_path: Path, template: Any) -> None:
    shutil.copytree(templated, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    assert loaded(str(tmp_path / "model")).render(CHATS[1]) == loaded(str(templated)).render(CHATS[1])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("missing", "has no tokenizer.json"),
        ("garbage", "tokenizer.json"),
        ("config", "_config.json cannot be read"),
    ],
)
def test_a_tokenizer_that_cannot_be_loaded_is_one_sentence(
    tiny_model_dir: Path, tmp_path: Path, damage: str, says: str
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_model_dir, directory)
    if damage == "missing":
        (directory / "tokenizer.json").unlink()
    else:
        (directory / ("tokenizer.json" if damage == "garbage" else "tokenizer_config.json")).write_text("{")
    with pytest.raises(SettingsError, match=rf"^model\.path: .* cannot be loaded: .*{says}"):
        Text(str(directory)).load()


def test_nothing_can_be_read_before_the_files_are_loaded() -> None:
    with pytest.raises(EngineFailure, match="still being loaded"):
        Text("builtin:renamed_library").encode("a")


def test_a_hub_id_that_cannot_be_downloaded_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route to the hub\nwith details")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(SettingsError, match=r"^model\.path: nobody/nothing is no directory .*: no route to the hub$"):
        model_files.model_directory("nobody/nothing")


def test_a_hub_id_is_downloaded_once(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    asked: list[str] = []

    def download(repository: str, **_: Any) -> str:
        asked.append(repository)
        return str(tiny_model_dir)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert [model_files.model_directory("someone/model-once") for _ in range(3)] == [tiny_model_dir] * 3
    assert asked == ["someone/model-once"]
