"""The content store: what is written is read, each key has its own place, nothing is half written."""

import numpy as np
import pytest

from whisper_router.asr.decoding import Attempt, Hypothesis
from whisper_router.errors import UserError
from whisper_router.store import ContentStore

HYPOTHESIS = Hypothesis(
    text='Ein "Satz", ümläutig 対.',
    avg_logprob=-0.1235,
    compression_ratio=0.9,
    no_speech_prob=0.0001,
    temperature=0.2,
    token_logprob=(-0.5, -0.0001),
    token_entropy=(1.25, 0.0),
    token_margin=(0.0, 7.5),
    attempts=(Attempt(500, 6), Attempt(1500, 4)),
)


@pytest.fixture
def store(tmp_path) -> ContentStore:
    return ContentStore(tmp_path / "cache")


def files(store: ContentStore) -> list[str]:
    return [path.name for path in store.root.rglob("*") if path.is_file()]


def test_hypotheses_and_encodings_come_back_as_they_were(store):
    states = np.arange(24, dtype=np.float16).reshape(4, 2, 3).transpose(0, 2, 1)
    text, sound = store.hypothesis_path("a", "b"), store.encoding_path("a", "b", "c")
    assert store.read_hypothesis(text) is None
    assert store.read_encoding(sound) is None
    store.write_hypothesis(text, HYPOTHESIS)
    store.write_encoding(sound, states)
    assert store.read_hypothesis(text) == HYPOTHESIS
    read = store.read_encoding(sound)
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, states)


def test_a_second_store_on_the_folder_finds_the_values(store):
    store.write_hypothesis(store.hypothesis_path("a", "b"), HYPOTHESIS)
    again = ContentStore(store.root)
    assert again.read_hypothesis(again.hypothesis_path("a", "b")) == HYPOTHESIS


def test_every_part_of_a_key_counts(store):
    paths = [
        store.hypothesis_path("a", "b"),
        store.hypothesis_path("b", "a"),
        store.hypothesis_path("a", "c"),
        store.hypothesis_path("ab", ""),
        store.encoding_path("a", "b", "c"),
        store.encoding_path("a", "b", "d"),
        store.encoding_path("a", "d", "c"),
        store.encoding_path("d", "b", "c"),
        store.encoding_path("a", "bc", ""),
    ]
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(store.root) for path in paths)
    assert store.hypothesis_path("a", "b") == paths[0]


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "elsewhere"))
    assert ContentStore().root == tmp_path / "elsewhere"


def test_an_interrupted_write_leaves_nothing_and_keeps_what_was_there(store, monkeypatch):
    text = store.hypothesis_path("a", "b")
    store.write_hypothesis(text, HYPOTHESIS)

    def interrupted(arrays, path):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("whisper_router.store.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write_encoding(store.encoding_path("a", "b", "c"), np.zeros((1, 1, 1), np.float16))
    assert store.read_encoding(store.encoding_path("a", "b", "c")) is None
    assert files(store) == [text.name]
    assert store.read_hypothesis(text) == HYPOTHESIS


def test_a_damaged_hypothesis_is_named_deleted_and_made_anew(store):
    path = store.hypothesis_path("a" * 64, "arm")
    store.write_hypothesis(path, HYPOTHESIS)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(UserError, match=f"{path.name} was damaged"):
        store.read_hypothesis(path)
    assert store.read_hypothesis(path) is None


def test_a_damaged_encoding_is_named_deleted_and_made_anew(store):
    path = store.encoding_path("a" * 64, "arm", "extractor")
    store.write_encoding(path, np.zeros((3, 2, 4), np.float16))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(UserError, match=f"{path.name} was damaged"):
        store.read_encoding(path)
    assert store.read_encoding(path) is None
