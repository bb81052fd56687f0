"""docs/deploy.md names values that the chart has, and shows a file of values that it takes."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from chart import CHART, ROOT, containers, pods, render, settings_text

from shared.load_settings import resolve_settings

TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8").partition("## On Kubernetes\n")[2]


def test_every_value_of_the_table_is_one_of_the_chart_with_that_default() -> None:
    values: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = re.findall(r"^\| (`[\w.]+`(?:, `[\w.]+`)*) \| (.+?) \| .+ \|$", TEXT.partition("| value |")[2], re.MULTILINE)
    assert len(rows) >= 10
    for names, defaults in rows:
        for name, default in zip(names.split(", "), (defaults + ", none").split(", "), strict=False):
            value: Any = values
            for key in name.strip("`").split("."):
                value = value[key]
            shown = json.dumps(value).strip('"').replace('"', "")
            said = {"none": "", "the project's version": ""}.get(default, default.strip("`"))
            assert said == ("" if not value and value != 0 else shown), name


def test_the_file_of_values_is_taken_and_its_settings_with_it(tmp_path: Any) -> None:
    block = TEXT.partition("from a file of values:\n")[2].strip("\n").partition("\n\n")[0]
    values = yaml.safe_load(block)
    # A number of ranks of its own belongs to the learner's part.
    objects = render(values | {"learner": values["learner"] | {"gpus": 1}})
    (tmp_path / "settings.json").write_text(settings_text(objects))
    recipe = containers(pods(objects)["learner"])["learner"]["args"][4]
    settings = resolve_settings([ROOT / recipe, tmp_path / "settings.json"], [], {}).settings
    assert (settings.run.name, settings.model.path) == (values["run"], values["settings"]["model"]["path"])
    assert settings.inference.vllm.url == "http://127.0.0.1:8000"


def test_the_section_names_as_many_sets_of_values_and_versions_as_are_tested() -> None:
    from chart import SCENARIOS
    from test_chart import NEWEST, OLDEST

    numbers = {10: "ten", 11: "eleven", 12: "twelve"}
    assert f"with {numbers[len(SCENARIOS)]} sets of values" in " ".join(TEXT.split())
    assert f"Kubernetes {OLDEST} and {NEWEST}" in " ".join(TEXT.split())
