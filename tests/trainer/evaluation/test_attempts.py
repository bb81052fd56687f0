"""The file of an evaluation: what is in it after a kill, and who may write it."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from shared.errors import DataError, InfrastructureError
from shared.protocol import Feedback, FeedbackFailure, SourceInfo
from trainer.evaluation.attempts import AttemptsFile, Key, Verdict, Written

KEY = Key("student", "math500-1", 0)
ROLLOUT = Written(**KEY._asdict(), text="é 42", finish_reason="stop", tokens=3)
SAID = Feedback(
    trajectory_id="t", feedback_id="f", status="ok", success=True, text="Right.", source=SourceInfo(name="judge")
)
VERDICT = Verdict(**KEY._asdict(), success=True, feedback=[SAID])


def failed(class_: str) -> Verdict:
    failure = FeedbackFailure.model_validate({"class": class_, "message": "no"})
    return Verdict(**KEY._asdict(), failure=failure)


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    with AttemptsFile(tmp_path / "new" / "attempts.jsonl") as attempts:
        attempts.add([ROLLOUT, VERDICT])
    with AttemptsFile(tmp_path / "new" / "attempts.jsonl") as attempts:
        assert (attempts.rollouts, attempts.verdicts) == ({KEY: ROLLOUT}, {KEY: VERDICT})


@pytest.mark.parametrize("kept", range(1, 40, 6))
def test_a_line_torn_by_a_kill_is_dropped_and_the_next_one_is_whole(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "attempts.jsonl"
    with AttemptsFile(file) as attempts:
        attempts.add([ROLLOUT])
    with file.open("ab") as out:
        out.write(VERDICT.model_dump_json().encode()[:kept])
    with AttemptsFile(file) as attempts:
        assert attempts.verdicts == {} and attempts.rollouts == {KEY: ROLLOUT}
        attempts.add([VERDICT])
    with AttemptsFile(file) as attempts:
        assert attempts.verdicts == {KEY: VERDICT}
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_a_verdict_that_a_failing_source_owes_is_forgotten_and_any_other_stands(tmp_path: Path) -> None:
    for verdict, stands in ((failed("infra"), False), (failed("data"), True), (Verdict(**KEY._asdict()), True)):
        file = tmp_path / f"{verdict.why_unjudged}.jsonl"
        with AttemptsFile(file) as attempts:
            attempts.add([ROLLOUT, verdict])
        with AttemptsFile(file) as attempts:
            assert (KEY in attempts.verdicts) == stands and KEY in attempts.rollouts


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with (
        AttemptsFile(tmp_path / "attempts.jsonl"),
        pytest.raises(InfrastructureError, match=r"Another `vpd eval` writes to .*attempts\.jsonl"),
    ):
        AttemptsFile(tmp_path / "attempts.jsonl")


def test_a_damaged_line_is_named_with_the_way_out(tmp_path: Path) -> None:
    file = tmp_path / "attempts.jsonl"
    file.write_text(f"{ROLLOUT.model_dump_json()}\n{{}}\n")
    with pytest.raises(DataError, match=r"line 2, is no rollout and no verdict: delete the file"):
        AttemptsFile(file)


def test_a_disk_that_takes_no_more_is_one_sentence_and_nothing_is_taken_for_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with AttemptsFile(tmp_path / "attempts.jsonl") as attempts:
        with pytest.raises(InfrastructureError, match=r"No space left on device\. Free some space"):
            attempts.add([ROLLOUT])
        assert attempts.rollouts == {}
