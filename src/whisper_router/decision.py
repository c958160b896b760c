"""What a router is asked and what it answers."""

from dataclasses import dataclass
from typing import get_args

from whisper_router.asr.speech import NoSpeech
from whisper_router.features.options import ArmName

FORCED: tuple[ArmName, ...] = get_args(ArmName)  # routes that need no score


@dataclass(frozen=True)
class Route:
    """How to choose an arm: strong where the score reaches the threshold, or one arm whatever the score."""

    policy: str | None  # None: a threshold that is no policy's
    threshold: float | None
    arm: ArmName | None = None


@dataclass(frozen=True)
class Spent:
    """Work that an arm did on a window."""

    arm: ArmName
    frames: int  # encoder frames of 20 ms
    tokens: int | None  # through the decoder, prompt included; None: encoded only
    blocks: int | None = None  # of the encoder, where it ended before the last


@dataclass(frozen=True)
class Segment:
    """One window of at most 30 s and its route."""

    start_s: float
    end_s: float
    score: float | None  # None: the arm was asked for by name, or there is no speech
    arm: ArmName
    model: str
    text: str | None = None
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None
    temperature: float | None = None
    no_speech: NoSpeech | None = None  # what says that there is none: it goes to weak, and the text is empty
    spent: tuple[Spent, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Which arm an utterance needs. Over several windows: the highest score, and strong if any window is.

    Windows without speech have no score and go to the weak arm.
    """

    score: float | None
    threshold: float | None
    arm: ArmName | None
    model: str | None
    duration_s: float | None
    segments: tuple[Segment, ...] = ()
    error: str | None = None
    policy: str | None = None


@dataclass(frozen=True)
class Transcript(Decision):
    """A decision and the text that came of it."""

    text: str | None = None
