"""The router of a command that names none: the champion, else data/router."""

import shutil
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from whisper_router.cli import app
from whisper_router.errors import UserError
from whisper_router.promotion import MODEL, move_champion, registry
from whisper_router.serving import command
from whisper_router.serving.default import default_router

URI = f"models:/{MODEL}@champion"


@pytest.fixture(autouse=True)
def project(routers, tmp_path, monkeypatch) -> Path:
    """A project's folder with a packaged router and no registry."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("WHISPER_ROUTER_SERVE_ROUTER", raising=False)
    shutil.copytree(routers["confidence"], "data/router")
    return tmp_path


@pytest.fixture
def champion(project) -> None:
    client = registry()
    client.create_registered_model(MODEL)
    shutil.copytree("data/router", "1/artifacts/router")
    client.create_model_version(MODEL, str(project / "1"))
    move_champion(client, "1", "register", "the first")


def test_the_packaged_folder_where_no_registry_is_and_none_is_made(project, capsys):
    assert default_router() == "data/router"
    assert capsys.readouterr() == ("", "router: data/router; no version is registered as champion\n")
    assert not (project / "mlruns").exists()


def test_the_packaged_folder_where_the_registry_has_no_champion(capsys):
    client = registry()
    assert default_router() == "data/router"
    client.create_registered_model(MODEL)
    assert default_router() == "data/router"


def test_the_champion_where_one_is_registered(champion, capsys):
    assert default_router() == URI
    assert capsys.readouterr() == ("", f"router: {URI}, version 1\n")


def test_neither_is_told_with_what_to_do():
    shutil.rmtree("data/router")
    with pytest.raises(
        UserError, match=r"no registered champion, and no data/router in .*whisper-router run"
    ):
        default_router()


def test_a_registry_that_does_not_answer_is_no_registry_without_champion(champion, monkeypatch):
    def fail(*_: object) -> None:
        raise MlflowException("connection refused")

    monkeypatch.setattr("mlflow.MlflowClient.get_registered_model", fail)
    with pytest.raises(UserError, match="connection refused; mend it, or name a router"):
        default_router()


@pytest.mark.parametrize(
    ("arguments", "variable", "expected"),
    [([], None, URI), ([], "other", "other"), (["--router", "named"], "other", "named")],
)
def test_serve_takes_it_unless_option_or_environment_name_another(
    champion, monkeypatch, arguments, variable, expected
):
    served = []
    monkeypatch.setattr(command, "run", served.append)
    if variable:
        monkeypatch.setenv("WHISPER_ROUTER_SERVE_ROUTER", variable)
    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 0, done.stderr
    assert [settings.router for settings in served] == [expected]
    assert done.stderr.startswith("router: ") == (expected == URI)


def test_drift_compares_with_the_champion(champion, project):
    done = CliRunner().invoke(app, ["drift", "log"])
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0] == f"router: {URI}, version 1"
