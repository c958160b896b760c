"""Whether served audio is still like the calibration split: from the prediction log, without labels.

A figure has drifted where its change is both large and found. Large is a population stability index of at
least 0.25, the usual mark of a major shift, or a tenth of all utterances that go to another arm, or a WER up
by a quarter. Found is at 5 % shared among the figures, by a Kolmogorov-Smirnov test, Fisher's or a bootstrap.
Each counts as many utterances as the sample is worth: those of one speaker are alike, as much as on the
calibration split (`clusters.design_effect`). Counted one by one they raised a false alarm in one of five
samples of 100.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import stats

from whisper_router.clusters import design_effect
from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.reference import Reference, ReferenceKind
from whisper_router.wer_estimate import COUNTS, differing, estimate

BASELINE = "baseline.json"  # in the router's folder
DISTRIBUTIONS = {
    "score": "the decider's score",
    "avg_logprob": "mean log-probability of the text's tokens",
    "duration_s": "seconds of an utterance",
}
MIN_ROWS = 100
BINS = 10
PSI_MINOR, PSI_MAJOR = 0.1, 0.25
SIGNIFICANCE = 0.05 / (len(DISTRIBUTIONS) + 2)
SHARE_CHANGE = 0.1  # of all utterances
WER_RISE = 0.25  # of the calibration split's

Verdict = Literal["stable", "watch", "drift", "not measured"]


class Baseline(BaseModel):
    """baseline.json: what the calibration split looked like to the packaged router."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: str
    reference: ReferenceKind = "text"
    rows: int
    strong_share: float
    score: list[float]  # in ascending order, as the next two
    avg_logprob: list[float]
    duration_s: list[float]
    design_effect: dict[str, float]
    by_speaker: dict[str, list[int]]  # sums over each speaker's utterances


@dataclass(frozen=True)
class Finding:
    """One comparison of the log with the calibration split."""

    name: str
    verdict: Verdict
    before: float | None  # median, or share
    now: float | None
    psi: float | None
    p: float | None
    detail: str
    interval: tuple[float, float] | None = None


def stability_index(before: np.ndarray, now: np.ndarray, bins: int = BINS) -> float:
    """Population stability index over bins with equal shares of ``before``.

    sum over bins of (q - p) ln(q / p), with shares p before and q now; each bin is given half an observation
    more, so that an empty one counts as rare and not as impossible.
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, bins + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, v, side="right"), minlength=len(edges) + 1) for v in (before, now)
    ]
    p, q = ((count + 0.5) / (count.sum() + 0.5 * len(count)) for count in counts)
    return float(((q - p) * np.log(q / p)).sum())


def _read(folder: Path, kind: str, columns: Sequence[str], versions: Sequence[str]) -> pd.DataFrame:
    tables = [pd.DataFrame(columns=list(columns))]
    for file in sorted(folder.glob(f"{kind}-*.parquet")):
        try:
            tables.append(pd.read_parquet(file, columns=list(columns)))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{file}: not a file of the prediction log: {error}") from error
    table = pd.concat(tables[1:] or tables, ignore_index=True)
    return table[table["version"].astype(str).isin(versions)] if versions else table


def read_log(folder: Path, versions: Sequence[str] = ()) -> pd.DataFrame:
    """All rows of a prediction log; of some versions of the router, if given.

    Raises
    ------
    UserError
        No log there, or a file that cannot be read, by name.
    """
    if not any(folder.glob("predictions-*.parquet")):
        raise UserError(
            f"{folder}: no predictions-*.parquet; `whisper-router serve` writes them where asked to"
        )
    return _read(folder, "predictions", ["time", "version", "policy", "route", *DISTRIBUTIONS], versions)


def read_shadow(folder: Path, versions: Sequence[str] = ()) -> pd.DataFrame:
    """All windows of the log that both arms have transcribed; none where there was no shadow share."""
    return _read(folder, "shadow", ["version", "policy", "words_strong", "differences"], versions)


def read_baseline(router: Path) -> Baseline:
    """What the calibration split looked like to the packaged router.

    Raises
    ------
    UserError
        It was packaged by an older version of this project.
    """
    try:
        return Baseline.model_validate(read_json(router / BASELINE))
    except ValidationError as error:
        raise UserError(
            f"{router / BASELINE}: written by an older version, or damaged; package the router again: {error}"
        ) from error


def make_baseline(policy: str, table: pd.DataFrame, reference: ReferenceKind = "text") -> Baseline:
    """The calibration split for a later comparison.

    Parameters
    ----------
    table : DataFrame
        A row an utterance: speaker, strong (bool), words, errors (of the routed text), words_strong,
        differences, and the columns of ``DISTRIBUTIONS`` (NaN where there is no speech).
    """
    speakers = table["speaker"].to_numpy()
    effects = {
        name: design_effect(known[name].to_numpy(float), known["speaker"].to_numpy())
        for name in (*DISTRIBUTIONS, "strong")
        for known in [table.dropna(subset=name)]
    }
    effects["differences"] = differing(
        table["words_strong"].to_numpy(), table["differences"].to_numpy(), speakers
    )
    values = {
        name: sorted(round(float(value), 4) for value in table[name].dropna()) for name in DISTRIBUTIONS
    }
    sums = table.groupby("speaker")[list(COUNTS)].sum()
    return Baseline(
        policy=policy,
        reference=reference,
        rows=len(table),
        strong_share=round(float(table["strong"].mean()), 6),
        **values,
        design_effect={name: round(value, 4) for name, value in effects.items()},
        by_speaker={name: sums[name].tolist() for name in COUNTS},
    )


def _share(baseline: Baseline, log: pd.DataFrame) -> Finding:
    expected, effect = baseline.strong_share, baseline.design_effect["strong"]
    now = float(log["route"].eq("strong").mean())
    counts = [
        [size * share, size * (1 - share)] for size, share in ((len(log), now), (baseline.rows, expected))
    ]
    p = float(stats.fisher_exact(np.rint(np.array(counts) / effect).astype(int)).pvalue)
    found, large = p < SIGNIFICANCE, abs(now - expected) >= SHARE_CHANGE
    verdict: Verdict = "drift" if found and large else "watch" if found else "stable"
    return Finding(
        "strong_share", verdict, expected, now, None, p, "share of utterances sent to the strong arm"
    )


def _distribution(name: str, baseline: Baseline, now: np.ndarray) -> Finding:
    what, before = DISTRIBUTIONS[name], np.array(getattr(baseline, name))
    if len(now) < MIN_ROWS:
        detail = f"{what}: {len(now)} values, a comparison takes {MIN_ROWS}"
        return Finding(name, "not measured", float(np.median(before)), None, None, None, detail)
    psi, distance = stability_index(before, now), stats.ks_2samp(before, now, method="asymp").statistic
    worth = len(before) * len(now) / (len(before) + len(now)) / baseline.design_effect[name]
    p = float(stats.kstwo.sf(distance, max(1, round(worth))))
    verdict: Verdict = "stable"
    if p < SIGNIFICANCE and psi >= PSI_MINOR:
        verdict = "drift" if psi >= PSI_MAJOR else "watch"
    return Finding(name, verdict, float(np.median(before)), float(np.median(now)), psi, p, f"{what}, median")


def _estimated(baseline: Baseline, shadow: pd.DataFrame) -> list[Finding]:
    known = pd.DataFrame(baseline.by_speaker)
    spoken = shadow.dropna(subset=["words_strong", "differences"])
    wer = Reference(baseline.reference).wer
    if len(spoken) < MIN_ROWS or not known["differences"].sum() or not spoken["words_strong"].sum():
        detail = (
            f"{wer} by both arms' disagreement: {len(spoken)} windows that both have heard, an estimate "
            f"takes {MIN_ROWS}; serve with --shadow 0.05"
        )
        return [Finding("wer_routed", "not measured", None, None, None, None, detail)]
    made = estimate(known, baseline.design_effect["differences"], spoken)
    found, large = made.p < SIGNIFICANCE, made.wer >= (1 + WER_RISE) * made.wer_before
    verdict: Verdict = "drift" if found and large else "watch" if found else "stable"
    low, high = made.interval
    return [
        Finding(
            "disagreement",
            verdict,
            made.disagreement_before,
            made.disagreement,
            None,
            made.p,
            f"differences between both arms a word, {len(spoken)} windows",
        ),
        Finding(
            "wer_routed",
            verdict,
            made.wer_before,
            made.wer,
            None,
            made.p,
            f"{wer} that this makes likely, {low:.1%} to {high:.1%}",
            made.interval,
        ),
    ]


def find_drift(baseline: Baseline, log: pd.DataFrame, shadow: pd.DataFrame) -> list[Finding]:
    """Compare a log with the calibration split.

    Only what was routed by the router's own policy counts: not what asked for an arm or another threshold.

    Raises
    ------
    UserError
        Fewer than 100 rows.
    """
    log, shadow = (table[table["policy"] == baseline.policy] for table in (log, shadow))
    if len(log) < MIN_ROWS:
        raise UserError(
            f"the log has {len(log)} rows of policy {baseline.policy}, a comparison takes {MIN_ROWS}"
        )
    columns = {name: log[name].dropna().to_numpy(dtype=np.float64) for name in DISTRIBUTIONS}
    return [
        _share(baseline, log),
        *(_distribution(name, baseline, values) for name, values in columns.items()),
        *_estimated(baseline, shadow),
    ]
