"""A policy's threshold for another domain, from a few labelled utterances of it."""

import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.reference import ArmReference, arm_references
from whisper_router.audio import SAMPLE_RATE, WINDOW_S
from whisper_router.corpus.ingest import read_corpora
from whisper_router.corpus.options import Corpus, IngestOptions
from whisper_router.errors import UserError
from whisper_router.evaluation import spent_on
from whisper_router.features.reading import arms_of, frames_of, reading_costs
from whisper_router.files import read_json, replacing_folder, write_json, write_text
from whisper_router.hashing import digest, file_sha256
from whisper_router.labelling import (
    Utterance,
    Work,
    compute,
    labels_table,
    transcribe_all,
    transcripts_table,
    utterances,
)
from whisper_router.params import load_params
from whisper_router.paths import ARMS, DATA
from whisper_router.policy.calibrate import Policy
from whisper_router.policy.choose import Sample
from whisper_router.policy.make import make_policy
from whisper_router.policy.options import FixedOptions
from whisper_router.policy.samples import labelled, read_labelled, score
from whisper_router.progress import progress
from whisper_router.router import Router, write_files
from whisper_router.store import ContentStore
from whisper_router.wav import wav_bytes


def label_table(
    table: Path, references: dict[str, ArmReference], batch_size: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Manifest, transcripts and labels of a table's utterances by both arms; bad rows are named."""
    corpus = Corpus(name=table.stem, kind="table", path=table.name)
    ingest = IngestOptions(root=str(table.parent), corpora=(corpus,), max_duration_s=WINDOW_S)
    manifest, rejected = read_corpora(ingest, DATA / "recalibrated" / "audio")
    for row in rejected:
        print(f"left out: {row.id}: {row.reason}")
    rows, store = utterances(manifest), ContentStore()
    hypotheses: dict[str, list[Hypothesis | None]] = {}
    errors: dict[str, str] = {}
    for name, reference in references.items():
        work, title = Work(reference.sha256, reference.decode, True, ()), f"{name} arm"
        run = partial(compute, reference.load(), work=work, store=store, title=title)
        hypotheses[name], failed = transcribe_all(work, rows, batch_size, title, run)
        errors |= failed
    transcripts = transcripts_table(manifest, hypotheses, errors)
    return manifest, transcripts, labels_table(manifest, transcripts)


def router_scores(router: Router, rows: Sequence[Utterance]) -> np.ndarray:
    """What the router's decider says of utterances; 0 where there is no speech.

    Raises
    ------
    UserError
        The router cannot read one of them; the message names it.
    """
    store, found = ContentStore(), []
    size = router.description.batch_size
    for start in progress(range(0, len(rows), size), "score", unit="batch"):
        found += router.decide([wav_bytes(row.load_or_raise(store)) for row in rows[start : start + size]])
    for row, decision in zip(rows, found, strict=True):
        if decision.error is not None:
            raise UserError(f"{row.id}: {decision.error}; leave it out of the table")
    return np.array([decision.score or 0.0 for decision in found])


def recalibrate(table: Path, name: str | None, folder: Path, target: Path) -> tuple[Policy, Policy]:
    """Choose a policy's threshold on a table of another domain; write the router that has it.

    Returns
    -------
    tuple
        The present threshold as a fixed policy and the new policy, each with its figures on the table.

    Raises
    ------
    UserError
        The policy is of another decider than the router's, or the table has no usable utterance.
    """
    params = load_params()
    torch.set_num_threads(1)
    router = Router.load(folder)
    name = name or params.router.policy
    if name not in params.policies:
        raise UserError(f"--policy {name}: none of {', '.join(params.policies)}")
    options, old = params.policies[name], router.policy
    if options.decider != old.decider:
        raise UserError(
            f"--policy {name}: its decider is {options.decider}, that of {folder} is {old.decider}"
        )
    arms = read_json(ARMS)
    references = arm_references(arms)
    if digest(references["weak"].spec()) != old.bound.weak_arm:
        raise UserError(f"{folder} has other arms than {ARMS}; run `whisper-router run` to package it again")
    manifest, transcripts, labels = label_table(table, references, params.runtime.batch_size)
    part = labelled(params, labels, transcripts[transcripts["id"].isin(labels["id"])], arms)
    rows = utterances(manifest.set_index("id", drop=False).loc[labels["id"]])

    extractor = router.description.extractor
    sizes, durations = arms_of(arms), [row.duration_s for row in rows]
    frames = [frames_of(extractor, round(seconds * SAMPLE_RATE), sizes) for seconds in durations]
    macs = reading_costs(extractor, durations, sizes)
    macs["macs"] += [router.decider.macs(count) for count in frames]
    macs["macs_paper"] += [router.decider.paper_macs(count) for count in frames]
    earlier = score(params, old.decider, read_labelled(params, "calibration"))[0].scores
    sample = Sample(part.pair, router_scores(router, rows), spent_on(extractor, macs), earlier)
    bound = part.bound(
        old.decider, router.description.extractor_identity(), getattr(options, "currency", None)
    )
    fixed = FixedOptions(kind="fixed", decider=old.decider, threshold=min(old.threshold, 1.0))
    before = make_policy(old.name, fixed, sample, bound)
    after = make_policy(f"{name}-{table.stem}", options, sample, bound)
    with replacing_folder(target) as made:
        shutil.copytree(folder, made, dirs_exist_ok=True)
        path = made / "policies" / f"{after.name}.json"
        write_text(path, after.to_json())
        described = router.description.model_copy(update={"policy": after.name})
        write_json(made / "router.json", described.model_dump(mode="json"))
        provenance = read_json(folder / "provenance.json")
        provenance["policy"] = after.name
        provenance["recalibrated"] = {"from": name, "table": file_sha256(table)}
        provenance["sha256"]["policies"][after.name] = file_sha256(path)
        write_json(made / "provenance.json", provenance)
        write_files(made)
        Router.load(made)
    return before, after
