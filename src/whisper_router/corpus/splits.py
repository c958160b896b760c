"""Train, dev, calibration and test by speaker: no row moves when the corpus grows."""

import warnings

import pandas as pd

from whisper_router.corpus.options import SPLITS, Splits
from whisper_router.errors import UserError
from whisper_router.hashing import unit_interval

PRIORITY = ("test", "calibration", "dev", "train")  # who keeps a text that stands in two splits


def split_by_speaker(speaker: str, splits: Splits) -> str:
    """The split of a speaker: a function of the salted name alone."""
    position = unit_interval(splits.salt, "split", speaker)
    for name in ("test", "calibration", "dev"):
        share = float(getattr(splits, name))
        if position < share:
            return name
        position -= share
    return "train"


def assign_splits(corpus: pd.DataFrame, splits: Splits) -> pd.Series:
    """A split a row of one corpus: the official one where there is one, else by speaker.

    Calibration is carved from dev's speakers, else train's; a lone official split is divided by speaker, with
    a warning.
    """
    name = corpus["corpus"].iloc[0]
    official = corpus["split"].fillna(corpus.groupby("speaker")["split"].transform("first"))
    unknown = sorted(set(official.dropna()) - set(SPLITS))
    if unknown:
        raise UserError(f"corpus {name}: split {unknown[0]!r} is none of {', '.join(SPLITS)}")
    by_speaker = corpus["speaker"].map(lambda speaker: split_by_speaker(speaker, splits))
    present = set(official.dropna())
    if len(present) < 2:
        if present:
            warnings.warn(
                f"corpus {name} has only the split {present.pop()!r}: divided by speaker", stacklevel=2
            )
        return by_speaker
    result = official.where(official.notna(), by_speaker)
    for wanted in ("calibration", "dev"):
        if wanted in present:
            continue
        source = "dev" if wanted == "calibration" and "dev" in present else "train"
        left = 1 - splits.test - (splits.calibration if wanted == "dev" else 0.0)
        share = 0.5 if source == "dev" else float(getattr(splits, wanted)) / left
        carved = corpus["speaker"].map(lambda speaker, w=wanted: unit_interval(splits.salt, w, speaker))
        result = result.mask((result == source) & (carved < share), wanted)
    return result


def drop_shared(split: pd.Series, key: pd.Series) -> pd.Series:
    """True for rows whose key (their text, their audio) also stands in a split of higher priority."""
    rank = split.map(PRIORITY.index)
    return rank > rank.groupby(key).transform("min")
