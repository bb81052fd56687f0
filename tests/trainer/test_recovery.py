"""A run that loses its learner, its newest checkpoint, stored batches or its queue ends as one that lost nothing."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import torch
from loop_stack import Stack, final_weights, metrics, run, stack
from trainer_algorithms import same

from shared.errors import DataError, QueueUnavailable
from shared.redis_server import RedisServer
from shared.settings import Settings
from trainer.audit import audit
from trainer.batch_store import BatchStore
from trainer.checkpoint_files import checkpoint_file, checkpoint_steps
from trainer.ledger import read_ledger

STEPS = 6


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, tiny_model_directory: Path, redis_url: str) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("recovery"), tiny_model_directory, redis_url) as running:
        yield running


def settings_of(services: Stack, name: str, **changes: Any) -> Settings:
    place = {"name": name, "dir": str(services.root / "runs"), "seed": 5, "steps": STEPS}
    learner = {"checkpoint_every": 2, "keep_checkpoints": 2, **changes.pop("learner", {})}
    return services.settings(name, run=place, learner=learner, **changes)


@pytest.fixture(scope="module")
def whole(services: Stack) -> Settings:
    """A run that nothing happened to."""
    settings = settings_of(services, "whole")
    run(settings)
    return settings


class Died(Exception):
    pass


def dying_at(step: int) -> Callable[[int], None]:
    """As a kill while that step is learned from, once."""
    left = [step]

    def before(current: int) -> None:
        if left and current == left[0]:
            left.clear()
            raise Died

    return before


def path(settings: Settings) -> Path:
    return Path(settings.run.dir) / settings.run.name


def assert_as_whole(settings: Settings, whole: Settings) -> None:
    assert same(final_weights(settings), final_weights(whole))
    assert metrics(settings) == metrics(whole)
    found = audit(path(settings))
    assert found.problems == [] and found.finished
    assert found.weights == audit(path(whole)).weights


@pytest.mark.parametrize("step", range(STEPS))
def test_a_learner_that_died_in_any_step_does_it_again(services: Stack, whole: Settings, step: int) -> None:
    settings = settings_of(services, f"died-{step}")
    with pytest.raises(Died):
        run(settings, before=dying_at(step))
    run(settings)
    assert_as_whole(settings, whole)
    assert audit(path(settings)).steps_done_again == step % 2


def test_steps_done_again_take_neither_queue_nor_sources(services: Stack, whole: Settings) -> None:
    settings = settings_of(services, "again")
    with pytest.raises(Died):
        run(settings, before=dying_at(3))
    redis.Redis.from_url(services.redis_url).flushall()
    services.judge.asked.clear()
    run(settings)
    assert_as_whole(settings, whole)
    asked = {item.trajectory_id.rsplit("-g", 1)[0][-7:] for r in services.judge.asked for item in r.items}
    # Only the collector, which sees version 3 still served, may ask about step 3 again.
    assert "s000002" not in asked and "s000004" in asked


@pytest.mark.parametrize("percent", [*range(0, 100, 10), 99])
def test_a_newest_checkpoint_cut_anywhere_costs_steps_done_again_and_nothing_else(
    services: Stack, whole: Settings, percent: int
) -> None:
    settings = settings_of(services, f"cut-{percent}")
    with pytest.raises(Died):
        run(settings, before=dying_at(5))
    newest = checkpoint_file(path(settings) / "checkpoints", checkpoint_steps(path(settings) / "checkpoints")[-1])
    newest.write_bytes(newest.read_bytes()[: percent * newest.stat().st_size // 100])
    run(settings)
    assert_as_whole(settings, whole)
    assert audit(path(settings)).steps_done_again == 3


def test_without_any_checkpoint_the_run_begins_again_from_its_stored_batches(services: Stack, whole: Settings) -> None:
    settings = settings_of(services, "no-checkpoint")
    with pytest.raises(Died):
        run(settings, before=dying_at(5))
    shutil.rmtree(path(settings) / "checkpoints")
    run(settings)
    assert_as_whole(settings, whole)


@pytest.mark.parametrize("lost", [[2], [3], [2, 3, 4]])
def test_a_stored_batch_that_is_lost_with_the_checkpoint_after_it_is_sampled_anew(
    services: Stack, whole: Settings, lost: list[int]
) -> None:
    """Its groups were acknowledged: the queue must take them once more."""
    settings = settings_of(services, f"batch-lost-{len(lost)}-{lost[0]}")
    with pytest.raises(Died):
        run(settings, before=dying_at(5))
    checkpoint_file(path(settings) / "checkpoints", 4).write_bytes(b"torn")
    for step in lost:
        (path(settings) / "batches" / f"step_{step:06d}.zz").write_bytes(b"torn")
    run(settings)
    assert_as_whole(settings, whole)


def test_a_redis_that_was_emptied_between_two_starts_loses_nothing(services: Stack, whole: Settings) -> None:
    settings = settings_of(services, "emptied")
    with pytest.raises(Died):
        run(settings, before=dying_at(3))
    redis.Redis.from_url(services.redis_url).flushall()
    run(settings)
    assert_as_whole(settings, whole)


def test_groups_that_redis_lost_after_taking_them_are_published_again(services: Stack, whole: Settings) -> None:
    settings = settings_of(services, "lost-in-redis")
    with RedisServer(services.root, unix_socket=_socket()) as server:
        lossy = settings.model_copy(update={"queue": settings.queue.model_copy(update={"url": server.url})})
        client = redis.Redis.from_url(server.url)
        left = [1, 3]

        def lose(asked: int) -> None:
            # The last request of a step is answered before its groups are published: wait for them in a thread.
            if left and len(client.keys("*:body:*")) == 0 and asked > 4 * left[0]:
                left.pop(0)
                threading.Thread(target=_flush_when_published, args=(server.url,), daemon=True).start()

        services.judge.before = lose
        try:
            run(lossy)
        finally:
            services.judge.before = lambda _: None
    assert_as_whole(settings, whole)


def test_a_redis_that_is_away_for_a_while_costs_time_alone(services: Stack, whole: Settings) -> None:
    settings = settings_of(services, "redis-away")
    server = RedisServer(Path(tempfile.mkdtemp(prefix="vpd-")), unix_socket=_socket())
    server.start()
    away = settings.model_copy(update={"queue": settings.queue.model_copy(update={"url": server.url})})
    timers: list[threading.Timer] = []

    def kill(step: int) -> None:
        if step in (1, 4):
            assert server.process is not None
            server.process.kill()
            server.process.wait()
            timers.append(threading.Timer(1.0, server.start))
            timers[-1].start()

    try:
        run(away, before=kill)
    finally:
        for timer in timers:
            timer.join()
        server.stop()
    assert_as_whole(settings, whole)


def test_a_redis_that_stays_away_stops_the_run_with_a_sentence_and_the_run_resumes(
    services: Stack, whole: Settings
) -> None:
    settings = settings_of(services, "redis-gone")
    server = RedisServer(Path(tempfile.mkdtemp(prefix="vpd-")), unix_socket=_socket())
    server.start()
    queue = settings.queue.model_copy(update={"url": server.url, "max_outage_s": 0.5})
    gone = settings.model_copy(update={"queue": queue})

    def kill(step: int) -> None:
        if step == 3:
            server.stop()

    with pytest.raises(QueueUnavailable, match=r"queue\.max_outage_s.*it resumes") as caught:
        run(gone, before=kill)
    assert "\n" not in str(caught.value)
    with server:
        run(gone)
    assert_as_whole(settings, whole)


def test_a_redis_that_fills_before_a_checkpoint_is_due_is_emptied_by_an_early_one(services: Stack) -> None:
    source = {"url": services.judge_url, "role": "both", "timeout_s": 5.0, "max_chars": 100_000}
    changes = {
        "learner": {"checkpoint_every": 99},
        "evaluation": {"every": 99},
        "feedback": {"sources": {"judge": source}},
    }
    settings = settings_of(services, "small-redis", queue={"max_outage_s": 20}, **changes)
    settings = settings.model_copy(update={"run": settings.run.model_copy(update={"steps": 20})})
    services.judge.padding = 60_000
    try:
        with RedisServer(Path(tempfile.mkdtemp(prefix="vpd-")), unix_socket=_socket(), max_memory_mb=3) as server:
            run(settings.model_copy(update={"queue": settings.queue.model_copy(update={"url": server.url})}))
    finally:
        services.judge.padding = 0
    found = audit(path(settings))
    assert found.problems == [] and found.finished and found.groups == 40
    assert found.checkpoints > 1


def test_a_damaged_ledger_is_one_sentence_and_nothing_is_trained(services: Stack) -> None:
    settings = settings_of(services, "ledger-damaged")
    with pytest.raises(Died):
        run(settings, before=dying_at(2))
    ledger = path(settings) / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join([lines[0].replace('"step": 0', '"step": 1'), *lines[1:]]))
    with pytest.raises(DataError, match=r"ledger\.jsonl, line 1: it, or a line before it, was changed"):
        run(settings)


@pytest.mark.parametrize("lacking", ["intake", "optimizer"])
def test_a_checkpoint_of_another_version_is_one_sentence(services: Stack, lacking: str) -> None:
    settings = settings_of(services, f"older-{lacking}")
    with pytest.raises(Died):
        run(settings, before=dying_at(2))
    file = checkpoint_file(path(settings) / "checkpoints", 2)
    state = torch.load(file, weights_only=True)
    del state[lacking]
    torch.save(state, file)
    said = (
        rf"older-{lacking} has no '{lacking}': its run was begun with another version. Start the run anew \(--fresh\)"
    )
    with pytest.raises(DataError, match=said):
        run(settings)


def test_only_as_many_batches_are_kept_as_asked_for_and_a_crash_is_survived(services: Stack, whole: Settings) -> None:
    settings = settings_of(services, "few-batches", learner={"keep_batches": 1, "critique_window_steps": 1})
    with pytest.raises(Died):
        run(settings, before=dying_at(5))
    run(settings)
    assert BatchStore(path(settings) / "batches").steps() == [3, 4, 5]
    assert same(final_weights(settings), final_weights(whole))
    assert audit(path(settings)).problems == []


# ---------------------------------------------------------------------------------------------------- overlapped mode


def overlapped(services: Stack, name: str, **rollout: Any) -> Settings:
    shape = {"prompts_per_step": 2, "samples_per_prompt": 3, "max_tokens": 8}
    return settings_of(services, name, rollout={**shape, "mode": "overlapped", **rollout})


@pytest.mark.parametrize("collectors", [1, 3])
def test_an_overlapped_run_counts_every_prompt_once_within_its_lag(services: Stack, collectors: int) -> None:
    settings = overlapped(services, f"overlapped-{collectors}", collectors=collectors, max_policy_lag=2)
    run(settings)
    found = audit(path(settings))
    assert found.problems == [] and found.finished and found.groups == 2 * STEPS
    assert max(found.rollouts_lag) <= 2


def test_an_overlapped_run_whose_learner_died_counts_every_prompt_once(services: Stack) -> None:
    settings = overlapped(services, "overlapped-died", collectors=2)
    for step in (1, 3, 4):
        with pytest.raises(Died):
            run(settings, before=dying_at(step))
    run(settings)
    found = audit(path(settings))
    assert found.problems == [] and found.finished and found.groups == 2 * STEPS and found.starts == 4


def test_an_overlapped_run_whose_redis_was_emptied_counts_every_prompt_once(services: Stack) -> None:
    settings = overlapped(services, "overlapped-emptied", collectors=2)

    def empty(step: int) -> None:
        if step in (1, 4):
            redis.Redis.from_url(services.redis_url).flushall()

    run(settings, before=empty)
    found = audit(path(settings))
    assert found.problems == [] and found.finished and found.groups == 2 * STEPS


def test_an_overlapped_run_that_lost_a_checkpoint_and_a_batch_counts_every_prompt_once(services: Stack) -> None:
    settings = overlapped(services, "overlapped-lost")
    with pytest.raises(Died):
        run(settings, before=dying_at(5))
    checkpoint_file(path(settings) / "checkpoints", 4).write_bytes(b"torn")
    (path(settings) / "batches" / "step_000003.zz").unlink()
    run(settings)
    found = audit(path(settings))
    assert found.problems == [] and found.finished and found.groups == 2 * STEPS


def test_the_lag_of_every_group_stands_in_the_metrics(services: Stack) -> None:
    settings = overlapped(services, "lags", max_policy_lag=1)
    run(settings)
    steps = [line for line in metrics(settings).decode().splitlines() if '"kind": "step"' in line]
    assert len(steps) == STEPS and all('"lag/mean"' in line for line in steps)
    entries = read_ledger(path(settings) / "ledger.jsonl").entries
    lags = [e["step"] - version for e in entries if e["kind"] == "step" for version in e["versions"]]
    assert max(lags) <= 1


def _socket() -> Path:
    return Path(tempfile.mkdtemp(prefix="vpd-")) / "redis.sock"


def _flush_when_published(url: str) -> None:
    client = redis.Redis.from_url(url)
    while not client.keys("*:body:*"):
        pass
    client.flushall()
