"""A policy from labelled utterances: the artefact that a router carries."""

from typing import Any

import numpy as np

from whisper_router.evaluation import evaluate
from whisper_router.policy.calibrate import Bound, Calibration, Expected, Figure, Policy
from whisper_router.policy.choose import Sample, choose, swept
from whisper_router.policy.options import PolicyOptions

SWEEP = np.linspace(0, 1, 21)  # shares sent to strong at which a policy says what it expects
RESAMPLES, SEED = 1000, 0  # of the speakers, for intervals
SHOWN = ("strong_share", "wer_routed", "wer_rise", "harm_all", "harm_weak", "mean_loss")


def metrics_at(
    sample: Sample, threshold: float | np.ndarray, tau: float, resamples: int, seed: int
) -> dict[str, Any]:
    """All figures of a threshold on labelled utterances, or of one for each of them."""
    return evaluate(sample.pair, sample.scores, threshold, sample.spent, resamples, seed, sample.folds, tau)


def expected(sample: Sample) -> tuple[Expected, ...]:
    """What thresholds from none to all to strong do on the sample."""
    thresholds, wer, costs = swept(sample)
    shares = np.array([(sample.scores >= threshold).mean() for threshold in thresholds])
    rows = dict.fromkeys(int(np.abs(shares - share).argmin()) for share in SWEEP)
    return tuple(
        Expected(
            threshold=round(float(thresholds[row]), 6),
            strong_share=round(float(shares[row]), 6),
            wer_routed=round(float(wer[row]), 6),
            saving_macs=round(1 - float(costs["macs"][row]), 6),
        )
        for row in rows
    )


def make_policy(name: str, options: PolicyOptions, sample: Sample, bound: Bound) -> Policy:
    """Choose the threshold and say what it does on the sample.

    Raises
    ------
    UserError
        What ``choose`` raises.
    """
    chosen = choose(options, sample)
    tau = options.tau if options.kind == "guarantee" else 0.0
    made = metrics_at(sample, chosen.threshold, tau, RESAMPLES, SEED)
    savings = [name for name in made if name.startswith("saving_")]
    target = [chosen.figure] if chosen.figure in made else []
    pair = sample.pair
    return Policy(
        name=name,
        decider=options.decider,
        kind=options.kind,
        target=chosen.target,
        figure=chosen.figure,
        meaning=chosen.meaning,
        threshold=chosen.threshold,
        calibration=Calibration(
            utterances=len(sample.scores),
            speakers=pair.n_speakers,
            reference=sample.reference.kind,
            **{key: made[key]["value"] for key in ("strong_share", "wer_weak", "wer_strong", "wer_routed")},
            figures={
                key: Figure.model_validate(made[key]) for key in dict.fromkeys([*target, *SHOWN, *savings])
            },
            sweep=expected(sample),
        ),
        promise=chosen.promise,
        bound=bound,
    )


def policy_metrics(
    policy: Policy, sample: Sample, resamples: int, seed: int, thresholds: float | np.ndarray | None = None
) -> dict[str, Any]:
    """All figures of a policy on other utterances; ``target``: what was asked, what came, if it is met.

    Whether it is met is not said where the policy was calibrated against another ``reference``.

    Parameters
    ----------
    thresholds : float or ndarray, optional
        What ``policy.folds.thresholds`` finds for the sample; by default the policy's own.
    """
    tau = (policy.promise.tau if policy.promise else None) or 0.0
    made = metrics_at(sample, policy.threshold if thresholds is None else thresholds, tau, resamples, seed)
    found = made.get(policy.figure, {}).get("value")
    same = policy.calibration.reference == sample.reference.kind
    bounds = found is not None and policy.figure != "wer_routed" and same
    made["reference"] = sample.reference.kind
    if sample.folds is not None:
        made["counts"]["folds"] = len(np.unique(sample.folds))
    made["target"] = {
        "figure": policy.figure,
        "at_most": policy.target,
        "value": found,
        "met": found <= policy.target + 1e-9 if bounds else None,
    }
    return made
