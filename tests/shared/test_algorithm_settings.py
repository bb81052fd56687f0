"""Combinations that mean nothing are refused with a sentence when settings are read."""

from __future__ import annotations

import pytest

from shared.errors import SettingsError
from shared.load_settings import load_settings

REFUSED = [
    (["algorithm.m_step.jsd_alpha=0.3"], "jsd_alpha is only for divergence 'jsd'"),
    (["algorithm.name=sdpo", "algorithm.teacher.weights=separate"], "'separate' needs an E-step"),
    (["algorithm.name=sdpo_grpo", "algorithm.teacher.weights=separate"], "'separate' needs an E-step"),
    (["algorithm.name=reshaped_grpo", "algorithm.teacher.weights=separate"], "'separate' needs an E-step"),
    (["algorithm.teacher.weights=separate", "algorithm.e_step.optimizer=shared"], "e_step.optimizer must be 'own'"),
    (["algorithm.name=sdpo", "algorithm.m_step.weight=0"], "m_step.weight must be above 0"),
    (["algorithm.name=grpo", "rollout.samples_per_prompt=1"], "samples_per_prompt must be at least 2"),
    (["algorithm.name=vpd_grpo", "rollout.samples_per_prompt=1"], "samples_per_prompt must be at least 2"),
    (["teacher_prompt.feedback=never", "teacher_prompt.demonstration=false"], "would have no teacher"),
    (["algorithm.name=grpo", "algorithm.e_step.every=2"], "is not a setting of algorithm 'grpo'"),
]


@pytest.mark.parametrize(("overrides", "sentence"), REFUSED, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_a_combination_that_means_nothing_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence) as caught:
        load_settings(overrides=overrides, environ={})
    assert "\n" not in str(caught.value) and not str(caught.value).startswith(":")


ALLOWED = [
    ["algorithm.m_step.divergence=jsd", "algorithm.m_step.jsd_alpha=0.3"],
    ["algorithm.teacher.weights=separate"],
    ["algorithm.m_step.weight=0"],
    ["algorithm.name=vpd", "rollout.samples_per_prompt=1"],
    ["algorithm.name=grpo", "teacher_prompt.feedback=never", "teacher_prompt.demonstration=false"],
]


@pytest.mark.parametrize("overrides", ALLOWED, ids=" ".join)
def test_what_means_something_is_allowed(overrides: list[str]) -> None:
    load_settings(overrides=overrides, environ={})
