"""`vpd explain`: the story of a rollout, found by a part of its id; its steps, its tokens, its critiques' fate."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from cli_runs import ANSWER, a_run, do_step, id_of
from cli_support import only_sentence, vpd
from trainer_builders import said

from cli.explain import lifted_tokens, main, run_of, story
from services.dashboard.runs import Rollout, RunFiles
from services.human_feedback import critiques
from services.human_feedback.database import Database
from services.human_feedback.schema import prepare
from shared.errors import SettingsError
from shared.protocol import Critique, CritiqueUse
from shared.settings import HumanFeedbackSettings
from trainer.ledger import Ledger
from trainer.run_directory import RunDirectory

ANN = said("it was renamed", name="human", kind="human")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Two steps; in the second, a rollout of the first was trained on again for a critique."""
    run = a_run(tmp_path)
    first = do_step(run, 0)
    trajectories = [t.model_copy(update={"feedback": [*t.feedback, ANN]}) for t in first.trajectories]
    again = first.model_copy(update={"trajectories": trajectories})
    do_step(run, 1, late=[(again, id_of(run, 0, 1))])
    return run


def write_critiques(run: RunDirectory, fates: dict[str, CritiqueUse | None]) -> None:
    """Critiques of the second rollout of the first step, by their writers, and what became of each."""

    async def write() -> None:
        database = Database(str(run.path.parent / "human.sqlite3"))
        await database.open(lambda db: prepare(db, HumanFeedbackSettings()))
        anything = critiques.Expected()
        for writer, use in fates.items():
            text = Critique(text=f"words of {writer}")
            where = (id_of(run, 0, 1), writer)
            await database.run(lambda db, w=where, t=text: critiques.put(db, *w, t, now=1.0, expected=anything))
            if use is not None:
                await database.run(lambda db, w=where, u=use: critiques.use(db, *w, u, seq=None, now=2.0))
        await database.close()

    asyncio.run(write())


def told(run: RunDirectory, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(run.path, part, as_json=False) == 0
    return capsys.readouterr().out


def test_the_story_of_a_rollout_that_was_trained_on_twice(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = told(run, "s000000-g000-r01", capsys, monkeypatch)
    assert max(map(len, shown.splitlines())) <= 80
    in_order = [
        id_of(run, 0, 1),
        "question of 0",
        f"{ANSWER}  # 1",
        "code said",
        "wrong name",
        "human said",
        "it was renamed",
        "step 0 trained on it\n",
        "the teacher's prompt, with words of code ",
        "lowered by the teacher by 1.50 nats",
        "step 1 trained on it again, for a critique that came late",
        "the teacher's prompt, with words of code, human",
    ]
    places = [shown.find(text) for text in in_order]
    assert -1 not in places and places == sorted(places)
    nats = [line.split() for line in shown.splitlines() if line.startswith("  +") or line.startswith("  -")]
    assert nats[0] == ["+0.50", '"lib."', "-2.25", '"double"'] and nats[1][:2] == ["+0.25", '"(x)']


def test_what_became_of_each_critique_is_told(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = CritiqueUse(status="used", step=1, policy_version=2)
    stale = CritiqueUse(status="stale", step=4, reason="its rollout had left the learner's buffer")
    write_critiques(run, {"ann": used, "bob": stale, "cleo": None})
    shown = told(run, "s000000-g000-r01", capsys, monkeypatch)
    assert "ann's critique: used at step 1, which made policy version 2\n  words of ann" in shown
    assert "bob's critique: not used: its rollout had left the learner's buffer (step 4)" in shown
    assert "cleo's critique: queued for the next step" in shown
    assert "critique:" not in told(run, "s000000-g000-r00", capsys, monkeypatch)


def test_critiques_that_cannot_be_read_leave_the_rest_of_the_story(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.path.parent / "human.sqlite3").write_bytes(b"no database" * 100)
    shown = told(run, "s000000-g000-r01", capsys, monkeypatch)
    assert "step 0 trained on it" in shown and "critiques is not known" in shown and "Traceback" not in shown


def test_a_step_that_the_ledger_does_not_count_is_told(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert story(run.path, "s000001-g000-r00").counted == [1]
    Ledger(run.path / "ledger.jsonl").start(1)
    assert "step 1 trained on it (the ledger does not count it)" in told(run, "s000001-g000-r00", capsys, monkeypatch)


def test_json_has_the_rows_the_steps_and_the_critiques(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    write_critiques(run, {"ann": CritiqueUse(status="used", step=1, policy_version=2)})
    assert main(run.path, id_of(run, 0, 1), as_json=True) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(row["step"], row["late"], row["feedback_in_prompt"]) for row in shown["rows"]] == [
        (0, False, ["code"]),
        (1, True, ["code", "human"]),
    ]
    assert shown["counted"] == [0] and [c["step"] for c in shown["critiques"]] == [1]


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("s000009", "No rollout of the run in .* has s000009 in its id: `vpd rollouts` lists them"),
        ("s000000", r"s000000 is a part of 2 rollouts' ids \(.*-r00, .*-r01\): give more of it"),
    ],
)
def test_a_part_that_no_id_has_or_several_have_is_one_sentence(run: RunDirectory, part: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        story(run.path, part)


def test_of_a_dropped_group_the_reason_is_told(run: RunDirectory) -> None:
    dropped = id_of(run, 5, 0)
    group_id = dropped.rpartition("-r")[0]
    Ledger(run.path / "ledger.jsonl").dropped(None, group_id, step=6, reason="it was too old", returned=True)
    with pytest.raises(SettingsError, match="was never trained on: its group was dropped at step 6, it was too old"):
        story(run.path, dropped)


def test_a_whole_id_names_its_run(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    old, new = (a_run(tmp_path / "runs", name) for name in ("old", "new"))
    for one in (old, new):
        do_step(one, 0)
    assert run_of(tmp_path / "runs", id_of(old, 0, 0)) == old.path
    assert run_of(tmp_path / "runs", "s000000-g000-r00") == new.path
    done = vpd("explain", id_of(old, 0, 0), "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["run"] == old.identity.run_id
    assert "There is no run in none yet" in only_sentence(vpd("explain", "x", "--set", "run.dir=none", cwd=tmp_path))


def rollout(**fields: Any) -> Rollout:
    usual = {"trajectory_id": "t", "group_id": "g", "task_id": "q", "step": 0, "policy_version": 0}
    return Rollout.model_validate({**usual, **fields})


def test_parts_of_a_character_are_one_token_and_the_end_is_its_own() -> None:
    row = rollout(response="a字", token_ends=[1, 2, 2, 2, 2], token_lift=[0.1, 1.0, 2.0, None, -0.5])
    assert lifted_tokens(row) == [("a", 0.1), ("字", 3.0), ("", -0.5)]
    cut = rollout(response="a字", token_ends=[1, 2, 2], token_lift=[0.1, 1.0, 2.0], finish_reason="length")
    assert lifted_tokens(cut) == [("a", 0.1), ("字", 3.0)]
    assert lifted_tokens(rollout(response="a", token_ends=[1])) is None


def test_a_row_without_a_teacher_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path)
    do_step(run, 0, (1.0,), change={"token_lift": None})
    assert RunFiles(run.path).rollout(id_of(run, 0, 0)) is not None
    shown = told(run, "r00", capsys, monkeypatch)
    assert "no M-step prompt" in shown and "No teacher scored it." in shown
