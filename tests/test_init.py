"""`whisper-router init`: a project's folder that runs the installed package."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner, Result

import whisper_router
from whisper_router import init as init_module
from whisper_router import installed
from whisper_router.audited import code_differences, code_record
from whisper_router.cli import app
from whisper_router.errors import UserError
from whisper_router.init import TEMPLATE, init, template
from whisper_router.installed import VERSION, check_installed, refresh, requirements, write_installed
from whisper_router.params import load_params

ROOT = Path(__file__).parents[1]
PACKAGE = Path(whisper_router.__file__).parent


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def identity(monkeypatch) -> None:
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "test")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "test@example.org")


def call(folder: Path) -> Result:
    return CliRunner().invoke(app, ["init", str(folder)])


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("projects") / "calls"
    with pytest.MonkeyPatch.context() as patch:
        for role in ("AUTHOR", "COMMITTER"):
            patch.setenv(f"GIT_{role}_NAME", "test")
            patch.setenv(f"GIT_{role}_EMAIL", "test@example.org")
        assert init(folder)
    return folder


def test_a_project_is_laid_out_and_committed(project):
    assert git(project, "log", "--format=%s") == "whisper-router init"
    assert git(project, "branch", "--show-current") == "main"
    assert git(project, "status", "--porcelain") == ""
    assert (project / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
    assert load_params(project / "params.yaml").ingest.corpora[0].name == "demo"
    assert (project / ".dvc/config").read_bytes() == (ROOT / ".dvc/config").read_bytes()
    assert {path.name for path in ROOT.glob("flows/*.py")} == {path.name for path in project.glob("flows/*")}


def test_no_stage_depends_on_source_that_the_project_does_not_hold(project):
    read = YAML(typ="safe").load
    ours, theirs = (read((folder / "dvc.yaml").read_text()) for folder in (ROOT, project))
    assert ours["stages"].keys() == theirs["stages"].keys()
    for name, stage in theirs["stages"].items():
        original = ours["stages"][name]
        kept = [path for path in original["deps"] if not path.startswith("src/")]
        assert stage["deps"] == [*kept, "whisper-router.version"]
        assert {key: value for key, value in stage.items() if key != "deps"} == {
            key: value for key, value in original.items() if key != "deps"
        }
        for path in kept:
            assert path.startswith(("data/", "${")) or (project / path).exists(), path
    assert theirs["plots"] == ours["plots"]


def test_dvc_reads_the_project(project):
    command, variables = init_module.dvc_call("stage", "list", "--name-only")
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.split()[:2] == ["ingest", "check"]


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = call(tmp_path)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"whisper-router: {tmp_path} is not an empty folder")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("exists", [True, False])
def test_what_fails_leaves_nothing(tmp_path, monkeypatch, exists):
    folder = tmp_path / "calls"
    if exists:
        folder.mkdir()
    monkeypatch.setattr(init_module, "write_installed", lambda _: (_ for _ in ()).throw(UserError("no")))
    with pytest.raises(UserError, match="no"):
        init(folder)
    assert folder.exists() == exists
    assert not exists or list(folder.iterdir()) == []


def test_without_an_identity_nothing_is_committed_and_it_is_said(tmp_path, monkeypatch):
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"):
        monkeypatch.delenv(f"GIT_{name}")
    monkeypatch.delenv("EMAIL", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", "/dev/null")
    done = call(tmp_path / "calls")
    assert done.exit_code == 0, done.stderr
    assert "not committed, because git knows no user.name" in done.stdout
    assert (tmp_path / "calls/whisper-router.version").is_file()


def test_the_wheel_brings_what_init_lays_out():
    """pyproject.toml names the same files, and puts each where it lies in the repository."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    assert sorted(pattern for patterns in data.values() for pattern in patterns) == sorted(TEMPLATE)
    for folder, patterns in data.items():
        for pattern in patterns:
            assert Path("share/whisper-router") / Path(pattern).parent == Path(folder)
            assert list(ROOT.glob(pattern)), pattern


def test_an_installed_wheel_is_asked_where_its_files_are(tmp_path, monkeypatch):
    site, share = tmp_path / "lib/site-packages", tmp_path / "share/whisper-router"
    (site / "whisper_router-9.dist-info").mkdir(parents=True)
    for name in ("dvc.yaml", "flows/stage.py"):
        (share / name).parent.mkdir(parents=True, exist_ok=True)
        (share / name).write_text(name)
    (site / "whisper_router-9.dist-info/METADATA").write_text("Name: whisper-router\nVersion: 9\n")
    record = "../../share/whisper-router/dvc.yaml,,\n../../share/whisper-router/flows/stage.py,,\n"
    (site / "whisper_router-9.dist-info/RECORD").write_text(record + "whisper_router/init.py,,\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(init_module, "__file__", str(site / "whisper_router/init.py"))
    found = template()
    assert {name: path.read_text() for name, path in found.items()} == {name: name for name in found}
    assert set(found) == {"dvc.yaml", "flows/stage.py"}
    shutil.rmtree(share)
    (site / "whisper_router-9.dist-info/RECORD").write_text("")
    with pytest.raises(UserError, match="install it again from its wheel"):
        template()


def test_requirements_are_those_of_the_package_and_its_dependencies():
    pins = dict(pin.split("==") for pin in requirements())
    committed = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())
    assert {"whisper-router", "torch", "distributed"} <= pins.keys()  # the last by an extra of dask
    assert "pytest" not in pins
    assert pins.keys() - {"whisper-router"} <= committed.keys()


def test_another_package_is_named_anew_by_run_and_refused_elsewhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    refresh()
    assert list(tmp_path.iterdir()) == []  # a clone has no such file, and gets none
    write_installed(tmp_path)
    before = VERSION.stat().st_mtime_ns, Path("requirements.lock").stat().st_mtime_ns
    refresh()
    check_installed()
    assert (VERSION.stat().st_mtime_ns, Path("requirements.lock").stat().st_mtime_ns) == before
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(installed, "installed", lambda: {"version": "9", "sha256": "f" * 64})
    with pytest.raises(UserError, match=r"installed is 9 .ffffffffffff.; install that one, or let"):
        check_installed()
    refresh()
    assert json.loads(VERSION.read_text())["version"] == "9"
    assert capsys.readouterr().err.startswith("whisper-router.version: another whisper-router is installed")


@pytest.fixture
def model(project, tmp_path, monkeypatch) -> Path:
    """A model's folder as MLflow logs it, and its project as the working directory."""
    monkeypatch.chdir(project)
    folder = tmp_path / "model"
    code = folder / "code/whisper_router"
    shutil.copytree(PACKAGE, code, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(code / "serving/pyfunc.py", folder / "pyfunc.py")
    (folder / "MLmodel").write_text("written by MLflow")
    (folder / "artifacts/router").mkdir(parents=True)
    (folder / "artifacts/router/router.json").write_text("{}")
    return folder


def test_an_audit_finds_the_code_by_the_package_that_the_commit_names(model):
    assert code_record("HEAD") == "whisper-router.version"
    assert code_differences(model, "HEAD") == []


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("code/whisper_router/router.py", "code/whisper_router/ (not the package that"),
        ("code/whisper_router/__pycache__/router.pyc", "code/whisper_router/ (not the package that"),
        ("pyfunc.py", "pyfunc.py (edited)"),
        ("sitecustomize.py", "sitecustomize.py (not in the commit)"),
    ],
)
def test_an_audit_names_code_that_the_package_does_not_hold(model, path, said):
    (model / path).parent.mkdir(exist_ok=True)
    (model / path).write_text("pass\n")
    (difference,) = code_differences(model, "HEAD")
    assert difference.startswith(said)
