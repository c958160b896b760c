"""featurize: what deciders see -> data/features/<extractor>/."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.shards import load_once, run_shards, sharded
from flows.stage import main
from whisper_router.asr.reference import ArmReference, arm_references
from whisper_router.checks.run import run_checks
from whisper_router.checks.suites import FEATURES as EXPECTED
from whisper_router.checks.suites import features_frame
from whisper_router.cost import Dims
from whisper_router.errors import UserError
from whisper_router.features.collate import Sources, features_of
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.reading import identity_of, specs_of
from whisper_router.features.store import FeatureReader, write_features, write_index
from whisper_router.files import read_json, replacing_folder
from whisper_router.labelling import (
    Work,
    announce_encodings,
    compute,
    encoding_bytes,
    feature_counts,
    plan_work,
    utterances,
)
from whisper_router.params import Params, load_params
from whisper_router.paths import ARMS, CHECKS, DOCS, FEATURES, LABELS, MANIFEST, TRANSCRIPTS
from whisper_router.progress import say
from whisper_router.store import ContentStore


def _raise(errors: Mapping[str, str]) -> None:
    if errors:
        raise UserError("; ".join(f"{id_}: {reason}" for id_, reason in sorted(errors.items())))


def encoder_features(
    params: Params, extractor: EncoderExtractor, reference: ArmReference, manifest: pd.DataFrame
) -> Iterator[tuple[str, np.ndarray]]:
    """Encoder states from the content store; what it lacks, or holds damaged, is encoded."""
    store, work = ContentStore(), Work(reference.sha256, reference.decode, False, (extractor,))
    rows, batch_size = utterances(manifest), params.runtime.batch_size
    batches = plan_work(rows, work, store, batch_size)
    _raise(run_shards(reference, work, "featurize: encode", params.runtime.runner, batches))
    for row in rows:
        path = work.encoding_path(store, row.sha256, extractor)
        states = store.read_encoding(path)
        if states is None:
            again = plan_work(rows, work, store, batch_size)
            _raise(compute(load_once(reference), again, work, store, f"featurize: encode {row.id} again"))
            states = store.read_encoding(path)
        if states is None:
            raise UserError(f"{path}: the content store lost it again; check the disk")
        yield row.id, states


@task(name="featurize-extractor", task_run_name="featurize-{name}", cache_policy=NO_CACHE)
def featurize_one(name: str, params: Params, manifest: pd.DataFrame) -> None:
    """Write and check the features of one extractor."""
    extractor, arms, folder = params.extractors[name], read_json(ARMS), FEATURES / name
    references = arm_references(arms)
    identity = identity_of(extractor, specs_of(references))
    dims = {arm: Dims(**values["dims"]) for arm, values in arms.items()}
    if extractor.kind == "encoder" and not extractor.is_stored:
        rows, decode = utterances(manifest), references[extractor.arm].decode
        size = encoding_bytes(rows, decode, extractor, dims[extractor.arm])
        frames = feature_counts(rows, decode, extractor)
        hashes = (row.sha256 for row in rows)
        write_index(folder, zip(manifest["id"], frames, hashes, strict=True), identity)
        say(
            f"featurize: {name}: {len(rows)} utterances, not stored (it would take {size / 1e9:.2f} GB, "
            f"{size / manifest['duration_s'].sum() * 60 / 1e6:.1f} MB a minute of audio): encoded when read"
        )
        return

    def encodings(encoder: EncoderExtractor) -> Iterator[tuple[str, np.ndarray]]:
        return encoder_features(params, encoder, references[encoder.arm], manifest)

    sources = Sources(manifest, pd.read_parquet(TRANSCRIPTS), references, dims, encodings)
    write_features(folder, features_of(extractor, sources, f"featurize: {name}"), identity)
    reader = FeatureReader(folder)
    frame = features_frame({id_: reader[id_] for id_ in reader.ids}, manifest["id"].tolist())
    output, docs = CHECKS / "features" / f"{name}.json", DOCS / f"features-{name}"
    run_checks(f"features-{name}", frame, EXPECTED, params.checks, output, docs)
    size = sum(path.stat().st_size for path in folder.iterdir())
    say(
        f"featurize: {name}: {len(reader.ids)} utterances, {size / 1e6:.1f} MB, "
        f"{size / manifest['duration_s'].sum() * 60 / 1e6:.2f} MB a minute of audio"
    )


def announce(params: Params, manifest: pd.DataFrame) -> None:
    """Say what stored states take; refuse what does not fit. label did so for what it knew of."""
    stored = params.stored_extractors
    arms = read_json(ARMS)
    works = {
        name: (
            Dims(**arms[name]["dims"]),
            Work(reference.sha256, reference.decode, False, tuple(stored.values())),
        )
        for name, reference in arm_references(arms).items()
    }
    announce_encodings(stored, works, utterances(manifest), ContentStore(), beside=True)


@flow(name="featurize", validate_parameters=False)
def featurize() -> None:
    """Features of every extractor in params.yaml, for all labelled utterances."""
    params = load_params()
    torch.set_num_threads(1)
    manifest = pd.read_parquet(MANIFEST)
    manifest = manifest[manifest["id"].isin(pd.read_parquet(LABELS, columns=["id"])["id"])]
    announce(params, manifest)
    for folder in (FEATURES, CHECKS / "features"):
        with replacing_folder(folder):
            pass
    for name in params.extractors:
        featurize_one(name, params, manifest)


if __name__ == "__main__":
    main(sharded(featurize))
