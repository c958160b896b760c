"""Labelled utterances of a split as policies read them, from the stages' outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from whisper_router.asr.reference import ArmReference, arm_references
from whisper_router.corpus.options import FOLDS
from whisper_router.cost import Dims
from whisper_router.cost_table import COSTS, ArmCosts, CostTable, decision_costs, load_table
from whisper_router.decider.registry import decider_sha256
from whisper_router.decider.scores import score_split
from whisper_router.errors import UserError
from whisper_router.evaluation import Pair, build_pair, spent_on
from whisper_router.files import read_json, read_parquet
from whisper_router.hashing import digest
from whisper_router.params import Params
from whisper_router.paths import ARMS, DECIDER, LABELS, TRANSCRIPTS
from whisper_router.policy.calibrate import Bound
from whisper_router.policy.choose import Sample
from whisper_router.policy.options import MEASURED
from whisper_router.reference import TEXT, Reference, kind_of, measured, told
from whisper_router.scoring import NORMALISER


@dataclass(frozen=True)
class Measured:
    """The cost table that params.yaml names, for the arms at hand."""

    table: CostTable
    arms: Mapping[str, ArmCosts]
    sha256: str


def read_costs(params: Params, references: Mapping[str, ArmReference]) -> Measured | None:
    """The table named by ``cost_table``; None where none is named.

    Raises
    ------
    UserError
        There is no such table, or it was measured for other arms.
    """
    if params.cost_table is None:
        return None
    path = COSTS / f"{params.cost_table}.json"
    table = load_table(path)
    try:
        arms = {name: table.arm(name, reference.spec()) for name, reference in references.items()}
    except UserError as error:
        raise UserError(f"cost_table {params.cost_table}: {path}: {error}") from error
    return Measured(table, arms, digest(table.model_dump(mode="json")))


@dataclass(frozen=True)
class Labelled:
    """Both arms on the utterances of a split, before any decider."""

    labels: pd.DataFrame
    pair: Pair
    arms: Mapping[str, Mapping[str, Any]]  # data/arms.json
    costs: Measured | None

    @property
    def reference(self) -> Reference:
        """What the errors are counted against."""
        kind = kind_of(self.labels)
        return TEXT if kind == "text" else Reference(kind, **self.models)

    @property
    def models(self) -> dict[str, str]:
        """The arms' names."""
        return {name: arm["model"] for name, arm in self.arms.items()}

    def bound(self, decider: str, extractor: Mapping[str, object], currency: str | None) -> Bound:
        """Hashes of all that a policy on these utterances depends on."""
        references = arm_references(self.arms)
        columns = ["id", "speaker", "words", "errors_weak", "errors_strong", "label"]
        measured = self.costs if currency in MEASURED else None
        return Bound(
            weak_arm=digest(references["weak"].spec()),
            strong_arm=digest(references["strong"].spec()),
            extractor=digest(dict(extractor)),
            decider=decider_sha256(DECIDER / decider),
            normaliser=NORMALISER,
            calibration_set=digest(self.labels[columns].to_dict("records")),
            cost_table=measured.sha256 if measured else None,
        )


def rows_of(labels: pd.DataFrame, split: str, untold: bool = False) -> pd.DataFrame:
    """The rows of a split that figures are of: those with transcripts, or all where none has one.

    Where the split has no row, those that are cross-validated stand in for it.

    Parameters
    ----------
    untold : bool
        Those without transcripts instead.
    """
    own = labels[labels["split"] == split]
    rows = labels[labels["split"] == FOLDS] if own.empty else own
    return (rows[~told(rows)] if untold else measured(rows)).reset_index(drop=True)


def read_labelled(params: Params, split: str, untold: bool = False) -> Labelled:
    """Labels, transcripts and costs of a split's rows, as ``rows_of`` finds them."""
    labels = rows_of(read_parquet(LABELS), split, untold)
    return labelled(params, labels, read_parquet(TRANSCRIPTS), read_json(ARMS))


def labelled(
    params: Params,
    labels: pd.DataFrame,
    transcripts: pd.DataFrame,
    arms: Mapping[str, Mapping[str, Any]],
) -> Labelled:
    """Labels with their transcripts and costs."""
    costs = read_costs(params, arm_references(arms))
    dims = {name: Dims(**arm["dims"]) for name, arm in arms.items()}
    pair = build_pair(labels, transcripts, dims, costs.arms if costs else {})
    return Labelled(labels, pair, arms, costs)


def score(
    params: Params, decider: str, part: Labelled, earlier: Sequence[str] = ()
) -> tuple[Sample, dict[str, object]]:
    """What a decider says of labelled utterances, and the identity of what it read.

    Parameters
    ----------
    earlier : sequence of str
        Ids of other utterances, scored for where a guarantee's tests start.
    """
    ids = part.labels["id"].tolist()
    scored = score_split(params, decider, [*ids, *earlier])
    extractor = params.extractors[params.deciders[decider].extractor]
    costs = {currency: values[: len(ids)] for currency, values in scored.macs.items()}
    if part.costs:
        arm = part.costs.arms[extractor.arm]
        durations = part.labels["duration_s"].to_numpy()
        costs |= decision_costs(part.costs.table, arm, decider_sha256(DECIDER / decider), durations)
    scores, later = scored.scores[: len(ids)], scored.scores[len(ids) :]
    folds = None if scored.folds is None else scored.folds[: len(ids)]
    earlier_scores = later if folds is None else scores
    sample = Sample(part.pair, scores, spent_on(extractor, costs), earlier_scores, folds, part.reference)
    return sample, scored.extractor


def needs_earlier(params: Params, decider: str) -> bool:
    """Whether a policy of this decider takes its grid from the scores of other utterances."""
    return any(
        options.kind == "guarantee" and options.decider == decider for options in params.policies.values()
    )


def ids_of(split: str) -> list[str]:
    """Ids of the labelled utterances of a split."""
    labels = read_parquet(LABELS)
    found: list[str] = labels.loc[labels["split"] == split, "id"].tolist()
    return found
