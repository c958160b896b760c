"""Shards of a flow: tried again, reported by name, and the same on every runner."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from prefect import flow
from prefect.testing.utilities import prefect_test_harness

from flows import shards
from whisper_router.asr.arm import arm_key
from whisper_router.asr.reference import ArmReference
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.errors import UserError
from whisper_router.labelling import Work, plan_work, utterances
from whisper_router.params import DaskRunner, InProcessRunner, Runner
from whisper_router.store import ContentStore

BATCH_SIZE = 2


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shards, "SHARD_BATCHES", {"in_process": 1, "dask": 1})
    shards.load_once.cache_clear()
    return tmp_path


@pytest.fixture
def rows(project, clips, wav) -> list:
    made = []
    for i, clip in enumerate(clips):
        (project / f"{i}.wav").write_bytes(wav(clip))
        made.append((f"u{i}", f"{i}.wav", 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip)))
    return utterances(pd.DataFrame(made, columns=["id", "audio", "offset_s", "duration_s", "sha256"]))


@pytest.fixture
def reference(checkpoints, reference_of, plain) -> ArmReference:
    return reference_of(checkpoints["english"], plain)


@pytest.fixture
def work(reference) -> Work:
    return Work(reference.sha256, reference.decode, True, ())


def run(reference: ArmReference, work: Work, rows: list, runner: Runner) -> dict[str, str]:
    batches = plan_work(rows, work, ContentStore(), BATCH_SIZE)
    assert len(batches) == 6

    @flow(validate_parameters=False)
    def stage() -> dict[str, str]:
        return shards.run_shards(reference, work, "label", runner, batches)

    options = {"task_runner": shards._dask(runner)} if runner.kind == "dask" else {}
    return stage.with_options(**options)()


def texts(work: Work, rows: list) -> list[str | None]:
    store = ContentStore()
    found = [store.read_hypothesis(work.hypothesis_path(store, row.sha256)) for row in rows]
    return [made and made.text for made in found]


def test_dask_says_what_this_process_says_and_names_the_same_bad_row(
    reference, work, rows, project, monkeypatch
):
    Path(rows[2].audio).unlink()
    outcomes = []
    for name, runner in (("here", InProcessRunner()), ("afar", DaskRunner(kind="dask", workers=2))):
        monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(project / name))
        outcomes.append((run(reference, work, rows, runner), texts(work, rows)))
    errors, said = outcomes[0]
    assert errors == {"u2": "2.wav: no such file"}
    assert [text is None for text in said] == [row.id == "u2" for row in rows]
    assert outcomes[1] == outcomes[0]


def test_an_arm_is_loaded_once_for_all_shards(reference, work, rows):
    assert run(reference, work, rows, InProcessRunner()) == {}
    assert shards.load_once.cache_info().misses == 1
    assert shards.load_once.cache_info().hits > 1


def test_a_shard_that_fails_is_tried_again(reference, work, rows, monkeypatch):
    compute, calls = shards.compute, []

    def flaky(arm, batches, *rest):
        calls.append([row.id for batch in batches for row in batch.rows])
        if len(calls) == 2:
            raise OSError("the disk was away")
        return compute(arm, batches, *rest)

    monkeypatch.setattr(shards, "compute", flaky)
    assert run(reference, work, rows, InProcessRunner()) == {}
    assert None not in texts(work, rows)
    assert calls[1] == calls[2]


def test_a_shard_that_fails_always_is_named_and_the_others_finish(reference, work, rows, monkeypatch):
    compute = shards.compute

    def broken(arm, batches, work, store, title, *rest):
        if title.startswith("label 1/"):
            raise OSError("the disk is full")
        return compute(arm, batches, work, store, title, *rest)

    monkeypatch.setattr(shards, "compute", broken)
    with pytest.raises(UserError) as caught:
        run(reference, work, rows, InProcessRunner())
    assert str(caught.value).startswith("1 of 6 shards failed; the others are finished and kept")
    assert "label 1/6: OSError: the disk is full" in str(caught.value)
    assert texts(work, rows).count(None) == 1


def test_a_worker_of_other_code_or_without_the_project_is_refused_by_name(reference, project):
    key = arm_key(reference.sha256, reference.decode)
    site = shards.Site(project, project / "cache", key, 1, True)
    site.enter(reference)
    with pytest.raises(UserError, match="other code or versions than the run's"):
        shards.Site(project, project / "cache", "other", 1, True).enter(reference)
    with pytest.raises(UserError, match=f"no folder {project}/absent; Dask workers must share"):
        shards.Site(project / "absent", project / "cache", key, 1, True).enter(reference)
