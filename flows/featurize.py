"""featurize: what deciders see -> data/features/<extractor>/."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stage import main
from whisper_router.asr.reference import ArmReference, arm_references
from whisper_router.audio import SAMPLE_RATE
from whisper_router.checks import FEATURES as EXPECTED
from whisper_router.checks import features_frame, run_checks
from whisper_router.cost import Dims
from whisper_router.features.extractors import confidence, extractor_identity, feature_frames
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.store import FeatureReader, write_features, write_frames
from whisper_router.files import read_json, replacing_folder
from whisper_router.labelling import Work, compute, encoding_bytes, hypothesis_of, plan_work, utterances
from whisper_router.params import Params, load_params
from whisper_router.paths import ARMS, CHECKS, DOCS, FEATURES, LABELS, MANIFEST, TRANSCRIPTS
from whisper_router.store import ContentStore


def encoder_features(
    params: Params, extractor: EncoderExtractor, reference: ArmReference, manifest: pd.DataFrame
) -> Iterator[tuple[str, np.ndarray]]:
    """Encoder states from the content store; what it lacks, or holds damaged, is encoded."""
    store, work = ContentStore(), Work(reference.sha256, reference.decode, False, (extractor,))
    load = cache(reference.load)
    batches = plan_work(utterances(manifest), work, store, params.runtime.batch_size)
    if batches:
        compute(load(), batches, work, store, "featurize: encode")
    for row in utterances(manifest):
        path = work.encoding_path(store, row.sha256, extractor)
        states = store.read_encoding(path)
        if states is None:
            compute(load(), [[row]], work, store, f"featurize: encode {row.id} again")
            states = store.read_encoding(path)
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
    arm = read_json(ARMS)[extractor.arm]
    reference = arm_references({extractor.arm: arm})[extractor.arm]
    identity, folder = extractor_identity(extractor, reference.spec()), FEATURES / name
    if extractor.kind == "encoder" and not extractor.is_stored:
        rows, dims = utterances(manifest), Dims(**arm["dims"])
        size = encoding_bytes(rows, reference.decode, extractor, dims.audio_layers + 1, dims.width)
        counts = [round(row.duration_s * SAMPLE_RATE) for row in rows]
        frames = (feature_frames(extractor, count, reference.decode.context(count)) for count in counts)
        write_frames(folder, zip(manifest["id"], frames, strict=True), identity)
        print(
            f"featurize: {name}: {len(rows)} utterances, not stored (it would take {size / 1e9:.2f} GB, "
            f"{size / manifest['duration_s'].sum() * 60 / 1e6:.1f} MB a minute of audio): who reads encodes"
        )
        return
    if extractor.kind == "encoder":
        features = encoder_features(params, extractor, reference, manifest)
    else:
        features = confidence_features(manifest)
    write_features(folder, features, identity)
    reader = FeatureReader(folder)
    frame = features_frame({id_: reader[id_] for id_ in reader.ids}, manifest["id"].tolist())
    run_checks(
        f"features-{name}", frame, EXPECTED, CHECKS / "features" / f"{name}.json", DOCS / f"features-{name}"
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"featurize: {name}: {len(reader.ids)} utterances, {size / 1e6:.1f} MB, "
        f"{size / manifest['duration_s'].sum() * 60 / 1e6:.2f} MB a minute of audio"
    )


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
