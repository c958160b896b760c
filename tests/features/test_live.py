"""Features that are not in shards: of a stored extractor from the content store, of another encoded alone."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from whisper_router.asr.reference import ArmReference
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.errors import UserError
from whisper_router.features.extractors import extractor_identity
from whisper_router.features.live import LiveReader
from whisper_router.features.open import open_features
from whisper_router.features.options import ConfidenceExtractor, EncoderExtractor
from whisper_router.features.store import FeatureReader, write_features, write_index
from whisper_router.files import write_json, write_parquet
from whisper_router.labelling import Work, compute, feature_counts, plan_work, utterances
from whisper_router.paths import ARMS, FEATURES, MANIFEST
from whisper_router.store import ContentStore

WHOLE = EncoderExtractor(kind="encoder", pool=1, padding="keep")
COMPACT = EncoderExtractor(kind="encoder", pool=3, padding="cut", stored=False)
STORED = EncoderExtractor(kind="encoder", pool=2, padding="cut")
EACH = pytest.mark.parametrize("extractor", [WHOLE, COMPACT, STORED], ids=["whole", "compact", "stored"])
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
        frames = feature_counts(rows, reference.decode, extractor)
        identity = extractor_identity(extractor, reference.spec())
        index = zip(manifest["id"], frames, manifest["sha256"], strict=True)
        write_index(tmp_path / "f", index, identity)
        return LiveReader(tmp_path / "f", extractor, reference, manifest)

    return open_


def fill(manifest, reference, extractor, store) -> Work:
    work = Work(reference.sha256, reference.decode, False, (extractor,))
    batches = plan_work(utterances(manifest), work, store, BATCH_SIZE)
    assert compute(reference.load(), batches, work, store, "fill") == {}
    return work


@EACH
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
        assert reader.sha256(row.id) == row.sha256


@pytest.fixture
def spoilt(manifest, reference) -> Callable[[EncoderExtractor], None]:
    """Fills the content store with states that are not those of the audio."""

    def fill_(extractor: EncoderExtractor) -> None:
        store, work = ContentStore(), Work(reference.sha256, reference.decode, False, (extractor,))
        for sha256 in manifest["sha256"]:
            path = work.encoding_path(store, sha256, extractor)
            store.write_encoding(path, np.full((3, 3, 64), 9, np.float16))

    return fill_


@pytest.mark.parametrize("extractor", [WHOLE, COMPACT], ids=["whole", "compact"])
def test_states_that_are_not_stored_are_the_same_bits_however_grouped_and_whatever_the_store_holds(
    live, manifest, reference, extractor, spoilt, calls
):
    ids = manifest["id"].tolist()
    reader = live(extractor)
    together = dict(zip(ids, reader.batch(ids), strict=True))
    for size in (1, 2, 4):
        for first in range(0, len(ids), size):
            group = ids[::-1][first : first + size]
            for id_, states in zip(group, reader.batch(group), strict=True):
                np.testing.assert_array_equal(states, together[id_])
    spoilt(extractor)
    calls.encoded.clear()
    for id_, states in zip(ids, live(extractor).batch(ids), strict=True):
        np.testing.assert_array_equal(states, together[id_])
    assert calls.encoded == {reference.sha256: len(ids)}


def test_what_lies_in_the_content_store_is_not_encoded(live, manifest, reference, calls):
    store = ContentStore()
    work = fill(manifest, reference, STORED, store)
    calls.encoded.clear()
    calls.loaded.clear()
    for row, states in zip(utterances(manifest), live(STORED).batch(manifest["id"].tolist()), strict=True):
        np.testing.assert_array_equal(
            states, store.read_encoding(work.encoding_path(store, row.sha256, STORED))
        )
    assert not calls.encoded
    assert not calls.loaded


def test_only_what_the_content_store_lacks_or_holds_damaged_is_encoded_each_by_itself(
    live, manifest, reference, calls, capsys
):
    ids = manifest["id"].tolist()
    alone = [live(STORED).batch([id_])[0] for id_ in ids]
    store = ContentStore()
    work = fill(manifest.iloc[:4], reference, STORED, store)
    paths = [work.encoding_path(store, sha256, STORED) for sha256 in manifest["sha256"]]
    kept = [store.read_encoding(path) for path in paths[:4]]
    paths[1].write_bytes(paths[1].read_bytes()[:-1] + b"\x07")
    calls.encoded.clear()
    found = live(STORED).batch(ids)
    assert calls.encoded == {reference.sha256: len(ids) - 3}
    assert f"{paths[1]} was damaged" in capsys.readouterr().err
    for i in range(len(ids)):
        np.testing.assert_array_equal(found[i], kept[i] if i in (0, 2, 3) else alone[i])


@EACH
def test_the_arm_is_loaded_once_and_only_when_it_is_needed(live, manifest, extractor, calls):
    reader = live(extractor)
    assert not calls.loaded
    for _ in range(2):
        reader.batch(manifest["id"].tolist())
    assert len(calls.loaded) == 1


@EACH
def test_an_utterance_asked_for_twice_comes_twice(live, extractor):
    one, other, again = live(extractor).batch(["u1", "u0", "u1"])
    np.testing.assert_array_equal(one, again)
    assert len(one) != len(other)


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
        LiveReader(tmp_path / "f", COMPACT, reference, manifest)


def test_the_reader_of_an_extractor_is_live_where_it_is_not_stored(live, manifest, reference):
    arm = {**reference.model_dump(mode="json"), "dims": {"width": 64}}
    write_json(ARMS, {"weak": arm, "strong": arm})
    write_parquet(MANIFEST, manifest)
    write_index(FEATURES / "whole", [("u0", 50, "abc")], extractor_identity(WHOLE, reference.spec()))
    assert isinstance(open_features("whole", WHOLE), LiveReader)
    sure = ConfidenceExtractor(kind="confidence")
    for name, extractor in (("sure", sure), ("stored", WHOLE.model_copy(update={"stored": True}))):
        identity = extractor_identity(extractor, reference.spec())
        write_features(FEATURES / name, [("u0", np.ones((1, 3)))], identity)
        assert isinstance(open_features(name, extractor), FeatureReader)
    with pytest.raises(UserError, match="run featurize again"):
        open_features("sure", COMPACT)
