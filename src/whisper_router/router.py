"""The router: arms, extractor, decider and policy in one object, the same for evaluation and serving."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError

from whisper_router.asr.arm import Arm
from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.engine import Encoding
from whisper_router.asr.load import load_arm
from whisper_router.asr.reference import ArmReference
from whisper_router.asr.weights import Checkpoint
from whisper_router.audio import SAMPLE_RATE, Audio, AudioError, load_audio, windows
from whisper_router.decider.registry import Decider, decider_sha256, load_decider
from whisper_router.errors import UserError
from whisper_router.features.extractors import extract, extractor_identity
from whisper_router.features.options import ArmName, Extractor
from whisper_router.files import read_json
from whisper_router.hashing import digest
from whisper_router.policy.calibrate import Policy
from whisper_router.scoring import NORMALISER

WEIGHTS = "weights"  # folder of embedded checkpoints in a router


class RouterMismatchError(UserError):
    """Parts of a router that were not made for each other."""


class RouterDescription(BaseModel):
    """router.json: what a packaged router consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weak: ArmReference
    strong: ArmReference
    extractor: Extractor
    batch_size: int

    def extractor_identity(self) -> dict[str, object]:
        """The extractor and the arm it reads."""
        arm = self.weak if self.extractor.arm == "weak" else self.strong
        return extractor_identity(self.extractor, arm.spec())


@dataclass(frozen=True)
class Segment:
    """One window of at most 30 s and its route."""

    start_s: float
    end_s: float
    score: float
    arm: ArmName
    model: str
    text: str | None = None


@dataclass(frozen=True)
class Decision:
    """Which arm an utterance needs. Over several windows: the highest score, and strong if any window is."""

    score: float | None
    threshold: float
    arm: ArmName | None
    model: str | None
    duration_s: float | None
    segments: tuple[Segment, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Transcript(Decision):
    """A decision and the text that came of it."""

    text: str | None = None


class Router:
    """Routes each utterance to the weak or the strong arm.

    Use ``Router.load``; ``transcribe`` and ``decide`` take paths or encoded bytes.
    """

    def __init__(
        self,
        description: RouterDescription,
        decider: Decider,
        policy: Policy,
        checkpoints: Mapping[ArmName, Checkpoint],
    ) -> None:
        self.description, self.decider, self.policy = description, decider, policy
        self._checkpoints = checkpoints

    @classmethod
    def load(cls, source: str | Path) -> "Router":
        """Load a packaged folder or a ``models:/`` URI.

        Raises
        ------
        RouterMismatchError
            A part does not match what the policy was calibrated for; the message says which.
        UserError
            A file is missing or damaged, or a checkpoint is not to be had.
        """
        if str(source).startswith("models:/"):
            from whisper_router.serving.uri import router_folder

            folder = router_folder(str(source))
        else:
            folder = Path(source)
        if not (folder / "router.json").is_file():
            raise UserError(f"{folder} holds no router.json; run `whisper-router run` to package a router")
        try:
            description = RouterDescription.model_validate(read_json(folder / "router.json"))
            policy = Policy.model_validate(read_json(folder / "policy.json"))
            decider, _ = load_decider(folder / "decider")
        except (ValidationError, SafetensorError, KeyError, RuntimeError, OSError) as error:
            raise UserError(f"{folder} is damaged; package it again: {error}") from error
        found = {
            "weak_arm": digest(description.weak.spec()),
            "strong_arm": digest(description.strong.spec()),
            "extractor": digest(description.extractor_identity()),
            "decider": decider_sha256(folder / "decider"),
            "normaliser": NORMALISER,
        }
        differing = [name for name, value in found.items() if value != getattr(policy.bound, name)]
        if differing:
            raise RouterMismatchError(
                f"{folder}: policy {policy.name!r} was calibrated for another {', '.join(differing)}; "
                "run calibrate and package again"
            )
        checkpoints: dict[ArmName, Checkpoint] = {
            "weak": description.weak.checkpoint(folder / WEIGHTS / "weak.pt"),
            "strong": description.strong.checkpoint(folder / WEIGHTS / "strong.pt"),
        }
        return cls(description, decider, policy, checkpoints)

    @cached_property
    def weak(self) -> Arm:
        """The weak arm, loaded at first use."""
        return load_arm(self._checkpoints["weak"], self.description.weak.decode)

    @cached_property
    def strong(self) -> Arm:
        """The strong arm, loaded at first use."""
        return load_arm(self._checkpoints["strong"], self.description.strong.decode)

    def decide(self, audio: Sequence[str | Path | bytes], threshold: float | None = None) -> list[Decision]:
        """Score each utterance without transcribing; a bad file fails its own row."""
        limit = self._limit(threshold)
        return [self._join(*row, limit) for row in self._run(audio, limit, transcribe=False)]

    def transcribe(
        self, audio: Sequence[str | Path | bytes], threshold: float | None = None
    ) -> list[Transcript]:
        """Route and transcribe each utterance; a bad file fails its own row."""
        limit = self._limit(threshold)
        result = []
        for segments, error in self._run(audio, limit, transcribe=True):
            text = None if error else " ".join(s.text for s in segments if s.text)
            result.append(Transcript(**vars(self._join(segments, error, limit)), text=text))
        return result

    def _limit(self, threshold: float | None) -> float:
        if threshold is None:
            return self.policy.threshold
        if not math.isfinite(threshold):
            raise UserError(
                f"threshold {threshold}: not a number to compare scores with; give one from 0 to 1"
            )
        return threshold

    def _join(self, segments: tuple[Segment, ...], error: str | None, threshold: float) -> Decision:
        if error is not None:
            return Decision(None, threshold, None, None, None, (), error)
        arm: ArmName = "strong" if any(segment.arm == "strong" for segment in segments) else "weak"
        models = list(dict.fromkeys(segment.model for segment in segments))
        score = max(segment.score for segment in segments)
        return Decision(score, threshold, arm, "+".join(models), segments[-1].end_s, segments)

    def _run(
        self, sources: Sequence[str | Path | bytes], threshold: float, transcribe: bool
    ) -> list[tuple[tuple[Segment, ...], str | None]]:
        pieces: list[Audio] = []
        spans: list[tuple[int, slice]] = []  # source, samples
        errors: dict[int, str] = {}
        for i, source in enumerate(sources):
            try:
                audio = load_audio(source)
            except AudioError as error:
                errors[i] = str(error)
                continue
            for span in windows(audio):
                pieces.append(audio[span])
                spans.append((i, span))
        scores, hypotheses = self._route(pieces, threshold, transcribe)
        segments: dict[int, list[Segment]] = {}
        for (i, span), score, hypothesis in zip(spans, scores, hypotheses, strict=True):
            arm: ArmName = "strong" if score >= threshold else "weak"
            model = getattr(self.description, arm).model
            text = hypothesis.text if transcribe and hypothesis else None
            start, end = span.start / SAMPLE_RATE, span.stop / SAMPLE_RATE
            segments.setdefault(i, []).append(Segment(start, end, score, arm, model, text))
        return [(tuple(segments.get(i, ())), errors.get(i)) for i in range(len(sources))]

    def _route(
        self, audios: Sequence[Audio], threshold: float, transcribe: bool
    ) -> tuple[list[float], list[Hypothesis | None]]:
        """Scores and, where asked for, the hypothesis of the chosen arm. Nothing is encoded twice."""
        scores = [0.0] * len(audios)
        hypotheses: list[Hypothesis | None] = [None] * len(audios)
        # log-mels of utterances that go to the arm that the extractor does not read
        mels: dict[int, torch.Tensor] = {}
        cascade = self.description.extractor.kind == "confidence"
        reads_strong = self.description.extractor.arm == "strong"
        first = self.strong if reads_strong else self.weak
        for batch in first.batches(audios, self.description.batch_size):
            chosen = [audios[i] for i in batch]
            encoding = first.encode_audio(chosen)
            made = dict(enumerate(first.decode(encoding, chosen))) if cascade else {}
            found = self.decider.score(self._features(encoding, chosen, made))
            stay = [k for k in range(len(batch)) if (found[k] >= threshold) == reads_strong]
            if transcribe and stay and not cascade:
                decoded = first.decode(encoding.rows(stay), [chosen[k] for k in stay])
                made = dict(zip(stay, decoded, strict=True))
            for k, i in enumerate(batch):
                scores[i] = float(found[k])
                if k in stay:
                    hypotheses[i] = made.get(k)
                else:
                    mels[i] = encoding.mel[k]
        if transcribe and mels:
            second = self.weak if reads_strong else self.strong
            rest = sorted(mels)
            for batch in second.batches([audios[i] for i in rest], self.description.batch_size):
                chosen = [audios[rest[k]] for k in batch]
                if second.shares_mel(first):
                    encoding = second.encode(torch.stack([mels[rest[k]] for k in batch]))
                else:
                    encoding = second.encode_audio(chosen)
                for k, hypothesis in zip(batch, second.decode(encoding, chosen), strict=True):
                    hypotheses[rest[k]] = hypothesis
        return scores, hypotheses

    def _features(
        self, encoding: Encoding, audios: Sequence[Audio], weak: Mapping[int, Hypothesis]
    ) -> list[np.ndarray]:
        extractor = self.description.extractor
        return [extract(extractor, audio, encoding.states, k, weak.get(k)) for k, audio in enumerate(audios)]
