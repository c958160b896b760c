"""calibrate: deciders on the calibration split -> data/policy/<name>.json."""

import numpy as np
import pandas as pd
from prefect import flow

from flows.stage import main
from whisper_router.asr.reference import arm_references
from whisper_router.decider.registry import decider_sha256, load_decider
from whisper_router.features.store import FeatureReader
from whisper_router.files import read_json, replacing_folder, write_text
from whisper_router.hashing import digest
from whisper_router.params import load_params
from whisper_router.paths import ARMS, DECIDER, FEATURES, LABELS, POLICY
from whisper_router.policy.calibrate import Bound, Calibration, Policy, choose_threshold
from whisper_router.policy.options import PolicyOptions
from whisper_router.scoring import NORMALISER


def calibrate_one(name: str, options: PolicyOptions, extractor: str, labels: pd.DataFrame) -> Policy:
    """Choose the threshold and say what it does on the calibration split."""
    decider, description = load_decider(DECIDER / options.decider)
    reader = FeatureReader(FEATURES / extractor, description["extractor"])
    scores = decider.score([reader[id_] for id_ in labels["id"]])
    threshold, target = choose_threshold(options, scores)
    strong = scores >= threshold
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
            extractor=digest(reader.extractor),
            decider=decider_sha256(DECIDER / options.decider),
            normaliser=NORMALISER,
            calibration_set=digest(labels[["id", "label"]].to_dict("records")),
        ),
    )


@flow(name="calibrate")
def calibrate() -> None:
    """Choose the threshold of every policy in params.yaml."""
    params = load_params()
    labels = pd.read_parquet(LABELS)
    labels = labels[labels["split"] == "calibration"]
    with replacing_folder(POLICY) as folder:
        for name, options in params.policies.items():
            policy = calibrate_one(name, options, params.deciders[options.decider].extractor, labels)
            write_text(folder / f"{name}.json", policy.model_dump_json(indent=2) + "\n")
            print(
                f"calibrate: {name}: threshold {policy.threshold:.4f} sends "
                f"{policy.calibration.strong_share:.0%} of {policy.calibration.utterances} "
                "calibration utterances to the strong arm"
            )


if __name__ == "__main__":
    main(calibrate)
