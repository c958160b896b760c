"""calibrate: deciders on the calibration split -> data/policy/<name>.json."""

import numpy as np
import pandas as pd
import torch
from prefect import flow

from flows.stage import main
from whisper_router.asr.reference import arm_references
from whisper_router.decider.registry import decider_sha256
from whisper_router.decider.scores import Scores, score_split
from whisper_router.files import read_json, replacing_folder, write_text
from whisper_router.hashing import digest
from whisper_router.params import load_params
from whisper_router.paths import ARMS, DECIDER, LABELS, POLICY
from whisper_router.policy.calibrate import Bound, Calibration, Policy, choose_threshold
from whisper_router.policy.options import PolicyOptions
from whisper_router.scoring import NORMALISER


def calibrate_one(name: str, options: PolicyOptions, labels: pd.DataFrame, scored: Scores) -> Policy:
    """Choose the threshold and say what it does on the calibration split."""
    threshold, target = choose_threshold(options, scored.scores)
    strong = scored.scores >= threshold
    words = int(labels["words"].sum())
    routed = np.where(strong, labels["errors_strong"], labels["errors_weak"])
    arms = arm_references(read_json(ARMS))
    return Policy(
        name=name,
        decider=options.decider,
        kind=options.kind,
        target=target,
        threshold=threshold,
        calibration=Calibration(
            utterances=len(labels),
            speakers=labels["speaker"].nunique(),
            strong_share=round(float(strong.mean()), 6),
            wer_weak=round(int(labels["errors_weak"].sum()) / words, 6),
            wer_strong=round(int(labels["errors_strong"].sum()) / words, 6),
            wer_routed=round(int(routed.sum()) / words, 6),
        ),
        bound=Bound(
            weak_arm=digest(arms["weak"].spec()),
            strong_arm=digest(arms["strong"].spec()),
            extractor=digest(scored.extractor),
            decider=decider_sha256(DECIDER / options.decider),
            normaliser=NORMALISER,
            calibration_set=digest(labels[["id", "label"]].to_dict("records")),
        ),
    )


@flow(name="calibrate")
def calibrate() -> None:
    """Choose the threshold of every policy in params.yaml."""
    params = load_params()
    torch.set_num_threads(1)
    labels = pd.read_parquet(LABELS)
    labels = labels[labels["split"] == "calibration"]
    ids = labels["id"].tolist()
    deciders = {options.decider: None for options in params.policies.values()}
    scored = {name: score_split(params, name, ids) for name in deciders}
    with replacing_folder(POLICY) as folder:
        for name, options in params.policies.items():
            policy = calibrate_one(name, options, labels, scored[options.decider])
            write_text(folder / f"{name}.json", policy.model_dump_json(indent=2) + "\n")
            print(
                f"calibrate: {name}: threshold {policy.threshold:.4f} sends "
                f"{policy.calibration.strong_share:.0%} of {policy.calibration.utterances} "
                "calibration utterances to the strong arm"
            )


if __name__ == "__main__":
    main(calibrate)
