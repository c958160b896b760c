"""One retraining at a time, and what each leaves for the next."""

import os
from pathlib import Path

import pytest

from whisper_router import git
from whisper_router.errors import UserError
from whisper_router.retrain_state import HOLDER, OUTCOMES, Outcome, alone, errors_kept, keep, last, running


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_retrainings_do_not_run_at_once(project):
    who = rf"another retraining of {project} runs: process {os.getpid()} on .*, since 20"
    with alone(), pytest.raises(UserError, match=who), alone():
        pass
    with alone():
        pass


def test_who_runs_is_told_while_it_runs(project):
    assert running() is None
    assert list(project.iterdir()) == []
    with alone():
        assert (running() or "").startswith(f"process {os.getpid()} on ")
    assert running() is None


def test_locks_of_a_git_that_died_with_a_retraining_go_and_others_stay():
    git.do("init", "-q")
    stale = [Path(".git/index.lock"), Path(".git/refs/heads/main.lock")]
    for path in stale:
        path.write_text("")
    with alone():
        assert all(path.is_file() for path in stale)  # no retraining was killed: somebody else's
    HOLDER.write_text("process 1 on here\n")
    with alone():
        assert not any(path.is_file() for path in stale)


def test_outcomes_are_kept_in_their_order():
    assert last() == []
    for number in range(12):
        keep("2026-01-01T00:00:00+00:00", Outcome(ending="promoted", version=str(number)))
    assert [kept.outcome.version for kept in last()] == [str(number) for number in range(11, 1, -1)]


def test_an_error_is_kept_with_its_text_and_raised():
    with pytest.raises(UserError), errors_kept():
        raise UserError("postgresql://ann:s3cret@head is gone")
    with pytest.raises(ZeroDivisionError), errors_kept():
        _ = 1 / 0
    with pytest.raises(KeyboardInterrupt), errors_kept():
        raise KeyboardInterrupt
    assert [kept.outcome.ending for kept in last()] == ["error"] * 3
    assert [kept.outcome.error for kept in last()] == [
        "KeyboardInterrupt",
        "ZeroDivisionError: division by zero",
        "postgresql://ann:***@head is gone",
    ]


def test_a_line_that_was_cut_by_a_kill_costs_itself_alone(capsys):
    keep("2026-01-01T00:00:00+00:00", Outcome(ending="nothing new"))
    with OUTCOMES.open("a") as file:
        file.write('{"began": "2026\n')
    keep("2026-01-01T00:00:00+00:00", Outcome(ending="promoted", version="2"))
    assert [kept.outcome.ending for kept in last()] == ["promoted", "nothing new"]
    assert "retrain.jsonl: line 2 cannot be read" in capsys.readouterr().err
