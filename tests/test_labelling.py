"""Labelling computes once, resumes where it stopped, and names what it cannot read."""

from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from whisper_router.asr.arm import Arm
from whisper_router.asr.decoding import Attempt, Hypothesis
from whisper_router.asr.load import cost_dims
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.cost import Dims
from whisper_router.errors import UserError
from whisper_router.features.options import EncoderExtractor
from whisper_router.labelling import (
    Work,
    announce_encodings,
    compute,
    encoding_bytes,
    feature_counts,
    hypothesis_of,
    labels_table,
    plan_work,
    transcribe_all,
    transcripts_table,
    utterances,
)
from whisper_router.store import FREE_BYTES, ContentStore

EXTRACTOR = EncoderExtractor(kind="encoder", pool=4)
BATCH_SIZE = 2


@pytest.fixture(scope="module")
def arms(make_arm):
    return {"weak": make_arm("english"), "strong": make_arm("multilingual")}


@pytest.fixture
def works(arms):
    return {
        name: Work(arm.sha256, arm.options, True, (EXTRACTOR,) if name == "weak" else ())
        for name, arm in arms.items()
    }


@pytest.fixture
def store(tmp_path) -> ContentStore:
    return ContentStore(tmp_path / "cache")


@pytest.fixture
def manifest(tmp_path, clips, wav) -> pd.DataFrame:
    """One file for each clip, and a segment of a longer one."""
    rows = []
    for i, clip in enumerate(clips):
        path = tmp_path / f"{i}.wav"
        path.write_bytes(wav(clip))
        rows.append((f"clip-{i}", path, 0.0, clip))
    longer = tmp_path / "longer.wav"
    longer.write_bytes(wav(np.concatenate(clips)))
    rows.append(("part", longer, clips[0].size / SAMPLE_RATE, clips[1][: SAMPLE_RATE // 2]))
    return pd.DataFrame(
        {
            "id": [row[0] for row in rows],
            "audio": [str(row[1]) for row in rows],
            "offset_s": [row[2] for row in rows],
            "duration_s": [row[3].size / SAMPLE_RATE for row in rows],
            "text": [f"the quick brown fox number {i}" for i in range(len(rows))],
            "sha256": [audio_sha256(row[3]) for row in rows],
            "corpus": "toy",
            "speaker": [f"speaker-{i % 3}" for i in range(len(rows))],
            "split": ["train", "test"] * 3 + ["train"],
        }
    )


def label(manifest, arms, works, store) -> tuple[pd.DataFrame, pd.DataFrame]:
    errors: dict[str, str] = {}
    for name, work in works.items():
        batches = plan_work(utterances(manifest), work, store, BATCH_SIZE)
        if batches:
            errors |= compute(arms[name], batches, work, store, name)
    transcripts = transcripts_table(manifest, stored(manifest, works, store), errors)
    return transcripts, labels_table(manifest, transcripts)


def stored(manifest, works, store) -> dict[str, list[Hypothesis | None]]:
    return {
        name: [store.read_hypothesis(work.hypothesis_path(store, sha256)) for sha256 in manifest["sha256"]]
        for name, work in works.items()
    }


def assert_equal(made, expected) -> None:
    for one, other in zip(made, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_the_second_run_computes_nothing_and_says_the_same(manifest, arms, works, store, calls):
    first = label(manifest, arms, works, store)
    everyone = {arm.sha256: len(manifest) for arm in arms.values()}
    assert calls.encoded == calls.decoded == everyone
    assert len(first[1]) == len(manifest)
    again = label(manifest, arms, works, store)
    assert calls.encoded == calls.decoded == everyone
    assert_equal(again, first)


def test_an_encoding_that_lacks_is_made_without_decoding(manifest, arms, works, store, calls):
    label(manifest, arms, works, store)
    calls.encoded.clear()
    calls.decoded.clear()
    other = replace(works["weak"], extractors=(EXTRACTOR, EncoderExtractor(kind="encoder", pool=8)))
    compute(arms["weak"], plan_work(utterances(manifest), other, store, BATCH_SIZE), other, store, "more")
    assert calls.encoded == {arms["weak"].sha256: len(manifest)}
    assert not calls.decoded
    for row in manifest.itertuples():
        frames = {
            extractor.pool: len(store.read_encoding(other.encoding_path(store, row.sha256, extractor)))
            for extractor in other.extractors
        }
        valid = -(-round(row.duration_s * SAMPLE_RATE) // 320)
        assert frames == {4: -(-valid // 4), 8: -(-valid // 8)}


def test_new_rows_are_the_only_ones_computed(manifest, arms, works, store, calls):
    label(manifest.iloc[:4], arms, works, store)
    calls.encoded.clear()
    whole = label(manifest, arms, works, store)
    assert set(calls.encoded.values()) == {len(manifest) - 4}
    fresh = label(manifest, arms, works, ContentStore(store.root / "fresh"))
    exact = ["id", "arm", "hypothesis", "substitutions", "deletions", "insertions", "wer", "tokens"]
    pd.testing.assert_frame_equal(whole[0][exact], fresh[0][exact])
    np.testing.assert_allclose(whole[0]["avg_logprob"], fresh[0]["avg_logprob"], atol=1e-3)
    pd.testing.assert_frame_equal(whole[1], fresh[1])


def test_the_same_sound_in_another_file_is_known(manifest, arms, works, store, calls):
    first = label(manifest.iloc[:2], arms, works, store)
    calls.encoded.clear()
    copy = manifest.iloc[:1].assign(id="copy", audio=manifest["audio"][0] + ".copy")
    both = pd.concat([manifest.iloc[:2], copy], ignore_index=True)
    transcripts, _ = label(both, arms, works, store)
    assert not calls.encoded
    texts = transcripts[transcripts["id"] == "copy"]["hypothesis"].tolist()
    assert texts == first[0][first[0]["id"] == "clip-0"]["hypothesis"].tolist()


@pytest.mark.parametrize("arm", ["weak", "strong"])
def test_an_interrupted_run_resumes_and_gives_the_same_tables(
    manifest, arms, works, store, tmp_path, monkeypatch, arm
):
    expected = label(manifest, arms, works, ContentStore(tmp_path / "other"))
    decode, lock, rows = Arm.decode, Lock(), Counter()

    def until_the_plug_is_pulled(self, encoding, audios):
        with lock:
            if self is arms[arm] and rows[arm] > 0:
                raise RuntimeError("the plug is pulled")
            rows["weak" if self is arms["weak"] else "strong"] += len(audios)
        return decode(self, encoding, audios)

    with monkeypatch.context() as patch:
        patch.setattr(Arm, "decode", until_the_plug_is_pulled)
        with pytest.raises(RuntimeError, match="the plug is pulled"):
            label(manifest, arms, works, store)
    assert 0 < rows[arm] < len(manifest)
    resumed = Counter()

    def counted(self, encoding, audios):
        with lock:
            resumed["weak" if self is arms["weak"] else "strong"] += len(audios)
        return decode(self, encoding, audios)

    monkeypatch.setattr(Arm, "decode", counted)
    assert_equal(label(manifest, arms, works, store), expected)
    assert {name: rows[name] + resumed[name] for name in arms} == dict.fromkeys(arms, len(manifest))


def test_audio_that_changed_or_vanished_is_an_error_row_and_the_others_are_labelled(
    manifest, arms, works, store, clips, wav
):
    changed, vanished, broken = (manifest["audio"][i] for i in (0, 2, 4))
    Path(changed).write_bytes(wav(clips[0] * 0.5))
    Path(broken).write_bytes(wav(clips[4])[:30])
    Path(vanished).unlink()
    transcripts, labels = label(manifest, arms, works, store)
    bad = transcripts[transcripts["error"].notna()]
    assert sorted(zip(bad["id"], bad["arm"], strict=True)) == [
        (f"clip-{i}", arm) for i in (0, 2, 4) for arm in ("strong", "weak")
    ]
    reasons = bad[bad["arm"] == "weak"].set_index("id")["error"]
    assert reasons["clip-0"] == f"{changed}: not the audio that ingest saw; run ingest again"
    assert reasons["clip-2"] == f"{vanished}: no such file"
    assert reasons["clip-4"].startswith(f"{broken}: not readable as audio")
    assert bad["hypothesis"].isna().all()
    assert labels["id"].tolist() == ["clip-1", "clip-3", "clip-5", "part"]
    assert transcripts[transcripts["error"].isna()]["hypothesis"].notna().all()


def test_all_audio_vanished(manifest, arms, works, store):
    manifest["audio"] += ".moved"
    transcripts, labels = label(manifest, arms, works, store)
    assert len(transcripts) == 2 * len(manifest)
    assert transcripts["error"].str.endswith("no such file").all()
    assert len(labels) == 0


def hypothesis(text: str) -> Hypothesis:
    return Hypothesis(text, -0.5, 1.0, 0.01, 0.0, (-0.4,), (0.3,), (0.2,), (Attempt(500, 3),))


@pytest.mark.parametrize(
    ("weak", "strong", "label_"),
    [
        ("the cat sat on a mat", "the cat sat on the mat", 1),
        ("the cat sat on the mat", "the cat sat on a mat", 0),
        ("the cat sat on the mat", "the cat sat on the mat", 0),
        ("a cat sat on the mat", "the cat sat on a mat", 0),
        ("The cat sat on the mat!", "the cat sat on the mat", 0),
        ("", "the cat sat on mat", 1),
        ("the cat sat on the mat and and", "the cat sat on", 0),
    ],
)
def test_label_is_1_iff_the_weak_arm_is_worse(manifest, works, store, weak, strong, label_):
    manifest = manifest.iloc[:1].assign(text="The cat sat on the mat.")
    sha256 = manifest["sha256"][0]
    for name, text in (("weak", weak), ("strong", strong)):
        store.write_hypothesis(works[name].hypothesis_path(store, sha256), hypothesis(text))
    (row,) = labels_table(
        manifest, transcripts_table(manifest, stored(manifest, works, store), {})
    ).itertuples()
    assert row.label == label_ == int(row.wer_weak > row.wer_strong)
    assert row.words == 6
    assert row.wer_weak == pytest.approx(row.errors_weak / 6, abs=1e-6)


def test_an_utterance_that_one_arm_lacks_has_no_label(manifest, works, store):
    manifest = manifest.iloc[:2]
    for sha256 in manifest["sha256"]:
        store.write_hypothesis(works["weak"].hypothesis_path(store, sha256), hypothesis("some words"))
    store.write_hypothesis(
        works["strong"].hypothesis_path(store, manifest["sha256"][1]), hypothesis("some words")
    )
    transcripts = transcripts_table(manifest, stored(manifest, works, store), {"clip-0": "a reason"})
    assert labels_table(manifest, transcripts)["id"].tolist() == ["clip-1"]
    (reason,) = transcripts["error"].dropna()
    assert reason == "a reason"


def test_transcripts_keep_the_whole_hypothesis(manifest, arms, works, store, tmp_path):
    transcripts, _ = label(manifest, arms, works, store)
    transcripts.to_parquet(tmp_path / "transcripts.parquet")
    read = pd.read_parquet(tmp_path / "transcripts.parquet")
    sha256 = manifest.set_index("id")["sha256"]
    for row in read.itertuples():
        found = store.read_hypothesis(works[row.arm].hypothesis_path(store, sha256[row.id]))
        assert hypothesis_of(row) == found
        assert row.tokens == found.tokens


def test_the_plan_is_that_of_the_whole_corpus_whatever_is_done(manifest, works, store):
    rows = utterances(manifest)
    planned = plan_work(rows, works["strong"], store, BATCH_SIZE)
    assert sorted(row.id for batch in planned for row in batch.rows) == sorted(manifest["id"])
    for row in planned[1].rows:
        store.write_hypothesis(works["strong"].hypothesis_path(store, row.sha256), hypothesis("done"))
    assert plan_work(rows, works["strong"], store, BATCH_SIZE) == [planned[0], *planned[2:]]


@pytest.fixture
def default_store(tmp_path, monkeypatch) -> ContentStore:
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "default"))
    return ContentStore()


def everyone(arm, work, rows, batch_size) -> tuple[list[Hypothesis | None], dict[str, str]]:
    run = partial(compute, arm, work=work, store=ContentStore(), title="weak")
    return transcribe_all(work, rows, batch_size, "weak", run)


def test_a_damaged_hypothesis_is_made_anew_in_the_same_run(
    manifest, arms, works, default_store, calls, capsys
):
    store, work, rows = default_store, works["weak"], utterances(manifest)
    first = everyone(arms["weak"], work, rows, 1)
    assert first[1] == {}
    assert calls.decoded == {arms["weak"].sha256: len(rows)}
    damaged = work.hypothesis_path(store, rows[2].sha256)
    text = damaged.read_text()
    damaged.write_text(text.replace(f'"tokens":{first[0][2].attempts[0].tokens}', '"tokens":99'))
    assert damaged.read_text() != text
    calls.decoded.clear()
    capsys.readouterr()
    assert everyone(arms["weak"], work, rows, 1) == first
    assert calls.decoded == {arms["weak"].sha256: 1}
    assert damaged.read_text() == text
    said = capsys.readouterr()
    assert f"{damaged} was damaged" in said.err
    assert f"weak: 0 utterances to do, {len(rows)} in the content store" in said.out
    assert f"weak: 1 utterances to do, {len(rows) - 1} in the content store" in said.out


def test_a_damaged_hypothesis_does_not_repeat_what_cannot_be_read(manifest, arms, works, default_store):
    Path(manifest["audio"][0]).unlink()
    rows, work = utterances(manifest), works["strong"]
    first, errors = everyone(arms["strong"], work, rows, BATCH_SIZE)
    assert set(errors) == {"clip-0"}
    assert [made is None for made in first] == [row.id == "clip-0" for row in rows]
    work.hypothesis_path(default_store, rows[1].sha256).write_text("{")
    again, errors = everyone(arms["strong"], work, rows, BATCH_SIZE)
    assert set(errors) == {"clip-0"}
    assert [made and made.text for made in again] == [made and made.text for made in first]


def dims_of(arm: Arm) -> Dims:
    return Dims(**cost_dims(arm))


EXTRACTORS = [
    EXTRACTOR,
    EncoderExtractor(kind="encoder", pool=1, padding="keep"),
    EncoderExtractor(kind="encoder", pool=7, padding="keep"),
    EncoderExtractor(kind="encoder", pool=1, padding="cut"),
]


def test_the_bytes_of_encodings_are_those_that_are_written(manifest, arms, store):
    arm, rows = arms["weak"], utterances(manifest)
    work = Work(arm.sha256, arm.options, False, tuple(EXTRACTORS))
    compute(arm, plan_work(rows, work, store, BATCH_SIZE), work, store, "encode")
    for extractor in EXTRACTORS:
        paths = [work.encoding_path(store, row.sha256, extractor) for row in rows]
        made = [store.read_encoding(path) for path in paths]
        assert feature_counts(rows, arm.options, extractor) == [len(states) for states in made]
        foretold = encoding_bytes(rows, arm.options, extractor, dims_of(arm))
        assert foretold == sum(states.nbytes for states in made)
        assert foretold <= sum(path.stat().st_size for path in paths) <= foretold + 400 * len(rows)


@pytest.fixture
def empty_project(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_encodings_will_take_is_said_and_refused_where_it_does_not_fit(
    manifest, arms, store, empty_project, monkeypatch, capsys
):
    arm, rows = arms["weak"], utterances(manifest)
    work = Work(arm.sha256, arm.options, False, (EXTRACTOR,))
    announced = ({"small": EXTRACTOR}, {"weak": (dims_of(arm), work)}, rows, store)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", "1GB")
    announce_encodings(*announced, beside=False)
    size = encoding_bytes(rows, arm.options, EXTRACTOR, dims_of(arm))
    minute = size / (manifest["duration_s"].sum() / 60) / 1e6
    said = f"extractor small: {minute:.2f} MB a minute of audio, {size / 1e9:.2f} GB in all\n"
    assert capsys.readouterr().out == said
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", str(size - 1))
    with pytest.raises(UserError, match=r"^the states of small take .* or give extractors \(small\)"):
        announce_encodings(*announced, beside=False)
    compute(arm, plan_work(rows, work, store, BATCH_SIZE), work, store, "encode")
    announce_encodings(*announced, beside=False)  # nothing is left to write


def test_what_featurize_writes_once_more_counts_where_it_is_written(
    manifest, arms, store, empty_project, monkeypatch
):
    arm, rows = arms["weak"], utterances(manifest)
    work = Work(arm.sha256, arm.options, False, (EXTRACTOR,))
    announced = ({"small": EXTRACTOR}, {"weak": (dims_of(arm), work)}, rows, store)
    size = encoding_bytes(rows, arm.options, EXTRACTOR, dims_of(arm))
    compute(arm, plan_work(rows, work, store, BATCH_SIZE), work, store, "encode")
    for spare, fits in ((2 * size, True), (2 * size - 1, False)):
        monkeypatch.setattr(
            "shutil.disk_usage", lambda _, free=spare: SimpleNamespace(free=FREE_BYTES + free)
        )
        announce_encodings(*announced, beside=False)
        with nullcontext() if fits else pytest.raises(UserError, match="to spare"):
            announce_encodings(*announced, beside=True)


def test_encodings_that_fit_one_by_one_but_not_together_are_refused(
    manifest, arms, store, empty_project, monkeypatch
):
    arm, rows = arms["weak"], utterances(manifest)
    encoders = {f"e{i}": extractor for i, extractor in enumerate(EXTRACTORS[1:3])}
    work = Work(arm.sha256, arm.options, False, tuple(encoders.values()))
    sizes = [encoding_bytes(rows, arm.options, extractor, dims_of(arm)) for extractor in encoders.values()]
    announced = (encoders, {"weak": (dims_of(arm), work)}, rows, store)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", str(sum(sizes)))
    announce_encodings(*announced, beside=False)
    monkeypatch.setenv("WHISPER_ROUTER_CACHE_LIMIT", str(sum(sizes) - 1))
    with pytest.raises(UserError, match="the states of e0, e1 take"):
        announce_encodings(*announced, beside=False)


def test_a_hypothesis_that_no_round_could_make_is_a_row_whose_reason_names_the_store(
    manifest, arms, works, default_store, monkeypatch
):
    """A disk that spoils one entry each time it is written."""
    rows, work = utterances(manifest), works["weak"]
    Path(manifest["audio"][0]).unlink()
    bad = work.hypothesis_path(default_store, rows[1].sha256)

    def spoil(batches):
        errors = compute(arms["weak"], batches, work, default_store, "weak")
        bad.write_text("{")
        return errors

    found, errors = transcribe_all(work, rows, BATCH_SIZE, "weak", spoil)
    assert [made is None for made in found] == [row.id in ("clip-0", "clip-1") for row in rows]
    assert errors == {
        "clip-0": f"{manifest['audio'][0]}: no such file",
        "clip-1": f"the content store {default_store.root} lost its hypothesis 3 times; check the disk",
    }
    transcripts = transcripts_table(manifest, {"weak": found}, errors)
    bad_rows = transcripts[transcripts["error"].notna()]
    assert dict(zip(bad_rows["id"], bad_rows["error"], strict=True)) == errors
    again, errors = everyone(arms["weak"], work, rows, BATCH_SIZE)
    assert set(errors) == {"clip-0"}
    assert again[1] is not None


def test_a_row_that_is_lost_without_a_reason_is_a_fault_of_the_caller(manifest):
    with pytest.raises(KeyError, match="clip-1"):
        transcripts_table(manifest.iloc[:2], {"weak": [None, None]}, {"clip-0": "a reason"})


def files_of(store: ContentStore) -> dict[str, bytes]:
    """What each entry holds; safetensors writes the fields of a header in any order."""
    return {
        str(path.relative_to(store.root)): load_file(path)["states"].tobytes()
        if path.suffix == ".safetensors"
        else path.read_bytes()
        for path in sorted(store.root.rglob("*"))
        if path.is_file()
    }


def lose(store: ContentStore, seed: int) -> int:
    """Delete a third of the entries, and cut every fifth of the rest in half."""
    rng = np.random.default_rng(seed)
    paths = [store.root / name for name in files_of(store) if not name.startswith("segments")]
    shuffled = [paths[i] for i in rng.permutation(len(paths))]
    third = len(paths) // 3
    for path in shuffled[:third]:
        path.unlink()
    damaged = shuffled[third::5]
    for path in damaged:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    return third + len(damaged)


def fill(manifest, arms, works, store, batch_size) -> pd.DataFrame:
    """Label as the stages do: another round where a damaged entry was found when it was read."""
    rows, found = utterances(manifest), {}
    for name, work in works.items():
        for _ in range(3):
            compute(arms[name], plan_work(rows, work, store, batch_size), work, store, name)
            paths = [work.hypothesis_path(store, row.sha256) for row in rows]
            found[name] = [store.read_hypothesis(path) for path in paths]
            encoded = [
                store.read_encoding(work.encoding_path(store, row.sha256, extractor))
                for row in rows
                for extractor in work.extractors
            ]
            if not any(value is None for value in [*found[name], *encoded]):
                break
    return transcripts_table(manifest, found, {})


@pytest.mark.parametrize("batch_size", [2, 4])
def test_lost_and_damaged_entries_come_back_with_the_same_bytes(
    manifest, arms, works, store, tmp_path, batch_size
):
    fill(manifest, arms, works, store, batch_size).to_parquet(tmp_path / "before.parquet")
    before = files_of(store)
    for seed in range(3):
        assert lose(store, seed) > len(before) // 3
        fill(manifest, arms, works, store, batch_size).to_parquet(tmp_path / "after.parquet")
        assert files_of(store) == before
        assert (tmp_path / "after.parquet").read_bytes() == (tmp_path / "before.parquet").read_bytes()


def test_a_lost_entry_of_a_corpus_that_has_grown_is_computed_in_the_batch_that_made_it(
    manifest, clips, arms, works, store, calls
):
    """The plan of the grown corpus is another than the one by which the first rows were computed."""
    half = SAMPLE_RATE // 2
    sound = np.concatenate(clips)
    parts = [
        {
            **manifest.iloc[-1],
            "id": f"part-{i}",
            "offset_s": i / 2,
            "sha256": audio_sha256(sound[i * half : (i + 1) * half]),
        }
        for i in range(4)
    ]
    manifest = pd.DataFrame(parts)
    rows, batch_size = utterances(manifest), 4
    largest = max(works["weak"].batches(rows, batch_size), key=len)
    old = manifest[manifest["id"].isin([row.id for row in largest[::2]])]
    assert 2 <= len(old) < len(largest)  # its batch-mates are old and new ones
    fill(old, arms, works, store, batch_size)
    fill(manifest, arms, works, store, batch_size)
    assert calls.decoded == {arm.sha256: len(manifest) for arm in arms.values()}
    before = files_of(store)
    for row in rows:
        for work in works.values():
            for path in (
                work.hypothesis_path(store, row.sha256),
                *(work.encoding_path(store, row.sha256, extractor) for extractor in work.extractors),
            ):
                path.unlink()
            for batch in plan_work(rows, work, store, batch_size):
                assert row in batch.rows
                assert {one.id in set(old["id"]) for one in batch.rows} == {row.id in set(old["id"])}
        fill(manifest, arms, works, store, batch_size)
        assert files_of(store) == before


def test_a_batch_that_was_killed_half_way_is_finished_with_the_same_bytes(
    manifest, arms, works, store, tmp_path, monkeypatch
):
    fill(manifest, arms, works, store, 4)
    other = ContentStore(tmp_path / "killed")
    write, written = ContentStore.write_hypothesis, []

    def killed(path, *args) -> None:
        if len(written) % 4 == 1:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *args)

    rows, work = utterances(manifest), works["weak"]
    monkeypatch.setattr(ContentStore, "write_hypothesis", staticmethod(killed))
    with pytest.raises(KeyboardInterrupt):
        compute(arms["weak"], plan_work(rows, work, other, 4), work, other, "weak", threads=1)
    assert len(written) == 1
    monkeypatch.setattr(ContentStore, "write_hypothesis", staticmethod(write))
    fill(manifest, arms, works, other, 4)
    assert files_of(other) == files_of(store)
