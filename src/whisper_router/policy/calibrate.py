"""A policy: a threshold with how it was chosen, on what, and the parts it is bound to."""

import math

import numpy as np
from pydantic import BaseModel, ConfigDict

from whisper_router.policy.options import PolicyOptions

NEVER_STRONG = 1.000001  # above any score


class Bound(BaseModel):
    """Hashes of the parts that a policy holds for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weak_arm: str
    strong_arm: str
    extractor: str
    decider: str
    normaliser: str
    calibration_set: str


class Calibration(BaseModel):
    """What the threshold does on the calibration split."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    utterances: int
    speakers: int
    strong_share: float
    wer_weak: float
    wer_strong: float
    wer_routed: float


class Policy(BaseModel):
    """Strong iff score >= threshold."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    decider: str
    kind: str
    target: float
    threshold: float
    calibration: Calibration
    bound: Bound


def share_threshold(scores: np.ndarray, share: float) -> float:
    """The lowest threshold that sends at most ``share`` of the scores to the strong arm."""
    ordered = np.sort(scores)[::-1]
    strong = math.floor(share * len(ordered) + 1e-9)
    while 0 < strong < len(ordered) and ordered[strong] == ordered[strong - 1]:
        strong -= 1
    if strong == 0:
        return NEVER_STRONG
    if strong == len(ordered):
        return 0.0
    middle = float((ordered[strong - 1] + ordered[strong]) / 2)
    return middle if middle > ordered[strong] else float(ordered[strong - 1])


def choose_threshold(options: PolicyOptions, scores: np.ndarray) -> tuple[float, float]:
    """The threshold and the target it was chosen for."""
    if options.kind == "fixed":
        return options.threshold, options.threshold
    return share_threshold(scores, options.share), options.share
