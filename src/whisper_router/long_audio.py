"""Audio over 30 s in the test split: it has no label, so the Router itself transcribes it, window by window.

What it said is kept in the content store: a killed evaluation goes on, and only new audio is transcribed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from whisper_router.audio import Audio
from whisper_router.decision import Transcript
from whisper_router.errors import UserError
from whisper_router.evaluation import with_intervals
from whisper_router.hashing import code_hash, digest
from whisper_router.labelling import Utterance, utterances
from whisper_router.reference import told
from whisper_router.router import Router
from whisper_router.scoring import has_words, word_errors
from whisper_router.store import ContentStore

CHOICES = {"weak": "weak", "strong": "strong", "routed": None}  # policies; None is the router's own


@dataclass(frozen=True)
class Heard:
    """What a choice made of one recording."""

    text: str
    windows: int
    strong_s: float  # seconds of the windows that went to the strong arm


def _key(router: Router, choice: str, sha256: str) -> str:
    bound = router.policy.bound
    both = [bound.weak_arm, bound.strong_arm]
    made_by: dict[str, list[object]] = {
        "weak": [bound.weak_arm],
        "strong": [bound.strong_arm],
        "routed": [*both, bound.extractor, bound.decider, router.policy.threshold],
    }
    size = router.description.batch_size
    return digest([choice, made_by[choice], size, code_hash("whisper_router.router"), sha256])


def _heard(made: Transcript) -> Heard:
    strong = [segment for segment in made.segments if segment.arm == "strong"]
    seconds = sum(segment.end_s - segment.start_s for segment in strong)
    return Heard(made.text or "", len(made.segments), round(seconds, 3))


def _hear(
    router: Router, row: Utterance, encode: Callable[[Audio], bytes], store: ContentStore
) -> dict[str, Heard]:
    """What each choice makes of a recording; from the content store where it is there."""
    heard: dict[str, Heard] = {}
    data: bytes | None = None
    for choice, policy in CHOICES.items():
        path = store.value_path("routed", _key(router, choice, row.sha256))
        value = store.read_value(path)
        if value is None:
            data = data or encode(row.load_or_raise(store))
            (made,) = router.transcribe([data], policy=policy)
            if made.error is not None:
                raise UserError(made.error)
            value = vars(_heard(made))
            store.write_value(path, value)
        heard[choice] = Heard(**value)
    return heard


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
    store = ContentStore()
    heard: dict[str, dict[str, Heard]] = {}
    errors: dict[str, str] = {}
    bar = tqdm(utterances(rows), "evaluate: audio over 30 s", unit="recording", disable=rows.empty)
    for row in bar:
        try:
            heard[row.id] = _hear(router, row, encode, store)
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
