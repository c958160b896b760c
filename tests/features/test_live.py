"""Features that are not stored are those that would be; what the content store holds is not encoded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from whisper_router.features.reader import open_features

from whisper_router.asr.reference import ArmReference
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.errors import UserError
from whisper_router.features.extractors import extractor_identity, feature_frames
from whisper_router.features.live import LiveReader
from whisper_router.features.options import ConfidenceExtractor, EncoderExtractor
from whisper_router.features.store import FeatureReader, write_features, write_frames
from whisper_router.files import write_json, write_parquet
from whisper_router.labelling import Work, compute, plan_work, utterances
from whisper_router.paths import ARMS, FEATURES, MANIFEST
from whisper_router.store import ContentStore

WHOLE = EncoderExtractor(kind="encoder", pool=1, padding="keep")
COMPACT = EncoderExtractor(kind="encoder", pool=3, padding="cut", stored=False)
BATCH_SIZE = 2


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """An empty project with a content store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def manifest(tmp_path, clips, wav) -> pd.DataFrame:
    rows = []
    for i, clip in enumerate(clips):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav(clip))
        rows.append((f"u{i}", str(path), 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip)))
    return pd.DataFrame(rows, columns=["id", "audio", "offset_s", "duration_s", "sha256"])


@pytest.fixture
def reference(checkpoints, plain, reference_of) -> ArmReference:
    return reference_of(checkpoints["english"], plain)


@pytest.fixture
def live(tmp_path, manifest, reference) -> Callable[[EncoderExtractor], LiveReader]:
    def open_(extractor: EncoderExtractor) -> LiveReader:
        rows = utterances(manifest)
        samples = [round(row.duration_s * SAMPLE_RATE) for row in rows]
        frames = [feature_frames(extractor, count, reference.decode.context(count)) for count in samples]
        identity = extractor_identity(extractor, reference.spec())
        write_frames(tmp_path / "f", zip(manifest["id"], frames, strict=True), identity)
        return LiveReader(tmp_path / "f", extractor, reference, manifest, BATCH_SIZE)

    return open_


def fill(manifest, reference, extractor, store) -> Work:
    work = Work(reference.sha256, reference.decode, False, (extractor,))
    batches = plan_work(utterances(manifest), work, store, BATCH_SIZE)
    assert compute(reference.load(), batches, work, store, "fill") == {}
    return work


@pytest.mark.parametrize("extractor", [WHOLE, COMPACT], ids=["whole", "compact"])
def test_states_are_those_that_would_be_stored(live, manifest, reference, extractor, tmp_path):
    other = ContentStore(tmp_path / "other")
    work = fill(manifest, reference, extractor, other)
    reader = live(extractor)
    ids = manifest["id"].tolist()[::-1]
    found = dict(zip(ids, reader.batch(ids), strict=True))
    for row in utterances(manifest):
        stored = other.read_encoding(work.encoding_path(other, row.sha256, extractor))
        np.testing.assert_allclose(found[row.id], stored, atol=1e-3, rtol=1e-3)
        assert found[row.id].dtype == stored.dtype == np.float16
        assert len(found[row.id]) == reader.frames(row.id)


def test_what_lies_in_the_content_store_is_not_encoded(live, manifest, reference, calls):
    store = ContentStore()
    work = fill(manifest, reference, WHOLE, store)
    calls.encoded.clear()
    calls.loaded.clear()
    for row, states in zip(utterances(manifest), live(WHOLE).batch(manifest["id"].tolist()), strict=True):
        np.testing.assert_array_equal(
            states, store.read_encoding(work.encoding_path(store, row.sha256, WHOLE))
        )
    assert not calls.encoded
    assert not calls.loaded


def test_only_what_the_content_store_lacks_or_holds_damaged_is_encoded(live, manifest, reference, calls):
    store = ContentStore()
    work = fill(manifest.iloc[:4], reference, WHOLE, store)
    damaged = work.encoding_path(store, manifest["sha256"][1], WHOLE)
    before = store.read_encoding(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x07")
    calls.encoded.clear()
    found = live(WHOLE).batch(manifest["id"].tolist())
    assert calls.encoded == {reference.sha256: len(manifest) - 3}
    np.testing.assert_allclose(found[1], before, atol=1e-3, rtol=1e-3)


def test_the_arm_is_loaded_once_and_only_when_it_is_needed(live, manifest, calls):
    reader = live(COMPACT)
    assert not calls.loaded
    for _ in range(2):
        reader.batch(manifest["id"].tolist())
    assert len(calls.loaded) == 1


def test_no_utterances_are_an_empty_batch(live):
    assert live(WHOLE).batch([]) == []


def test_audio_that_vanished_is_an_error_that_names_the_row(live, manifest):
    Path(manifest["audio"][2]).unlink()
    reader = live(WHOLE)
    with pytest.raises(UserError, match=rf"^u2: {manifest['audio'][2]}: no such file"):
        reader.batch(manifest["id"].tolist())
    assert len(reader.batch(["u0", "u1"])) == 2


def test_audio_that_changed_is_an_error_that_names_the_row(live, manifest, clips, wav):
    Path(manifest["audio"][2]).write_bytes(wav(clips[2] * 0.5))
    with pytest.raises(UserError, match=r"^u2: .*not the audio that ingest saw"):
        live(WHOLE).batch(["u1", "u2"])


def test_an_index_of_another_extractor_is_refused(live, manifest, reference, tmp_path):
    live(WHOLE)
    with pytest.raises(UserError, match="run featurize again"):
        LiveReader(tmp_path / "f", COMPACT, reference, manifest, BATCH_SIZE)


def test_the_reader_of_an_extractor_is_live_where_it_is_not_stored(live, manifest, reference):
    arm = {**reference.model_dump(mode="json"), "dims": {"width": 64}}
    write_json(ARMS, {"weak": arm, "strong": arm})
    write_parquet(MANIFEST, manifest)
    write_frames(FEATURES / "whole", [("u0", 50)], extractor_identity(WHOLE, reference.spec()))
    assert isinstance(open_features("whole", WHOLE, BATCH_SIZE), LiveReader)
    sure = ConfidenceExtractor(kind="confidence")
    for name, extractor in (("sure", sure), ("stored", WHOLE.model_copy(update={"stored": True}))):
        identity = extractor_identity(extractor, reference.spec())
        write_features(FEATURES / name, [("u0", np.ones((1, 3)))], identity)
        assert isinstance(open_features(name, extractor, BATCH_SIZE), FeatureReader)
    with pytest.raises(UserError, match="run featurize again"):
        open_features("sure", COMPACT, BATCH_SIZE)
