"""label: both arms over the manifest -> data/transcripts.parquet, data/labels.parquet."""

from collections.abc import Sequence

import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stage import main
from whisper_router.asr.arm import Arm
from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.load import cost_dims, load_arm
from whisper_router.asr.weights import find_checkpoint
from whisper_router.checks import LABELS as EXPECTED
from whisper_router.checks import labels_frame, run_checks
from whisper_router.cost import Dims
from whisper_router.files import write_json, write_parquet
from whisper_router.labelling import (
    Utterance,
    Work,
    announce_encodings,
    compute,
    labels_table,
    transcribe_all,
    transcripts_table,
    utterances,
)
from whisper_router.params import load_params
from whisper_router.paths import ARMS, CHECKS, DOCS, LABELS, MANIFEST, TRANSCRIPTS
from whisper_router.store import ContentStore

SHARD_BATCHES = 32


@task(name="label-shard", task_run_name="label-{title}", cache_policy=NO_CACHE)
def label_shard(arm: Arm, batches: Sequence[Sequence[Utterance]], work: Work, title: str) -> dict[str, str]:
    """Encode and decode some batches into the content store."""
    return compute(arm, batches, work, ContentStore(), title)


def run_shards(
    arm: Arm, batches: Sequence[Sequence[Utterance]], work: Work, store: ContentStore, title: str
) -> dict[str, str]:
    """A task a shard."""
    errors: dict[str, str] = {}
    shards = [batches[i : i + SHARD_BATCHES] for i in range(0, len(batches), SHARD_BATCHES)]
    for number, shard in enumerate(shards, start=1):
        errors |= label_shard(arm, shard, work, f"{title} {number}/{len(shards)}")
    return errors


@flow(name="label", validate_parameters=False)
def label() -> None:
    """Transcribe with both arms what the content store lacks; count errors; label."""
    params = load_params()
    torch.set_num_threads(1)
    manifest = pd.read_parquet(MANIFEST)
    rows, store = utterances(manifest), ContentStore()
    stored = {
        name: extractor
        for name, extractor in params.extractors.items()
        if extractor.kind == "encoder" and extractor.is_stored
    }
    arms: dict[str, tuple[Arm, Work]] = {}
    references: dict[str, dict[str, object]] = {}
    for name, options in (("weak", params.arms.weak), ("strong", params.arms.strong)):
        checkpoint = find_checkpoint(options.model)
        arm = load_arm(checkpoint, options.decode)
        encoders = tuple(extractor for extractor in stored.values() if extractor.arm == name)
        arms[name] = arm, Work(checkpoint.sha256, options.decode, True, encoders)
        references[name] = {
            "model": options.model,
            "sha256": checkpoint.sha256,
            "size": checkpoint.size,
            "decode": options.decode.model_dump(mode="json"),
            "dims": cost_dims(arm),
        }
    sizes = {name: (Dims(**cost_dims(arm)), work) for name, (arm, work) in arms.items()}
    announce_encodings(stored, sizes, rows, store, beside=True)
    hypotheses: dict[str, list[Hypothesis | None]] = {}
    errors: dict[str, str] = {}
    for name, (arm, work) in arms.items():
        hypotheses[name], failed = transcribe_all(
            arm, work, rows, params.runtime.batch_size, f"label: {name} arm", run_shards
        )
        errors |= failed
    transcripts = transcripts_table(manifest, hypotheses, errors)
    labels = labels_table(manifest, transcripts)
    for id_, reason in sorted(errors.items()):
        print(f"label: {id_} has no label: {reason}")
    for split, part in labels.groupby("split"):
        print(f"label: {split}: {part['label'].sum()} of {len(part)} need the strong arm")
    run_checks("labels", labels_frame(labels), EXPECTED, CHECKS / "labels.json", DOCS / "labels")
    write_parquet(TRANSCRIPTS, transcripts)
    write_parquet(LABELS, labels)
    write_json(ARMS, references)
    wer = {arm: labels[f"errors_{arm}"].sum() / labels["words"].sum() for arm in arms}
    print(
        f"label: {labels['label'].sum()} of {len(labels)} utterances need the strong arm; "
        f"WER weak {wer['weak']:.1%}, strong {wer['strong']:.1%}"
    )


if __name__ == "__main__":
    main(label)
