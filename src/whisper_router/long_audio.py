"""Audio over 30 s in the test split: it has no label, so the Router itself transcribes it, window by window.

What it said is kept in the content store: a killed evaluation goes on, and only new audio is transcribed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from whisper_router.audio import Audio
from whisper_router.errors import UserError
from whisper_router.evaluation import with_intervals
from whisper_router.labelling import Utterance, utterances
from whisper_router.progress import progress
from whisper_router.reference import told
from whisper_router.routed import Routed, Window
from whisper_router.router import Router
from whisper_router.scoring import has_words, word_errors
from whisper_router.store import ContentStore

CHOICES = ("weak", "strong", "routed")


@dataclass(frozen=True)
class Heard:
    """What a choice made of one recording."""

    text: str
    windows: int
    strong_s: float  # seconds of the windows that went to the strong arm

    @classmethod
    def of(cls, windows: Sequence[Window]) -> "Heard":
        """The windows as one."""
        seconds = sum(window.end_s - window.start_s for window in windows if window.arm == "strong")
        text = " ".join(window.text for window in windows if window.text)
        return cls(text, len(windows), round(seconds, 3))


def _hear(routed: Routed, row: Utterance) -> dict[str, Heard]:
    """What each choice makes of a recording."""
    heard = routed.hear([row], ["stays weak", "always strong"])
    weak, strong = heard[row.id, "stays weak"], heard[row.id, "always strong"]
    threshold = routed.router.policy.threshold
    taken = [
        there if here.score is not None and here.score >= threshold else here
        for here, there in zip(weak, strong, strict=True)
    ]
    return {"weak": Heard.of(weak), "strong": Heard.of(strong), "routed": Heard.of(taken)}


def measure_long(
    router: Router, rows: pd.DataFrame, encode: Callable[[Audio], bytes], resamples: int, seed: int
) -> dict[str, Any]:
    """WER of always-weak, always-strong and the router on recordings over 30 s, with intervals over speakers.

    Parameters
    ----------
    rows : DataFrame
        Rows of the manifest.
    encode : callable
        Samples to the bytes of an audio file without loss.

    Returns
    -------
    dict
        ``counts``, and unless there is no recording ``wer_weak``, ``wer_strong``, ``wer_routed`` and
        ``strong_share`` (of the seconds).
    """
    routed_by = Routed(router, encode, ContentStore())
    heard: dict[str, dict[str, Heard]] = {}
    errors: dict[str, str] = {}
    for row in progress(utterances(rows), "evaluate: audio over 30 s", unit="recording"):
        try:
            heard[row.id] = _hear(routed_by, row)
        except UserError as error:
            errors[row.id] = str(error)
    for id_, reason in errors.items():
        print(f"evaluate: {id_} over 30 s was not transcribed: {reason}")
    known = [id_ for id_, text in _references(rows, heard).items() if has_words(text)]
    good = rows[rows["id"].isin(known)]
    routed = [heard[id_]["routed"] for id_ in good["id"]]
    counts = {
        "recordings": len(good),
        "failed": len(errors),
        "speakers": int(good["speaker"].nunique()),
        "minutes": round(float(good["duration_s"].sum()) / 60, 3),
        "windows": sum(made.windows for made in routed),
    }
    if good.empty:
        return {"counts": counts}
    return {"counts": counts, **_figures(good, heard, [made.strong_s for made in routed], resamples, seed)}


def _references(rows: pd.DataFrame, heard: dict[str, dict[str, Heard]]) -> dict[str, str]:
    """What the words of each recording that was heard are counted against: its text, else always-strong's."""
    return {
        id_: text if known else heard[id_]["strong"].text
        for id_, text, known in zip(rows["id"], rows["text"], told(rows), strict=True)
        if id_ in heard
    }


def _figures(
    rows: pd.DataFrame,
    heard: dict[str, dict[str, Heard]],
    strong_s: Sequence[float],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    texts = list(_references(rows, heard).values())
    edits = {
        choice: word_errors(texts, [heard[id_][choice].text for id_ in rows["id"]]) for choice in CHOICES
    }
    words = np.array([edit.reference_words for edit in edits["weak"]])
    wrong = {choice: np.array([edit.errors for edit in found]) for choice, found in edits.items()}
    seconds, to_strong = rows["duration_s"].to_numpy(), np.array(strong_s)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        wer = {f"wer_{choice}": weights @ errors / (weights @ words) for choice, errors in wrong.items()}
        return {**wer, "strong_share": weights @ to_strong / (weights @ seconds)}

    return with_intervals(figures, pd.factorize(rows["speaker"])[0], resamples, seed)
