"""Programs that are known to be right or wrong come to the verdict they earned, every time."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.synchronize import Event

import pytest

from sandbox.isolation import Isolation
from tests.sandbox.corpus import asserting, functional, stdin
from tests.sandbox.corpus.case import PASSED, Case, verdict_of
from tests.sandbox.programs import run

REPETITIONS = 20
CASES = [*stdin.all_cases(), *functional.all_cases(), *asserting.all_cases()]


def test_the_corpus_is_large_has_every_kind_and_both_right_and_wrong_programs() -> None:
    kinds = Counter((case.task.kind, case.verdict is PASSED) for case in CASES)
    assert len(CASES) >= 300
    assert len({(case.task.model_dump_json(), case.program) for case in CASES}) == len(CASES)
    assert len(kinds) == 6
    assert min(kinds.values()) >= 15


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_program_of_the_corpus_has_the_verdict_it_earned(quick: Isolation, case: Case) -> None:
    report = run(quick, case.task, case.program)
    assert verdict_of(report) is case.verdict
    assert report.reward == float(case.verdict is PASSED)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("busy", [0, 2], ids=["idle", "both cores loaded"])
def test_no_verdict_of_the_corpus_flips_in_twenty_repetitions(quick: Isolation, busy: int) -> None:
    repeated = CASES * REPETITIONS
    with loaded(busy), ThreadPoolExecutor((os.cpu_count() or 1) + 1) as threads:
        verdicts = threads.map(lambda case: verdict_of(run(quick, case.task, case.program)), repeated)
        flips = [(case.name, found) for case, found in zip(repeated, verdicts, strict=True) if found != case.verdict]
    assert not flips


@contextmanager
def loaded(processes: int) -> Iterator[None]:
    """As many processes that never rest."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    started = [context.Process(target=_burn, args=(stop,), daemon=True) for _ in range(processes)]
    for process in started:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in started:
            process.join()


def _burn(stop: Event) -> None:
    while not stop.is_set():
        sum(range(10_000))
