"""ingest: corpora -> data/manifest.parquet."""

from collections import Counter
from dataclasses import asdict

from prefect import flow

from flows.stage import main
from whisper_router.corpus.ingest import ingest as build_manifest
from whisper_router.corpus.options import FOLDS, KINDS, SPLITS
from whisper_router.files import write_json, write_parquet
from whisper_router.params import load_params
from whisper_router.paths import AUDIO, MANIFEST, REJECTED
from whisper_router.progress import say
from whisper_router.reference import told


@flow(name="ingest")
def ingest() -> None:
    """Read the corpora that params.yaml names; write the manifest and the rejected rows."""
    params = load_params()
    manifest, rejected = build_manifest(params.ingest, AUDIO, params.cross_validation.below)
    write_parquet(MANIFEST, manifest)
    write_json(REJECTED, [asdict(row) for row in rejected])
    minutes = manifest["duration_s"].sum() / 60
    counts = Counter(manifest["split"])
    names = (FOLDS, "test") if counts[FOLDS] else SPLITS
    splits = ", ".join(f"{name} {counts[name]}" for name in names)
    say(
        f"ingest: {len(manifest)} utterances, {minutes:.1f} min, "
        f"{manifest['speaker'].nunique()} speakers ({splits})"
    )
    if counts[FOLDS]:
        say(
            f"ingest: {counts[FOLDS]} utterances are fewer than cross_validation.below: "
            f"{params.cross_validation.below}. They are not divided into splits but cross-validated: each is "
            "scored by a decider that has not heard its speaker, and the router's decider learns from all"
        )
    if untold := (~told(manifest)).sum():
        say(f"ingest: {untold} of them have no transcript: the strong arm's text is their reference")
    if rejected:
        kinds = Counter(row.kind for row in rejected)
        say(f"ingest: {len(rejected)} rows left out, all in {REJECTED}:")
        for kind, count in kinds.most_common():
            print(f"  {count}: {KINDS[kind]}")
        say("ingest: the first of them:")
        for row in rejected[:10]:
            say(f"  {row.corpus} {row.id}: {row.reason}")


if __name__ == "__main__":
    main(ingest)
