"""The verdict on corpora whose answer is known, and how often it errs on resampled ones.

    python benchmarks/verdict.py --table speech/manifest.jsonl [--draws 500]

Both arms decode the table once (the content store keeps that). Out-of-fold scores of the cascade's decider
come from cross-validation over speakers, within each corpus. Then, many times: speakers are drawn with
replacement, half of them for calibration and the others for the test; policies get their thresholds on the
first, the verdict is given on the second. It errs where the choice that it advises has, on the whole corpus,
a WER above the best choice's by more than the tolerance. Writes docs/verdict-measured.md and .json: figures
alone, no text and no audio.
"""

import argparse
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from label_free import MODELS, label
from policies import OPTIONS, part_of
from tqdm import tqdm

from whisper_router.decider.folds import cross_fit, speaker_folds
from whisper_router.decider.options import LogisticOptions
from whisper_router.decider.training import Examples
from whisper_router.evaluation import routed_cost
from whisper_router.features.store import FeatureReader, write_features
from whisper_router.files import write_json, write_text
from whisper_router.machine import cpu_model
from whisper_router.policy.choose import Sample, choose
from whisper_router.policy.make import metrics_at
from whisper_router.policy.options import VerdictOptions
from whisper_router.verdict import Candidate, Verdict, judge

DOCUMENT = Path("docs/verdict-measured.md")
FOLDS, SEED, SAMPLED = 5, 0, 60
SENT = 0.3  # share to strong by which speakers whom routing suits are found
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "half": {"kind": "strong_share", "share": 0.5},
    "third": {"kind": "strong_share", "share": 0.3},
    "budget": {"kind": "cost_budget", "budget": 0.8},
    "near_strong": {"kind": "wer_budget", "points": 1.0},
    "best": {"kind": "best_wer"},
}
RESAMPLES = 400  # of a bootstrap inside a draw
OPEN = VerdictOptions()


def corpora(sample: Sample, names: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of the corpora, by what they are."""
    pair = sample.pair
    random = np.random.default_rng(SEED)
    words = np.bincount(pair.speakers, pair.words)
    sent = sample.scores >= np.quantile(sample.scores, 1 - SENT)
    routed = np.where(sent, pair.strong_errors, pair.weak_errors)
    lost, above, gained = (
        np.bincount(pair.speakers, difference) / words
        for difference in (
            pair.weak_errors - pair.strong_errors,
            pair.weak_errors - routed,
            pair.strong_errors - routed,
        )
    )
    weak = np.argsort(lost, kind="stable")[: len(lost) // 4]
    routing = np.argsort(np.where(above > 0, -gained, np.inf), kind="stable")[: len(lost) // 4]
    return {
        "LibriSpeech, clean": np.flatnonzero(names == "librispeech"),
        "the whole": np.arange(len(pair.words)),
        f"{SAMPLED} utterances": np.sort(random.permutation(len(pair.words))[:SAMPLED]),
        "speakers whom the weak arm suits": np.flatnonzero(np.isin(pair.speakers, weak)),
        "speakers whom routing suits": np.flatnonzero(np.isin(pair.speakers, routing)),
    }


def out_of_fold(sample: Sample, ids: list[str], reader: FeatureReader) -> Sample:
    """The sample with scores of deciders that have not seen the speaker."""
    table = pd.DataFrame({"label": sample.pair.label, "speaker": sample.pair.speakers, "text": ids})
    options = LogisticOptions(kind="logistic", extractor="confidence")
    examples = Examples(reader, ids, sample.pair.label)
    return replace(
        sample, scores=cross_fit(options, examples, speaker_folds(table, FOLDS, SEED), "cascade").raw
    )


def drawn(sample: Sample, speakers: np.ndarray) -> Sample:
    """Utterances of drawn speakers; one that is drawn twice counts as two."""
    rows = [np.flatnonzero(sample.pair.speakers == speaker) for speaker in speakers]
    part = part_of(sample, np.concatenate(rows))
    numbers = np.repeat(np.arange(len(rows)), [own.size for own in rows])
    return replace(part, pair=replace(part.pair, speakers=numbers))


def verdict_on(calibration: Sample, test: Sample) -> tuple[Verdict, dict[str, float]]:
    """The verdict, and the thresholds of all policies."""
    thresholds, candidates = {}, {}
    for name, given in POLICIES.items():
        options = OPTIONS.validate_python({"decider": "cascade", **given})
        thresholds[name] = choose(options, calibration).threshold
        known = metrics_at(calibration, thresholds[name], 0.0, RESAMPLES, SEED)
        rise = known["wer_rise"]
        upper = rise["interval"][1] if isinstance(rise["interval"], list) else rise["value"]
        strong = test.scores >= thresholds[name]
        cost = routed_cost(test.pair, strong, test.spent)
        candidates[name] = Candidate(strong, cost, upper, {"macs": known["saving_macs"]["value"]})
    made = judge(test.pair, candidates, MODELS, OPEN, RESAMPLES, SEED)
    return made, thresholds


def truth(sample: Sample, threshold: float) -> dict[str, tuple[float, float]]:
    """WER and cost of each choice on the whole corpus."""
    pair, strong = sample.pair, sample.scores >= threshold
    cost = routed_cost(pair, strong, sample.spent)["macs"].sum() / pair.strong["macs"].sum()
    routed = np.where(strong, pair.strong_errors, pair.weak_errors).sum() / pair.words.sum()
    return {
        "weak": (
            pair.weak_errors.sum() / pair.words.sum(),
            pair.weak["macs"].sum() / pair.strong["macs"].sum(),
        ),
        "strong": (pair.strong_errors.sum() / pair.words.sum(), 1.0),
        "route": (routed, cost),
    }


def draws_of(sample: Sample, count: int, title: str) -> dict[str, Any]:
    """Verdicts on resampled corpora of as many speakers as the corpus has."""
    random = np.random.default_rng(SEED)
    total = sample.pair.n_speakers
    outcomes, wrong, missed, tolerance = Counter[str](), Counter[str](), 0, OPEN.tolerance / 100
    for _ in tqdm(range(count), title):
        order = random.permutation(total)
        halves = order[: total // 2], order[total // 2 :]
        calibration, test = (drawn(sample, random.choice(half, size=len(half))) for half in halves)
        made, thresholds = verdict_on(calibration, test)
        outcomes[made.outcome] += 1
        known = truth(sample, thresholds[made.policy])
        best = min(wer for wer, _ in known.values())
        if made.outcome == "open":
            continue
        wer, cost = known[made.outcome]
        wrong[made.outcome] += int(wer > best + tolerance)
        missed += any(w <= best + tolerance and c < cost - 0.02 for w, c in known.values())
    return {
        "outcomes": {name: outcomes[name] for name in ("route", "weak", "strong", "open")},
        "wrong": {name: wrong[name] for name in ("route", "weak", "strong")},
        "missed_saving": missed,
    }


def measure(table: Path, draws: int) -> dict[str, Any]:
    """All figures of the document."""
    sides, features = label(table, None)
    labels, sample = sides["with"].labels, sides["with"].sample
    rows = pd.read_json(table, lines=True)
    by_speaker = rows.drop_duplicates("speaker").set_index("speaker")["corpus"]
    names = labels["speaker"].map(
        lambda name: next(by_speaker[s] for s in by_speaker.index if name.endswith(s))
    )
    made = []
    with TemporaryDirectory() as folder:
        write_features(Path(folder), zip(labels["id"], features, strict=True), {"kind": "confidence"})
        reader = FeatureReader(Path(folder))
        whole = out_of_fold(sample, labels["id"].tolist(), reader)
        for name, part in corpora(whole, names.to_numpy()).items():
            ids = labels["id"].iloc[part].tolist()
            own = out_of_fold(part_of(sample, part), ids, reader)
            halves = np.random.default_rng(SEED).permutation(own.pair.n_speakers) % 2
            one, thresholds = verdict_on(
                *(part_of(own, np.flatnonzero(halves[own.pair.speakers] == side)) for side in (0, 1))
            )
            made.append(
                {
                    "corpus": name,
                    "utterances": len(part),
                    "speakers": own.pair.n_speakers,
                    "choices": {
                        choice: [round(float(value), 4) for value in values]
                        for choice, values in truth(own, thresholds[one.policy]).items()
                    },
                    "outcome": one.outcome,
                    "headline": one.headline,
                    "basis": one.basis,
                    "draws": draws_of(own, draws, name),
                }
            )
    return {
        "models": MODELS,
        "cpu": cpu_model(),
        "draws": draws,
        "tolerance": OPEN.tolerance,
        "corpora": made,
    }


def document(made: Mapping[str, Any]) -> str:
    """The figures as a page."""
    count = made["draws"]
    lines = [
        "# The verdict, measured",
        "",
        f"`python benchmarks/verdict.py --draws {count}` wrote this page; what the words mean is in "
        "[verdict.md](verdict.md). Pair: "
        f"{MODELS['weak']} -> {MODELS['strong']}, a cascade; costs are multiply-accumulates, those of the "
        f"decider left out. Tolerance: {made['tolerance']:g} point.",
        "",
        "## One verdict on each corpus",
        "",
        "Half of the speakers calibrate, the others test; scores are out of fold.",
        "",
        "| corpus | utterances | speakers | verdict |",
        "|---|---:|---:|---|",
        *(
            f"| {one['corpus']} | {one['utterances']} | {one['speakers']} | {one['headline']} "
            f"{one['basis']} |"
            for one in made["corpora"]
        ),
        "",
        f"## {count} draws from each corpus",
        "",
        "Speakers are drawn with replacement, the calibration's from one half and the test's from the other. "
        "The corpus itself is the truth: *wrong* means that the advised choice's WER there is above "
        "that of the best choice by more than the tolerance; *too dear* that another choice is within "
        "the tolerance and cheaper by over 2 % of always-strong's cost.",
        "",
        "| corpus | WER (cost): weak | strong | route | route | weak | strong | open | wrong | too dear |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in made["corpora"]:
        known, draws = one["choices"], one["draws"]
        figures = " | ".join(f"{wer:.1%} ({cost:.0%})" for wer, cost in known.values())
        shares = " | ".join(f"{value / count:.0%}" for value in draws["outcomes"].values())
        wrong = sum(draws["wrong"].values())
        missed = draws["missed_saving"]
        lines.append(
            f"| {one['corpus']} | {figures} | {shares} | {wrong / count:.1%} | {missed / count:.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=500)
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = measure(given.table, given.draws)
    write_json(DOCUMENT.with_suffix(".json"), made)
    write_text(DOCUMENT, document(made))
    print(f"{DOCUMENT}, and {DOCUMENT.stem}.json beside it")


if __name__ == "__main__":
    main()
