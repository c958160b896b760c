"""package: the policy named under router:, its decider and extractor, and that decider's other policies."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from prefect import flow

from flows.stage import main
from whisper_router.asr.reference import arm_references
from whisper_router.decider.scores import OUT_OF_FOLD, score_split
from whisper_router.decision import FORCED
from whisper_router.disagreement import disagreements
from whisper_router.drift import BASELINE, Baseline, make_baseline
from whisper_router.errors import UserError
from whisper_router.files import read_json, read_parquet, replacing_folder, write_json
from whisper_router.hashing import code_hash, digest, file_sha256, folder_sha256
from whisper_router.params import Params, load_params
from whisper_router.paths import ARMS, DECIDER, FEATURES, LABELS, MANIFEST, POLICY, ROUTER, TRANSCRIPTS
from whisper_router.policy.samples import rows_of
from whisper_router.progress import say
from whisper_router.reference import kind_of
from whisper_router.router import Router, RouterDescription, write_files

LOCK = Path("requirements.lock")
NOT_SHAPING: dict[str, Any] = {
    "evaluate": True,
    "verdict": True,
    "cost_table": True,
    "checks": True,
    "gate": True,
    "retrain": True,
    "runtime": {"runner": True},
}  # params that change no router


def policies_of(params: Params, decider: str) -> list[str]:
    """The policies that use a decider.

    Raises
    ------
    UserError
        One has the name of an arm, which asks for that arm.
    """
    names = [name for name, options in params.policies.items() if options.decider == decider]
    for name in names:
        if name in FORCED:
            raise UserError(
                f"params.yaml: policies.{name}: that name asks for the {name} arm; choose another"
            )
    return names


def provenance(params: Params, policy: str) -> dict[str, object]:
    """Hashes of all that the packaged router came from."""
    decider = params.policies[policy].decider
    extractor = params.deciders[decider].extractor
    return {
        "policy": policy,
        "decider": decider,
        "extractor": extractor,
        "sha256": {
            "manifest": file_sha256(MANIFEST),
            "transcripts": file_sha256(TRANSCRIPTS),
            "labels": file_sha256(LABELS),
            "features": folder_sha256(FEATURES / extractor),
            "decider": folder_sha256(DECIDER / decider),
            "policies": {name: file_sha256(POLICY / f"{name}.json") for name in policies_of(params, decider)},
            "params": digest(params.model_dump(mode="json", exclude=NOT_SHAPING)),
            "code": code_hash("whisper_router.router"),
            "requirements.lock": file_sha256(LOCK),
        },
        "checkpoints": {
            arm: {"model": reference.model, "sha256": reference.sha256, "size": reference.size}
            for arm, reference in arm_references(read_json(ARMS)).items()
        },
    }


def baseline(params: Params, policy: str) -> Baseline:
    """What calibration looks like to the router, out of fold where it was cross-validated: for drift."""
    labels, transcripts = (read_parquet(path) for path in (LABELS, TRANSCRIPTS))
    labels = rows_of(labels, "calibration")
    scores = score_split(params, params.policies[policy].decider, labels["id"].tolist()).scores
    strong = scores >= read_json(POLICY / f"{policy}.json")["threshold"]
    heard = {
        arm: rows.set_index("id").loc[labels["id"]].reset_index() for arm, rows in transcripts.groupby("arm")
    }
    differing = disagreements(*(heard[arm]["hypothesis"].tolist() for arm in ("weak", "strong")))
    weak, strong_arm = (
        rows["avg_logprob"].where(rows["no_speech"].isna()) for rows in (heard["weak"], heard["strong"])
    )
    table = labels[["speaker", "duration_s", "words"]].assign(
        score=np.where(heard["weak"]["no_speech"].isna(), scores, np.nan),
        strong=strong,
        avg_logprob=strong_arm.where(strong, weak),
        errors=labels["errors_strong"].where(strong, labels["errors_weak"]),
    )
    return make_baseline(policy, table.join(pd.DataFrame(differing)), kind_of(labels))


@flow(name="package")
def package() -> None:
    """Put all that serving needs into one folder, with where it came from; prove that it loads."""
    params = load_params()
    torch.set_num_threads(1)
    policy = params.router.policy
    decider = params.policies[policy].decider
    references = arm_references(read_json(ARMS))
    description = RouterDescription(
        weak=references["weak"],
        strong=references["strong"],
        extractor=params.extractors[params.deciders[decider].extractor],
        batch_size=params.runtime.batch_size,
        policy=policy,
    )
    with replacing_folder(ROUTER) as folder:
        shutil.copytree(DECIDER / decider, folder / "decider", ignore=shutil.ignore_patterns(OUT_OF_FOLD))
        (folder / "policies").mkdir()
        for name in policies_of(params, decider):
            shutil.copy(POLICY / f"{name}.json", folder / "policies")
        write_json(folder / "router.json", description.model_dump(mode="json"))
        write_json(folder / BASELINE, baseline(params, policy).model_dump())
        write_json(folder / "provenance.json", provenance(params, policy))
        write_files(folder)
        Router.load(folder)
    others = [name for name in policies_of(params, decider) if name != policy]
    beside = f" (beside it: {', '.join(others)})" if others else ""
    say(f"package: {ROUTER}: policy {policy}{beside}, decider {decider}")


if __name__ == "__main__":
    main(package)
