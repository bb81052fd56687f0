"""Who holds a run directory, what moves aside, and how stale notes are told from live ones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
from cli_support import python

from cli.claim import MIN_FREE_MB, Claim, require_space, stacks_below, start_time
from shared.errors import InfrastructureError, VPDError


def test_a_held_directory_is_refused_with_the_holder_s_process_and_free_again_after(tmp_path: Path) -> None:
    first = Claim(tmp_path / "demo")
    first.take(fresh=False)
    with pytest.raises(VPDError, match=f"process {os.getpid()}"):
        Claim(tmp_path / "demo").take(fresh=True)
    first.release()
    Claim(tmp_path / "demo").take(fresh=False)


def test_a_complete_run_is_refused_unless_fresh_moves_it_aside_and_nothing_is_lost(tmp_path: Path) -> None:
    for number, content in enumerate(("{}", '{"second": true}')):
        claim = Claim(tmp_path / "demo")
        claim.take(fresh=number > 0)
        (tmp_path / "demo" / "summary.json").write_text(content)
        claim.release()
    with pytest.raises(VPDError, match=r"is complete: .*--fresh"):
        Claim(tmp_path / "demo").take(fresh=False)
    Claim(tmp_path / "demo").take(fresh=True)
    assert (tmp_path / "demo-1" / "summary.json").read_text() == "{}"
    assert (tmp_path / "demo-2" / "summary.json").read_text() == '{"second": true}'
    assert Claim(tmp_path / "demo").summary() is None


def test_fresh_in_a_new_directory_leaves_nothing_aside(tmp_path: Path) -> None:
    Claim(tmp_path / "demo").take(fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_directory_with_services_still_up_is_refused(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "demo")
    claim.take(fresh=False)
    child = subprocess.Popen(python("import time; time.sleep(600)"))
    try:
        claim.note({}, {"redis": child.pid})
        claim.release()
        with pytest.raises(VPDError, match="vpd down"):
            Claim(tmp_path / "demo").take(fresh=True)
        assert list(stacks_below(tmp_path)) == [tmp_path / "demo"]
    finally:
        child.kill()
        child.wait()
    Claim(tmp_path / "demo").take(fresh=False)


def test_a_process_id_that_another_process_has_now_is_not_ours(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "demo")
    claim.take(fresh=False)
    claim.note({}, {"redis": os.getpid()})
    note = tmp_path / "demo" / "up.json"
    assert claim.stack() is not None
    note.write_text(note.read_text().replace(start_time(os.getpid()), "1"))
    stack = claim.stack()
    assert stack is not None
    assert stack.alive() == {}
    assert not stack.supervised()


def test_an_ended_process_that_was_not_waited_for_does_not_count_as_running() -> None:
    child = subprocess.Popen(python("pass"), stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert start_time(child.pid) == ""
    child.stdout.close()
    child.wait()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pids": 3}', "{"])
def test_a_broken_note_is_no_stack(tmp_path: Path, content: str) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "up.json").write_text(content)
    assert stacks_below(tmp_path) == {}


def test_a_directory_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VPDError, match="cannot be made: Not a directory"):
        Claim(tmp_path / "file" / "demo").take(fresh=False)


def test_too_little_space_is_said_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, (MIN_FREE_MB - 1) * 2**20))
    with pytest.raises(InfrastructureError, match=f"Only {MIN_FREE_MB - 1} MB are free"):
        require_space(tmp_path / "not" / "yet")
