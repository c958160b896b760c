"""The registry: one version for each dvc.lock, and a model that serves from its own code."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from projects import CURVE, SUMMARY, lay_out
from typer.testing import CliRunner

from whisper_router.cli import app
from whisper_router.errors import UserError
from whisper_router.registry import register
from whisper_router.router import Router
from whisper_router.serving.signature import OUTPUTS

URI = "models:/whisper-router"


class Project:
    """A project's folder, registered from twice with two states of the DAG, and what came of it."""

    def __init__(self, folder: Path, routers: dict[str, Path]) -> None:
        self.folder, self.routers = folder, routers
        lay_out(folder, routers["encoder"], "lock: 1\n")
        self.first = register()
        self.again = register()
        lay_out(folder, routers["confidence"], "lock: 2\n")
        self.second = register()
        self.after_second = self.champion()
        self.moved = register(alias=True)
        self.after_moved = self.champion()

    @property
    def client(self) -> MlflowClient:
        return MlflowClient()

    def champion(self) -> str:
        return str(self.client.get_model_version_by_alias("whisper-router", "champion").version)

    def versions(self) -> list[str]:
        return sorted(
            str(entry.version) for entry in self.client.search_model_versions("name='whisper-router'")
        )


@pytest.fixture(scope="module")
def project(routers, tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("project"), sys.path.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/registry/mlflow.db")
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield Project(folder, routers)
        mlflow.set_tracking_uri(None)
        sys.path[:] = before


@pytest.fixture
def table(clips, wav) -> pd.DataFrame:
    waves = [wav(clip) for clip in clips]
    return pd.DataFrame({"audio": [*waves[:2], b"not a sound", *waves[2:]]})


@pytest.fixture(scope="module")
def downloaded(project, tmp_path_factory) -> Path:
    """The registered model as it leaves the registry."""
    folder = tmp_path_factory.mktemp("model")
    return Path(mlflow.artifacts.download_artifacts(artifact_uri=f"{URI}/1", dst_path=str(folder)))


def test_every_state_of_the_dag_is_one_version(project):
    assert (str(project.first.version), project.first.new, project.first.champion) == ("1", True, True)
    assert (str(project.again.version), project.again.new, project.again.champion) == ("1", False, True)
    assert project.again.run_id == project.first.run_id
    assert (str(project.second.version), project.second.new, project.second.champion) == ("2", True, False)
    assert project.versions() == ["1", "2"]
    experiment = project.client.get_experiment_by_name("whisper-router")
    assert len(project.client.search_runs([experiment.experiment_id])) == 2


def test_a_version_is_text_as_annotated(project):
    made = (project.first, project.again, project.second, project.moved)
    assert [type(entry.version) for entry in made] == [str] * 4


def test_the_alias_moves_only_when_asked(project):
    assert project.after_second == "1"
    assert (str(project.moved.version), project.moved.new, project.moved.champion) == ("2", False, True)
    assert project.after_moved == "2"


def test_the_registry_is_where_the_environment_says(project):
    assert (project.folder / "registry/mlflow.db").is_file()
    assert not (project.folder / "mlruns/mlflow.db").exists()


def test_version_and_run_say_where_they_came_from(project):
    from whisper_router.hashing import digest, file_sha256

    version = project.client.get_model_version("whisper-router", "2")
    run = project.client.get_run(project.second.run_id)
    lock = file_sha256(project.folder / "dvc.lock")
    for tags in (version.tags, run.data.tags):
        assert tags["dvc_lock_sha256"] == lock != digest("")
        assert tags["git_commit"] == "none"
        assert tags["git_dirty"] == "false"
    assert version.run_id == project.second.run_id
    assert project.client.get_model_version("whisper-router", "1").tags["dvc_lock_sha256"] != lock
    assert run.info.status == "FINISHED"


def test_run_holds_params_metrics_curves_and_files(project):
    run = project.client.get_run(project.first.run_id)
    assert run.data.params["router.policy"] == "half"
    assert run.data.params["policies.half.share"] == "0.5"
    assert run.data.params["deciders.encoder.kind"] == "logistic"
    expected = {name: value for name, value in SUMMARY.items() if value is not None}
    assert {name: run.data.metrics[name] for name in expected} == expected
    assert "unknown" not in run.data.metrics
    for name in ("encoder", "confidence"):
        for loss in ("train_loss", "dev_loss"):
            history = project.client.get_metric_history(project.first.run_id, f"{name}.{loss}")
            assert [point.value for point in sorted(history, key=lambda point: point.step)] == [
                point[loss] for point in CURVE
            ]
    files = {file.path for file in project.client.list_artifacts(project.first.run_id)}
    expected_files = {
        "report.html",
        "dvc.lock",
        "dvc.yaml",
        "params.yaml",
        "arms.json",
        "plots",
        "metrics",
        "speakers.json",
    }
    assert expected_files <= files


@pytest.mark.parametrize(("suffix", "kind"), [("/1", "encoder"), ("@champion", "confidence")])
def test_predictions_are_those_of_the_router(project, table, suffix, kind):
    made = mlflow.pyfunc.load_model(URI + suffix).predict(table)
    assert list(made.columns) == list(OUTPUTS)
    expected = Router.load(project.routers[kind]).transcribe(table["audio"].tolist())
    assert len(made) == len(expected) == 7
    for row, transcript in zip(made.itertuples(), expected, strict=True):
        if transcript.error is not None:
            assert row.error == transcript.error
            assert row.error.startswith("audio bytes: not readable as audio")
            assert pd.isna(row.text)
            assert pd.isna(row.score)
        else:
            assert (row.text, row.model) == (transcript.text, transcript.model)
            assert (row.score, row.threshold) == (transcript.score, transcript.threshold)
            assert pd.isna(row.error)
    assert made["error"].notna().tolist() == [False, False, True, False, False, False, False]
    assert made["model"].nunique() == 2


def test_no_rows_give_no_rows(project):
    made = mlflow.pyfunc.load_model(f"{URI}/1").predict(pd.DataFrame({"audio": pd.Series([], dtype=object)}))
    assert list(made.columns) == list(OUTPUTS)
    assert len(made) == 0


@pytest.mark.parametrize(
    "nothing",
    [
        b"",
        pytest.param(None),
    ],
)
def test_a_row_without_audio_fails_alone(project, table, nothing):
    holed = pd.concat([table.iloc[:1], pd.DataFrame({"audio": [nothing]})], ignore_index=True)
    made = mlflow.pyfunc.load_model(f"{URI}/1").predict(holed)
    assert made["error"].notna().tolist() == [False, True]
    assert made["text"][0]


def test_the_example_of_a_folder(project, waves_folder, tmp_path):
    script = Path(__file__).parents[1] / "examples" / "folder.py"
    done = subprocess.run(
        [sys.executable, script, waves_folder, tmp_path / "table.csv"],
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = pd.read_csv(tmp_path / "table.csv")
    (expected,) = Router.load(project.routers["confidence"]).transcribe([waves_folder / "deep" / "a.wav"])
    assert made["file"].tolist() == ["b.flac", "deep/a.wav"]
    assert made["text"][1] == expected.text
    assert made["error"].notna().tolist() == [True, False]


@pytest.fixture
def waves_folder(tmp_path, clips, wav) -> Path:
    folder = tmp_path / "waves"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.wav").write_bytes(wav(clips[0]))
    (folder / "b.flac").write_bytes(b"no sound")
    (folder / "c.txt").write_text("no audio")
    return folder


def test_another_column_is_refused(project, table):
    with pytest.raises(MlflowException, match="audio"):
        mlflow.pyfunc.load_model(f"{URI}/1").predict(table.rename(columns={"audio": "sound"}))


def test_a_router_loads_by_uri(project, clips, wav):
    waves = [wav(clip) for clip in clips]
    made = Router.load(f"{URI}@champion").transcribe(waves)
    assert made == Router.load(project.routers["confidence"]).transcribe(waves)
    with pytest.raises(UserError, match=r"whisper-router@nobody is not in the registry"):
        Router.load(f"{URI}@nobody")


def test_logged_model_holds_no_pickle_and_no_local_path(project, downloaded):
    files = [path for path in downloaded.rglob("*") if path.is_file()]
    assert {path.relative_to(downloaded).as_posix() for path in files} >= {
        "MLmodel",
        "requirements.txt",
        "artifacts/router/router.json",
        "code/whisper_router/router.py",
    }
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".joblib")]
    assert not [path for path in files if path.read_bytes()[:1] == b"\x80"]
    lines = (downloaded / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9.]*", line) for line in lines)
    names = {line.split("==")[0] for line in lines}
    assert {"torch", "openai-whisper", "mlflow"} <= names
    assert "whisper-router" not in names
    for name in ("requirements.txt", "conda.yaml", "python_env.yaml"):
        text = (downloaded / name).read_text()
        assert "/" not in text
        assert "file:" not in text


SERVE = """
import ast, json, sys
from importlib.metadata import packages_distributions
from pathlib import Path
import mlflow, pandas, torch
torch.set_num_threads(1)
model = mlflow.pyfunc.load_model(sys.argv[1])
made = model.predict(pandas.DataFrame({"audio": [Path(sys.argv[2]).read_bytes()]}))
import whisper_router
own = [name for name in sys.modules if name.split(".")[0] == "whisper_router"]
modules = {name: sys.modules[name].__file__ for name in own}
imported = set()
for file in modules.values():
    for node in ast.walk(ast.parse(Path(file).read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
others = imported - sys.stdlib_module_names - {"whisper_router"}
distributions = packages_distributions()
needed = [distributions[name] for name in sorted(others) if name in sys.modules]
print(json.dumps({"rows": made.to_dict("records"), "modules": modules, "needed": needed}))
"""


def test_logged_model_serves_from_its_own_code_in_a_fresh_process(project, downloaded, tmp_path, clips, wav):
    sound = tmp_path / "sound.wav"
    sound.write_bytes(wav(clips[0]))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", SERVE, str(downloaded), str(sound)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(downloaded.rglob("__pycache__/*")) == []  # bytecode there would be code nobody registered
    made = json.loads(done.stdout.splitlines()[-1])
    (expected,) = Router.load(project.routers["encoder"]).transcribe([sound])
    (row,) = made["rows"]
    assert (row["text"], row["model"], row["error"]) == (expected.text, expected.model, None)
    assert "whisper_router.router" in made["modules"]
    for file in made["modules"].values():
        assert Path(file).is_relative_to(downloaded / "code" / "whisper_router")
    lines = (downloaded / "requirements.txt").read_text().splitlines()
    pinned = {line.split("==")[0] for line in lines}
    assert made["needed"]
    assert [names for names in made["needed"] if not set(names) & pinned] == []


def test_embedded_weights_serve_without_the_checkpoints(
    project, package_router, checkpoints, tmp_path, table
):
    mine = {}
    for arm, vocabulary in (("weak", "english"), ("strong", "multilingual")):
        mine[arm] = Path(shutil.copy(checkpoints[vocabulary], tmp_path / f"{arm}.pt"))
    router = package_router(
        tmp_path / "router", "encoder", weak_weights=mine["weak"], strong_weights=mine["strong"]
    )
    expected = Router.load(router).transcribe(table["audio"].tolist())
    lay_out(project.folder, router, "lock: embedded\n")
    made = register(embed_weights=True)
    try:
        for path in mine.values():
            path.unlink()
        rows = mlflow.pyfunc.load_model(f"{URI}/{made.version}").predict(table)
        texts = [None if pd.isna(text) else text for text in rows["text"]]
        assert texts == [transcript.text for transcript in expected]
        assert project.champion() == "2"
    finally:
        project.client.delete_model_version("whisper-router", made.version)


def test_command_registers_nothing_twice(project):
    lay_out(project.folder, project.routers["encoder"], "lock: 1\n")
    done = CliRunner().invoke(app, ["register", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (str(told["version"]), told["run_id"]) == ("1", project.first.run_id)
    assert (told["new"], told["champion"]) == (False, False)
    assert project.versions() == ["1", "2"]
    told = CliRunner().invoke(app, ["register"])
    assert "version 1 was registered before; champion stays on another version" in told.stdout


def test_the_alias_stays_where_the_registry_cannot_be_asked(project, monkeypatch):
    lay_out(project.folder, project.routers["encoder"], "lock: 1\n")

    def fails(self, name):
        raise MlflowException("the database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_registered_model", fails)
        with pytest.raises(MlflowException, match="locked"):
            register()
    assert project.champion() == "2"


def test_nothing_to_register_yet(project, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"dvc\.lock: not there yet; run `whisper-router run` first"):
        register()
