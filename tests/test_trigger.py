"""When a scheduled retraining runs: always, or only for drift, new audio, or a run that did not end."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from test_drift import baseline_of, sample

from whisper_router import trigger
from whisper_router.errors import UserError
from whisper_router.files import write_json
from whisper_router.promotion import MODEL, move_champion, registry
from whisper_router.retrain_options import RetrainOptions


@pytest.fixture
def options(tmp_path, monkeypatch) -> RetrainOptions:
    """A champion with its baseline, an empty drop folder and a log's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    made = baseline_of(sample(np.random.default_rng(0), 150))
    write_json(tmp_path / "model/artifacts/router/baseline.json", made.model_dump())
    client = registry()
    client.create_registered_model(MODEL)
    client.create_model_version(MODEL, str(tmp_path / "model"))
    move_champion(client, "1", "register", "the first")
    for name in ("drop", "log"):
        (tmp_path / name).mkdir()
    return RetrainOptions(when="drift", drop="drop", log="log")


def serve(rows: int, harder: float, version: str = "1") -> None:
    table = sample(np.random.default_rng(1), rows, harder).assign(version=version)
    table.to_parquet(f"log/predictions-20260101T000000-{version}-000001.parquet")


def test_always_is_always(options):
    assert trigger.begin(RetrainOptions())


def test_stable_audio_is_no_reason(options, capsys):
    serve(300, 0.0)
    assert not trigger.begin(options)
    assert "no drift and no new audio, nothing to do" in capsys.readouterr().out


def test_drift_of_the_champion_is_one(options, capsys):
    serve(300, 1.5)
    assert trigger.begin(options)
    assert "drift of strong_share, score" in capsys.readouterr().out


def test_drift_under_another_version_is_none(options, capsys):
    serve(300, 1.5, version="7")
    assert not trigger.begin(options)
    assert "0 rows of policy half" in capsys.readouterr().out


@pytest.mark.parametrize("rows", [0, 50])
def test_what_is_not_measured_is_said(options, capsys, rows):
    if rows:
        serve(rows, 2.0)
    assert not trigger.begin(options)
    assert "drift is not measured" in capsys.readouterr().out


def test_new_audio_is_a_reason(options):
    serve(300, 0.0)
    Path("drop", ".tuesday").mkdir()
    Path("drop", ".tuesday", "metadata.csv").touch()
    assert not trigger.begin(options)
    Path("drop", ".tuesday").rename("drop/tuesday")
    assert trigger.begin(options)


def test_a_drop_folder_that_is_gone_is_told(options):
    Path("drop").rmdir()
    with pytest.raises(UserError, match="is it mounted"):
        trigger.begin(options)


def test_what_was_begun_is_gone_on_with_until_it_ends(options):
    assert trigger.begin(RetrainOptions())
    assert trigger.begin(options)
    trigger.end()
    assert not trigger.begin(options)


def test_drift_needs_a_log():
    with pytest.raises(ValidationError, match="when: drift needs log"):
        RetrainOptions(when="drift")
