"""Policies put to the test: simulated populations, and a project's real speech over many speaker splits.

Writes docs/policies.json and docs/policies-measured.md: figures alone, no text and no audio. Run it in the
folder of a project whose DAG has run (data/ with labels, features and deciders):

    python /path/to/benchmarks/policies.py DECIDER --out /path/to/docs
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from policies_report import document
from policy_simulation import DRAWS, POPULATIONS, simulate
from pydantic import TypeAdapter
from tqdm import tqdm

from whisper_router.evaluation import risks
from whisper_router.files import read_json, read_parquet, write_json, write_text
from whisper_router.params import load_params
from whisper_router.paths import ARMS, LABELS, TRANSCRIPTS
from whisper_router.policy.choose import Sample, choose
from whisper_router.policy.folds import part_of
from whisper_router.policy.make import make_policy, policy_metrics
from whisper_router.policy.options import GuaranteeOptions, PolicyOptions
from whisper_router.policy.samples import ids_of, labelled, score

SPLITS = 200
SEED = 0
RESAMPLES = 1000
RECALIBRATE = 100  # labelled utterances of another domain

GUARANTEES: tuple[dict[str, Any], ...] = (
    {"risk": "all", "alpha": 0.05},
    {"risk": "all", "alpha": 0.1},
    {"risk": "all", "alpha": 0.1, "unit": "speaker"},
    {"risk": "weak", "alpha": 0.2},
    {"risk": "weak", "alpha": 0.2, "unit": "speaker"},
    {"risk": "mean_loss", "alpha": 0.02},
    {"risk": "mean_loss", "alpha": 0.05, "unit": "speaker"},
)
SIX: dict[str, dict[str, Any]] = {
    "fixed 0.3": {"kind": "fixed", "threshold": 0.3},
    "strong_share 50 %": {"kind": "strong_share", "share": 0.5},
    "cost_budget 80 % of macs": {"kind": "cost_budget", "budget": 0.8},
    "wer_budget 0.5 points": {"kind": "wer_budget", "points": 0.5},
    "best_wer": {"kind": "best_wer"},
    **{
        f"guarantee {one['risk']} {one['alpha']:.0%}, by {one.get('unit', 'utterance')}": {
            "kind": "guarantee",
            **one,
        }
        for one in GUARANTEES
    },
}
OPTIONS: TypeAdapter[PolicyOptions] = TypeAdapter(PolicyOptions)


def guarantees(decider: str) -> Iterator[GuaranteeOptions]:
    for one in GUARANTEES:
        yield GuaranteeOptions(kind="guarantee", decider=decider, delta=0.1, **one)


def observed(sample: Sample, threshold: float, options: GuaranteeOptions) -> tuple[float, float]:
    """The risk of a threshold on a sample, and the share that goes to the weak arm."""
    strong = sample.scores >= threshold
    found = risks(sample.pair, strong, np.ones((1, len(strong))), options.tau)
    name = {"all": "harm_all", "weak": "harm_weak", "mean_loss": "mean_loss"}[options.risk]
    suffix = "_by_speaker" if options.unit == "speaker" else ""
    value = float(found[name + suffix][0])
    return (value if np.isfinite(value) else 0.0), float(1 - strong.mean())


def summarised(
    options: GuaranteeOptions, rates: Sequence[tuple[float, float]], promised: int
) -> dict[str, Any]:
    values, weak = np.array(rates).T
    return {
        "risk": options.risk,
        "unit": options.unit,
        "alpha": options.alpha,
        "splits": len(values),
        "promised": promised,
        "rate": round(float(values.mean()), 4),
        "interval": [round(float(q), 4) for q in np.quantile(values, [0.025, 0.975])],
        "above": int((values > options.alpha + 1e-9).sum()),
        "weak_share": round(float(weak.mean()), 4),
    }


def over_splits(sample: Sample, options: GuaranteeOptions, splits: int) -> dict[str, Any]:
    """Calibrated on half of the speakers, observed on the others."""
    random = np.random.default_rng(SEED)
    speakers, rates, promised = sample.pair.n_speakers, [], 0
    for _ in range(splits):
        first = random.permutation(speakers) < speakers // 2
        here = first[sample.pair.speakers]
        chosen = choose(options, part_of(sample, np.flatnonzero(here)))
        promised += bool(chosen.promise and chosen.promise.holds)
        rates.append(observed(part_of(sample, np.flatnonzero(~here)), chosen.threshold, options))
    return summarised(options, rates, promised)


def across(sample: Sample, home: np.ndarray, options: GuaranteeOptions, splits: int) -> dict[str, Any]:
    """Calibrated on one corpus and used on the other; then calibrated anew on 100 utterances of the other."""
    chosen = choose(options, part_of(sample, np.flatnonzero(home)))
    away = part_of(sample, np.flatnonzero(~home))
    at_home = observed(part_of(sample, np.flatnonzero(home)), chosen.threshold, options)
    used = observed(away, chosen.threshold, options)
    random, rates, promised = np.random.default_rng(SEED), [], 0
    for _ in range(splits):
        order = random.permutation(away.pair.n_speakers)[away.pair.speakers]
        by_speaker = np.argsort(order, kind="stable")
        last = order[by_speaker[RECALIBRATE - 1]]
        mine = by_speaker[:RECALIBRATE]
        rest = np.flatnonzero(order > last)
        again = choose(options, part_of(away, mine))
        promised += bool(again.promise and again.promise.holds)
        rates.append(observed(part_of(away, rest), again.threshold, options))
    return {
        "risk": options.risk,
        "unit": options.unit,
        "alpha": options.alpha,
        "home": [round(value, 4) for value in at_home],
        "away": [round(value, 4) for value in used],
        "recalibrated": summarised(options, rates, promised),
    }


def side_by_side(decider: str) -> list[dict[str, Any]]:
    """Every kind chosen on the calibration split, and what comes of it on the test split."""
    params = load_params()
    labels, transcripts, arms = read_parquet(LABELS), read_parquet(TRANSCRIPTS), read_json(ARMS)
    parts = {}
    for split in ("calibration", "test"):
        rows = labels[labels["split"] == split].reset_index(drop=True)
        parts[split] = labelled(params, rows, transcripts, arms)
    calibration, extractor = score(params, decider, parts["calibration"], ids_of("dev"))
    test, _ = score(params, decider, parts["test"])
    rows = []
    for name, given in SIX.items():
        options = OPTIONS.validate_python({"decider": decider, **given})
        bound = parts["calibration"].bound(decider, extractor, None)
        policy = make_policy(name, options, calibration, bound)
        made = policy_metrics(policy, test, RESAMPLES, SEED)
        found = policy.calibration.figures.get(policy.figure)
        rows.append(
            {
                "policy": name,
                "figure": policy.figure,
                "target": policy.target,
                "threshold": round(policy.threshold, 6),
                "promise": policy.promise.holds if policy.promise else None,
                "calibration": found.model_dump(mode="json") if found else None,
                "test": made.get(policy.figure),
                "met": made["target"]["met"],
                **{key: made[key] for key in ("strong_share", "wer_routed", "wer_rise", "saving_macs")},
                **{key: made[key] for key in ("wer_weak", "wer_strong")},
            }
        )
    return rows


def measure(decider: str, splits: int, draws: int) -> dict[str, Any]:
    """All figures of the document."""
    params = load_params()
    labels = read_parquet(LABELS)
    rows = labels[labels["split"].isin(["calibration", "test"])].reset_index(drop=True)
    part = labelled(params, rows, read_parquet(TRANSCRIPTS), read_json(ARMS))
    sample, _ = score(params, decider, part, ids_of("dev"))
    corpora = sorted(rows["corpus"].unique())
    jobs = [
        (population, options, *size)
        for population in POPULATIONS
        for options in (
            GuaranteeOptions(kind="guarantee", decider="d", risk=risk, alpha=0.1, unit=unit)
            for risk in ("all", "weak", "mean_loss")
            for unit in ("utterance", "speaker")
        )
        for size in ((40, 10),)
    ]
    return {
        "simulation": [simulate(*job, draws=draws) for job in tqdm(jobs, "simulate", unit="row")],
        "project": {
            "decider": decider,
            "arms": part.models,
            "utterances": len(rows),
            "speakers": sample.pair.n_speakers,
            "corpora": {str(name): int(count) for name, count in rows["corpus"].value_counts().items()},
        },
        "side_by_side": side_by_side(decider),
        "splits": [over_splits(sample, one, splits) for one in tqdm(list(guarantees(decider)), "splits")],
        "across": [
            {"from": str(corpus), **across(sample, (rows["corpus"] == corpus).to_numpy(), one, splits)}
            for corpus in (corpora if len(corpora) == 2 else [])
            for one in guarantees(decider)
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("decider", help="a decider of params.yaml")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args()
    made = measure(given.decider, given.splits, given.draws)
    write_json(given.out / "policies.json", made)
    write_text(given.out / "policies-measured.md", document(made))
    print(f"{given.out / 'policies-measured.md'}, and policies.json beside it")


if __name__ == "__main__":
    main()
