"""A running service follows the registry's alias; how soon is measured by benchmarks/rollback.py."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from waiting import wait_until

from whisper_router.decider.options import GbtOptions
from whisper_router.decider.registry import decider_sha256
from whisper_router.files import read_json, write_json, write_text
from whisper_router.promotion import MODEL, move_champion, promote, registry, rollback
from whisper_router.router import Router
from whisper_router.serving.champion import Champion
from whisper_router.serving.settings import Settings

URI = f"models:/{MODEL}@champion"


@pytest.fixture
def client(package_router: Callable[..., Path], tmp_path, monkeypatch) -> MlflowClient:
    """A registry with two versions of the same arms; the first is the champion."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = registry()
    client.create_registered_model(MODEL)
    for number, c in enumerate((1.0, 0.01), start=1):
        source = tmp_path / str(number)
        package_router(source / "artifacts" / "router", "confidence", c=c)
        client.create_model_version(MODEL, str(source))
    move_champion(client, "1", "register", "the first")
    return client


def test_promotion_and_rollback_are_served_soon(client, serving, waves, calls):
    interval = Settings.model_fields["reload_s"].default
    assert interval <= 0.5  # of the second
    with serving(router=URI, reload_s=interval) as web:

        def current() -> str:
            answer = web.post("/v1/audio/transcriptions", files={"file": waves[0]})
            assert answer.status_code == 200
            return answer.headers["x-whisper-router-version"]

        assert current() == "1"
        for move, version in ((lambda: promote("2", "better"), "2"), (lambda: rollback("worse"), "1")):
            move()
            wait_until(lambda version=version: current() == version)
    assert len(calls.loaded) == 2  # each arm once


def test_a_rollback_loads_nothing(client, monkeypatch):
    served = Champion(URI)
    promote("2", "better")
    served.wake()
    wait_until(lambda: served.current.version == "2")
    monkeypatch.setattr(Router, "load", lambda *_: pytest.fail("loaded"))
    rollback("worse")
    served.wake()
    wait_until(lambda: served.current.version == "1")
    served.stop()


def test_a_registry_that_is_gone_is_told_once_and_looked_for_on(client, caplog, tmp_path):
    told: list[str] = []
    with caplog.at_level(logging.WARNING, "whisper_router.serving.champion"):
        served = Champion(URI, 0.02, told.append)
        client.delete_registered_model_alias(MODEL, "champion")
        wait_until(lambda: told)
        time.sleep(0.5)
        assert told == ["failed"]
        assert served.current.version == "1"
        client.set_registered_model_alias(MODEL, "champion", "2")
        wait_until(lambda: served.current.version == "2")
        served.stop()
    assert told == ["failed", "swapped"]


def hostile(folder: Path) -> None:
    """Give a router trees that end LightGBM's process, with hashes that fit."""
    described = read_json(folder / "decider" / "decider.json")
    described["options"] = GbtOptions(kind="gbt", extractor="confidence").model_dump(mode="json")
    write_json(folder / "decider" / "decider.json", described)
    write_text(folder / "decider" / "weights.txt", "tree\nversion=v4\ntree_sizes=99999999\n\nTree=0\n")
    for path in (folder / "policies").glob("*.json"):
        policy = read_json(path)
        policy["bound"]["decider"] = decider_sha256(folder / "decider")
        write_json(path, policy)


def test_a_hostile_successor_leaves_the_old_one_serving_and_a_good_one_follows(
    package_router, tmp_path, client, caplog, waves
):
    told: list[str] = []
    for number in ("3", "4"):
        package_router(tmp_path / number / "artifacts" / "router", "confidence", c=0.1)
        client.create_model_version(MODEL, str(tmp_path / number))
    hostile(tmp_path / "3" / "artifacts" / "router")
    with caplog.at_level(logging.WARNING, "whisper_router.serving.champion"):
        served = Champion(URI, 0.02, told.append)
        first = served.current
        client.set_registered_model_alias(MODEL, "champion", "3")
        wait_until(lambda: told == ["failed"])
        assert served.current is first
        assert first.router.transcribe(waves[:1])[0].error is None
        client.set_registered_model_alias(MODEL, "champion", "2")
        wait_until(lambda: len(told) == 2)
        client.set_registered_model_alias(MODEL, "champion", "3")
        client.set_registered_model_alias(MODEL, "champion", "4")
        wait_until(lambda: len(told) == 3)
        served.stop()
    assert told == ["failed", "swapped", "swapped"]
    assert served.current.version == "4"
    (failed,) = [text for text in caplog.messages if "version 3 cannot be loaded" in text]
    assert "weights.txt is damaged" in failed


@pytest.mark.parametrize("error", [MemoryError, RecursionError, BaseException])
def test_whatever_a_successor_fails_with_the_old_one_serves_on(client, monkeypatch, error):
    told: list[str] = []
    served = Champion(URI, 0.02, told.append)
    load = Router.load

    def fails(source):
        raise error

    monkeypatch.setattr(Router, "load", fails)
    client.set_registered_model_alias(MODEL, "champion", "2")
    wait_until(lambda: told)
    assert (told, served.current.version) == (["failed"], "1")
    monkeypatch.setattr(Router, "load", load)
    served.wake()
    wait_until(lambda: served.current.version == "2")
    served.stop()
    assert told == ["failed", "swapped"]


def test_a_folder_is_hashed_only_where_it_changed(package_router, tmp_path, monkeypatch):
    from whisper_router.serving import champion

    folder, hashed, sha256 = tmp_path / "router", [], champion.folder_sha256
    package_router(folder, "confidence")
    monkeypatch.setattr(champion, "folder_sha256", lambda path: hashed.append(path) or sha256(path))
    served = Champion(str(folder), 0.02)
    first = served.current.version
    time.sleep(0.3)
    assert len(hashed) == 1
    write_text(folder / "provenance.json", "{}\n")
    wait_until(lambda: served.current.version != first)
    served.stop()
    assert len(hashed) == 2
