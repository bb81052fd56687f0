"""What an evaluation asks the policy and the judge, in which portions, and what it does when they fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from evaluation_fakes import Policy, attempt, settings, tasks
from loop_stack import Judge

import trainer.evaluate
from shared.errors import DataError, InfrastructureError, ServiceUnavailable
from shared.protocol import Prompt
from shared.settings import Settings, TeacherPromptSettings
from trainer.evaluation.attempts import Attempts, AttemptsFile, Key
from trainer.evaluation.counts import accuracy, count, wanted


@pytest.fixture(autouse=True)
def _eight_rows_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the 1,000 tokens a rollout of `settings`."""
    monkeypatch.setattr(trainer.evaluate, "_REQUEST_TOKENS", 8_000)


@pytest.mark.parametrize(("samples", "largest"), [(1, 8), (3, 6), (8, 8), (20, 8)])
def test_every_rollout_is_asked_for_once_in_requests_of_bounded_size_a_few_at_a_time(
    samples: int, largest: int
) -> None:
    policy = Policy()
    made = attempt(settings(samples), policy, Judge(), tasks(30), teacher="none")
    assert made.rollouts.keys() == made.verdicts.keys() == set(wanted(tasks(30), ["student"], samples=samples))
    assert max(len(questions) * n for questions, n, _ in policy.requests) == largest
    assert sum(len(questions) * n for questions, n, _ in policy.requests) == 30 * samples
    assert policy.most_at_once == trainer.evaluate._BATCHES_AT_ONCE["transformers"]
    assert len({one.text for one in made.rollouts.values()}) == 30 * samples, "two requests drew alike"


def test_the_same_policy_and_tasks_give_the_same_attempts() -> None:
    one, other = (attempt(settings(3), Policy(), Judge(), tasks(9)) for _ in range(2))
    assert one.rollouts == other.rollouts and one.verdicts.keys() == other.verdicts.keys()


def test_the_seed_of_the_run_draws_other_rollouts() -> None:
    one, other = (attempt(settings(1, run={"seed": seed}), Policy(), Judge(), tasks(3)) for seed in (1, 2))
    assert not {r.text for r in one.rollouts.values()} & {r.text for r in other.rollouts.values()}


# --------------------------------------------------------------------------------------------------------- the teacher


def questions_of_the_teacher(policy: Policy) -> list[str]:
    header = TeacherPromptSettings().closing
    return [question for asked, _, _ in policy.requests for question in asked if header in question]


def test_the_teacher_is_told_the_feedback_on_the_students_own_attempt_and_nothing_else() -> None:
    policy = Policy()
    made = attempt(settings(2), policy, Judge(), tasks(6))
    failed = [key for key, verdict in made.verdicts.items() if key.who == "student" and not verdict.success]
    told = questions_of_the_teacher(policy)
    assert 0 < len(told) == len(failed) < 12
    for key in failed:
        text = made.rollouts[key].text
        remark = f"The sum of the bytes is {sum(text.encode()) % 3}, not 0 modulo 3."
        assert any(q.startswith(f"Question {key.task_id[1:]}\n") and remark in q for q in told)
        assert made.rollouts[key._replace(who="teacher")].informed
    assert sum(one.informed for one in made.rollouts.values()) == len(failed)


def test_told_as_the_m_step_would_the_teacher_sees_the_first_sibling_that_succeeded() -> None:
    policy = Policy()
    made = attempt(settings(4), policy, Judge(), tasks(6), teacher="m_step")
    told = questions_of_the_teacher(policy)
    shown = 0
    for task in tasks(6):
        keys = [Key("student", task.id, sample) for sample in range(4)]
        first = next((key for key in keys if made.verdicts[key].success), None)
        failed = [key for key in keys if not made.verdicts[key].success]
        if first is not None and failed:
            shown += len(failed)
            solution = f"Correct solution:\n\n{made.rollouts[first].text}"
            assert sum(q.startswith(task.messages[0].content + "\n") and solution in q for q in told) >= len(failed)
    assert shown > 0


def test_without_a_teacher_only_the_student_is_asked() -> None:
    policy = Policy()
    made = attempt(settings(2), policy, Judge(), tasks(6), teacher="none")
    assert {key.who for key in made.verdicts} == {"student"} and len(policy.requests) == 2


def test_a_teacher_prompt_that_is_refused_takes_no_other_with_it_and_counts_as_unjudged() -> None:
    def refuse(_: int, prompts: Sequence[Prompt]) -> None:
        long = [p for p in prompts if p.messages and p.messages[-1].content.startswith("Question 4\n")]
        if long:
            raise DataError("The inference service refused: it is too long.")

    made = attempt(settings(1), Policy(before=refuse), judge := Judge(), tasks(8))
    refused = Key("teacher", "t4", 0)
    assert made.verdicts[Key("student", "t4", 0)].success is False, "this seed must fail task 4"
    assert made.verdicts[refused].why_unjudged == "data" and refused not in made.rollouts
    assert all(made.verdicts[Key("teacher", t.id, 0)].success is not None for t in tasks(8) if t.id != "t4")
    assert [one.unjudged for one in count(tasks(8), made, "teacher", samples=1)] == [0, 0, 0, 0, 1, 0, 0, 0]
    assert all(item.task.id for request in judge.asked for item in request.items)


# ------------------------------------------------------------------------------------------------------------ failures


def test_a_task_that_the_policy_refuses_stops_the_evaluation_with_its_sentence() -> None:
    def refuse(_: int, prompts: Sequence[Prompt]) -> None:
        raise DataError("The inference service refused: it is too long.")

    with pytest.raises(DataError, match="too long"):
        attempt(settings(1), Policy(before=refuse), Judge(), tasks(30))


def test_prompts_that_leave_no_room_are_named_with_the_setting_that_helps() -> None:
    def refuse(_: int, prompts: Sequence[Prompt]) -> None:
        raise DataError("The inference service refused: it is too long.")

    # "Question 10" is the first with a second digit.
    policy = Policy(before=refuse, max_context=1000 + len("Question 9"))
    with pytest.raises(DataError, match=r"2 of 12 held-out prompts .* The first is that of task 't10'\.") as caught:
        attempt(settings(1), policy, Judge(), tasks(12))
    assert caught.value.field == "rollout.max_tokens"


def test_another_version_than_the_one_evaluated_is_never_measured() -> None:
    made = Attempts()
    with pytest.raises(InfrastructureError, match="version 4 while version 3 was being evaluated"):
        attempt(settings(1), Policy(version=4), Judge(), tasks(2), made, version=3)
    assert not made.rollouts


def test_abstentions_are_no_failures() -> None:
    made = attempt(settings(2), Policy(), Judge(mode="abstain"), tasks(4))
    counts = count(tasks(4), made, "student", samples=2)
    assert accuracy(counts) is None and sum(one.unjudged for one in counts) == 8


def test_a_judge_that_stays_away_stops_it_and_no_rollout_is_asked_for_again(tmp_path: Path) -> None:
    with AttemptsFile(tmp_path / "attempts.jsonl") as attempts:
        with pytest.raises(ServiceUnavailable, match=r"outcome source 'judge' .* stayed away"):
            attempt(settings(2), Policy(), Judge(mode="down"), tasks(4), attempts)
        assert len(attempts.rollouts) == 8 and not attempts.verdicts
    policy = Policy()
    with AttemptsFile(tmp_path / "attempts.jsonl") as attempts:
        attempt(settings(2), policy, Judge(), tasks(4), attempts)
        assert len(attempts.verdicts) == 16
    assert sum(len(asked) for asked, _, _ in policy.requests) == 8, "the teacher alone was asked"


class FailsOnOne(Judge):
    """A judge that fails, as a machine does, on the attempt at the first task."""

    def _result(self, trajectory_id: str, text: str) -> dict[str, Any]:
        result = super()._result(trajectory_id, text)
        if not trajectory_id.endswith("-0-0"):
            return result
        ids = {name: result[name] for name in ("trajectory_id", "feedback_id", "source")}
        return {**ids, "status": "error", "error": {"class": "infra", "message": "out of memory"}}


def test_an_attempt_that_the_judge_failed_on_is_no_failure_and_is_judged_and_shown_to_the_teacher_later(
    tmp_path: Path,
) -> None:
    lost = Key("student", "t0", 0)
    with AttemptsFile(tmp_path / "attempts.jsonl") as attempts:
        attempt(settings(1), Policy(), FailsOnOne(), tasks(4), attempts)
        assert attempts.verdicts[lost].why_unjudged == "infra"
        assert lost._replace(who="teacher") not in attempts.rollouts and len(attempts.verdicts) == 7
    with AttemptsFile(tmp_path / "attempts.jsonl") as attempts:
        attempt(settings(1), policy := Policy(), Judge(), tasks(4), attempts)
        assert attempts.verdicts[lost].success is not None and len(attempts.verdicts) == 8
    assert [len(asked) for asked, _, _ in policy.requests] == [1], "the teacher, about this attempt"


class Stop(Exception):
    """Something that ends an evaluation in the middle."""


@pytest.mark.parametrize("at", [1, 2, 7, 16])
def test_stopped_at_any_request_it_goes_on_with_what_it_lacks_and_ends_the_same(tmp_path: Path, at: int) -> None:
    chosen, what = settings(3), tasks(16)
    whole = attempt(chosen, Policy(), Judge(), what)

    def stop(number: int, _: Sequence[Prompt]) -> None:
        if number == at:
            raise Stop

    stopped, going_on = Policy(before=stop), Policy()
    with AttemptsFile(tmp_path / "attempts.jsonl") as attempts, pytest.raises(Stop):
        attempt(chosen, stopped, Judge(), what, attempts)
    with AttemptsFile(tmp_path / "attempts.jsonl") as attempts:
        attempt(chosen, going_on, Judge(), what, attempts)
        assert attempts.rollouts == whole.rollouts
        assert {k: v.success for k, v in attempts.verdicts.items()} == {k: v.success for k, v in whole.verdicts.items()}
    twice = Counter(s.seed for policy in (stopped, going_on) for _, _, s in policy.requests)
    assert sum(number - 1 for number in twice.values()) <= trainer.evaluate._BATCHES_AT_ONCE["transformers"]


def test_greedy_rollouts_of_a_task_are_one() -> None:
    policy = Policy()
    attempt(settings(1, evaluation={"temperature": 0}), policy, Judge(), tasks(2), teacher="none")
    assert [sampling.temperature for _, _, sampling in policy.requests] == [0]
    with pytest.raises(ValueError, match="samples must be 1 at temperature 0"):
        Settings.model_validate({"evaluation": {"temperature": 0, "samples": 2}})
