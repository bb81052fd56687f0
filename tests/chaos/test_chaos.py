"""Whatever is killed and started again, a run ends with the weights and the metrics of one that nobody disturbed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from chaos_stack import KINDS, STEPS, Kill, Outcome, Stack

from trainer.audit import audit

RUNS = 60
_KILLS = [1 + run % 3 for run in range(RUNS)]
# The ledger of an undisturbed run: its start, its steps, a checkpoint for every second step.
_LINES = 1 + STEPS + STEPS // 2
_LONGEST_DELAY_S = 0.5
_LONGEST_OUTAGE_S = 0.5


def plans() -> list[tuple[Kill, ...]]:
    """Kills for each of the runs: every kind equally often, at random moments."""
    draw = random.Random(1)
    victims = list(KINDS) * (sum(_KILLS) // len(KINDS))
    draw.shuffle(victims)
    return [tuple(moments(draw, [(victims.pop(),) for _ in range(count)])) for count in _KILLS]


def moments(draw: random.Random, victims: list[tuple[str, ...]]) -> list[Kill]:
    """Kills anywhere in the run; a collector's in its first half, since its work is done before the learner's."""
    after = sorted(draw.randrange(_LINES // 2 if "collector" in kinds else _LINES + 1) for kinds in victims)
    return [
        Kill(
            kinds,
            line,
            delay_s=draw.random() ** 2 * _LONGEST_DELAY_S,
            down_s=draw.random() ** 2 * _LONGEST_OUTAGE_S,
            forgets_s=draw.choice([0.0, draw.random()]),
        )
        for kinds, line in zip(victims, after, strict=True)
    ]


def require_same(
    undisturbed: tuple[Stack, Outcome], name: str, kills: tuple[Kill, ...], record: Callable[[str, object], None]
) -> None:
    stack, whole = undisturbed
    found = stack.run(name, kills)
    record("chaos", f"{name:<22} {'; '.join(found.killed):<70} {found.restarts} restarts {found.seconds:5.1f} s")
    assert found.killed, "the run was over before anything was killed"
    audited = audit(found.directory)
    assert audited.problems == [] and audited.finished and audited.dropped == []
    assert found.metrics == whole.metrics
    assert found.weights == whole.weights


@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_ends_the_same_when_one_of_its_processes_is_killed_in_the_middle(
    undisturbed: tuple[Stack, Outcome], kind: str, record_property: Callable[[str, object], None]
) -> None:
    (kill,) = moments(random.Random(kind), [(kind,)])
    require_same(undisturbed, f"short-{kind}", (replace(kill, after=_LINES // 2),), record_property)


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.parametrize("run", range(RUNS))
def test_a_run_ends_the_same_whatever_is_killed_at_random_moments(
    undisturbed: tuple[Stack, Outcome], run: int, record_property: Callable[[str, object], None]
) -> None:
    require_same(undisturbed, f"run-{run:02d}", plans()[run], record_property)


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(2))
def test_a_run_ends_the_same_when_everything_is_killed_at_once_twice(
    undisturbed: tuple[Stack, Outcome], seed: int, record_property: Callable[[str, object], None]
) -> None:
    kills = tuple(moments(random.Random(f"everything {seed}"), [KINDS, KINDS]))
    require_same(undisturbed, f"everything-{seed}", kills, record_property)


@pytest.mark.chaos
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(8))
def test_a_run_ends_the_same_when_redis_forgets_what_came_while_the_learner_was_away(
    undisturbed: tuple[Stack, Outcome], seed: int, record_property: Callable[[str, object], None]
) -> None:
    draw = random.Random(f"forgets {seed}")
    after = draw.randrange(1, _LINES - 1)
    kills = (
        Kill(("learner",), after, delay_s=draw.random() * _LONGEST_DELAY_S, down_s=1.0),
        Kill(("redis",), after, delay_s=0.5, forgets_s=0.5 + draw.random()),
    )
    require_same(undisturbed, f"forgets-{seed}", kills, record_property)
