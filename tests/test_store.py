"""The content store: what is written is read, damage is found, nothing is half written, it can be small."""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.asr.decoding import Attempt, Hypothesis
from whisper_router.audio import audio_sha256
from whisper_router.errors import UserError
from whisper_router.store import FREE_BYTES, STALE_S, ContentStore, parse_bytes

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

    def interrupted(arrays, path, metadata):
        path.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr("whisper_router.store.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.write_encoding(store.encoding_path("a", "b", "c"), np.zeros((1, 1, 1), np.float16))
    assert store.read_encoding(store.encoding_path("a", "b", "c")) is None
    assert files(store) == [text.name]
    assert store.read_hypothesis(text) == HYPOTHESIS


def write_text(store: ContentStore, name: str = "a") -> Path:
    path = store.hypothesis_path(name, "arm")
    store.write_hypothesis(path, HYPOTHESIS)
    return path


def write_states(store: ContentStore, name: str = "a", frames: int = 3) -> Path:
    path = store.encoding_path(name, "arm", "extractor")
    store.write_encoding(path, np.arange(frames * 8, dtype=np.float16).reshape(frames, 2, 4))
    return path


def write_training(store: ContentStore, name: str = "a") -> Path:
    path = store.training_path(f"{name}-key")
    store.write_training(path, bytes(range(200)))
    return path


def write_value(store: ContentStore, name: str = "a") -> Path:
    path = store.value_path("probes", f"{name}-key")
    store.write_value(path, {"whole_s": 2.5, "sha256": "ab" * 32, "none": None, "list": [1, "two"]})
    return path


def write_segment(store: ContentStore, name: str = "a") -> Path:
    random = np.random.default_rng(len(name) + ord(name[0]))
    audio = random.integers(-9000, 9000, 1600).astype(np.float32) / 32768
    store.write_segment(audio_sha256(audio), audio)
    return store.segment_path(audio_sha256(audio))


def read_segment(path: Path) -> object:
    return ContentStore(path.parents[2]).read_segment(path.stem)


KINDS: dict[str, tuple[Callable[..., Path], Callable[[Path], object]]] = {
    "hypothesis": (write_text, ContentStore.read_hypothesis),
    "encoding": (write_states, ContentStore.read_encoding),
    "training": (write_training, ContentStore.read_training),
    "value": (write_value, ContentStore.read_value),
    "segment": (write_segment, read_segment),
}


def equal(one: object, other: object) -> bool:
    return np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other


def test_one_changed_digit_of_a_hypothesis_is_found(store, capsys):
    path = write_text(store)
    text = path.read_text()
    assert text.count("-0.1235") == 1
    path.write_text(text.replace("-0.1235", "-0.1234"))
    assert store.read_hypothesis(path) is None
    assert not path.exists()
    assert f"content store: {path} was damaged" in capsys.readouterr().err
    store.write_hypothesis(path, HYPOTHESIS)
    assert store.read_hypothesis(path) == HYPOTHESIS


def test_one_changed_bit_of_an_encoding_is_found(store, capsys):
    path = write_states(store)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert store.read_encoding(path) is None
    assert not path.exists()
    assert f"content store: {path} was damaged" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200)
@given(data=st.data(), change=st.integers(1, 255))
def test_an_entry_with_any_changed_byte_reads_as_it_was_or_is_gone(kind, data, change, tmp_path_factory):
    write, read = KINDS[kind]
    path = write(ContentStore(tmp_path_factory.getbasetemp() / f"changed-{kind}"))
    before, whole = read(path), bytearray(path.read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= change
    path.write_bytes(whole)
    with redirect_stderr(io.StringIO()):
        after = read(path)
    assert path.exists() == (after is not None)
    assert after is None or equal(after, before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_that_was_cut_short_is_deleted(kind, store, capsys):
    write, read = KINDS[kind]
    whole = write(store).read_bytes()
    for size in (0, 1, 8, 20, len(whole) // 2, len(whole) - 1):
        path = write(store)
        path.write_bytes(whole[:size])
        assert read(path) is None, size
        assert not path.exists()
        assert str(path) in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_once_and_the_entry_can_be_written_again(kind, store, capsys):
    write, read = KINDS[kind]
    path = write(store)
    before, whole = read(path), path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x07")
    assert (read(path), read(path)) == (None, None)
    assert capsys.readouterr().err == f"content store: {path} was damaged; it is deleted and made anew\n"
    assert write(store) == path
    assert equal(read(path), before)


def test_the_state_of_a_training_comes_back_as_it_was(store):
    path = store.training_path("abc")
    assert store.read_training(path) is None
    for state in (b"", b"one", bytes(1000)):
        store.write_training(path, state)
        assert store.read_training(path) == state
    assert files(store) == ["abc.pt"]


@pytest.mark.parametrize("kind", ["hypothesis", "encoding"])
def test_an_entry_without_a_checksum_is_none(kind, store):
    write, read = KINDS[kind]
    path = write(store)
    path.write_bytes(path.read_bytes().replace(b"sha256", b"sha257"))
    assert read(path) is None


WRITER = """
import sys, time
from pathlib import Path
import numpy as np
from whisper_router.asr.decoding import Attempt, Hypothesis
from whisper_router.store import ContentStore

store, name = ContentStore(Path(sys.argv[1])), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for i in range(200):
    for key in (f"shared-{i % 5}", f"{name}-{i % 50}"):
        said = Hypothesis(f"{name} " * (i + 1), -0.5, 1.0, 0.0, 0.0, (), (), (), (Attempt(500, i),))
        store.write_hypothesis(store.hypothesis_path(key, "arm"), said)
        store.write_encoding(store.encoding_path(key, "arm", "e"), np.full((i + 1, 2, 8), i, np.float16))
"""


def test_two_processes_that_write_the_same_and_other_keys_leave_whole_entries(store, capfd):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(store.root), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    paths = {
        key: (store.hypothesis_path(key, "arm"), store.encoding_path(key, "arm", "e"))
        for key in [f"shared-{i}" for i in range(5)]
        + [f"{name}-{i}" for name in ("one", "two") for i in range(50)]
    }
    seen = 0
    while any(writer.poll() is None for writer in writers):
        for text, sound in list(paths.values())[:5]:
            said, states = store.read_hypothesis(text), store.read_encoding(sound)
            seen += said is not None
            assert states is None or (states == len(states) - 1).all()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert seen
    for key, (text, sound) in paths.items():
        said, states = store.read_hypothesis(text), store.read_encoding(sound)
        assert len(said.text.split()) == said.attempts[0].tokens + 1
        assert len(set(said.text.split())) == 1
        assert key.startswith(("shared", said.text.split()[0]))
        assert (states == len(states) - 1).all()
    assert len(files(store)) == 2 * len(paths)
    assert "damaged" not in capfd.readouterr().err


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_not_used_for_longest_goes_first_and_reading_is_using(kind, store):
    write, read = KINDS[kind]
    paths = [write(store, name) for name in "abcd"]
    for i, path in enumerate(paths):
        age(path, 5000 - 1000 * i)
    size = paths[0].stat().st_size
    assert read(paths[0]) is not None
    gone = store.collect(2 * size)
    assert [entry.path for entry in gone] == [paths[1], paths[2]]
    assert [path.exists() for path in paths] == [True, False, False, True]
    assert store.collect(2 * size) == []
    assert len(store.collect(0)) == 2
    assert files(store) == []


def test_what_killed_runs_left_goes_when_it_is_old(store):
    whole = write_text(store)
    old, fresh = (whole.with_name(f".{whole.name}.{name}.json") for name in ("old", "fresh"))
    for path in (old, fresh):
        path.write_bytes(b"half")
    age(old, STALE_S + 60)
    age(whole, 10 * STALE_S)
    assert sorted(entry.kind for entry in store.entries()) == ["decodes", "leftover", "leftover"]
    assert [entry.path for entry in store.collect(10**9)] == [old]
    assert sorted(files(store)) == sorted([whole.name, fresh.name])
    store.collect(0)
    assert files(store) == [fresh.name]


def test_a_store_that_is_not_there_has_no_entries(store):
    assert list(store.entries()) == []
    assert store.collect(0) == []


def test_entries_say_their_kind_and_size(store):
    paths = {
        "decodes": write_text(store),
        "encodings": write_states(store),
        "trainings": write_training(store),
    }
    assert {entry.kind: (entry.path, entry.size) for entry in store.entries()} == {
        kind: (path, path.stat().st_size) for kind, path in paths.items()
    }


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("500 MB", 5 * 10**8), ("1GiB", 2**30), ("7", 7)]
)
def test_sizes_are_read(text, size):
    assert parse_bytes(text, "here") == size


@pytest.mark.parametrize("text", ["much", "", "20XB", "-5GB", "GB"])
def test_a_limit_that_is_no_size_is_refused_with_the_name_of_the_variable(text, store, monkeypatch):
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", text)
    with pytest.raises(UserError, match=f"^WHISPER_ROUTER_CACHE_LIMIT: '{text}' is not a size"):
        store.limit()


@settings(max_examples=100)
@given(text=st.text(max_size=12))
def test_any_text_is_a_size_or_is_refused(text):
    with suppress(UserError):
        assert parse_bytes(text, "here") >= 0


STATES = ["paper", "compact"]
REMEDY = "or give extractors (paper, compact) a larger pool or stored: false in params.yaml"


@pytest.fixture
def disk(monkeypatch, tmp_path) -> SimpleNamespace:
    """An empty project on a disk with that many bytes free."""
    made = SimpleNamespace(free=100 * 10**9 + FREE_BYTES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: made)
    monkeypatch.delenv("WHISPER_ROUTER_CACHE_LIMIT", raising=False)
    return made


def refusal(store: ContentStore, needed: int, beside: int) -> str:
    with pytest.raises(UserError) as caught:
        store.require_space(needed, beside, STATES)
    return str(caught.value)


def test_what_the_limit_cannot_hold_is_refused_with_the_figures(store, disk, monkeypatch):
    size = write_states(store, frames=1000).stat().st_size
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", str(10**9 + size))
    store.require_space(10**9, 0, STATES)
    assert refusal(store, 3 * 10**9, 0) == (
        f"the states of paper, compact take 3.00 GB in {store.root}, which holds 0.00 of at most 1.00 GB: "
        f"raise WHISPER_ROUTER_CACHE_LIMIT; {REMEDY}"
    )
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", "1")
    assert "0.00 of at most 0.00 GB: raise WHISPER_ROUTER_CACHE_LIMIT; or" in refusal(store, 1, 0)


def test_the_collection_that_a_refusal_proposes_makes_room(store, disk, monkeypatch):
    for name in "abcd":
        write_states(store, name, frames=40_000)  # 0.64 MB each
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", "3MB")
    message = refusal(store, 1_500_000, 0)
    assert "raise WHISPER_ROUTER_CACHE_LIMIT, or run `whisper-router cache gc --limit 1MB`; or" in message
    store.collect(parse_bytes("1MB", "here"))
    store.require_space(1_500_000, 0, STATES)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 5_000_000), max_size=6),
    needed=st.integers(1, 20_000_000),
    limit=st.integers(1, 20_000_000),
)
def test_any_collection_that_is_proposed_makes_room(sizes, needed, limit, tmp_path_factory):
    store = ContentStore(tmp_path_factory.mktemp("store"))
    for i, size in enumerate(sizes):
        store.write_training(store.training_path(f"{i:02d}"), b"")
        os.truncate(store.training_path(f"{i:02d}"), size)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store.root)
        patch.setenv("WHISPER_ROUTER_CACHE_LIMIT", str(limit))
        if needed <= limit - sum(sizes):
            store.require_space(needed, 0, STATES)
            return
        message = refusal(store, needed, 0)
        if needed > limit:
            assert "cache gc" not in message
        if "cache gc" in message:
            store.collect(parse_bytes(message.split("--limit ")[1].split("`")[0], "here"))
            store.require_space(needed, 0, STATES)


@pytest.mark.parametrize("begun", [True, False], ids=["a store", "no store yet"])
def test_what_the_disk_cannot_hold_is_refused_with_the_figures(begun, store, disk):
    for folder in (store.root, Path("data")):
        if begun:
            folder.mkdir()
    disk.free = 5 * 10**9 + FREE_BYTES
    store.require_space(2 * 10**9, 3 * 10**9, STATES)
    if not begun:
        store.root.rmdir()
        Path("data").rmdir()
    assert refusal(store, 2 * 10**9, 3 * 10**9 + 1) == (
        f"the states of paper, compact take 5.00 GB, and the disk of {store.root} has 5.00 GB to spare: "
        f"make room, or set WHISPER_ROUTER_CACHE to a folder on another disk; {REMEDY}"
    )
    disk.free = FREE_BYTES // 2
    assert "has 0.00 GB to spare" in refusal(store, 1, 0)


@pytest.fixture
def apart(tmp_path, monkeypatch) -> Iterator[tuple[ContentStore, SimpleNamespace]]:
    """A content store on another disk than ``data/``, and what both have to spare."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        if Path(folder).stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one disk only")
        spare = SimpleNamespace(store=10**9, data=10**9)

        def usage(path: Path) -> SimpleNamespace:
            near = Path(path).stat().st_dev == tmp_path.stat().st_dev
            return SimpleNamespace(free=FREE_BYTES + (spare.data if near else spare.store))

        monkeypatch.setattr("shutil.disk_usage", usage)
        yield ContentStore(Path(folder)), spare


def test_each_disk_holds_its_own(apart):
    store, _ = apart
    store.require_space(10**9, 10**9, STATES)
    message = refusal(store, 10**9 + 1, 10**9)
    assert f"take 1.00 GB, and the disk of {store.root} has 1.00 GB to spare" in message
    message = refusal(store, 10**9, 2 * 10**9)
    assert "take 2.00 GB, and the disk of data has 1.00 GB to spare" in message


def test_a_disk_that_nothing_is_written_to_may_be_full(apart):
    store, spare = apart
    spare.store = -1
    store.require_space(0, 10**9, STATES)
    spare.store, spare.data = 10**9, -1
    store.require_space(10**9, 0, STATES)


def test_what_is_made_already_needs_no_room_in_the_store(store, disk, monkeypatch):
    write_states(store)
    for limit in ("10000", "1"):
        monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", limit)
        store.require_space(0, 10**9, STATES)


def test_nothing_to_write_is_never_refused(store, disk, monkeypatch):
    write_states(store)
    disk.free = 0
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", "1")
    store.require_space(0, 0, STATES)


def test_a_hypothesis_with_other_words_has_another_checksum(store):
    texts = []
    for said in (HYPOTHESIS, replace(HYPOTHESIS, text="other words")):
        path = store.hypothesis_path("a", "arm")
        store.write_hypothesis(path, said)
        texts.append(path.read_text())
    one, other = texts
    swapped = one[: one.index('"value"')] + other[other.index('"value"') :]
    path.write_text(swapped)
    assert store.read_hypothesis(path) is None
