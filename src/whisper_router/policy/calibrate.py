"""A policy: a threshold with how it was chosen, on what, and the parts it is bound to."""

import math

import numpy as np
from pydantic import BaseModel, ConfigDict

from whisper_router.reference import ReferenceKind

NEVER_STRONG = 1.000001  # above any score


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Bound(_Part):
    """Hashes of the parts that a policy holds for."""

    weak_arm: str
    strong_arm: str
    extractor: str
    decider: str
    normaliser: str
    calibration_set: str
    cost_table: str | None = None  # where the threshold was chosen by seconds or joules


class Figure(_Part):
    """A figure with its 95 % interval over speakers, or why it has none."""

    value: float | None = None
    interval: tuple[float, float] | str | None = None
    reason: str | None = None


class Expected(_Part):
    """What a threshold does on the calibration split."""

    threshold: float
    strong_share: float
    wer_routed: float
    saving_macs: float


class Calibration(_Part):
    """What the threshold does on the calibration split."""

    utterances: int
    speakers: int
    reference: ReferenceKind = "text"  # strong: errors are words that differ from the strong arm's text
    strong_share: float
    wer_weak: float
    wer_strong: float
    wer_routed: float
    figures: dict[str, Figure] = {}
    sweep: tuple[Expected, ...] = ()  # other thresholds, from none to all to the strong arm


class Promise(_Part):
    """What a guarantee says of new data, or why it says nothing."""

    holds: bool  # False: too few calibration data; everything goes to the strong arm
    says: str
    assumes: str
    risk: str
    alpha: float
    delta: float | None = None
    tau: float | None = None
    unit: str
    observed: float  # the risk on the calibration split
    bound: float | None = None  # its upper bound at confidence 1 - delta, where utterances are the unit
    units: int  # utterances or speakers
    least_units: int  # fewer can promise nothing, even if nothing goes wrong
    would_suffice: int | None = (
        None  # units that promise something at the rate seen; None: the rate is too high
    )

    @property
    def figure(self) -> str:
        """The figure of an evaluation that stays under alpha."""
        figure = {"all": "harm_all", "weak": "harm_weak", "mean_loss": "mean_loss"}[self.risk]
        return figure + ("_by_speaker" if self.unit == "speaker" else "")


class Policy(_Part):
    """Strong if the score reaches the threshold, else weak."""

    name: str
    decider: str
    kind: str
    target: float
    figure: str = "threshold"  # what the target is about
    meaning: str = ""
    threshold: float
    calibration: Calibration
    promise: Promise | None = None
    bound: Bound

    def to_json(self) -> str:
        """The text of policy/<name>.json."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    def expects(self, threshold: float) -> Expected | None:
        """What was seen on the calibration split at the nearest threshold that was kept."""
        rows = self.calibration.sweep
        return min(rows, key=lambda row: abs(row.threshold - threshold)) if rows else None


def share_threshold(scores: np.ndarray, share: float) -> float:
    """The lowest threshold that sends at most ``share`` of the scores to the strong arm."""
    ordered = np.sort(scores)[::-1]
    strong = math.floor(share * len(ordered) + 1e-9)
    while 0 < strong < len(ordered) and ordered[strong] == ordered[strong - 1]:
        strong -= 1
    return threshold_after(ordered, strong)


def threshold_after(ordered: np.ndarray, strong: int) -> float:
    """A threshold that sends the first ``strong`` of scores in descending order to the strong arm."""
    if strong == 0:
        return NEVER_STRONG
    if strong == len(ordered):
        return 0.0
    middle = float((ordered[strong - 1] + ordered[strong]) / 2)
    return middle if middle > ordered[strong] else float(ordered[strong - 1])
