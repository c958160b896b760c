"""An audit holds for what the DAG made, and names what was tampered with."""

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from projects import lay_out
from typer.testing import CliRunner

from whisper_router import contest
from whisper_router.audit import chain, dvc_md5, first_difference, packaged, registered
from whisper_router.cli import app
from whisper_router.errors import UserError
from whisper_router.files import read_json, write_json
from whisper_router.hashing import file_sha256, folder_sha256
from whisper_router.promotion import MODEL
from whisper_router.registry import register

TABLES = ("manifest", "transcripts", "labels")


def git(*arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write_provenance(router: Path, references: dict[str, dict[str, object]]) -> None:
    hashes = {name: file_sha256(Path(f"data/{name}.parquet")) for name in TABLES}
    write_json(
        router / "provenance.json",
        {
            "sha256": {
                **hashes,
                "policies": {path.stem: file_sha256(path) for path in router.glob("policies/*.json")},
                "decider": folder_sha256(router / "decider"),
                "requirements.lock": file_sha256(Path("requirements.lock")),
            },
            "checkpoints": {arm: {"sha256": reference["sha256"]} for arm, reference in references.items()},
        },
    )


def write_lock() -> None:
    """dvc.lock of the outputs, and DVC's cache of the tables."""
    outs = [{"path": "data/router", "md5": dvc_md5(Path("data/router"))}]
    for path in [*(Path(f"data/{name}.parquet") for name in TABLES), Path("data/metrics/summary.json")]:
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        outs.append({"path": path.as_posix(), "md5": md5})
        cached = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, cached)
    Path("dvc.lock").write_text(json.dumps({"stages": {"all": {"outs": outs}}}))


@pytest.fixture(scope="module")
def project(package_router, checkpoints, tmp_path_factory):
    """A repository whose commit, lock and registered version belong together."""
    folder = tmp_path_factory.mktemp("audited")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlruns/mlflow.db")
        weights = {
            arm: Path(shutil.copy(checkpoints[vocabulary], folder / f"{arm}.pt"))
            for arm, vocabulary in (("weak", "english"), ("strong", "multilingual"))
        }
        router = package_router(
            tmp_path_factory.mktemp("router") / "router",
            "confidence",
            weak_weights=weights["weak"],
            strong_weights=weights["strong"],
        )
        lay_out(folder, router, "")
        for name in ("manifest", "transcripts"):
            Path(f"data/{name}.parquet").write_bytes(name.encode())
        Path("requirements.lock").write_text("torch==2.13.0\n")
        Path(".gitignore").write_text("data/\nmlruns/\n.dvc/\n*.pt\n__pycache__/\n")
        source = Path(contest.__file__).parent
        shutil.copytree(source, "src/whisper_router", ignore=shutil.ignore_patterns("__pycache__"))
        description = read_json(Path("data/router/router.json"))
        write_provenance(Path("data/router"), {arm: description[arm] for arm in ("weak", "strong")})
        write_lock()
        git("init", "-q")
        git("add", "-A")
        git("commit", "-qm", "one")
        register()
        yield folder
        mlflow.set_tracking_uri(None)


def broken(subject: str = "1") -> list[str]:
    return [link.name for link in chain(registered(subject)) if link.holds is False]


def model_file(name: str) -> Path:
    source = mlflow.artifacts.download_artifacts(artifact_uri=f"models:/{MODEL}/1")
    return Path(source) / name


@pytest.fixture
def edit(project):
    """Change files for one test."""
    before: dict[Path, bytes] = {}

    def change(path: Path, how: Callable[[bytes], bytes]) -> None:
        before.setdefault(path, path.read_bytes())
        path.chmod(0o644)
        path.write_bytes(how(before[path]))

    yield change
    for path, data in before.items():
        path.write_bytes(data)


def test_what_the_dag_made_holds_to_its_last_link(project):
    links = chain(registered("champion"))
    assert [link for link in links if link.holds is not True] == []
    assert {"code", "environment", "policy half", "labels", "weak checkpoint", "figures"} <= {
        link.name for link in links
    }
    done = CliRunner().invoke(app, ["audit", "1", "--json"])
    assert done.exit_code == 0
    assert all(link["holds"] for link in json.loads(done.stdout)["links"])


def test_a_folder_is_audited_without_the_registry(project):
    links = chain(packaged(Path("data/router")))
    assert [link for link in links if link.holds is not True] == []
    assert "MLflow run" not in {link.name for link in links}
    with pytest.raises(UserError, match=r"no provenance\.json"):
        packaged(Path("data/metrics"))


def test_an_edited_threshold_is_found(edit):
    def lower(data: bytes) -> bytes:
        return json.dumps(json.loads(data) | {"threshold": 0.01}).encode()

    edit(model_file("artifacts/router/policies/half.json"), lower)
    assert broken() == ["policy half", "router folder"]
    done = CliRunner().invoke(app, ["audit", "1"])
    assert done.exit_code == 1
    assert "first: policy half" in done.stdout


def test_a_threshold_whose_hash_was_edited_too_is_found(edit):
    policy, provenance = (
        model_file(f"artifacts/router/{name}.json") for name in ("policies/half", "provenance")
    )
    edit(policy, lambda data: json.dumps(json.loads(data) | {"threshold": 0.01}).encode())
    document = json.loads(provenance.read_bytes())
    document["sha256"]["policies"]["half"] = file_sha256(policy)
    edit(provenance, lambda data: json.dumps(document).encode())
    assert broken() == ["router folder"]


def test_swapped_weights_are_found(edit, project, checkpoints):
    edit(project / "weak.pt", lambda data: checkpoints["multilingual"].read_bytes())
    assert broken() == ["weak checkpoint"]


def test_changed_code_is_found(edit):
    edit(model_file("code/whisper_router/scoring.py"), lambda data: data + b"\nNORMALISER = 'mine'\n")
    assert broken() == ["code"]
    (link,) = [link for link in chain(registered("1")) if link.name == "code"]
    assert link.detail == "1 files are not those of the commit, first scoring.py"


def test_changed_data_is_found(edit):
    md5 = hashlib.md5(Path("data/labels.parquet").read_bytes()).hexdigest()
    edit(Path(".dvc/cache/files/md5") / md5[:2] / md5[2:], lambda data: data + b" ")
    assert broken() == ["labels"]


def test_data_that_is_elsewhere_is_said_to_be_unchecked(project):
    md5 = hashlib.md5(Path("data/labels.parquet").read_bytes()).hexdigest()
    cached = Path(".dvc/cache/files/md5") / md5[:2] / md5[2:]
    cached.rename(cached.with_suffix(".away"))
    try:
        (link,) = [link for link in chain(registered("1")) if link.name == "labels"]
        assert link.holds is None
        assert "dvc pull" in link.detail
        done = CliRunner().invoke(app, ["audit", "1"])
        assert done.exit_code == 0
        assert "1 could not be checked here" in done.stdout
    finally:
        cached.with_suffix(".away").rename(cached)


def test_an_edited_figure_is_found(project):
    client = MlflowClient()
    run = client.get_model_version(MODEL, "1").run_id
    client.log_metric(run, "wer_routed", 0.01)
    try:
        assert broken() == ["figures"]
    finally:
        client.log_metric(run, "wer_routed", 0.2)


def test_a_model_registered_by_hand_is_found(project):
    client = MlflowClient()
    source = client.get_model_version(MODEL, "1").source
    version = client.create_model_version(MODEL, source).version
    try:
        assert broken(str(version))[:2] == ["dvc.lock of the run", "git commit"]
    finally:
        client.delete_model_version(MODEL, str(version))


def test_a_lock_that_was_committed_after_the_registration_is_found_by_its_hash(project):
    Path("data/metrics/summary.json").write_text('{"wer_weak": 0.4}')
    write_lock()
    made = register()
    try:
        assert "dvc.lock of the commit" in broken(made.version)
        git("commit", "-qam", "two")
        assert broken(made.version) == []
    finally:
        git("reset", "-q", "--hard", "HEAD~1")
        MlflowClient().delete_model_version(MODEL, made.version)


def test_first_difference_names_the_place():
    before = {"a": {"b": 1, "c": [1, 2]}, "d": 3}
    assert first_difference(before, before) is None
    assert first_difference(before, {"a": {"b": 1, "c": [1, 3]}, "d": 4}) == "a.c: [1, 2] before, [1, 3] now"
    assert first_difference(before, {"a": before["a"]}) == "d: 3 before, None now"
