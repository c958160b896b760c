"""`python -m flows.retrain`: its help, and an exit code for each outcome."""

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from flows import retrain, retrain_flow
from whisper_router import preflight, run
from whisper_router.gate import Verdict
from whisper_router.promotion import MODEL
from whisper_router.retrain_state import Outcome, last

ROOT = Path(__file__).parents[1]


def test_help_says_how_it_is_run_and_how_it_exits():
    done = subprocess.run(
        [sys.executable, "-m", "flows.retrain", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "3  the gate failed" in done.stdout
    for option in ("--check", "--status", "--cron", "--json"):
        assert option in done.stdout


@pytest.mark.parametrize(
    ("ending", "code"),
    [("promoted", None), ("nothing new", None), ("nothing to do", None), ("gate failed", 3)],
)
def test_the_exit_code_tells_a_failed_gate(tmp_path, monkeypatch, ending, code):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["retrain"])
    monkeypatch.setenv("PREFECT_API_URL", "")
    monkeypatch.setattr(preflight, "require_ready", lambda: None)
    monkeypatch.setattr(run, "prefect_server", lambda: nullcontext("http://prefect.invalid/api"))
    monkeypatch.setattr(retrain_flow, "retrain", lambda: Outcome(ending=ending))
    if code is None:
        retrain._command()
    else:
        with pytest.raises(SystemExit) as stopped:
            retrain._command()
        assert stopped.value.code == code


@pytest.mark.parametrize("arguments", [["--check", "--status"], ["--check", "--serve"]])
def test_one_thing_at_a_time(monkeypatch, arguments):
    monkeypatch.setattr(sys, "argv", ["retrain", *arguments])
    with pytest.raises(SystemExit) as stopped:
        retrain._command()
    assert stopped.value.code == 2


GOOD, BAD = Verdict("size", True, "small"), Verdict("latency", False, "2.00 -> 4.10 s")


@pytest.mark.parametrize(
    ("due", "branch", "verdicts", "ending", "failed"),
    [
        (False, None, [], "nothing to do", {}),
        (True, None, [], "nothing new", {}),
        (True, "retrain/1", [GOOD], "promoted", {}),
        (True, "retrain/1", [GOOD, BAD], "gate failed", {"latency": "2.00 -> 4.10 s"}),
    ],
)
def test_each_way_through_a_retraining_is_kept(tmp_path, monkeypatch, due, branch, verdicts, ending, failed):
    monkeypatch.chdir(tmp_path)
    steps = {
        "require_ready": lambda: None,
        "load_params": lambda: preflight.Params.model_construct(retrain=None),
        "take_in": lambda params: None,
        "commit_and_push": lambda tracked, params: branch,
        "registry": lambda: MODEL,
        "known_version": lambda client: None,
        "register_version": lambda: "4",
        "gate": lambda version, params: verdicts,
        "create_markdown_artifact": lambda *_, **__: None,
        "finish": lambda version, verdicts, params: None,
        "_markdown": lambda version, verdicts: "",
    }
    for name, step in steps.items():
        monkeypatch.setattr(retrain_flow, name, step)
    monkeypatch.setattr(retrain_flow.trigger, "begin", lambda options: due)
    monkeypatch.setattr(retrain_flow.retraining, "going_on", lambda: False)
    monkeypatch.setattr(retrain_flow.retraining, "up_to_date", lambda: True)
    monkeypatch.setattr(retrain_flow.retraining, "stages", list)
    outcome = retrain_flow.retrain.fn()
    assert (outcome.ending, outcome.failed) == (ending, failed)
    assert outcome.version == ("4" if branch else None)
    assert [kept.outcome for kept in last()] == [outcome]
