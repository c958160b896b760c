"""Train, dev, calibration and test by speaker: no row moves when the corpus grows."""

from collections.abc import Sequence

import pandas as pd

from whisper_router.audio import WINDOW_S
from whisper_router.corpus.options import FOLDS, SPLITS, Splits
from whisper_router.errors import UserError
from whisper_router.hashing import unit_interval
from whisper_router.reference import told
from whisper_router.scoring import normalise

PRIORITY = ("test", "calibration", "dev", "train", FOLDS)  # who keeps a text that stands in two splits


def text_keys(manifest: pd.DataFrame) -> pd.Series:
    """What two rows have in common where they hold the same text; a row without one has it with no other."""
    return manifest["text"].map(normalise).where(told(manifest), "\0" + manifest["id"])


def split_by_speaker(speaker: str, splits: Splits) -> str:
    """The split of a speaker: a function of the salted name alone."""
    position = unit_interval(splits.salt, "split", speaker)
    for name in ("test", "calibration", "dev"):
        share = float(getattr(splits, name))
        if position < share:
            return name
        position -= share
    return "train"


def people(table: pd.DataFrame) -> pd.Series:
    """Who speaks each row: one name in two corpora is taken for one person."""
    names = [
        speaker.removeprefix(f"{corpus}/")
        for corpus, speaker in zip(table["corpus"], table["speaker"], strict=True)
    ]
    return pd.Series(names, index=table.index, dtype=object)


def _first_split(split: pd.Series, person: pd.Series) -> pd.Series:
    """Of all the splits that a person has, the one of highest priority; missing where there is none."""
    rank = split.map(PRIORITY.index, na_action="ignore").astype(float)
    return rank.groupby(person).transform("min").map(lambda i: PRIORITY[int(i)], na_action="ignore")


def assign_splits(manifest: pd.DataFrame, splits: Splits, below: int = 0) -> tuple[pd.Series, list[str]]:
    """A split for each row of all corpora: the official one where there is one, else by speaker.

    Official splits are kept where all corpora together have rows for train and for test. A corpus with two or
    more of them has calibration carved from dev's speakers, else train's, and dev from train's. One with a
    single split is left as it is, unless no corpus at all has calibration or dev.

    Parameters
    ----------
    below : int
        Fewer utterances without an official split are cross-validated instead, where no corpus has another
        official split than test.

    Returns
    -------
    Series
        One of ``SPLITS`` for each row, or ``FOLDS``.
    list of str
        What the user should know, as sentences.

    Raises
    ------
    UserError
        An official split is none of ``SPLITS``.
    """
    person, stated = people(manifest), manifest["split"]
    for name, found in stated.groupby(manifest["corpus"]):
        unknown = sorted(set(found.dropna()) - set(SPLITS))
        if unknown:
            raise UserError(f"corpus {name}: split {unknown[0]!r} is none of {', '.join(SPLITS)}")
    official = stated.fillna(_first_split(stated, person))
    hashed = manifest["speaker"].map(lambda speaker: split_by_speaker(speaker, splits))
    by_speaker = _first_split(hashed, person)
    held = set(official.dropna()) | (set(SPLITS) if official.isna().any() else set())
    if not {"train", "test"} <= held:
        made = _folds_instead(manifest, by_speaker, by_speaker.notna(), below)
        return made, [_not_kept(sorted(manifest["corpus"].unique()), held)]
    result = official.fillna(by_speaker)

    def carve(rows: pd.Series, present: set[str], wanted: str) -> None:
        nonlocal result
        source = "dev" if wanted == "calibration" and "dev" in present else "train"
        left = 1 - splits.test - (splits.calibration if wanted == "dev" else 0.0)
        share = 0.5 if source == "dev" else float(getattr(splits, wanted)) / left
        drawn = manifest["speaker"].map(lambda speaker: unit_interval(splits.salt, wanted, speaker))
        carved = drawn.groupby(person).transform("min") < share
        result = result.mask(rows & (result == source) & carved, wanted)
        if source in present:
            held.add(wanted)

    for name, found in official.groupby(manifest["corpus"]):
        present = set(found.dropna())
        for wanted in ("calibration", "dev"):
            if len(present) > 1 and wanted not in present:
                carve(manifest["corpus"] == name, present, wanted)
    for wanted in ("calibration", "dev"):
        if wanted not in held:
            carve(result.notna(), held, wanted)
    return _folds_instead(manifest, result, official.isna(), below), []


def _not_kept(corpora: Sequence[str], held: set[str]) -> str:
    has = " and ".join(name for name in SPLITS if name in held)
    lacks = " and ".join(name for name in ("train", "test") if name not in held)
    names = f"corpus {corpora[0]} has" if len(corpora) == 1 else f"corpora {', '.join(corpora)} have"
    return f"{names} only the split {has} and nothing for {lacks}: all rows are divided by speaker instead"


def _folds_instead(manifest: pd.DataFrame, split: pd.Series, free: pd.Series, below: int) -> pd.Series:
    """``FOLDS`` for the rows that are free of an official split, where they are too few to be divided.

    Rows over 30 s of a speaker who has no shorter ones are kept to test on: no decider will have heard them.
    """
    if not below or not set(split[~free]) <= {"test"}:
        return split
    long = manifest["duration_s"] > WINDOW_S
    if not 0 < (free & ~long).sum() < below:
        return split
    unheard = long.groupby(people(manifest)).transform("all")
    return split.mask(free, FOLDS).mask(free & unheard, "test")


def drop_shared(split: pd.Series, key: pd.Series) -> pd.Series:
    """True for rows whose key (their text, their audio) also stands in a split of higher priority."""
    rank = split.map(PRIORITY.index)
    return rank > rank.groupby(key).transform("min")


def drop_in_other_corpus(manifest: pd.DataFrame) -> pd.Series:
    """True for rows whose speaker stands in a split of higher priority in another corpus.

    A speaker in two splits of one corpus stays: the check of the manifest names it.
    """
    rank = manifest["split"].map(PRIORITY.index)
    own = rank.groupby(manifest["speaker"]).transform("min")
    return own > own.groupby(people(manifest)).transform("min")
