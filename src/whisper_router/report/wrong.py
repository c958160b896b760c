"""The utterances that a router got most wrong, to be read and heard."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import soundfile

from whisper_router.audio import SAMPLE_RATE, Audio
from whisper_router.evaluation import Pair

MOST = 10
COMPRESSION = 0.9  # MP3, from 0 (large) to 1


@dataclass(frozen=True)
class Wrong:
    """An utterance that went to the arm with more word errors."""

    id: str
    arm: str
    score: float
    words: int
    lost: int  # word errors more than the other arm's
    reference: str
    weak: str
    strong: str
    audio: str  # data URI


def sound(audio: Audio) -> str:
    """Speech as an MP3 in a data URI: small, the same bytes each time, played by every browser."""
    buffer = io.BytesIO()
    soundfile.write(
        buffer,
        audio,
        SAMPLE_RATE,
        format="MP3",
        subtype="MPEG_LAYER_III",
        compression_level=COMPRESSION,
        bitrate_mode="VARIABLE",
    )
    return "data:audio/mpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def most_wrong(
    labels: pd.DataFrame,
    pair: Pair,
    scores: np.ndarray,
    threshold: float | np.ndarray,
    references: Mapping[str, str],
    hypotheses: Mapping[tuple[str, str], str],
    audio: Callable[[str], Audio],
) -> list[Wrong]:
    """At most ten utterances by the word errors that the other arm would have saved, most first.

    Parameters
    ----------
    hypotheses : mapping
        Texts by id and arm.
    audio : callable
        The samples of an id.
    """
    strong = scores >= threshold
    gain = pair.weak_errors - pair.strong_errors
    lost = np.where(strong, -gain, gain)
    found = []
    for row in np.argsort(-lost, kind="stable")[:MOST]:
        if lost[row] <= 0:
            break
        id_ = str(labels["id"].iloc[row])
        found.append(
            Wrong(
                id=id_,
                arm="strong" if strong[row] else "weak",
                score=float(scores[row]),
                words=int(pair.words[row]),
                lost=int(lost[row]),
                reference=references[id_],
                weak=hypotheses[id_, "weak"],
                strong=hypotheses[id_, "strong"],
                audio=sound(audio(id_)),
            )
        )
    return found
