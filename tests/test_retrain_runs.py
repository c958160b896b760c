"""A retraining on tiny random Whispers: killed at its steps and resumed, alone, from its remote, audited."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from clones import call, dvc, kill, make_clone, own_server, start, variables
from mlflow import MlflowClient
from webhooks import listening

from whisper_router import contest
from whisper_router.corpus.options import Splits
from whisper_router.corpus.splits import split_by_speaker
from whisper_router.promotion import MODEL, RULE
from whisper_router.retrain_options import WEBHOOK
from whisper_router.retrain_state import BEGUN
from whisper_router.serving.uri import use_registry

pytestmark = pytest.mark.acceptance

SPEAKERS = {"train": 12, "dev": 5, "calibration": 5, "test": 11}
STAGES = ("ingest", "check", "label", "featurize", "train", "calibrate", "package", "evaluate")

# git calls these at the steps of a branch; a retraining dies there, its whole process group at once, where
# KILL_AT matches what git does.
HOOKS = {
    "reference-transaction": 'case "$1 $(cat)" in $KILL_AT) kill -9 0;; esac',
    "post-checkout": 'case "on $(git branch --show-current)" in $KILL_AT) kill -9 0;; esac',
}


@dataclass
class Project:
    """A clone with a drop folder, a DVC remote, a Prefect server and a webhook."""

    folder: Path
    server: str
    say: Callable[[str, int, int], tuple[np.ndarray, str]]
    told: list[dict[str, Any]]
    first_run: dict[str, Any] = field(default_factory=dict)

    @property
    def drop(self) -> Path:
        return self.folder.parent / "drop"

    @property
    def remote(self) -> Path:
        return self.folder.parent / "remote"

    @property
    def log(self) -> str:
        return (self.folder / "retrain.log").read_text()

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=self.folder, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def start(self, **more: str) -> "subprocess.Popen[bytes]":
        more = {"PYTHONUNBUFFERED": "1", "PREFECT_API_URL": self.server, "KILL_AT": "-", **more}
        return start(self.folder, "retrain", **more)

    def retrain(self) -> str:
        code = self.start().wait()
        assert code == 0, self.log
        return self.log

    def kill_when(self, reached: Callable[[], bool]) -> None:
        """Kill a retraining as soon as it got that far."""
        process = self.start()
        while not reached():
            assert process.poll() is None, self.log
            time.sleep(0.001)
        kill(process)

    def kill_at(self, what: str) -> None:
        """Let a retraining die where git does this."""
        assert self.start(KILL_AT=what).wait() == -9, self.log

    def branch(self) -> str:
        return self.git("branch", "--show-current")

    @cached_property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.folder}/mlruns/mlflow.db")

    def versions(self) -> list[str]:
        return sorted(str(entry.version) for entry in self.client.search_model_versions(f"name='{MODEL}'"))

    def champion(self) -> str | None:
        found = self.client.get_registered_model(MODEL).aliases.get("champion")
        return None if found is None else str(found)

    def put(self, name: str, take: int) -> int:
        """A batch of two utterances a speaker, in the drop folder; how many."""
        batch, rows = self.drop / f".{name}", []
        batch.mkdir()
        for number, speaker in enumerate(speakers()):
            for i in range(2):
                file = f"{name}-{number}-{i}.wav"
                audio, text = self.say(file, take, 2 * number + i)
                (batch / file).write_bytes(audio)
                rows.append((file, text, speaker))
        with (batch / "metadata.csv").open("w", newline="") as table:
            csv.writer(table).writerows([("file_name", "transcription", "speaker"), *rows])
        batch.rename(self.drop / name)
        return len(rows)


def speakers() -> list[str]:
    """Names by which every split has its number of speakers."""
    left, found = dict(SPEAKERS), []
    for number in range(1000):
        split = split_by_speaker(f"s{number}", Splits())
        if left[split]:
            left[split] -= 1
            found.append(f"s{number}")
    return found


def settings(project: Project, arms: dict[str, Any], threshold: float) -> None:
    """Write and commit params.yaml; its gate lets pass whatever saves."""
    document = yaml.safe_load((project.folder / "params.yaml").read_text()) | {
        "cross_validation": {"below": 0},
        "ingest": {
            "root": "data/corpora",
            "corpora": [{"name": "calls", "kind": "audiofolder", "path": "calls"}],
        },
        "arms": arms,
        "extractors": {"confidence": {"kind": "confidence"}},
        "deciders": {"cascade": {"kind": "logistic", "extractor": "confidence"}},
        "policies": {"by_hand": {"kind": "fixed", "decider": "cascade", "threshold": threshold}},
        "router": {"policy": "by_hand"},
        "evaluate": {"bootstrap": 100, "verify": 4},
        "gate": {"wer_tolerance": 100, "max_slice_loss": 100, "max_latency_ratio": 100},
        "retrain": {"drop": str(project.drop), "corpus": "calls"},
    }
    (project.folder / "params.yaml").write_text(yaml.safe_dump(document))
    project.git("commit", "-qam", f"threshold {threshold}")


def ask(project: Project, what: str, **body: object) -> list[dict[str, Any]]:
    """What Prefect's API finds."""
    request = urllib.request.Request(
        f"{project.server}/{what}/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def task_states(project: Project, run: dict[str, Any], count: int) -> dict[str, str]:
    """States of a run's tasks by name, once so many are there: they reach the API some seconds late."""
    mine, deadline = {"flow_run_id": {"any_": [run["id"]]}}, time.monotonic() + 180
    while len(tasks := ask(project, "task_runs", task_runs=mine)) < count and time.monotonic() < deadline:
        time.sleep(0.5)
    return {task["name"].rsplit("-", 1)[0]: task["state"]["name"] for task in tasks}


def prefect(project: Project, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a command of Prefect in the clone."""
    command = [str(Path(sys.executable).with_name("prefect")), "--no-prompt", *arguments]
    own = {"PREFECT_API_URL": project.server, "PREFECT_HOME": str(project.folder / ".prefect")}
    environment = variables(project.folder, **own, PWD=str(project.folder))  # prefect.yaml names it
    with (project.folder / "prefect.log").open("a") as log:
        return subprocess.Popen(command, cwd=project.folder, env=environment, stdout=log, stderr=log)


def scheduled_run(project: Project) -> dict[str, Any]:
    """Deploy the flow as prefect.yaml has it, but every 20 s, and wait until a worker has run it once."""
    log = project.folder / "prefect.log"
    for command in (
        ("work-pool", "create", "whisper-router", "--type", "process"),
        ("deploy", "--name", "nightly", "--interval", "20"),
    ):
        assert prefect(project, *command).wait() == 0, log.read_text()
    (deployment,) = ask(project, "deployments")
    completed = {"deployment_id": {"any_": [deployment["id"]]}, "state": {"type": {"any_": ["COMPLETED"]}}}
    worker = prefect(project, "worker", "start", "--pool", "whisper-router")
    try:
        while not (runs := ask(project, "flow_runs", flow_runs=completed)):
            assert worker.poll() is None, log.read_text()
            time.sleep(0.5)
    finally:
        processes = [psutil.Process(worker.pid), *psutil.Process(worker.pid).children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        worker.wait()
    return runs[0]


@pytest.fixture(scope="module")
def project(tmp_path_factory, checkpoints, make_arm, plain, speech, wav) -> Iterator[Project]:
    """A first champion, made by schedule, that sends all to strong; a commit that sends what is hard."""
    weak, strong = make_arm("english"), make_arm("multilingual")

    def say(file: str, take: int, number: int) -> tuple[bytes, str]:
        hard = number % 3 == 0  # longer, and it is the strong arm's hypothesis that is right
        clip = speech((2.0 if hard else 0.6) + 0.01 * number, 1000 * take + number)
        arm = strong if hard else weak
        said = arm.decode(arm.encode_audio([clip]), [clip])[0].text
        return wav(clip), f"{said} word{take}{number}"

    base = tmp_path_factory.mktemp("retrained")
    arms = {
        arm: {"model": str(checkpoints[name]), "decode": plain.model_dump(mode="json")}
        for arm, name in (("weak", "english"), ("strong", "multilingual"))
    }
    (base / "clone").mkdir()
    with (
        own_server(base / "prefect") as server,
        listening() as (hook, told),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv(WEBHOOK, hook)
        made = Project(make_clone(base / "clone"), server, say, told)
        made.git("branch", "-m", "main")
        made.git("config", "user.name", "test")
        made.git("config", "user.email", "test@example.org")
        for name, line in HOOKS.items():
            script = made.folder / ".git/hooks" / name
            script.write_text(f"#!/bin/sh\n{line}\nexit 0\n")
            script.chmod(0o755)
        made.drop.mkdir()
        made.remote.mkdir()
        dvc(made.folder, "remote", "add", "-q", "-d", "folder", str(made.remote))
        settings(made, arms, 0.0)
        made.put("first", 1)
        made.first_run = scheduled_run(made)
        settings(made, arms, 0.5)
        yield made


def contest_lines(project: Project, version: str) -> int:
    """Utterances that a version has transcribed in the contest."""
    results = (project.folder / ".cache/contests").glob(f"{version}-*/results.jsonl")
    return sum(path.read_bytes().count(b"\n") for path in results)


def test_a_schedule_fires_on_a_worker_and_ends_in_a_new_version(project: Project) -> None:
    run = project.first_run
    assert run["auto_scheduled"]
    assert (project.champion(), project.versions(), project.branch()) == ("1", ["1"], "main")
    assert [body["version"] for body in project.told] == ["1"]
    states = task_states(project, run, len(STAGES) + 5)
    assert {states.pop(stage) for stage in STAGES} == {"Completed"}
    assert set(states) == {"take-in", "commit-and-push", "register", "gate", "finish"}
    (artifact,) = ask(project, "artifacts", artifacts={"flow_run_id": {"any_": [run["id"]]}})
    assert artifact["data"].startswith("## Version 1")
    secret = os.environ[WEBHOOK]
    kept = [path for path in (project.folder / "mlruns").rglob("*") if path.is_file()]
    assert kept
    assert not any(secret.encode() in path.read_bytes() for path in kept)
    for what in ("flow_runs", "task_runs", "artifacts", "logs", "deployments"):
        assert secret not in json.dumps(ask(project, what))
    assert secret not in (project.folder / "prefect.log").read_text()


def test_a_retraining_killed_at_its_steps_ends_as_if_it_had_not_been(project: Project) -> None:
    seed = int(os.environ.get("WHISPER_ROUTER_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"WHISPER_ROUTER_TEST_SEED={seed}")
    moments = random.Random(seed)
    count = project.put("second", 2)
    pushed = len(list(project.remote.rglob("*")))

    project.kill_when(lambda: not (project.drop / "second").exists())
    for stage in sorted(moments.sample(STAGES, 2), key=STAGES.index):
        project.kill_when(lambda stage=stage: f"Running stage '{stage}'" in project.log)
    project.kill_at("committed * refs/heads/retrain/*")
    assert project.branch() == "main"
    project.kill_at("on retrain/*")
    assert project.branch().startswith("retrain/")
    project.kill_when(lambda: len(list(project.remote.rglob("*"))) > pushed)
    runs = len(project.client.search_runs(["1"]))
    project.kill_when(lambda: len(project.client.search_runs(["1"])) > runs)
    project.kill_when(lambda: "version 2 registered" in project.log)
    assert project.versions() == ["1", "2"]
    project.kill_when(lambda: contest_lines(project, "1") > 2 and contest_lines(project, "2") > 2)
    assert "gate" not in project.client.get_model_version(MODEL, "2").tags
    project.kill_when(lambda: f"{RULE}size" in project.client.get_model_version(MODEL, "2").tags)
    assert project.champion() == "1"
    project.kill_at("prepared * refs/heads/main*")  # the alias has moved
    assert (project.champion(), project.branch()[:8]) == ("2", "retrain/")
    project.kill_at("committed * refs/heads/main*")
    assert [body["version"] for body in project.told] == ["1"]
    project.kill_at("on main")  # all is done but the webhook
    assert project.branch() == "main"
    assert [body["version"] for body in project.told] == ["1"]

    assert "nothing new" in project.retrain()
    assert (project.champion(), project.versions(), project.branch()) == ("2", ["1", "2"], "main")
    assert [body["version"] for body in project.told] == ["1", "2"]
    ended = {"state": {"type": {"any_": ["COMPLETED"]}}}  # others are scheduled for later
    named = {"name": {"any_": ["retrain"]}}
    (run,) = ask(project, "flow_runs", flow_runs=ended, flows=named, sort="START_TIME_DESC", limit=1)
    states = task_states(project, run, len(STAGES) + 2)
    assert {states[stage] for stage in STAGES} == {"Cached"}
    assert project.told[1]["champion"]
    assert project.git("status", "--porcelain", "--untracked-files=no") == ""
    assert project.git("branch", "--list", "retrain/*", "--no-merged", "main") == ""
    assert list(project.drop.iterdir()) == []
    calls = project.folder / "data/corpora/calls"
    assert sorted(path.name for path in calls.iterdir()) == ["first", "second"]
    assert len(pd.read_parquet(project.folder / "data/manifest.parquet")) == 2 * count
    links = json.loads(call(project.folder, "audit", "2", "--json"))["links"]
    assert [link for link in links if not link["holds"]] == []


def test_a_second_retraining_stops_and_says_who_runs(project: Project) -> None:
    process = project.start()
    begun = project.folder / BEGUN
    while not begun.is_file():
        assert process.poll() is None, project.log
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGSTOP)  # however quick it is
    second = subprocess.run(
        process.args,
        cwd=project.folder,
        env=variables(project.folder, PREFECT_API_URL=project.server),
        capture_output=True,
        text=True,
        check=False,
    )
    os.killpg(process.pid, signal.SIGCONT)
    assert process.wait() == 0, project.log
    assert "nothing new" in project.log
    assert [body["version"] for body in project.told] == ["1", "2"]
    assert second.returncode == 1
    assert f"another retraining of {project.folder} runs: process {process.pid} on " in second.stderr


def test_the_champion_is_run_with_the_code_that_was_logged_with_it(project: Project, monkeypatch) -> None:
    monkeypatch.chdir(project.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.folder}/mlruns/mlflow.db")
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(project.folder / ".cache/other"))
    rows = pd.read_parquet("data/manifest.parquet").iloc[:2].reset_index(drop=True)
    use_registry()
    model = Path(mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{MODEL}/1"))
    logged = model / "code/whisper_router/router.py"
    before = logged.read_text()
    logged.write_text(before + "\nraise RuntimeError(f'this is {__file__}')\n")
    try:
        with pytest.raises(contest.ContestError, match=f"version 1 cannot be run: .*this is {logged}"):
            contest.side_by_side(["1"], rows)
    finally:
        logged.write_text(before)
        mlflow.set_tracking_uri(None)


def test_a_cold_machine_has_all_from_the_remote(project: Project, tmp_path: Path) -> None:
    cold = tmp_path / "cold"
    project.git("clone", "-q", str(project.folder), str(cold))

    dvc(cold, "pull")
    assert json.loads(dvc(cold, "status", "--json")) == {}
    assert "Running stage" not in dvc(cold, "repro")
    assert (cold / "dvc.lock").read_text() == (project.folder / "dvc.lock").read_text()
    assert not (cold / "mlruns/mlflow.db").exists()
    links = json.loads(call(cold, "audit", "data/router", "--json"))["links"]
    assert [link for link in links if not link["holds"]] == []
    assert {"git commit", "router folder", "policy by_hand", "labels", "weak checkpoint"} <= {
        link["name"] for link in links
    }
    policy = cold / "data/router/policies/by_hand.json"
    policy.chmod(0o644)
    policy.write_text(policy.read_text().replace('"threshold": 0.5', '"threshold": 0.4'))
    with pytest.raises(AssertionError, match="policy by_hand"):
        call(cold, "audit", "data/router")


def test_an_audit_runs_the_commit_again_and_finds_all_equal(project: Project) -> None:
    said = call(project.folder, "audit", "1", "--reproduce", "--json", PREFECT_API_URL=project.server)
    done = json.loads(said.splitlines()[-1])
    assert [link for link in done["links"] if not link["holds"]] == []
    reproduced = [link["name"] for link in done["links"] if link["name"].startswith("reproduced ")]
    assert {"reproduced data/router", "reproduced data/metrics/summary.json"} <= set(reproduced)
