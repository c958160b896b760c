"""label: both arms over the manifest -> data/transcripts.parquet, data/labels.parquet."""

from collections.abc import Sequence

import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stage import main
from whisper_router.asr.arm import Arm
from whisper_router.asr.load import cost_dims, load_arm
from whisper_router.asr.weights import find_checkpoint
from whisper_router.checks import LABELS as EXPECTED
from whisper_router.checks import labels_frame, run_checks
from whisper_router.files import write_json, write_parquet
from whisper_router.labelling import (
    Utterance,
    Work,
    compute,
    labels_table,
    plan_work,
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
    return compute(arm, batches, work, ContentStore(), f"label: {title}")


@flow(name="label", validate_parameters=False)
def label() -> None:
    """Transcribe with both arms what the content store lacks; count errors; label."""
    params = load_params()
    torch.set_num_threads(1)
    manifest = pd.read_parquet(MANIFEST)
    rows, store = utterances(manifest), ContentStore()
    works: dict[str, Work] = {}
    errors: dict[str, str] = {}
    references: dict[str, dict[str, object]] = {}
    for name, options in (("weak", params.arms.weak), ("strong", params.arms.strong)):
        checkpoint = find_checkpoint(options.model)
        arm = load_arm(checkpoint, options.decode)
        wanted = (e for e in params.extractors.values() if e.kind == "encoder" and e.arm == name)
        works[name] = Work(checkpoint.sha256, options.decode, True, tuple(wanted))
        references[name] = {
            "model": options.model,
            "sha256": checkpoint.sha256,
            "size": checkpoint.size,
            "decode": options.decode.model_dump(mode="json"),
            "dims": cost_dims(arm),
        }
        batches = plan_work(rows, works[name], store, params.runtime.batch_size)
        missing = sum(map(len, batches))
        print(
            f"label: {name} arm {options.model}: {missing} utterances to decode, "
            f"{len(rows) - missing} in the store"
        )
        shards = [batches[i : i + SHARD_BATCHES] for i in range(0, len(batches), SHARD_BATCHES)]
        for number, shard in enumerate(shards, start=1):
            errors |= label_shard(arm, shard, works[name], f"{name} {number}/{len(shards)}")
    transcripts = transcripts_table(manifest, works, store, errors)
    labels = labels_table(manifest, transcripts)
    for id_, reason in sorted(errors.items()):
        print(f"label: {id_} has no label: {reason}")
    for split, part in labels.groupby("split"):
        print(f"label: {split}: {part['label'].sum()} of {len(part)} need the strong arm")
    run_checks("labels", labels_frame(labels), EXPECTED, CHECKS / "labels.json", DOCS / "labels")
    write_parquet(TRANSCRIPTS, transcripts)
    write_parquet(LABELS, labels)
    write_json(ARMS, references)
    wer = {arm: labels[f"errors_{arm}"].sum() / labels["words"].sum() for arm in works}
    print(
        f"label: {labels['label'].sum()} of {len(labels)} utterances need the strong arm; "
        f"WER weak {wer['weak']:.1%}, strong {wer['strong']:.1%}"
    )


if __name__ == "__main__":
    main(label)
