"""Features come back as they were written, memory-mapped, and only to who asks for their extractor."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from whisper_router.errors import UserError
from whisper_router.features.store import FeatureIndex, FeatureReader, write_features, write_index

EXTRACTOR: dict[str, object] = {"options": {"kind": "encoder", "pool": 4}, "arm": {"weights": "abc"}}


def feature(frames: int, *rest: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((frames, *rest)).astype(np.float16)


@settings(max_examples=30)
@given(
    data=st.data(),
    rest=st.lists(st.integers(1, 4), max_size=2),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    ids=st.lists(st.text(max_size=8), min_size=1, max_size=12, unique=True),
    shard_bytes=st.integers(1, 400),
)
def test_features_of_any_shape_come_back_from_shards_of_any_size(
    data, rest, dtype, ids, shard_bytes, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("store") / "features"
    written = {id_: data.draw(arrays.arrays(dtype, (data.draw(st.integers(1, 9)), *rest))) for id_ in ids}
    write_features(folder, iter(written.items()), EXTRACTOR, shard_bytes)
    reader = FeatureReader(folder, EXTRACTOR)
    assert reader.ids == ids
    for id_, values in written.items():
        assert reader[id_].dtype == dtype
        np.testing.assert_array_equal(reader[id_], values)


def test_a_shard_is_closed_when_it_is_full_and_no_feature_is_torn(tmp_path):
    rows = [(f"u{i}", feature(5, 3, seed=i)) for i in range(7)]
    size = rows[0][1].nbytes
    write_features(tmp_path / "f", rows, EXTRACTOR, 2 * size)
    shards = sorted((tmp_path / "f").glob("shard-*.npy"))
    assert [np.load(path).shape for path in shards] == [(10, 3), (10, 3), (10, 3), (5, 3)]
    write_features(tmp_path / "one", rows, EXTRACTOR)
    assert len(list((tmp_path / "one").glob("shard-*.npy"))) == 1


def test_a_feature_is_a_view_of_the_memory_mapped_file(tmp_path):
    write_features(tmp_path / "f", [("a", feature(4, 2)), ("b", feature(3, 2, seed=1))], EXTRACTOR)
    found = FeatureReader(tmp_path / "f")["b"]
    assert isinstance(found, np.memmap)
    assert not found.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 0


def test_a_shard_larger_than_memory_is_opened_and_read(tmp_path):
    folder = tmp_path / "f"
    write_features(folder, [("a", feature(4, 1000)), ("b", feature(3, 1000, seed=1))], EXTRACTOR)
    before = np.load(folder / "shard-00000.npy")
    huge = np.lib.format.open_memmap(folder / "shard-00000.npy", "w+", np.float16, (20_000_000, 1000))
    huge[:7] = before  # a file of 40 GB, all holes but for its first page
    del huge
    reader = FeatureReader(folder, EXTRACTOR)
    np.testing.assert_array_equal(reader["b"], feature(3, 1000, seed=1))


def test_what_is_no_shard_is_not_mapped(tmp_path):
    write_features(tmp_path / "f", [("a", feature(4, 2))], EXTRACTOR)
    np.save(tmp_path / "f" / "other.npy", np.zeros(3))
    (tmp_path / "f" / ".shard-00000.npy").write_bytes(b"a leftover")
    np.testing.assert_array_equal(FeatureReader(tmp_path / "f")["a"], feature(4, 2))


@settings(max_examples=20)
@given(asked=st.lists(st.integers(0, 8), max_size=12), shard_bytes=st.integers(1, 200))
def test_a_batch_is_the_features_asked_for_in_their_order(asked, shard_bytes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store") / "features"
    rows = [(f"u{i}", feature(1 + i % 4, 2, seed=i)) for i in range(9)]
    write_features(folder, rows, EXTRACTOR, shard_bytes)
    reader = FeatureReader(folder)
    found = reader.batch([f"u{i}" for i in asked])
    assert all(isinstance(values, np.memmap) for values in found)
    for i, values in zip(asked, found, strict=True):
        np.testing.assert_array_equal(values, reader[f"u{i}"])
        assert len(values) == reader.frames(f"u{i}")


def test_the_index_of_features_that_are_not_stored_says_frames_and_hash_of_each(tmp_path):
    write_index(tmp_path / "f", iter([("b", 1500, "bb"), ("a", 12, "aa")]), EXTRACTOR)
    index = FeatureIndex(tmp_path / "f", EXTRACTOR)
    assert index.ids == ["b", "a"]
    assert (index.frames("b"), index.frames("a")) == (1500, 12)
    assert (index.sha256("b"), index.sha256("a")) == ("bb", "aa")
    assert sorted(path.name for path in (tmp_path / "f").iterdir()) == ["extractor.json", "index.parquet"]
    with pytest.raises(UserError, match="run featurize again"):
        FeatureIndex(tmp_path / "f", {**EXTRACTOR, "arm": {"weights": "def"}})


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4)),
    dtype=st.sampled_from(["float16", "float32"]),
    data=st.data(),
)
def test_a_feature_s_hash_is_of_its_bytes_whatever_lies_beside_it(shape, dtype, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    one = data.draw(arrays.arrays(dtype, shape, elements=st.integers(0, 9)))
    changed = one.copy()
    changed[tuple(data.draw(st.integers(0, size - 1)) for size in shape)] += 1
    beside = ("x", feature(3, shape[1]).astype(dtype))
    write_features(folder / "one", [("a", one), beside], EXTRACTOR)
    write_features(folder / "other", [beside, ("a", np.asfortranarray(one)), ("b", changed)], EXTRACTOR, 1)
    first, second = FeatureReader(folder / "one"), FeatureReader(folder / "other")
    assert first.sha256("a") == second.sha256("a") == hashlib.sha256(one.tobytes()).hexdigest()
    assert second.sha256("b") != second.sha256("a")
    assert first.sha256("x") == second.sha256("x")


def test_equal_features_make_equal_files(tmp_path):
    rows = [(f"u{i}", feature(2 + i, 3, seed=i)) for i in range(5)]
    for name in ("first", "second"):
        write_features(tmp_path / name, rows, EXTRACTOR, 50)
    files = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "second").iterdir())
    for name in files:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_features_of_another_extractor_are_refused_with_both_named(tmp_path):
    write_features(tmp_path / "f", [("a", feature(1, 2))], EXTRACTOR)
    other = {**EXTRACTOR, "options": {"kind": "encoder", "pool": 8}}
    with pytest.raises(UserError, match="run featurize again") as caught:
        FeatureReader(tmp_path / "f", other)
    assert "'pool': 4" in str(caught.value)
    assert "'pool': 8" in str(caught.value)
    assert FeatureReader(tmp_path / "f").extractor == EXTRACTOR


def test_an_utterance_without_features_is_named(tmp_path):
    write_features(tmp_path / "f", [("a", feature(1, 2))], EXTRACTOR)
    with pytest.raises(KeyError, match="absent"):
        FeatureReader(tmp_path / "f")["absent"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_folder(error, tmp_path):
    folder = tmp_path / "f"
    old = feature(3, 2)
    write_features(folder, [("a", old)], EXTRACTOR)

    def interrupted() -> Iterator[tuple[str, np.ndarray]]:
        yield "a", feature(3, 2, seed=9)
        raise error

    with pytest.raises(error):
        write_features(folder, interrupted(), EXTRACTOR, 1)
    assert FeatureReader(folder).ids == ["a"]
    np.testing.assert_array_equal(FeatureReader(folder)["a"], old)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("write", [write_features, write_index])
def test_an_interrupted_first_write_leaves_no_folder_and_no_half_shard(write, error, tmp_path):
    def interrupted() -> Iterator[tuple[object, ...]]:
        for i in range(3):
            yield (f"u{i}", 3, "abc") if write is write_index else (f"u{i}", feature(3, 2))
        raise error

    with pytest.raises(error):
        write(tmp_path / "f", interrupted(), EXTRACTOR, *([1] if write is write_features else []))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="no such file"):
        FeatureReader(tmp_path / "f")


def test_a_reader_of_the_old_folder_reads_on_after_it_was_replaced(tmp_path: Path):
    folder = tmp_path / "f"
    old = feature(3, 2)
    write_features(folder, [("a", old)], EXTRACTOR)
    reader = FeatureReader(folder)
    write_features(folder, [("a", feature(3, 2, seed=9))], EXTRACTOR)
    np.testing.assert_array_equal(reader["a"], old)


def test_no_features_at_all_are_an_empty_store(tmp_path):
    write_features(tmp_path / "f", [], EXTRACTOR)
    assert FeatureReader(tmp_path / "f", EXTRACTOR).ids == []
