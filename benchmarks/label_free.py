"""Thresholds chosen without transcripts beside those chosen with them, on speech that has transcripts.

    python benchmarks/label_free.py --table speech/manifest.jsonl [--utterances 600] [--draws 100]

Both arms decode the table once (the content store keeps that). Its labels are made twice: of the transcripts,
and of the strong arm's texts as if there were no transcripts. Over random divisions of the speakers the
cascade's decider is trained and policies are calibrated each way; both are then measured on the test speakers
with their transcripts. Writes docs/label-free.md and .json: figures alone, no text and no audio.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from label_free_report import document
from policies import OPTIONS, part_of
from tqdm import tqdm

from whisper_router.asr.load import cost_dims, load_arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import WINDOW_S
from whisper_router.corpus.ingest import read_corpora
from whisper_router.corpus.options import Corpus, IngestOptions
from whisper_router.cost import CURRENCIES, Dims
from whisper_router.decider.options import LogisticOptions
from whisper_router.decider.registry import calibrated, fit_decider
from whisper_router.decider.training import Examples
from whisper_router.evaluation import Spent, auroc, build_pair, risks
from whisper_router.features.hypothesis import confidence
from whisper_router.features.store import FeatureReader, write_features
from whisper_router.files import write_json, write_text
from whisper_router.labelling import (
    Work,
    compute,
    labels_table,
    transcribe_all,
    transcripts_table,
    utterances,
)
from whisper_router.machine import cpu_model
from whisper_router.policy.choose import Sample, choose
from whisper_router.policy.options import PolicyOptions
from whisper_router.reference import TEXT, Reference
from whisper_router.store import ContentStore

DOCUMENT = Path("docs/label-free.md")
MODELS = {"weak": "tiny.en", "strong": "base"}
DECODE = DecodeOptions(engine="ctranslate2", dtype="int8")
BATCH_SIZE = 16
SHARES = {"train": 0.4, "dev": 0.1, "calibration": 0.25, "test": 0.25}  # of the speakers
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "strong_share 30 %": {"kind": "strong_share", "share": 0.3},
    "cost_budget 90 % of macs": {"kind": "cost_budget", "budget": 0.9},
    "wer_budget 1 point": {"kind": "wer_budget", "points": 1.0},
    "wer_budget 3 points": {"kind": "wer_budget", "points": 3.0},
    "guarantee all 10 %, tau 0": {"kind": "guarantee", "alpha": 0.1},
    "guarantee all 10 %, tau 10 %": {"kind": "guarantee", "alpha": 0.1, "tau": 0.1},
    "guarantee all 5 %, tau 20 %": {"kind": "guarantee", "alpha": 0.05, "tau": 0.2},
    "guarantee mean_loss 5 %": {"kind": "guarantee", "risk": "mean_loss", "alpha": 0.05},
}


MEANS = ("threshold", "strong_share", "wer", "differs")


@dataclass(frozen=True)
class Side:
    """The utterances as labelled with transcripts, or without."""

    labels: pd.DataFrame
    sample: Sample  # its scores are still to be made


def label(table: Path, count: int | None) -> tuple[dict[str, Side], list[np.ndarray]]:
    """Both sides on the same utterances, and what the cascade's decider reads of each."""
    corpus = Corpus(name=table.stem, kind="table", path=table.name, utterances=count)
    options = IngestOptions(root=str(table.parent), corpora=(corpus,), max_duration_s=WINDOW_S)
    with TemporaryDirectory() as made:
        manifest, _ = read_corpora(options, Path(made))
    manifest["split"] = "all"
    store, rows = ContentStore(), utterances(manifest)
    hypotheses, errors, dims = {}, {}, {}
    for name, model in MODELS.items():
        checkpoint = find_checkpoint(model)
        arm, work = load_arm(checkpoint, DECODE), Work(checkpoint.sha256, DECODE, True, ())
        run = partial(compute, arm, work=work, store=store, title=model)
        hypotheses[name], failed = transcribe_all(work, rows, BATCH_SIZE, model, run)
        errors |= failed
        dims[name] = Dims(**cost_dims(arm))
    hidden = manifest.assign(text="", reference="strong")
    tables = {}
    for name, known in (("with", manifest), ("hidden", hidden)):
        transcripts = transcripts_table(known, hypotheses, errors)
        tables[name] = labels_table(known, transcripts), transcripts
    both = set(tables["with"][0]["id"]) & set(tables["hidden"][0]["id"])
    sides = {}
    for name, (labels, transcripts) in tables.items():
        labels = labels[labels["id"].isin(both)].reset_index(drop=True)
        nothing = {currency: np.zeros(len(labels)) for currency in CURRENCIES}
        pair = build_pair(labels, transcripts, dims)
        reference = TEXT if name == "with" else Reference("strong", **MODELS)
        spent = Spent("weak", nothing)
        sample = Sample(pair, np.zeros(len(labels)), spent, np.array([]), reference=reference)
        sides[name] = Side(labels, sample)
    said = dict(zip(manifest["id"], hypotheses["weak"], strict=True))
    kept = sides["with"].labels
    return sides, [confidence(said[row.id], row.duration_s) for row in kept.itertuples()]


def divide(speakers: np.ndarray, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Rows of each split, by a random division of the speakers."""
    order = random.permutation(speakers.max() + 1)
    ends = np.cumsum([round(share * len(order)) for share in SHARES.values()])[:-1]
    parts = np.split(order, ends)
    return {name: np.flatnonzero(np.isin(speakers, part)) for name, part in zip(SHARES, parts, strict=True)}


def scored(side: Side, rows: Mapping[str, np.ndarray], reader: FeatureReader) -> np.ndarray:
    """What a decider says of all utterances that was trained and calibrated on this side's labels."""
    options = LogisticOptions(kind="logistic", extractor="confidence")
    ids, wanted = side.labels["id"].to_numpy(), side.labels["label"].to_numpy()
    parts = {name: Examples(reader, ids[part].tolist(), wanted[part]) for name, part in rows.items()}
    decider, _ = fit_decider(options, parts["train"], parts["dev"], "cascade")
    decider = calibrated(decider, options, parts["calibration"])
    return decider.score([reader[id_] for id_ in ids])


def figures(sample: Sample, threshold: float, tau: float) -> dict[str, float]:
    """What a threshold does on some utterances."""
    pair, strong = sample.pair, sample.scores >= threshold
    errors = np.where(strong, pair.strong_errors, pair.weak_errors)
    found = risks(pair, strong, np.ones((1, len(strong))), tau)
    return {
        "wer": float(errors.sum() / pair.words.sum()),
        "wer_rise": float((errors - pair.strong_errors).sum() / pair.words.sum()),
        "harm_all": float(found["harm_all"][0]),
        "mean_loss": float(found["mean_loss"][0]),
    }


def about(options: PolicyOptions) -> str | None:
    """The figure that a policy bounds."""
    if options.kind == "guarantee":
        return "mean_loss" if options.risk == "mean_loss" else "harm_all"
    return "wer_rise" if options.kind == "wer_budget" else None


def one_draw(
    sides: Mapping[str, Side], reader: FeatureReader, options: Mapping[str, PolicyOptions], seed: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Every policy chosen each way on one division of the speakers; and the figures of the division."""
    rows = divide(sides["with"].sample.pair.speakers, np.random.default_rng(seed))
    test = rows["test"]
    made, ranked = [], {}
    scores = {name: scored(side, rows, reader) for name, side in sides.items()}
    for name, side in sides.items():
        sample = replace(side.sample, scores=scores[name], earlier=scores[name][rows["dev"]])
        here = part_of(sample, rows["calibration"])
        seen = {
            measured: part_of(replace(other.sample, scores=scores[name]), test)
            for measured, other in sides.items()
        }
        ones = np.ones((1, len(test)))
        for measured, part in seen.items():
            ranked[f"auroc_{name}_of_{measured}"] = float(auroc(part.pair.label, part.scores, ones)[0])
        for policy, given in options.items():
            chosen = choose(given, here)
            tau = given.tau if given.kind == "guarantee" else 0.0
            found = {measured: figures(part, chosen.threshold, tau) for measured, part in seen.items()}
            made.append(
                {
                    "policy": policy,
                    "side": name,
                    "threshold": chosen.threshold,
                    "promise": chosen.promise.holds if chosen.promise else None,
                    "strong_share": float((scores[name][test] >= chosen.threshold).mean()),
                    "wer": found["with"]["wer"],
                    "differs": found["hidden"]["wer"],
                    "about_with": found["with"].get(about(given) or ""),
                    "about_hidden": found["hidden"].get(about(given) or ""),
                }
            )
    pair = part_of(sides["with"].sample, test).pair
    totals = {arm: getattr(pair, f"{arm}_errors").sum() / pair.words.sum() for arm in MODELS}
    return made, {**ranked, **{f"wer_{arm}": float(value) for arm, value in totals.items()}}


def measure(table: Path, count: int | None, draws: int) -> dict[str, Any]:
    """All figures of the document."""
    sides, features = label(table, count)
    options = {name: OPTIONS.validate_python({"decider": "cascade", **one}) for name, one in POLICIES.items()}
    with TemporaryDirectory() as folder:
        ids = sides["with"].labels["id"]
        write_features(Path(folder), zip(ids, features, strict=True), {"kind": "confidence"})
        reader = FeatureReader(Path(folder))
        results = [one_draw(sides, reader, options, seed) for seed in tqdm(range(draws), "draws")]
    rows = pd.DataFrame([row for made, _ in results for row in made])
    division = pd.DataFrame([found for _, found in results])
    policies = []
    for name, given in options.items():
        target = getattr(given, "alpha", None) or getattr(given, "points", 0) / 100 or None
        entry: dict[str, Any] = {"policy": name, "figure": about(given), "target": target}
        for side in sides:
            mine = rows[(rows["policy"] == name) & (rows["side"] == side)]
            seen = mine[f"about_{side}"].astype(float)
            entry[side] = {
                **{key: round(float(mine[key].mean()), 4) for key in MEANS},
                "promised": int(mine["promise"].fillna(False).astype(bool).sum()),
                "observed": round(float(seen.mean()), 4) if about(given) else None,
                "observed_with_transcripts": round(float(mine["about_with"].astype(float).mean()), 4)
                if about(given)
                else None,
                "above": int((seen > (target or 1) + 1e-9).sum()) if about(given) else None,
            }
        policies.append(entry)
    real, strong = sides["with"].labels, sides["hidden"].labels
    weak_right = (real["errors_weak"] < real["errors_strong"]).sum()
    return {
        "models": MODELS,
        "decode": DECODE.model_dump(mode="json"),
        "cpu": cpu_model(),
        "utterances": len(real),
        "speakers": int(real["speaker"].nunique()),
        "draws": draws,
        "labels": {
            "wer_weak": round(float(real["errors_weak"].sum() / real["words"].sum()), 4),
            "wer_strong": round(float(real["errors_strong"].sum() / real["words"].sum()), 4),
            "differs": round(float(strong["errors_weak"].sum() / strong["words"].sum()), 4),
            "need_strong": round(float(real["label"].mean()), 4),
            "differ": round(float(strong["label"].mean()), 4),
            "weak_better": round(float(weak_right / len(real)), 4),
            "need_strong_of_differ": round(float(real["label"][strong["label"] == 1].mean()), 4),
        },
        "division": {name: round(float(value), 4) for name, value in division.mean().items()},
        "policies": policies,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--utterances", type=int, help="a sample of the table; default: all")
    parser.add_argument("--draws", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = measure(given.table, given.utterances, given.draws)
    write_json(DOCUMENT.with_suffix(".json"), made)
    write_text(DOCUMENT, document(made))
    print(f"{DOCUMENT}, and {DOCUMENT.stem}.json beside it")


if __name__ == "__main__":
    main()
