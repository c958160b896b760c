"""A run's `dvc repro`: what its exit code says, and that a failed stage alone says why."""

import subprocess
import sys
from pathlib import Path

import pytest

DAG = """\
stages:
  good:
    cmd: echo fine > good.txt
    outs: [good.txt]
  bad:
    cmd: echo the stage says why >&2; exit 3
    deps: [good.txt]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "dvc.yaml").write_text(DAG)
    for command in (["git", "init", "-q"], [str(Path(sys.executable).with_name("dvc")), "init", "-q"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    return tmp_path


def repro(project: Path, *stages: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "whisper_router.repro", *stages]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_a_stage_that_fails_is_not_explained_by_a_stack_trace(project):
    done = repro(project)
    assert done.returncode == 1
    assert "the stage says why" in done.stderr
    assert "Traceback" not in done.stderr
    assert (project / "good.txt").is_file()


def test_what_runs_is_said_without_hints_for_git(project):
    done = repro(project, "good")
    assert done.returncode == 0
    assert "Running stage 'good'" in done.stdout + done.stderr
    assert "git add" not in done.stdout + done.stderr


def test_a_stage_that_dvc_does_not_know_is_named(project):
    done = repro(project, "absent")
    assert done.returncode == 1
    assert "absent" in done.stderr
