"""Settings from every place: precedence, round trips, and one helpful sentence for each mistake."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.algorithm_settings import GRPOSettings, SDPOSettings, VPDSettings
from shared.errors import SettingsError
from shared.load_settings import load_settings, public_settings, resolve_settings, secret_environment
from shared.settings import Settings
from shared.settings_tree import describe_settings, env_name, keys, settings_table

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "run.steps": st.integers(1, 10**9),
    "run.seed": st.integers(0, 2**31 - 1),
    "run.name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True),
    "tasks.held_out": st.none() | TEXT.filter(lambda text: text not in ("", "none")),
    "teacher_prompt.closing": TEXT,
    "algorithm.learning_rate": st.floats(1e-12, 1e6),
    "algorithm.m_step.top_k": st.none() | st.integers(1, 10**6),
    "algorithm.e_step.length_normalised": st.booleans(),
    "algorithm.teacher.weights": st.sampled_from(["live", "ema", "trust_region", "frozen"]),
    "feedback.sources.code.timeout_s": st.floats(0.001, 1e4),
    "feedback.sources.human.shadow": st.booleans(),
    "critic_feedback.critic_api_key": st.none() | TEXT.filter(lambda text: text not in ("", "none")),
}
CHOICES = st.fixed_dictionaries({}, optional=VALUES)


def literal(value: Any) -> str:
    """A value as a TOML literal."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value)


def lookup(tree: Settings, key: str) -> Any:
    value: Any = tree
    for name in key.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value.get_secret_value() if hasattr(value, "get_secret_value") else value


def loaded(*overrides: str, environ: dict[str, str] | None = None, recipes: tuple[Path, ...] = ()) -> Settings:
    return load_settings(recipes, overrides, environ or {})


def sentence(*overrides: str, environ: dict[str, str] | None = None, recipes: tuple[Path, ...] = ()) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(*overrides, environ=environ, recipes=recipes)
    return str(caught.value)


@given(CHOICES)
def test_every_value_given_by_a_flag_is_the_value_in_force(chosen: dict[str, Any]) -> None:
    tree = loaded(*(f"{key}={literal(value)}" for key, value in chosen.items()))
    assert {key: lookup(tree, key) for key in chosen} == chosen


@given(CHOICES)
def test_flags_and_environment_mean_the_same(chosen: dict[str, Any]) -> None:
    environ = {env_name(key.split(".")): literal(value) for key, value in chosen.items()}
    assert loaded(environ=environ) == loaded(*(f"{key}={literal(value)}" for key, value in chosen.items()))


@settings(max_examples=40)
@given(CHOICES, st.booleans())
def test_public_settings_with_the_secret_environment_give_the_same_settings_again(
    tmp_path_factory: pytest.TempPathFactory, chosen: dict[str, Any], without_human: bool
) -> None:
    overrides = [f"{key}={literal(value)}" for key, value in chosen.items()]
    tree = loaded(*overrides, *(["feedback.sources.human=none"] if without_human else []))
    recipe = tmp_path_factory.mktemp("recipe") / "settings.json"
    recipe.write_text(json.dumps(public_settings(tree)))
    assert loaded(recipes=(recipe,), environ=secret_environment(tree)) == tree


@given(st.text(max_size=40))
def test_any_flag_gives_settings_or_a_sentence(text: str) -> None:
    for override in (text, f"run.steps={text}", f"feedback={text}", f"algorithm.name={text}", f"run.name={text}"):
        try:
            loaded(override)
        except SettingsError as error:
            assert str(error).strip()


@given(st.dictionaries(st.sampled_from(["run", "algorithm", "feedback", "api_key", "x"]), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["name", "steps", "sources", "code", "url", "e_step", "y"]), inner, max_size=3),
    max_leaves=8,
), max_size=3))  # fmt: skip
def test_any_json_recipe_gives_settings_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]
) -> None:
    recipe = tmp_path_factory.getbasetemp() / "any.json"
    recipe.write_text(json.dumps(document))
    try:
        loaded(recipes=(recipe,))
    except SettingsError as error:
        assert str(error).strip()


def test_a_flag_beats_the_environment_beats_a_later_recipe_beats_an_earlier_one(tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    first.write_text("[run]\nname = 'first'\nsteps = 1\nseed = 1\ndir = 'first'\n")
    second.write_text("[run]\nsteps = 2\nseed = 2\ndir = 'second'\n")
    resolved = resolve_settings([first, second], ["run.dir=flag"], {"VPD_RUN__SEED": "3", "VPD_RUN__DIR": "environ"})
    run = resolved.settings.run
    assert (run.name, run.steps, run.seed, run.dir) == ("first", 2, 3, "flag")
    assert resolved.origins == {
        "run.name": f"recipe {first}",
        "run.steps": f"recipe {second}",
        "run.seed": "VPD_RUN__SEED",
        "run.dir": "--set run.dir",
    }


def test_a_source_keeps_what_is_not_said_about_it() -> None:
    code = loaded("feedback.sources.code.url=http://elsewhere:1").feedback.sources["code"]
    assert (code.url, code.role) == ("http://elsewhere:1", "both")


def test_none_removes_a_source_and_a_new_name_adds_one() -> None:
    tree = loaded("feedback.sources.human=none", 'feedback.sources.lint={url="http://127.0.0.1:9"}')
    assert list(tree.feedback.sources) == ["code", "lint"]


@pytest.mark.parametrize(("name", "kind"), [("vpd", VPDSettings), ("sdpo", SDPOSettings), ("grpo", GRPOSettings)])
def test_naming_an_algorithm_alone_gives_it_with_its_own_defaults(name: str, kind: type) -> None:
    assert loaded(f"algorithm.name={name}").algorithm == kind()


def test_changing_part_of_a_section_keeps_the_algorithm_s_own_default_for_the_rest() -> None:
    algorithm = loaded("algorithm.name=sdpo", "algorithm.teacher.rate=0.2").algorithm
    assert isinstance(algorithm, SDPOSettings)
    assert (algorithm.teacher.weights, algorithm.teacher.rate) == ("ema", 0.2)


def test_text_that_looks_like_a_number_stays_text_where_text_is_wanted() -> None:
    tree = loaded("run.name=12", environ={"VPD_API_KEY": "0123"})
    assert (tree.run.name, lookup(tree, "api_key")) == ("12", "0123")


def test_an_empty_variable_counts_as_unset() -> None:
    assert loaded(environ={"VPD_API_KEY": "", "VPD_RUN__STEPS": ""}) == Settings()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("run.step=3", ["run.step is not a setting", "--set run.step", "did you mean run.steps?"]),
        ("steps=3", ["did you mean run.steps?"]),
        ("learner.learning_rate=1", ["did you mean algorithm.learning_rate?"]),
        ("feedback.sources.code.ulr=x", ["did you mean feedback.sources.code.url?"]),
        ("algorithm.e_stp.every=3", ["did you mean algorithm.e_step?"]),
        ("algorithm.name=grop", ["algorithm.name", "vpd, sdpo, grpo", "'grop'", "perhaps grpo"]),
        ("run.steps=many", ["run.steps must be an integer >= 1", "'many'", "--set run.steps"]),
        ("run.steps=0", ["run.steps must be an integer >= 1", "not 0"]),
        ("model.device=tpu", ["model.device must be one of auto, cpu, cuda", "'tpu'"]),
        ("algorithm.learning_rate=inf", ["algorithm.learning_rate must be a number > 0"]),
        ("algorithm.e_step.every=x", ["algorithm.e_step.every must be an integer >= 1"]),
        ("run=3", ["run is a group of settings", "run.name"]),
        ("run.steps.x=3", ["run.steps is one value", "run.steps.x"]),
        ("run.steps", ["key=value"]),
        ("=3", ["key=value"]),
        ("feedback.sources.mine.role=critique", ["feedback.sources.mine.url must be set"]),
        ("feedback.sources.Mine.url=http://x", ["feedback.sources.Mine", "lower-case"]),
        ("feedback.sources.code=none", ["exactly one source must have role 'outcome' or 'both'", "none"]),
    ],
)
def test_a_mistake_in_a_flag_is_named_with_its_remedy(override: str, words: list[str]) -> None:
    text = sentence(override)
    assert all(word in text for word in words), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("VPD_RUN__STEP", ["VPD_RUN__STEP is not a setting", "did you mean VPD_RUN__STEPS?"]),
        ("VPD_TRAINR__STEPS", ["VPD_TRAINR__STEPS is not a setting", "did you mean VPD_RUN__STEPS?"]),
        ("VPD_RUN_STEPS", ["did you mean VPD_RUN__STEPS?"]),
        ("VPD_RUN__STEPS", ["run.steps must be an integer >= 1", "VPD_RUN__STEPS"]),
        ("VPD_RUN", ["VPD_RUN is a group of settings"]),
    ],
)
def test_a_mistake_in_a_variable_is_named_as_the_variable(variable: str, words: list[str]) -> None:
    text = sentence(environ={variable: "x"})
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[run]\nsteps = 4\nx=\n", ["is not valid TOML", "line 3"]),
        (b"[run]\nstep = 4\n", ["run.step is not a setting", "recipe.toml", "run.steps"]),
        (b"[run]\nsteps = 'x'\n", ["run.steps must be an integer", "recipe.toml"]),
        (b"run = 3\n", ["run is a group of settings"]),
        (b"\xff\xfe", ["is not UTF-8"]),
    ],
)
def test_a_mistake_in_a_recipe_names_the_file(tmp_path: Path, content: bytes, words: list[str]) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_bytes(content)
    text = sentence(recipes=(recipe,))
    assert all(word in text for word in words), text


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "gone.toml" in sentence(recipes=(tmp_path / "gone.toml",))
    assert "cannot be read" in sentence(recipes=(tmp_path,))


def test_what_another_algorithm_can_be_told_is_refused_even_if_a_recipe_says_it(tmp_path: Path) -> None:
    recipe = tmp_path / "vpd.toml"
    recipe.write_text("[algorithm]\nname = 'vpd'\n[algorithm.e_step]\nevery = 5\n")
    text = sentence("algorithm.name=grpo", recipes=(recipe,))
    assert "algorithm.e_step.every is not a setting of algorithm 'grpo'" in text


def test_a_secret_is_in_no_error_and_no_public_settings(tmp_path: Path) -> None:
    tree = loaded(environ={"VPD_API_KEY": "hush", "VPD_FEEDBACK__SOURCES__CODE__API_KEY": "hush2"})
    assert "hush" not in json.dumps(public_settings(tree))
    assert secret_environment(tree) == {"VPD_API_KEY": "hush", "VPD_FEEDBACK__SOURCES__CODE__API_KEY": "hush2"}
    recipe = tmp_path / "wrong.json"
    recipe.write_text('{"api_key": ["hush"]}')
    assert "hush" not in sentence(recipes=(recipe,))


def test_every_setting_has_a_row_with_a_meaning_and_a_variable_of_its_own() -> None:
    rows = describe_settings()
    assert {row.key for row in rows} == {".".join(key) for key in keys()}
    assert len({row.env for row in rows}) == len(rows)
    assert [row.key for row in rows if not row.meaning] == []


def test_the_table_gives_each_algorithm_s_default() -> None:
    row = next(line for line in settings_table().splitlines() if "`algorithm.learning_rate`" in line)
    defaults = {"vpd": VPDSettings(), "sdpo": SDPOSettings(), "grpo": GRPOSettings()}
    assert all(f"{value.learning_rate} ({name})" in row for name, value in defaults.items())


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_no_number_that_is_not_finite_gets_in(value: float) -> None:
    if math.isfinite(value) and value > 0:
        assert loaded(f"inference.timeout_s={value!r}").inference.timeout_s == value
    else:
        assert "inference.timeout_s must be a number > 0" in sentence(f"inference.timeout_s={value!r}")


# ----------------------------------------------------------------------------------------------- recipes on recipes


def written(directory: Path, **files: str) -> dict[str, Path]:
    """Recipes by name; `__` in a name is a folder."""
    paths = {name: directory / f"{name.replace('__', '/')}.toml" for name in files}
    for name, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[name])
    return paths


def test_a_recipe_wins_over_those_it_extends_and_the_later_of_them_over_the_earlier(tmp_path: Path) -> None:
    files = written(
        tmp_path,
        layers__first='run = { steps = 1, seed = 1, name = "first" }',
        layers__second='extends = ["third.toml"]\nrun = { steps = 2, seed = 2 }',
        layers__third='run = { steps = 3, dir = "third" }',
        top='extends = ["layers/first.toml", "layers/second.toml"]\nrun.steps = 4',
    )
    resolved = resolve_settings([files["top"]], environ={})
    run = resolved.settings.run
    assert (run.steps, run.seed, run.name, run.dir) == (4, 2, "first", "third")
    assert resolved.origins["run.seed"] == f"recipe {files['layers__second']}"
    assert resolved.origins["run.dir"] == f"recipe {files['layers__third']}"


def test_what_a_recipe_extends_is_looked_for_in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, a__top='extends = ["../b/base.toml"]', b__base="run.steps = 9")
    monkeypatch.chdir(tmp_path)
    resolved = resolve_settings([Path("a/top.toml")], environ={})
    assert resolved.settings.run.steps == 9
    assert resolved.origins["run.steps"] == "recipe b/base.toml"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"top": 'extends = ["gone.toml"]'}, r"There is no recipe \S+/gone.toml, which \S+/top.toml extends."),
        ({"top": 'extends = ["top.toml"]'}, r"top.toml extends itself: \S+/top.toml -> \S+/top.toml."),
        (
            {"top": 'extends = ["a.toml"]', "a": 'extends = ["b.toml"]', "b": 'extends = ["a.toml"]'},
            r"a.toml extends itself: \S+/a.toml -> \S+/b.toml -> \S+/a.toml.",
        ),
        (
            {"top": 'extends = "base.toml"'},
            r"extends must be a list of file names, not 'base.toml' \(from recipe .+\).",
        ),
        ({"top": "extends = [1]"}, r"extends must be a list of file names, not \[1\]"),
        ({"top": 'extend = ["base.toml"]'}, r"extend is not a setting"),
        (
            {"top": 'extends = ["base.toml"]', "base": "run.stepz = 3"},
            r"run.stepz is not a setting \(from recipe \S+/base.toml\); did you mean run.steps\?",
        ),
    ],
)
def test_what_cannot_be_extended_is_one_sentence(tmp_path: Path, files: dict[str, str], says: str) -> None:
    paths = written(tmp_path, **files)
    text = sentence(recipes=(paths["top"],))
    assert re.search(says, text), text
    assert "\n" not in text
