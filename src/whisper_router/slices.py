"""Where a router gains and where it loses: figures by corpus, duration, speaker and any other tag."""

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from whisper_router.evaluation import Choice, Pair, with_intervals

Array = np.ndarray

DURATIONS = (0, 2, 4, 8, 16, 30)  # seconds
MOST_VALUES = 12  # of a tag that makes slices
QUARTERS = 4  # of a tag with more values, if they are numbers
FEWEST = 10  # utterances of a slice


def slice_columns(manifest: pd.DataFrame) -> pd.DataFrame:
    """What each utterance is sliced by: a column a kind of slice, with the slice's name or NaN.

    Parameters
    ----------
    manifest : DataFrame
        Rows of the manifest, in the order of the utterances.
    """
    names = [f"{low} to {high} s" for low, high in pairwise(DURATIONS)]
    columns: dict[str, pd.Series] = {
        "corpus": manifest["corpus"].astype(object),
        "duration": pd.cut(manifest["duration_s"], DURATIONS, labels=names, right=False).astype(object),
    }
    tags = pd.DataFrame([json.loads(text) if text else {} for text in manifest["tags"]], index=manifest.index)
    for name in sorted(set(tags.columns) - set(columns)):
        values = tags[name].where(tags[name].isna(), tags[name].astype(str))
        numbers = pd.to_numeric(values, errors="coerce")
        if values.nunique() > MOST_VALUES and numbers.notna().sum() == values.notna().sum():
            edges = np.unique(np.quantile(numbers.dropna(), np.linspace(0, 1, QUARTERS + 1)))
            spans = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
            values = pd.cut(numbers, edges, labels=spans, include_lowest=True).astype(object)
        if 1 < values.nunique() <= MOST_VALUES:
            columns[name] = values
    columns["speaker"] = manifest["speaker"].astype(object)
    return pd.DataFrame(columns).reset_index(drop=True)


def _rows(columns: pd.DataFrame) -> Iterator[tuple[str, str, Array]]:
    for kind in columns:
        for value in sorted(columns[kind].dropna().unique(), key=_order):
            rows = np.flatnonzero(columns[kind] == value)
            if rows.size >= FEWEST:
                yield str(kind), str(value), rows


def _order(value: str) -> tuple[float, str]:
    """Ranges by their lower end, names by the alphabet."""
    head = str(value).partition(" to ")[0]
    try:
        return float(head), str(value)
    except ValueError:
        return 0.0, str(value)


def slice_table(
    columns: pd.DataFrame, pair: Pair, made: Mapping[str, Choice], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Figures of each slice of at least ten utterances.

    Returns
    -------
    list of dict
        ``by``, ``slice``, ``utterances``, ``speakers``; WER of weak, strong and routed, ``strong_share`` and
        ``saving_macs``; ``wer_rise``: routed less always-strong, with its interval by a paired bootstrap over
        speakers; ``verdict``: ``loses`` or ``gains`` where that interval leaves out 0, else ``open``.
    """
    result = []
    for by, name, rows in _rows(columns):
        words = pair.words[rows]
        errors = {choice: made[choice].errors[rows] for choice in ("weak", "strong", "routed")}

        def rise(weights: Array, words: Array = words, errors: dict[str, Array] = errors) -> dict[str, Array]:
            total = weights @ words
            with np.errstate(invalid="ignore"):
                return {"wer_rise": weights @ (errors["routed"] - errors["strong"]) / total}

        speakers = np.unique(pair.speakers[rows], return_inverse=True)[1]
        difference = with_intervals(rise, speakers, resamples, seed)["wer_rise"]
        cost = {choice: made[choice].cost["macs"][rows].sum() for choice in ("routed", "strong")}
        result.append(
            {
                "by": by,
                "slice": name,
                "utterances": int(rows.size),
                "speakers": int(speakers.max()) + 1,
                **{f"wer_{choice}": round(float(e.sum() / words.sum()), 6) for choice, e in errors.items()},
                "strong_share": round(float(made["routed"].strong[rows].mean()), 6),
                "saving_macs": round(float(1 - cost["routed"] / cost["strong"]), 6),
                "wer_rise": difference,
                "verdict": _verdict(difference["interval"]),
            }
        )
    return result


def _verdict(interval: list[float] | str) -> str:
    if isinstance(interval, str):
        return "open"
    return "loses" if interval[0] > 0 else "gains" if interval[1] < 0 else "open"


def losing(table: list[dict[str, Any]]) -> list[str]:
    """The slices whose WER is above always-strong's beyond doubt, by name."""
    return [f"{row['by']} {row['slice']}" for row in table if row["verdict"] == "loses"]


def confusion(pair: Pair, made: Mapping[str, Choice]) -> list[dict[str, Any]]:
    """The decisions by what was needed and what was done, in words and in cost.

    Returns
    -------
    list of dict
        ``needed`` and ``sent``; ``utterances``; ``words_lost``: word errors above always-strong's (below 0:
        the weak arm is the better); ``saved``: by currency, the share of all of always-strong's cost.
    """
    routed, strong = made["routed"], made["strong"]
    result = []
    for needed, wanted in (("strong", pair.label == 1), ("weak", pair.label == 0)):
        for sent, went in (("strong", routed.strong == 1), ("weak", routed.strong == 0)):
            rows = wanted & went
            result.append(
                {
                    "needed": needed,
                    "sent": sent,
                    "utterances": int(rows.sum()),
                    "words_lost": int((routed.errors - strong.errors)[rows].sum()),
                    "saved": {
                        c: round(float((strong.cost[c] - cost)[rows].sum() / strong.cost[c].sum()), 6)
                        for c, cost in routed.cost.items()
                    },
                }
            )
    return result
