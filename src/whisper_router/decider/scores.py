"""Scores of a trained decider on a split, and what they cost."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_router.decider.registry import Decider, load_decider
from whisper_router.errors import UserError
from whisper_router.features.live import Reader
from whisper_router.features.open import open_features
from whisper_router.features.reading import PRICED, arms_of, reading_costs
from whisper_router.files import read_json, read_parquet
from whisper_router.params import Params
from whisper_router.paths import ARMS, DECIDER, MANIFEST, TRANSCRIPTS
from whisper_router.progress import progress

BATCH = 64
OUT_OF_FOLD = "out_of_fold.parquet"  # in a decider's folder: id, fold and score of each utterance


@dataclass(frozen=True)
class Scores:
    """What a decider says of some utterances."""

    scores: np.ndarray  # (utterances,), in [0, 1]
    macs: dict[str, np.ndarray]  # currency -> the decider's multiply-accumulates, (utterances,)
    extractor: dict[str, object]  # the identity of what it read
    folds: np.ndarray | None = None  # of cross-validated utterances: whose decider scored each


def score_all(decider: Decider, reader: Reader, ids: Sequence[str]) -> Scores:
    """Score utterances; features are read a batch at a time."""
    parts = [ids[i : i + BATCH] for i in range(0, len(ids), BATCH)]
    scores = [decider.score(reader.batch(part)) for part in progress(parts, "score", unit="batch")]
    frames = [reader.frames(id_) for id_ in ids]
    macs = {
        "macs": np.array([decider.macs(count) for count in frames], dtype=np.float64),
        "macs_paper": np.array([decider.paper_macs(count) for count in frames], dtype=np.float64),
    }
    return Scores(np.concatenate([*scores, np.empty(0)]), macs, reader.extractor)


def _unheard_at_zero(made: Scores, ids: Sequence[str], cascade: bool) -> Scores:
    """Score 0, at no cost, for what the router does not score: it goes to the weak arm without speech.

    What the weak arm's decoder finds to be no speech is known before the decision in a cascade alone.
    """
    transcripts = read_parquet(TRANSCRIPTS)
    weak = transcripts[transcripts["arm"] == "weak"].set_index("id")["no_speech"].loc[list(ids)]
    silent = (weak.notna() & (cascade | (weak != "decoder"))).to_numpy(dtype=bool)
    return replace(
        made,
        scores=np.where(silent, 0.0, made.scores),
        macs={currency: np.where(silent, 0.0, values) for currency, values in made.macs.items()},
    )


def _out_of_fold(made: Scores, folder: Path, ids: Sequence[str]) -> Scores:
    """The scores that deciders of the other folds gave, where train has cross-validated these utterances."""
    path = folder / OUT_OF_FOLD
    table = read_parquet(path).set_index("id") if path.is_file() else pd.DataFrame(index=[])
    if not set(ids) <= set(table.index):
        return made
    rows = table.loc[list(ids)]
    return replace(made, scores=rows["score"].to_numpy(), folds=rows["fold"].to_numpy())


def score_split(params: Params, name: str, ids: Sequence[str], final: bool = False) -> Scores:
    """Score utterances with a decider that train has made.

    Parameters
    ----------
    final : bool
        The scores of the decider itself, even for utterances that it has learnt from. Else those, if they
        were cross-validated, have their out-of-fold scores.

    Raises
    ------
    UserError
        It was trained on other features than the present ones.
    """
    decider, description = load_decider(DECIDER / name)
    extractor = params.deciders[name].extractor
    options = params.extractors[extractor]
    reader = open_features(extractor, options)
    if reader.extractor != description["extractor"]:
        raise UserError(f"{DECIDER / name} was trained on other features than {extractor}'s; run train again")
    made = score_all(decider, reader, ids)
    if not final:
        made = _out_of_fold(made, DECIDER / name, ids)
    if options.kind in PRICED:
        durations = read_parquet(MANIFEST).set_index("id")["duration_s"].loc[list(ids)]
        reading = reading_costs(options, durations, arms_of(read_json(ARMS)))
        made = replace(made, macs={name: values + reading[name] for name, values in made.macs.items()})
    return _unheard_at_zero(made, ids, options.reads == "weak")
