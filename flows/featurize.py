"""featurize: what deciders see -> data/features/<extractor>/."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stage import main
from whisper_router.asr.reference import ArmReference, arm_references
from whisper_router.checks import FEATURES as EXPECTED
from whisper_router.checks import features_frame, run_checks
from whisper_router.features.extractors import confidence, extractor_identity
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.store import FeatureReader, write_features
from whisper_router.files import read_json, replacing_folder
from whisper_router.labelling import Work, compute, hypothesis_of, plan_work, utterances
from whisper_router.params import Params, load_params
from whisper_router.paths import ARMS, CHECKS, DOCS, FEATURES, LABELS, MANIFEST, TRANSCRIPTS
from whisper_router.store import ContentStore


def encoder_features(
    params: Params, extractor: EncoderExtractor, weak: ArmReference, manifest: pd.DataFrame
) -> Iterator[tuple[str, np.ndarray]]:
    """Pooled encoder states from the content store; what it lacks is encoded first."""
    store, work = ContentStore(), Work(weak.sha256, weak.decode, False, (extractor,))
    batches = plan_work(utterances(manifest), work, store, params.runtime.batch_size)
    if batches:
        compute(weak.load(), batches, work, store, "featurize: encode")
    for row in manifest.itertuples():
        states = store.read_encoding(work.encoding_path(store, row.sha256, extractor))
        if states is not None:
            yield row.id, states


def confidence_features(manifest: pd.DataFrame) -> Iterator[tuple[str, np.ndarray]]:
    """The weak arm's confidence from the transcripts."""
    transcripts = pd.read_parquet(TRANSCRIPTS)
    weak = {row.id: row for row in transcripts[transcripts["arm"] == "weak"].itertuples()}
    for row in manifest.itertuples():
        yield row.id, confidence(hypothesis_of(weak[row.id]), row.duration_s)


@task(name="featurize-extractor", task_run_name="featurize-{name}", cache_policy=NO_CACHE)
def featurize_one(name: str, params: Params, manifest: pd.DataFrame) -> None:
    """Write and check the features of one extractor."""
    extractor = params.extractors[name]
    reference = arm_references(read_json(ARMS))["weak"]
    if extractor.kind == "encoder":
        features = encoder_features(params, extractor, reference, manifest)
    else:
        features = confidence_features(manifest)
    folder = FEATURES / name
    write_features(folder, features, extractor_identity(extractor, reference.spec()))
    reader = FeatureReader(folder)
    frame = features_frame({id_: reader[id_] for id_ in reader.ids}, manifest["id"].tolist())
    run_checks(
        f"features-{name}", frame, EXPECTED, CHECKS / "features" / f"{name}.json", DOCS / f"features-{name}"
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"featurize: {name}: {len(reader.ids)} utterances, {size / 2**20:.1f} MiB")


@flow(name="featurize", validate_parameters=False)
def featurize() -> None:
    """Features of every extractor in params.yaml, for all labelled utterances."""
    params = load_params()
    torch.set_num_threads(1)
    manifest = pd.read_parquet(MANIFEST)
    manifest = manifest[manifest["id"].isin(pd.read_parquet(LABELS, columns=["id"])["id"])]
    for folder in (FEATURES, CHECKS / "features"):
        with replacing_folder(folder):
            pass
    for name in params.extractors:
        featurize_one(name, params, manifest)


if __name__ == "__main__":
    main(featurize)
