"""Whether served audio is still like the calibration split: from the prediction log, without labels.

A distribution has drifted where both hold: its population stability index is at least 0.25, the usual mark
of a major shift, and a two-sample Kolmogorov-Smirnov test finds it at 1 % shared among the distributions. The
index alone answers to small samples, the test alone to shifts too small to matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy import stats

from whisper_router.errors import UserError
from whisper_router.files import read_json

BASELINE = "baseline.json"  # in the router's folder
DISTRIBUTIONS = {
    "score": "the decider's score",
    "avg_logprob": "mean log-probability of the text's tokens",
    "duration_s": "seconds of an utterance",
}
MIN_ROWS = 100
BINS = 10
PSI_MINOR, PSI_MAJOR = 0.1, 0.25
SIGNIFICANCE = 0.01
SHARE_CHANGE = 0.1  # of all utterances

Verdict = Literal["stable", "watch", "drift", "not measured"]


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


def read_log(folder: Path, versions: Sequence[str] = ()) -> pd.DataFrame:
    """All rows of a prediction log; of some versions of the router, if given.

    Raises
    ------
    UserError
        No log there, or a file that cannot be read, by name.
    """
    files = sorted(folder.glob("predictions-*.parquet")) if folder.is_dir() else []
    if not files:
        raise UserError(
            f"{folder}: no predictions-*.parquet; `whisper-router serve` writes them where asked to"
        )
    tables = []
    for file in files:
        try:
            tables.append(pd.read_parquet(file, columns=["time", "version", "route", *DISTRIBUTIONS]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{file}: not a file of the prediction log: {error}") from error
    table = pd.concat(tables, ignore_index=True)
    return table[table["version"].astype(str).isin(versions)] if versions else table


def read_baseline(router: Path) -> dict[str, Any]:
    """What the calibration split looked like to the packaged router."""
    baseline: dict[str, Any] = read_json(router / BASELINE)
    return baseline


def make_baseline(columns: Mapping[str, Sequence[float]], strong: np.ndarray) -> dict[str, Any]:
    """The calibration split for a later comparison: sorted values, share sent to strong."""
    values = {name: sorted(round(float(value), 4) for value in columns[name]) for name in DISTRIBUTIONS}
    return {"strong_share": round(float(np.mean(strong)), 6), "rows": len(strong), **values}


def _share(baseline: Mapping[str, Any], log: pd.DataFrame) -> Finding:
    name, expected = "strong_share", float(baseline["strong_share"])
    routed = log["route"].eq("strong")
    now = float(routed.mean())
    counts = [
        [routed.sum(), (~routed).sum()],
        [expected * baseline["rows"], (1 - expected) * baseline["rows"]],
    ]
    p = float(stats.fisher_exact(np.rint(counts).astype(int)).pvalue)
    found, large = p < SIGNIFICANCE, abs(now - expected) >= SHARE_CHANGE
    verdict: Verdict = "drift" if found and large else "watch" if found else "stable"
    return Finding(name, verdict, expected, now, None, p, "share of utterances sent to the strong arm")


def _distribution(name: str, before: np.ndarray, now: np.ndarray) -> Finding:
    what = DISTRIBUTIONS[name]
    if len(now) < MIN_ROWS:
        detail = f"{what}: {len(now)} values, a comparison takes {MIN_ROWS}"
        return Finding(name, "not measured", float(np.median(before)), None, None, None, detail)
    psi, p = stability_index(before, now), float(stats.ks_2samp(before, now).pvalue)
    found = p < SIGNIFICANCE / len(DISTRIBUTIONS)
    verdict: Verdict = "stable"
    if found and psi >= PSI_MINOR:
        verdict = "drift" if psi >= PSI_MAJOR else "watch"
    return Finding(name, verdict, float(np.median(before)), float(np.median(now)), psi, p, f"{what}, median")


def find_drift(baseline: Mapping[str, Any], log: pd.DataFrame) -> list[Finding]:
    """Compare a log with the calibration split.

    Raises
    ------
    UserError
        Fewer than 100 rows.
    """
    if len(log) < MIN_ROWS:
        raise UserError(f"the prediction log has {len(log)} rows to compare, a comparison takes {MIN_ROWS}")
    columns = {name: log[name].dropna().to_numpy(dtype=np.float64) for name in DISTRIBUTIONS}
    return [
        _share(baseline, log),
        *(_distribution(name, np.array(baseline[name]), values) for name, values in columns.items()),
    ]
