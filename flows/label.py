"""label: both arms over the manifest -> data/transcripts.parquet, data/labels.parquet."""

from dataclasses import asdict
from functools import partial

import pandas as pd
import torch
from prefect import flow

from flows.shards import load_once, run_shards, sharded
from flows.stage import main
from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.load import cost_dims
from whisper_router.asr.reference import ArmReference
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import WINDOW_S
from whisper_router.checks.run import run_checks
from whisper_router.checks.suites import LABELS as EXPECTED
from whisper_router.checks.suites import labels_frame
from whisper_router.cost import Dims
from whisper_router.files import write_json, write_parquet
from whisper_router.labelling import (
    NO_REFERENCE,
    Work,
    announce_encodings,
    labels_table,
    transcribe_all,
    transcripts_table,
    utterances,
)
from whisper_router.params import load_params
from whisper_router.paths import ARMS, CHECKS, DOCS, LABELS, MANIFEST, TRANSCRIPTS
from whisper_router.progress import say
from whisper_router.reference import kind_of, told
from whisper_router.store import ContentStore


@flow(name="label", validate_parameters=False)
def label() -> None:
    """Transcribe with both arms what the content store lacks; count errors; label."""
    params = load_params()
    torch.set_num_threads(1)
    manifest = pd.read_parquet(MANIFEST)
    long = manifest["duration_s"] > WINDOW_S
    if long.any():
        say(f"label: {long.sum()} rows over {WINDOW_S:g} s have no label; evaluate runs the router on them")
    manifest = manifest[~long].reset_index(drop=True)
    rows, stored = utterances(manifest), params.stored_extractors
    references: dict[str, ArmReference] = {}
    dims: dict[str, Dims] = {}
    works: dict[str, Work] = {}
    for name, options in (("weak", params.arms.weak), ("strong", params.arms.strong)):
        reference = ArmReference.of(options.model, find_checkpoint(options.model), options.decode)
        encoders = tuple(extractor for extractor in stored.values() if extractor.arm == name)
        references[name], works[name] = reference, Work(reference.sha256, reference.decode, True, encoders)
        dims[name] = Dims(**cost_dims(load_once(reference)))
    sizes = {name: (dims[name], work) for name, work in works.items()}
    announce_encodings(stored, sizes, rows, ContentStore(), beside=True)
    hypotheses: dict[str, list[Hypothesis | None]] = {}
    errors: dict[str, str] = {}
    for name, work in works.items():
        title = f"label: {name} arm"
        run = partial(run_shards, references[name], work, title, params.runtime.runner)
        hypotheses[name], failed = transcribe_all(work, rows, params.runtime.batch_size, title, run)
        errors |= failed
    transcripts = transcripts_table(manifest, hypotheses, errors)
    labels = labels_table(manifest, transcripts)
    for id_, reason in sorted(errors.items()):
        say(f"label: {id_} has no label: {reason}")
    if unheard := (transcripts["error"] == NO_REFERENCE).sum() // 2:
        say(f"label: {unheard} utterances have no label: {NO_REFERENCE}")
    for split, part in labels.groupby("split"):
        say(f"label: {split}: {part['label'].sum()} of {len(part)} need the strong arm")
    frame = labels_frame(labels, transcripts)
    run_checks("labels", frame, EXPECTED, params.checks, CHECKS / "labels.json", DOCS / "labels")
    write_parquet(TRANSCRIPTS, transcripts)
    write_parquet(LABELS, labels)
    arms = {
        name: {**reference.model_dump(mode="json"), "dims": asdict(dims[name])}
        for name, reference in references.items()
    }
    write_json(ARMS, arms)
    for part in (labels[told(labels)], labels[~told(labels)]):
        if part.empty:
            continue
        wer = {arm: part[f"errors_{arm}"].sum() / part["words"].sum() for arm in references}
        said = f"WER weak {wer['weak']:.1%}, strong {wer['strong']:.1%}"
        if kind_of(part) == "strong":
            said = f"{wer['weak']:.1%} of the words differ from {references['strong'].model}'s text"
        told_of = "with" if kind_of(part) == "text" else "without"
        say(
            f"label: {part['label'].sum()} of {len(part)} utterances {told_of} transcripts need the strong "
            f"arm; {said}"
        )


if __name__ == "__main__":
    main(sharded(label))
