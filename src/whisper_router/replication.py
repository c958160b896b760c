"""The paper's router, cross-validated on a table of utterances, beside the paper's own figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import torch

from whisper_router.asr.arm import Arm
from whisper_router.asr.load import cost_dims, load_arm
from whisper_router.asr.options import ENCODER_FRAMES, DecodeOptions
from whisper_router.asr.reference import ArmReference
from whisper_router.asr.weights import Checkpoint, find_checkpoint
from whisper_router.audio import WINDOW_S
from whisper_router.corpus.ingest import read_corpora
from whisper_router.corpus.options import Corpus, IngestOptions
from whisper_router.cost import Dims
from whisper_router.crossval import Job, Trained, run_jobs
from whisper_router.decider.folds import Fold, speaker_folds
from whisper_router.decider.options import ResnetOptions
from whisper_router.errors import UserError
from whisper_router.evaluation import Pair, Spent, auroc, build_pair, evaluate, sweep, with_intervals
from whisper_router.features.extractors import extractor_identity
from whisper_router.features.options import EncoderExtractor
from whisper_router.features.store import write_index
from whisper_router.files import read_json, write_json, write_parquet, write_text
from whisper_router.labelling import (
    Utterance,
    Work,
    announce_encodings,
    compute,
    encoding_bytes,
    feature_counts,
    labels_table,
    transcribe_all,
    transcripts_table,
    utterances,
)
from whisper_router.params import read_preset
from whisper_router.report import draw_frontier, percent
from whisper_router.scoring import normalise
from whisper_router.store import ContentStore

PAIRS = (("tiny", "small"), ("tiny.en", "base"))  # the paper's, then what the package index alone offers
THRESHOLDS = (0.5, 0.3)
RESAMPLES = 1000
DECODE = DecodeOptions(floor_frames=ENCODER_FRAMES)  # 30 s, as in the paper
BATCH_SIZE = 16
WORK = Path("data/replication")
DOCUMENT = Path("docs/paper-replication.md")


@dataclass(frozen=True)
class Candidate:
    """A router to cross-validate."""

    name: str
    extractor: EncoderExtractor
    options: ResnetOptions


def candidates() -> list[Candidate]:
    """The presets; and paper-compact with other trainings, which tell the design from its schedule."""
    extractors, options = {}, {}
    for name in ("paper", "paper-code", "paper-compact"):
        preset = read_preset(name)
        options[name] = ResnetOptions.model_validate(preset["deciders"][name])
        extractor = EncoderExtractor.model_validate(preset["extractors"][options[name].extractor])
        extractors[name] = extractor.model_copy(update={"stored": True})  # each fold reads them in each epoch
    compact = options["paper-code"].model_copy(update={"extractor": "paper-compact"})
    update = {"learning_rate": 1e-3, "schedule": "cosine", "epochs": 30, "patience": 8, "monitor": "loss"}
    return [
        *(Candidate(name, extractors[name], options[name]) for name in options),
        Candidate("paper-compact, paper-code's training", extractors["paper-compact"], compact),
        Candidate(
            "paper-compact, learning rate 1e-3",
            extractors["paper-compact"],
            compact.model_copy(update=update),
        ),
    ]


def find_pair(weak: str | None, strong: str | None) -> dict[str, tuple[str, Checkpoint]]:
    """Checkpoints of the pair asked for, else of the first pair whose weights are to be had."""
    pairs = [(weak, strong)] if weak and strong else list(PAIRS)
    reasons = []
    for pair in pairs:
        try:
            return {
                arm: (model, find_checkpoint(model))
                for arm, model in zip(("weak", "strong"), pair, strict=True)
            }
        except UserError as error:
            print(f"not {' -> '.join(pair)}: {error}")
            reasons.append(str(error))
    raise UserError("no pair of arms: " + "; ".join(reasons))


def label_pair(
    pair: Mapping[str, tuple[str, Checkpoint]],
    manifest: pd.DataFrame,
    extractors: Mapping[str, EncoderExtractor],
) -> tuple[dict[str, ArmReference], dict[str, Dims], pd.DataFrame, pd.DataFrame]:
    """References, sizes, transcripts and labels; the states of the extractors go into the content store."""
    rows, store = utterances(manifest), ContentStore()
    references: dict[str, ArmReference] = {}
    dims: dict[str, Dims] = {}
    arms: dict[str, tuple[Arm, Work]] = {}
    for name, (model, checkpoint) in pair.items():
        arm = load_arm(checkpoint, DECODE)
        encoders = tuple(extractor for extractor in extractors.values() if extractor.arm == name)
        work = Work(checkpoint.sha256, DECODE, True, encoders)
        references[name] = ArmReference.of(model, checkpoint, DECODE)
        dims[name], arms[name] = Dims(**cost_dims(arm)), (arm, work)
    sizes = {name: (dims[name], work) for name, (_, work) in arms.items()}
    announce_encodings(extractors, sizes, rows, store, beside=False)
    hypotheses = {}
    errors: dict[str, str] = {}
    for name, (arm, work) in arms.items():
        title = f"{name} arm"
        run = partial(compute, arm, work=work, store=store, title=title)
        hypotheses[name], failed = transcribe_all(work, rows, BATCH_SIZE, title, run)
        errors |= failed
    transcripts = transcripts_table(manifest, hypotheses, errors)
    labels = labels_table(manifest, transcripts)
    return references, dims, transcripts, labels


def corpus_aurocs(labels: pd.DataFrame, scores: np.ndarray, folds: np.ndarray) -> dict[str, float | None]:
    """AUROC within each corpus; None where it holds one class only."""
    result: dict[str, float | None] = {}
    label = labels["label"].to_numpy()
    for corpus in sorted(labels["corpus"].unique()):
        rows = np.flatnonzero(labels["corpus"] == corpus)
        value = float(auroc(label[rows], scores[rows], np.ones((1, len(rows))), folds[rows])[0])
        result[str(corpus)] = round(value, 6) if np.isfinite(value) else None
    return result


def replicate(
    table: Path, pair: Mapping[str, tuple[str, Checkpoint]], tried: Sequence[Candidate], folds: int, seed: int
) -> dict[str, Any]:
    """Cross-validate routers on a table of utterances: their figures. The charts are written.

    Parameters
    ----------
    pair : mapping
        Name and checkpoint of the weak and the strong arm.
    tried : sequence of Candidate
        ``paper`` and ``paper-compact`` among them: they are compared.

    Raises
    ------
    UserError
        The table or a checkpoint is not to be had, or the content store cannot hold the states.
    """
    torch.set_num_threads(1)
    corpus = Corpus(name=table.stem, kind="table", path=table.name)
    manifest, rejected = read_corpora(
        IngestOptions(root=str(table.parent), corpora=(corpus,), max_duration_s=WINDOW_S), WORK / "audio"
    )
    extractors = {candidate.options.extractor: candidate.extractor for candidate in tried}
    references, dims, transcripts, labels = label_pair(pair, manifest, extractors)
    kept = manifest.set_index("id").loc[labels["id"]].reset_index()
    rows = utterances(kept)
    for name, extractor in extractors.items():
        arm = references[extractor.arm]
        counts, hashes = feature_counts(rows, DECODE, extractor), (row.sha256 for row in rows)
        index = zip(kept["id"], counts, hashes, strict=True)
        write_index(WORK / "features" / name, index, extractor_identity(extractor, arm.spec()))
    write_parquet(WORK / "manifest.parquet", kept)
    write_parquet(WORK / "transcripts.parquet", transcripts)
    write_parquet(WORK / "labels.parquet", labels)

    parts = speaker_folds(labels.assign(text=kept["text"].map(normalise)), folds, seed)
    jobs = [
        Job(
            f"{candidate.name}, fold {number}",
            candidate.options,
            candidate.extractor,
            WORK / "features" / candidate.options.extractor,
            references[candidate.extractor.arm],
            kept,
            labels,
            fold,
            2
            * candidate.options.batch_size
            * max(feature_counts(rows, DECODE, candidate.extractor))
            * (dims[candidate.extractor.arm].audio_layers + 1)
            * dims[candidate.extractor.arm].width,
        )
        for candidate in tried
        for number, fold in enumerate(parts, start=1)
    ]
    trained = run_jobs(jobs)
    made = build_pair(labels, transcripts[transcripts["id"].isin(labels["id"])], dims)
    result = summarise(tried, parts, trained, made, labels, references, dims, rows)
    result["corpus"] = {
        "utterances": len(labels),
        "speakers": made.n_speakers,
        "minutes": round(float(kept["duration_s"].sum()) / 60, 1),
        "rejected": len(rejected) + len(manifest) - len(labels),
        "names": {str(name): int(count) for name, count in kept["corpus"].value_counts().items()},
        "folds": folds,
        "train": [len(fold.train) for fold in parts],
        "seed": seed,
    }
    return result


def summarise(
    tried: Sequence[Candidate],
    parts: Sequence[Fold],
    trained: Sequence[Trained],
    pair: Pair,
    labels: pd.DataFrame,
    references: Mapping[str, ArmReference],
    dims: Mapping[str, Dims],
    rows: Sequence[Utterance],
) -> dict[str, Any]:
    """Figures of every candidate over its out-of-fold scores; the charts."""
    models = {name: {"model": reference.model} for name, reference in references.items()}
    result: dict[str, Any] = {"arms": {name: arm.model for name, arm in references.items()}, "candidates": {}}
    sweeps, at_half, all_scores = {}, {}, {}
    numbers = np.empty(len(labels), dtype=int)
    for number, fold in enumerate(parts):
        numbers[fold.test] = number
    for i, candidate in enumerate(tried):
        mine = trained[i * len(parts) : (i + 1) * len(parts)]
        scores = np.empty(len(labels))
        macs = {currency: np.empty(len(labels)) for currency in mine[0].scores.macs}
        for fold, one in zip(parts, mine, strict=True):
            scores[fold.test] = one.scores.scores
            for currency, values in macs.items():
                values[fold.test] = one.scores.macs[currency]
        spent = Spent(candidate.extractor.reads, macs)
        metrics = {
            str(threshold): evaluate(pair, scores, threshold, spent, RESAMPLES, 0, numbers)
            for threshold in THRESHOLDS
        }
        extractor = candidate.extractor
        reader = dims[extractor.arm]
        size = encoding_bytes(rows, DECODE, extractor, reader)
        result["candidates"][candidate.name] = {
            "options": candidate.options.model_dump(mode="json"),
            "parameters": mine[0].parameters,
            "layers": reader.audio_layers + 1,
            "bytes": size,
            "bytes_a_minute": round(size / sum(row.duration_s for row in rows) * 60),
            "decider_macs": {currency: round(float(values.mean())) for currency, values in macs.items()},
            "epochs": [one.epochs for one in mine],
            "kept": [one.kept for one in mine],
            "steps": [
                one.epochs * -(-len(f.train) // candidate.options.batch_size)
                for one, f in zip(mine, parts, strict=True)
            ],
            "score_range": [float(np.quantile(scores, q)) for q in (0.05, 0.5, 0.95)],
            "auroc_by_corpus": corpus_aurocs(labels, scores, numbers),
            "metrics": metrics,
        }
        all_scores[candidate.name] = scores
        at_half[candidate.name] = metrics["0.5"]
        sweeps[candidate.name] = sweep(pair, scores, spent)
    write_parquet(
        WORK / "scores.parquet", pd.DataFrame({"id": labels["id"], "label": labels["label"], **all_scores})
    )
    label = labels["label"].to_numpy()
    difference = with_intervals(
        lambda weights: {
            "auroc": auroc(label, all_scores["paper-compact"], weights, numbers)
            - auroc(label, all_scores["paper"], weights, numbers)
        },
        pair.speakers,
        RESAMPLES,
        0,
    )
    result["compact_minus_paper"] = difference["auroc"]
    for currency in ("macs", "macs_paper"):
        path = DOCUMENT.with_name(f"paper-replication-{currency}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_frontier(
            path, pair, sweeps, at_half, "paper", currency, models, "out of fold; policy: threshold 0.5"
        )
    return result


def write_document(result: Mapping[str, Any]) -> None:
    """Write the figures as JSON and the document that is made from them."""
    write_json(DOCUMENT.with_suffix(".json"), result)
    source = files("whisper_router").joinpath("replication.md.jinja").read_text()
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = percent
    written = read_json(DOCUMENT.with_suffix(".json"))
    write_text(DOCUMENT, environment.from_string(source).render(**written, thresholds=THRESHOLDS))
