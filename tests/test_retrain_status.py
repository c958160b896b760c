"""What `python -m flows.retrain --status` says, at 80 columns."""

from pathlib import Path

import pytest
from test_preflight import write_params

from whisper_router import retrain_state
from whisper_router.retrain_state import BEGUN, Outcome, alone, keep
from whisper_router.retrain_status import lines, status

LONG = "WER 14.44 % -> 14.47 %, lower by -0.03 % (-0.61 % to +0.40 %): 0.61 is over the tolerance of 0.5"


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drop").mkdir()
    write_params(tmp_path / "params.yaml", drop="drop", corpus="calls")
    return tmp_path


def shown() -> str:
    told = lines(status())
    assert max(map(len, told)) <= 80
    return "\n".join(told)


def test_a_project_that_never_retrained():
    assert shown().splitlines() == [
        "running  no",
        "waiting  no batches in drop",
        "",
        "No retraining has ended in this project yet.",
    ]


def test_batches_that_wait_and_folders_that_are_not_complete(project):
    for name in ("monday", "tuesday"):
        (project / "drop" / name).mkdir()
        (project / "drop" / name / "metadata.csv").touch()
    (project / "drop/.wednesday").mkdir()
    (project / "drop/notes.txt").touch()
    assert "waiting  2 batches in drop: monday, tuesday; 1 not complete" in shown()
    found = status()
    assert (found.waiting, found.incomplete) == (["monday", "tuesday"], 1)


def test_a_drop_folder_that_is_gone_does_not_hide_the_rest(project):
    (project / "drop").rmdir()
    assert "is it mounted?" in " ".join(shown().split())
    assert "No retraining has ended" in shown()


def test_a_run_of_now_and_one_that_did_not_end():
    BEGUN.parent.mkdir(parents=True)
    BEGUN.touch()
    assert "running  no; the last one did not end" in shown()
    with alone():
        assert "running  process " in shown()
        assert not status().unfinished


def test_outcomes_have_a_line_each_and_the_newest_its_reasons(monkeypatch):
    monkeypatch.setattr(retrain_state, "_now", lambda: "2026-03-01T03:12:00+00:00")
    began = "2026-03-01T03:00:00+00:00"
    keep(began, Outcome(ending="promoted", version="3"))
    keep(began, Outcome(ending="error", error="stage label stopped with code 1 " * 9))
    failed = {"improvement": LONG, "latency": "2.00 -> 4.10 s"}
    keep(began, Outcome(ending="gate failed", version="4", failed=failed))
    heading, newest, error, oldest, empty, *reasons = shown().splitlines()[3:]
    assert heading == "ended (UTC)          took  version  outcome"
    assert newest == "2026-03-01 03:12   12 min        4  gate failed: improvement, latency"
    assert error.endswith(" ...")
    assert " -  error: stage label stopped" in error
    assert oldest.endswith("        3  promoted")
    assert empty == ""
    assert " ".join(line.strip() for line in reasons) == f"improvement: {LONG} latency: 2.00 -> 4.10 s"
