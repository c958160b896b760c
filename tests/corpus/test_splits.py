"""Splits by speaker: disjoint, stable when the corpus grows, and faithful to official splits."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router.corpus.options import FOLDS, SPLITS, Splits
from whisper_router.corpus.splits import (
    PRIORITY,
    assign_splits,
    drop_in_other_corpus,
    drop_shared,
    people,
    split_by_speaker,
)
from whisper_router.errors import UserError
from whisper_router.scoring import normalise

SPEAKERS = st.text("abcdefgh-0123456789é/ ", min_size=1, max_size=8)
OPTIONS = Splits()
many = settings(max_examples=50)


def corpus(speakers: list[str], official: list[str | None] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "corpus": "talks",
            "speaker": pd.Series(speakers, dtype=object),
            "split": pd.Series(official or [None] * len(speakers), dtype=object),
        }
    )


def assigned(frame: pd.DataFrame, options: Splits = OPTIONS) -> pd.Series:
    return assign_splits(frame, options)[0]


def splits_of(frame: pd.DataFrame, result: pd.Series) -> dict[str, set[str]]:
    return result.groupby(frame["speaker"]).agg(set).to_dict()


@many
@given(
    speakers=st.lists(SPEAKERS, min_size=1, max_size=30),
    more=st.lists(SPEAKERS, max_size=30),
    salt=st.sampled_from(["whisper-router", "pepper"]),
)
def test_rows_and_speakers_added_move_no_row_of_an_existing_speaker(speakers, more, salt):
    options = Splits(salt=salt)
    before = assigned(corpus(speakers), options)
    after = assigned(corpus([*speakers, *more]), options)
    assert after.iloc[: len(speakers)].tolist() == before.tolist()
    before_by_speaker = dict(zip(speakers, before, strict=True))
    for speaker, split in zip(more, after.iloc[len(speakers) :], strict=True):
        assert split == before_by_speaker.get(speaker, split)


@many
@given(speakers=st.lists(SPEAKERS, min_size=1, max_size=40), seed=st.randoms(use_true_random=False))
def test_no_speaker_is_in_two_splits_and_the_order_of_rows_does_not_count(speakers, seed):
    frame = corpus(speakers)
    result = assigned(frame)
    assert set(result) <= set(SPLITS)
    assert all(len(found) == 1 for found in splits_of(frame, result).values())
    shuffled = seed.sample(speakers, len(speakers))
    assert splits_of(corpus(shuffled), assigned(corpus(shuffled))) == splits_of(frame, result)


OFFICIAL = st.dictionaries(SPEAKERS, st.sampled_from(SPLITS), min_size=1, max_size=20)


@many
@given(official=OFFICIAL, rows=st.integers(1, 3))
def test_no_speaker_of_an_official_split_is_in_two_splits(official, rows):
    frame = corpus(list(official) * rows, list(official.values()) * rows)
    result = assigned(frame)
    assert all(len(found) == 1 for found in splits_of(frame, result).values())


def test_a_speaker_with_an_official_split_on_some_rows_has_it_on_all():
    known = [speaker for speaker in map(str, range(100)) if split_by_speaker(speaker, OPTIONS) == "test"][:5]
    frame = corpus([*known, *known, "other"], ["train"] * 5 + [None] * 5 + ["dev"])
    result = assigned(frame)
    assert all(len(found) == 1 for found in splits_of(frame, result).values())


@many
@given(
    official=OFFICIAL.filter(lambda speakers: len(set(speakers.values())) > 1),
    more=OFFICIAL,
)
def test_an_official_split_is_stable_when_speakers_of_the_same_splits_are_added(official, more):
    kept = set(official.values())
    added = {k: v for k, v in more.items() if k not in official and v in kept}
    before = assigned(corpus(list(official), list(official.values())))
    grown = {**official, **added}
    after = assigned(corpus(list(grown), list(grown.values())))
    assert after.iloc[: len(before)].tolist() == before.tolist()


@pytest.mark.parametrize(
    ("official", "said"),
    [
        *((f"{lone}", f"corpus talks has only the split {lone} and nothing for") for lone in SPLITS),
        (
            "train dev",
            "corpus talks has only the split train and dev and nothing for test: all rows",
        ),
    ],
)
def test_where_train_or_test_is_lacking_all_is_divided_by_speaker_and_it_is_said(official, said, recwarn):
    speakers = [f"s{i}" for i in range(60)]
    result, notes = assign_splits(corpus(speakers, official.split() * (60 // len(official.split()))), OPTIONS)
    assert result.tolist() == [split_by_speaker(speaker, OPTIONS) for speaker in speakers]
    assert set(result) == set(SPLITS)
    (note,) = notes
    assert note.startswith(said)
    assert not recwarn.list


def test_no_official_split_is_divided_without_a_word(recwarn):
    assert assign_splits(corpus(["a", "b"]), OPTIONS)[1] == []
    assert not recwarn.list


def corpora(**splits: tuple[str, str | None]) -> pd.DataFrame:
    """Two hundred speakers for each ``corpus=(their names, its official split)``."""
    parts = [
        corpus([f"{name}/{who}{i}" for i in range(200)], [split] * 200).assign(corpus=name)
        for name, (who, split) in splits.items()
    ]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(
    ("lone", "rest"), [("test", "train"), ("test", None), ("dev", None), ("calibration", None)]
)
def test_a_corpus_of_one_split_keeps_it_beside_a_corpus_that_has_the_rest(lone, rest):
    frame = corpora(held=("h", lone), calls=("c", rest))
    result, notes = assign_splits(frame, OPTIONS)
    assert notes == []
    assert set(result[frame["corpus"] == "held"]) == {lone}
    others = set(result[frame["corpus"] == "calls"])
    assert others == (set(SPLITS) if rest is None else {"train", "dev", "calibration"})


def test_train_stays_train_beside_a_corpus_that_has_all_splits():
    frame = corpora(more=("m", "train"), calls=("c", None))
    assert set(assigned(frame)[frame["corpus"] == "more"]) == {"train"}


def test_one_name_in_two_corpora_is_in_one_split():
    frame = corpora(calls=("s", None), talks=("s", None))
    result = assigned(frame)
    assert (result.groupby(people(frame)).nunique() == 1).all()
    assert set(result) == set(SPLITS)
    held = corpora(held=("s", "test"), calls=("s", None), others=("o", None))
    assert set(assigned(held)[held["corpus"] != "others"]) == {"test"}


def test_a_name_in_two_official_splits_of_two_corpora_is_kept_in_the_one_of_higher_priority():
    frame = corpora(held=("s", "test"), calls=("s", "train"), others=("o", "train"))
    dropped = drop_in_other_corpus(frame.assign(split=assigned(frame)))
    assert dropped.tolist() == (frame["corpus"] == "calls").tolist()
    clash = corpus(["talks/s1", "talks/s1"], ["train", "test"])
    assert not drop_in_other_corpus(clash).any()


def test_speakers_are_divided_in_the_shares_asked_for():
    drawn = pd.Series([split_by_speaker(f"speaker {i}", OPTIONS) for i in range(4000)])
    shares = drawn.value_counts(normalize=True)
    for name in ("test", "calibration", "dev"):
        assert shares[name] == pytest.approx(getattr(OPTIONS, name), abs=0.03)
    assert shares["train"] == pytest.approx(0.4, abs=0.03)


def test_another_salt_divides_otherwise():
    speakers = [f"speaker {i}" for i in range(50)]
    other = Splits(salt="pepper")
    assert [split_by_speaker(s, OPTIONS) for s in speakers] != [split_by_speaker(s, other) for s in speakers]


def test_calibration_is_carved_from_dev_where_there_is_dev():
    official = ["train", "dev", "test"] * 60
    frame = corpus([f"s{i}" for i in range(180)], official)
    table = pd.crosstab(frame["split"], assigned(frame))
    assert table.loc["train", "train"] == table.loc["test", "test"] == 60
    assert table.loc["dev", "dev"] + table.loc["dev", "calibration"] == 60
    assert 15 < table.loc["dev", "calibration"] < 45


def test_calibration_and_dev_are_carved_from_train_where_there_is_no_dev():
    frame = corpus([f"s{i}" for i in range(400)], ["train", "test"] * 200)
    table = pd.crosstab(frame["split"], assigned(frame))
    assert table.loc["test", "test"] == 200
    assert table.loc["train", "train"] > 80
    assert table.loc["train", "calibration"] > 20
    assert table.loc["train", "dev"] > 10


def test_all_four_official_splits_are_kept_as_they_are():
    frame = corpus([f"s{i}" for i in range(80)], list(SPLITS) * 20)
    assert assigned(frame).tolist() == frame["split"].tolist()


@pytest.mark.parametrize("name", ["validation", "Train", "test "])
def test_an_unknown_split_is_refused_by_name(name):
    with pytest.raises(UserError, match=f"corpus talks: split '{name}' is none of train, dev"):
        assign_splits(corpus(["a", "b"], ["train", name]), OPTIONS)


TEXTS = st.sampled_from(["one", "One!", "two", "Two?", "colour", "color", "three", "3", "four words in it"])


@many
@given(rows=st.lists(st.tuples(st.sampled_from(SPLITS), TEXTS), min_size=1, max_size=25))
def test_no_text_is_left_in_two_splits_and_no_more_is_dropped_than_that_takes(rows):
    manifest = pd.DataFrame(rows, columns=["split", "text"])
    text = manifest["text"].map(normalise)
    dropped = drop_shared(manifest["split"], text)
    assert (manifest["split"][~dropped].groupby(text).nunique() <= 1).all()
    assert not dropped[manifest["split"] == "test"].any()
    for value, group in manifest.groupby(text):
        best = min(PRIORITY.index(split) for split in group["split"])
        kept = group[~dropped.loc[group.index]]
        assert kept["split"].tolist() == [split for split in group["split"] if split == PRIORITY[best]], value


def small(**splits: tuple[str, str | None]) -> pd.DataFrame:
    return corpora(**splits).assign(duration_s=5.0)


def test_too_few_utterances_to_divide_are_left_whole():
    frame = small(calls=("c", None))
    assert set(assign_splits(frame, OPTIONS, 201)[0]) == {FOLDS}
    assert set(assign_splits(frame, OPTIONS, 200)[0]) == set(SPLITS)
    assert set(assign_splits(frame, OPTIONS, 0)[0]) == set(SPLITS)


def test_an_official_test_split_is_kept_beside_utterances_that_are_left_whole():
    frame = small(held=("h", "test"), calls=("c", None))
    result, _ = assign_splits(frame, OPTIONS, 201)
    assert pd.crosstab(frame["corpus"], result).to_dict() == {
        FOLDS: {"calls": 200, "held": 0},
        "test": {"calls": 0, "held": 200},
    }


def test_official_splits_that_lack_train_are_left_whole_where_they_are_few():
    result, notes = assign_splits(small(held=("h", "test")), OPTIONS, 201)
    assert set(result) == {FOLDS}
    assert len(notes) == 1


@pytest.mark.parametrize("other", ["train", "dev", "calibration"])
def test_a_corpus_with_an_official_split_to_learn_from_is_divided(other):
    frame = small(held=("h", other), calls=("c", None))
    assert FOLDS not in set(assign_splits(frame, OPTIONS, 10_000)[0])


def test_audio_over_30_s_is_tested_on_where_its_speaker_has_nothing_shorter():
    frame = small(calls=("c", None))
    frame.loc[frame["speaker"] == "calls/c1", "duration_s"] = 31.0
    both = frame.iloc[[0]].assign(duration_s=31.0)
    frame = pd.concat([frame, both], ignore_index=True)
    result, _ = assign_splits(frame, OPTIONS, 200)
    assert result[frame["speaker"] == "calls/c1"].tolist() == ["test"]
    assert result[frame["speaker"] == "calls/c0"].tolist() == [FOLDS, FOLDS]
    assert set(assign_splits(frame, OPTIONS, 199)[0]) == set(SPLITS)
