"""Reading an experiment's file: what is wrong is said in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import SettingsError
from trainer.experiments.file import read_experiment

ROOT = Path(__file__).parents[3]
MINIMAL = 'title = "T"\n[[arms]]\nname = "vpd"\n[[seeds]]\nseed = 1\n'


def _read(tmp_path: Path, text: str) -> str:
    """The sentence that refuses a file."""
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(SettingsError) as error:
        read_experiment(file)
    return str(error.value)


def test_a_minimal_file_has_one_condition(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(MINIMAL)
    assert [c.name for c in read_experiment(tmp_path / "x.toml").conditions] == ["main"]


@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "experiments").glob("*.toml")), ids=lambda f: f.stem)
def test_the_experiments_that_ship_can_be_read(file: Path) -> None:
    assert read_experiment(file).title


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "colour = 1\n", "seeds.0.colour is not a key of an experiment"),
        ('title = "T"\n[[seeds]]\nseed = 1\n', "arms must be set"),
        (MINIMAL + '[[arms]]\nname = "vpd"\n', "arms: vpd stands there twice"),
        (MINIMAL + "[[seeds]]\nseed = 1\n", "seeds: 1 stands there twice"),
        (MINIMAL + '[[arms]]\nname = "b"\nconditions = ["sea"]\n', "arms.b.conditions: there is no sea; there is main"),
        (MINIMAL + '[[arms]]\nname = "b"\nlearning_rate_of = "vpd"\n', "there is no [search]"),
        (MINIMAL + '[[arms]]\nname = "A b"\n', "arms.1.name: String should match pattern"),
        (MINIMAL + "[search]\nlearning_rates = []\nseeds = [1]\n", "search.learning_rates"),
        (MINIMAL + "[search]\nlearning_rates = [0.0]\nseeds = [1]\n", "greater than 0"),
        ("title = ", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in _read(tmp_path, text)


def test_a_borrowed_rate_must_be_searched_for_in_the_same_conditions(tmp_path: Path) -> None:
    text = (
        'title = "T"\n[[conditions]]\nname = "a"\n[[conditions]]\nname = "b"\n[[arms]]\nname = "one"\n'
        'conditions = ["a"]\n[[arms]]\nname = "two"\nlearning_rate_of = "one"\n[[seeds]]\nseed = 1\n'
        "[search]\nlearning_rates = [1e-3]\nseeds = [5]\n"
    )
    assert "arms.two.learning_rate_of: one is not run in condition b" in _read(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"There is no experiment .*none\.toml"):
        read_experiment(tmp_path / "none.toml")
