"""The router: arms, extractor, decider and policy in one object, the same for evaluation and serving."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError

from whisper_router.asr.arm import Arm, log_mel
from whisper_router.asr.blocks import Started, begin, whole
from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.engine import Encoding
from whisper_router.asr.load import load_arm
from whisper_router.asr.reference import ArmReference
from whisper_router.asr.speech import no_speech
from whisper_router.asr.weights import Checkpoint
from whisper_router.audio import SAMPLE_RATE, Audio, AudioError
from whisper_router.decider.registry import Decider, StoredDecider
from whisper_router.decision import FORCED, Decision, Route, Segment, Spent, Transcript
from whisper_router.decode import Source, source_windows
from whisper_router.errors import UserError
from whisper_router.features.kinds import AnyExtractor, blocks_of, encoder_of, parts_of, with_model
from whisper_router.features.logmel import weak_mel
from whisper_router.features.options import ArmName
from whisper_router.features.reading import Heard, identity_of, read_feature, specs_of
from whisper_router.files import parse_json, parse_model, read_bytes, write_json
from whisper_router.hashing import digest, file_sha256
from whisper_router.policy.calibrate import Policy
from whisper_router.scoring import NORMALISER

WEIGHTS, HF = "weights", "hf"  # folder of embedded checkpoints in a router, and of an extractor's model in it
FILES = "files.json"  # hashes of all files beside it
PART_BYTES = 4 * 2**20  # most of a JSON file of a router
HF_BYTES = 16 * 2**30  # most of an extractor's model
HELD_BATCHES = 4  # windows that are held at a time, in batches


class RouterMismatchError(UserError):
    """Parts of a router that were not made for each other."""


class RouterDescription(BaseModel):
    """router.json: what a packaged router consists of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weak: ArmReference
    strong: ArmReference
    extractor: AnyExtractor
    batch_size: int
    policy: str  # the one of policies/ that holds unless another is asked for

    def extractor_identity(self) -> dict[str, object]:
        """The extractor and what it reads."""
        return identity_of(self.extractor, specs_of({"weak": self.weak, "strong": self.strong}))


@dataclass
class _Heard:
    """What became of a window."""

    arm: ArmName
    score: float | None = None
    hypothesis: Hypothesis | None = None
    spent: list[Spent] = field(default_factory=list)


def _spent(arm: ArmName, hypothesis: Hypothesis) -> list[Spent]:
    return [Spent(arm, attempt.context, attempt.tokens) for attempt in hypothesis.attempts]


def _encode(arm: Arm, audios: Sequence[Audio], mels: Sequence[torch.Tensor | None]) -> Encoding:
    """Encode a batch of one context; log-mels that are there already are used."""
    if not any(mel is not None for mel in mels):
        return arm.encode_audio(audios)
    context = arm.options.context(audios[0].size)
    made = [
        log_mel([audio], context, arm.n_mels)[0] if mel is None else mel
        for audio, mel in zip(audios, mels, strict=True)
    ]
    return arm.encode(torch.stack(made))


def join(segments: Sequence[Segment], route: Route, transcribe: bool = True) -> Transcript:
    """The windows of a recording as one."""
    arm: ArmName = "strong" if any(segment.arm == "strong" for segment in segments) else "weak"
    models = "+".join(dict.fromkeys(segment.model for segment in segments))
    scores = [segment.score for segment in segments if segment.score is not None]
    score, seconds = max(scores, default=None), segments[-1].end_s
    text = " ".join(s.text for s in segments if s.text) if transcribe else None
    return Transcript(score, route.threshold, arm, models, seconds, tuple(segments), None, route.policy, text)


def _refused(error: str, route: Route) -> Transcript:
    return Transcript(None, route.threshold, None, None, None, (), error, route.policy)


def read_policies(folder: Path) -> dict[str, Policy]:
    """The policies of a packaged router, by name."""
    paths = sorted((folder / "policies").glob("*.json"))
    return {path.stem: parse_model(path, read_bytes(path, PART_BYTES), Policy) for path in paths}


def _read(
    folder: Path,
) -> tuple[RouterDescription, Decider, dict[str, Policy], dict[ArmName, Checkpoint]]:
    """The parts of a folder. No weights are parsed before all hashes have been compared."""
    path = folder / "router.json"
    description = parse_model(path, read_bytes(path, PART_BYTES), RouterDescription)
    if (folder / WEIGHTS / HF).is_dir():
        extractor = with_model(description.extractor, str(folder / WEIGHTS / HF))
        description = description.model_copy(update={"extractor": extractor})
    policies = read_policies(folder)
    if description.policy not in policies:
        raise UserError(f"{folder}: policies/{description.policy}.json is missing; package it again")
    embedded = {arm: folder / WEIGHTS / f"{arm}.pt" for arm in FORCED}
    for arm, place in embedded.items():
        _check_size(place, 4 * getattr(description, arm).size + PART_BYTES)  # at most float64
    _check_size(folder / WEIGHTS / HF, HF_BYTES)
    for part in (folder, folder / WEIGHTS):
        check_files(part)
    stored = StoredDecider.read(folder / "decider")
    found = {
        "weak_arm": digest(description.weak.spec()),
        "strong_arm": digest(description.strong.spec()),
        "extractor": digest(description.extractor_identity()),
        "decider": stored.sha256,
        "normaliser": NORMALISER,
    }
    for name, policy in policies.items():
        differing = [part for part, value in found.items() if value != getattr(policy.bound, part)]
        if differing:
            raise RouterMismatchError(
                f"{folder}: policy {name!r} was calibrated for another {', '.join(differing)}; "
                "run calibrate and package again"
            )
    decider = stored.load()
    checkpoints: dict[ArmName, Checkpoint] = {
        arm: getattr(description, arm).checkpoint(place) for arm, place in embedded.items()
    }
    return description, decider, policies, checkpoints


def _check_size(place: Path, most: int) -> None:
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if size > most:
        raise UserError(f"{place} has {size} bytes, more than {most}: it is damaged; package it again")


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a packaged router but for its weights/, which has a list of its own."""
    names = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    own = [name for name in sorted(names) if name.parts[0] != WEIGHTS and name != Path(FILES)]
    return {name.as_posix(): file_sha256(names[name]) for name in own}


def write_files(folder: Path) -> None:
    """Write down the hashes of a packaged router's files, or its weights/; `Router.load` compares them."""
    write_json(folder / FILES, file_hashes(folder))


def check_files(folder: Path) -> None:
    """Compare a packaged router's files with their hashes; one that was packaged without them passes.

    Raises
    ------
    RouterMismatchError
        A file differs, is missing or is one too many; the message names it.
    """
    path = folder / FILES
    if not path.exists():
        return
    expected = parse_json(path, read_bytes(path, PART_BYTES))
    found = file_hashes(folder)
    if not isinstance(expected, dict):
        raise UserError(f"{path} is damaged: it is no table of hashes; package it again")
    names = sorted(name for name in expected.keys() | found if expected.get(name) != found.get(name))
    if names:
        raise RouterMismatchError(
            f"{folder}: {', '.join(names[:5])}: not as {FILES} has it; package it again"
        )


class Router:
    """Routes each utterance to the weak or the strong arm.

    Use ``Router.load``; ``transcribe`` and ``decide`` take paths, encoded bytes or decoded samples, and a
    threshold or the name of a policy (or arm) instead of the default policy.
    """

    def __init__(
        self,
        description: RouterDescription,
        decider: Decider,
        policies: Mapping[str, Policy],
        checkpoints: Mapping[ArmName, Checkpoint],
    ) -> None:
        self.description, self.decider, self.policies = description, decider, policies
        self.policy = policies[description.policy]
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
            return cls(*_read(folder))
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
            raise UserError(f"{folder} is damaged; package it again: {error}") from error

    @cached_property
    def weak(self) -> Arm:
        """The weak arm, loaded at first use."""
        return load_arm(self._checkpoints["weak"], self.description.weak.decode)

    @cached_property
    def strong(self) -> Arm:
        """The strong arm, loaded at first use."""
        return load_arm(self._checkpoints["strong"], self.description.strong.decode)

    def _arm(self, name: ArmName) -> Arm:
        return self.weak if name == "weak" else self.strong

    def share_arms(self, other: "Router") -> None:
        """Take over the arms that another router has loaded and that are the same."""
        for name in FORCED:
            ours, theirs = getattr(self.description, name), getattr(other.description, name)
            if name in vars(other) and ours.spec() == theirs.spec():
                vars(self)[name] = vars(other)[name]

    def route(self, policy: str | None = None, threshold: float | None = None) -> Route:
        """The route by a policy that is packaged, by an arm's name, or by a threshold of one's own.

        Raises
        ------
        UserError
            No such policy, a threshold that no score compares with, or both at once.
        """
        if threshold is not None:
            if policy is not None:
                raise UserError(f"policy {policy!r} and threshold {threshold}: give one of them")
            if not math.isfinite(threshold):
                raise UserError(
                    f"threshold {threshold}: not a number to compare scores with; give one from 0 to 1"
                )
            return Route(None, threshold)
        for arm in FORCED:
            if policy == arm:
                return Route(arm, None, arm)
        if policy is None:
            return Route(self.policy.name, self.policy.threshold)
        if policy not in self.policies:
            raise UserError(f"policy {policy!r} is none of {', '.join([*self.policies, *FORCED])}")
        return Route(policy, self.policies[policy].threshold)

    def decide(
        self, audio: Sequence[Source], threshold: float | None = None, policy: str | None = None
    ) -> list[Decision]:
        """Score each utterance without transcribing; a bad file fails its own row."""
        made = self.process(audio, [self.route(policy, threshold)] * len(audio), transcribe=False)
        names = [field.name for field in fields(Decision)]
        return [Decision(**{name: getattr(row, name) for name in names}) for row in made]

    def transcribe(
        self, audio: Sequence[Source], threshold: float | None = None, policy: str | None = None
    ) -> list[Transcript]:
        """Route and transcribe each utterance; a bad file fails its own row."""
        return self.process(audio, [self.route(policy, threshold)] * len(audio))

    def process(
        self, audio: Sequence[Source], routes: Sequence[Route], transcribe: bool = True
    ) -> list[Transcript]:
        """Each utterance by a route of its own; audio of any length in bounded memory."""
        segments: list[list[Segment]] = [[] for _ in audio]
        errors: dict[int, str] = {}
        held: list[tuple[int, int, Audio]] = []  # source, first sample, samples
        most = HELD_BATCHES * self.description.batch_size

        def hear_held() -> None:
            windows = [(start, samples) for _, start, samples in held]
            heard = self.hear(windows, [routes[i] for i, _, _ in held], transcribe)
            for (i, _, _), segment in zip(held, heard, strict=True):
                segments[i].append(segment)
            held.clear()

        for i, source in enumerate(audio):
            try:
                for start, samples in source_windows(source):
                    held.append((i, start, samples))
                    if len(held) == most:
                        hear_held()
            except AudioError as error:
                errors[i] = str(error)
                held[:] = [window for window in held if window[0] != i]
        hear_held()
        return [
            _refused(errors[i], route) if i in errors else join(segments[i], route, transcribe)
            for i, route in enumerate(routes)
        ]

    def hear(
        self, windows: Sequence[tuple[int, Audio]], routes: Sequence[Route], transcribe: bool
    ) -> list[Segment]:
        """Route windows of at most 30 s, (first sample, samples) each, and transcribe them if asked to."""
        heard = self._route([samples for _, samples in windows], routes, transcribe)
        made = []
        for (start, samples), one in zip(windows, heard, strict=True):
            begin, end = start / SAMPLE_RATE, (start + samples.size) / SAMPLE_RATE
            model = getattr(self.description, one.arm).model
            segment = Segment(begin, end, one.score, one.arm, model, spent=tuple(one.spent))
            if one.hypothesis is not None:
                segment = replace(segment, no_speech=one.hypothesis.no_speech)
            if one.hypothesis is not None and transcribe:
                names = ("text", "avg_logprob", "compression_ratio", "no_speech_prob", "temperature")
                segment = replace(segment, **{name: getattr(one.hypothesis, name) for name in names})
            made.append(segment)
        return made

    def _route(self, audios: Sequence[Audio], routes: Sequence[Route], transcribe: bool) -> list[_Heard]:
        """Scores, arms and, where asked for, hypotheses. Nothing is encoded twice."""
        heard = [_Heard(route.arm or "weak") for route in routes]
        for one, samples in zip(heard, audios, strict=True):
            if reason := no_speech(samples, getattr(self.description, one.arm).decode):
                one.hypothesis = Hypothesis.silent(reason)
        # log-mels of utterances that go to the arm that the extractor does not read
        mels: dict[int, torch.Tensor] = {}
        scored = [i for i, route in enumerate(routes) if route.arm is None and heard[i].hypothesis is None]
        if scored:
            self._score(scored, audios, routes, transcribe, heard, mels)
        if not transcribe:
            return heard
        reads = self.description.extractor.arm
        for name in FORCED:
            rows = [i for i, one in enumerate(heard) if one.arm == name and one.hypothesis is None]
            if not rows:
                continue
            arm = self._arm(name)
            shared = mels if mels and arm.shares_mel(self._arm(reads)) else {}
            for batch in arm.batches([audios[i] for i in rows], self.description.batch_size):
                index = [rows[k] for k in batch]
                chosen = [audios[i] for i in index]
                encoding = _encode(arm, chosen, [shared.get(i) for i in index])
                for i, hypothesis in zip(index, arm.decode(encoding, chosen), strict=True):
                    heard[i].hypothesis = hypothesis
                    heard[i].spent += _spent(name, hypothesis)
        return heard

    def _score(
        self,
        scored: Sequence[int],
        audios: Sequence[Audio],
        routes: Sequence[Route],
        transcribe: bool,
        heard: list[_Heard],
        mels: dict[int, torch.Tensor],
    ) -> None:
        """Score rows; those that stay with the arm that the extractor reads get their hypotheses."""
        extractor = self.description.extractor
        cascade, reads, blocks = extractor.reads == "weak", extractor.arm, blocks_of(extractor)
        first = self._arm(reads)
        for batch in first.batches([audios[i] for i in scored], self.description.batch_size):
            index = [scored[k] for k in batch]
            chosen = [audios[i] for i in index]
            begun = begin(first, chosen, blocks)
            made = dict(enumerate(first.decode(whole(first, begun), chosen))) if cascade else {}
            for k, hypothesis in made.items():
                if hypothesis.no_speech:
                    heard[index[k]].hypothesis = hypothesis
            found = self.decider.score(self._features(begun, chosen, made))
            for i, score in zip(index, found, strict=True):
                threshold = routes[i].threshold
                if heard[i].hypothesis is not None:
                    continue
                heard[i].score = float(score)
                heard[i].arm = "strong" if threshold is not None and score >= threshold else "weak"
            stay = [k for k, i in enumerate(index) if heard[i].arm == reads]
            if transcribe and stay and not cascade:
                decoded = first.decode(whole(first, begun.rows(stay)), [chosen[k] for k in stay])
                made = dict(zip(stay, decoded, strict=True))
            for k, i in enumerate(index):
                frames = first.options.context(audios[i].size)
                heard[i].spent += (
                    _spent(reads, made[k]) if k in made else [Spent(reads, frames, None, blocks)]
                )
                if heard[i].arm != reads:
                    mels[i] = begun.mel[k]
                elif transcribe:
                    heard[i].hypothesis = made[k]

    def _features(
        self, begun: Encoding | Started, audios: Sequence[Audio], weak: Mapping[int, Hypothesis]
    ) -> list[np.ndarray]:
        extractor = self.description.extractor
        states = begun.states if encoder_of(extractor) else []  # not every engine has them
        mels = self._weak_mels(begun, audios)
        return [
            read_feature(extractor, Heard(audio, states, k, weak.get(k), mels.get(k)))
            for k, audio in enumerate(audios)
        ]

    def _weak_mels(self, begun: Encoding | Started, audios: Sequence[Audio]) -> dict[int, torch.Tensor]:
        """The weak arm's log-mels, where the extractor reads them; made anew where the other arm's differ."""
        extractor = self.description.extractor
        if not any(part.kind == "logmel" for part in parts_of(extractor)):
            return {}
        if extractor.arm == "weak" or self.weak.shares_mel(self.strong):
            return dict(enumerate(begun.mel))
        decode = self.description.weak.decode
        return {k: weak_mel(audio, decode, self.weak.n_mels) for k, audio in enumerate(audios)}
