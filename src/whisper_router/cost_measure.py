"""Measure what arms and deciders cost on this machine, on the manifest's real speech, as stages run them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any, TypeVar

import pandas as pd
import torch

from whisper_router.asr.arm import Arm, log_mel
from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import ENCODER_FRAMES, DecodeOptions
from whisper_router.asr.reference import ArmReference
from whisper_router.asr.weights import Checkpoint, find_checkpoint
from whisper_router.audio import SAMPLE_RATE, Audio
from whisper_router.cost_table import (
    ArmCosts,
    BatchCosts,
    Check,
    CostTable,
    DecisionCosts,
    DecisionPoint,
    DecodePoint,
    EncodePoint,
    Energy,
    Watts,
)
from whisper_router.decider.registry import Decider, decider_sha256, load_decider
from whisper_router.energy import Reading, can_measure, measure_joules
from whisper_router.errors import UserError
from whisper_router.features.kinds import AnyExtractor, encoder_of
from whisper_router.features.logmel import weak_mel
from whisper_router.features.options import ArmName
from whisper_router.features.reading import Heard, identity_of, read_feature
from whisper_router.hashing import code_hash
from whisper_router.labelling import WORKERS, Utterance, Work, utterances
from whisper_router.machine import describe_machine
from whisper_router.params import Params
from whisper_router.paths import DECIDER
from whisper_router.progress import progress
from whisper_router.store import ContentStore

REPEATS = 3
LENGTHS = (0.15, 0.85)  # where in the corpus, by duration, the batches of a context are taken
CHECKED = 6  # of labelling's batches, that the table is checked against
ENERGY_S = 6.0  # of encoding, then of decoding, for an arm


@dataclass(frozen=True)
class Times:
    """Seconds of a batch, one thread."""

    mel: float
    encode: float
    decode: float


@dataclass(frozen=True, eq=False)
class Batch:
    """Utterances at one context, none of which is decoded twice."""

    arm: Arm
    context: int
    audios: tuple[Audio, ...]
    tokens: float  # mean, prompt included
    alone: bool  # an utterance by itself

    def run(self) -> Times:
        """Spectrogram, encoder and decoder, each against the clock."""
        started = time.perf_counter()
        log_mel(self.audios, self.context, self.arm.n_mels)
        mel = time.perf_counter()
        encoding = self.arm.encode_audio(self.audios)
        encoded = time.perf_counter()
        self.arm.decode(encoding, self.audios)
        decoded = time.perf_counter()
        return Times(mel - started, max(0.0, encoded - mel - (mel - started)), decoded - encoded)


T = TypeVar("T")


def everywhere(work: Callable[[], T]) -> list[T]:
    """The same work on every core at once, as stages keep all of them busy."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return [done.result() for done in [pool.submit(work) for _ in range(WORKERS)]]


def load(rows: Sequence[Utterance]) -> list[Audio]:
    """Audio of utterances.

    Raises
    ------
    UserError
        The audio of one is not to be had any more.
    """
    store = ContentStore()
    return [row.load_or_raise(store) for row in rows]


def contexts(options: DecodeOptions) -> list[int]:
    """The shortest context that an arm encodes, 30 s, and one between."""
    shortest = options.context(1)
    middle = options.context(max(1, (shortest + ENCODER_FRAMES) // 2 - options.margin_frames) * 320)
    return sorted({shortest, middle, ENCODER_FRAMES})


def windows(rows: Sequence[Utterance], size: int) -> list[list[Utterance]]:
    """Batches of neighbours in duration, a short one and a long one."""
    ordered = sorted(rows, key=lambda row: (row.duration_s, row.id))
    starts = {round(where * max(0, len(ordered) - size)) for where in LENGTHS}
    return [ordered[start : start + size] for start in sorted(starts)]


def plan_arm(
    checkpoint: Checkpoint, options: DecodeOptions, rows: Sequence[Utterance], batch_size: int
) -> list[Batch]:
    """Batches, and utterances of them alone, at every context; each is run once, unmeasured.

    Batches shrink as the context grows, so that each has about as many frames. A context too short for
    every utterance is left out.

    Raises
    ------
    UserError
        At some context every utterance fails the fallback's thresholds.
    """
    made = []
    shortest, *_ = wanted = contexts(options)
    for context in wanted:
        fitting = [row for row in rows if options.context(round(row.duration_s * SAMPLE_RATE)) <= context]
        if not fitting:
            continue
        arm = load_arm(checkpoint, options.model_copy(update={"floor_frames": context}))
        found = []
        size = max(1, round(batch_size * shortest / context))
        for window in windows(fitting, size):
            audios = load(window)
            hypotheses = arm.decode(arm.encode_audio(audios), audios)
            kept = [i for i, hypothesis in enumerate(hypotheses) if len(hypothesis.attempts) == 1]
            if kept:
                some = {kept[len(kept) // 3], kept[2 * len(kept) // 3]}
                for part, alone in ((kept, False), *(([i], True) for i in sorted(some))):
                    tokens = statistics.mean(hypotheses[i].attempts[0].tokens for i in part)
                    found.append(Batch(arm, context, tuple(audios[i] for i in part), tokens, alone))
        if not found:
            raise UserError(
                f"{checkpoint.name} at {context} encoder frames: no utterance of {len(fitting)} that fit is "
                "decoded without a retry; measure on easier or more audio"
            )
        made += found
    return made


def batch_costs(times: Mapping[Batch, Sequence[Times]]) -> BatchCosts:
    """Medians for an utterance over the repeats of each batch."""
    encode = []
    for context in sorted({batch.context for batch in times}):
        here = [
            (len(batch.audios), made)
            for batch, repeats in times.items()
            if batch.context == context
            for made in repeats
        ]
        mel = statistics.median(made.mel / size for size, made in here)
        encoder = statistics.median(made.encode / size for size, made in here)
        encode.append(EncodePoint(context=context, mel_s=_rounded(mel), encode_s=_rounded(encoder)))
    decode = [
        DecodePoint(
            context=batch.context,
            tokens=round(batch.tokens, 2),
            utterances=len(batch.audios),
            decode_s=_rounded(statistics.median(made.decode / len(batch.audios) for made in repeats)),
        )
        for batch, repeats in times.items()
    ]
    return BatchCosts(encode=tuple(encode), decode=tuple(decode))


def _rounded(seconds: float) -> float:
    return round(seconds, 6)


def measure_watts(batch: Batch) -> tuple[Watts, Reading]:
    """Joules for a second of a core, encoding and decoding apart."""
    encoding = batch.arm.encode_audio(batch.audios)

    def watts(work: Callable[[], object]) -> tuple[float, Reading]:
        seconds: list[float] = []

        def repeat() -> None:
            started = time.perf_counter()
            while (taken := time.perf_counter() - started) < ENERGY_S:
                work()
            seconds.append(taken)

        reading = measure_joules(lambda: everywhere(repeat))
        return round(reading.joules / sum(seconds), 3), reading

    encode, _ = watts(lambda: batch.arm.encode_audio(batch.audios))
    decode, reading = watts(lambda: batch.arm.decode(encoding, batch.audios))
    return Watts(encode=encode, decode=decode), reading


def check_arm(arm: Arm, rows: Sequence[Utterance], batch_size: int, costs: ArmCosts) -> Check:
    """Run some of labelling's batches, retries included, and ask the table what they should have taken."""
    plan = Work(arm.sha256, arm.options, True, ()).batches(rows, batch_size)
    count = min(CHECKED, len(plan))
    batches = [load(plan[i * len(plan) // count]) for i in range(count)]

    def work(audios: Sequence[Audio]) -> tuple[float, list[Hypothesis]]:
        started = time.perf_counter()
        made = arm.decode(arm.encode_audio(audios), audios)
        return time.perf_counter() - started, made

    with ThreadPoolExecutor(WORKERS) as pool:
        done = list(pool.map(work, batches))
    predicted = [
        costs.utterance([(attempt.context, attempt.tokens) for attempt in hypothesis.attempts])
        for _, made in done
        for hypothesis in made
    ]
    return Check(
        utterances=sum(map(len, batches)),
        audio_s=round(sum(audio.size for audios in batches for audio in audios) / SAMPLE_RATE, 1),
        measured_s=round(sum(seconds for seconds, _ in done), 3),
        predicted_s=round(sum(cost["cpu_seconds"] for cost in predicted), 3),
    )


def _decide(extractor: AnyExtractor, decider: Decider, heard: Sequence[Heard]) -> tuple[float, float]:
    """Seconds of the extractor and of the decider for a batch."""
    started = time.perf_counter()
    features = [read_feature(extractor, one) for one in heard]
    extracted = time.perf_counter()
    decider.score(features)
    return extracted - started, time.perf_counter() - extracted


def measure_decision(
    name: str, extractor: AnyExtractor, arms: Mapping[str, Arm], rows: Sequence[Utterance], batch_size: int
) -> DecisionCosts:
    """An extractor and its decider on batches of short and of long utterances."""
    folder = DECIDER / name
    decider, _ = load_decider(folder)
    arm, weak = arms[extractor.arm], arms["weak"]
    points = []
    for window in windows(rows, batch_size):
        audios = load(window)
        audios = [audios[i] for i in max(arm.batches(audios, batch_size), key=len)]  # of one context
        encoding = arm.encode_audio(audios)
        hypotheses: Sequence[Hypothesis | None] = [None] * len(audios)
        if extractor.reads == "weak":
            hypotheses = arm.decode(encoding, audios)
        states = encoding.states if encoder_of(extractor) else []
        heard = [
            Heard(audio, states, i, hypotheses[i], weak_mel(audio, weak.options, weak.n_mels))
            for i, audio in enumerate(audios)
        ]
        work = partial(_decide, extractor, decider, heard)
        everywhere(work)
        times = [made for _ in range(REPEATS) for made in everywhere(work)]
        points.append(
            DecisionPoint(
                duration_s=round(statistics.mean(audio.size for audio in audios) / SAMPLE_RATE, 3),
                extractor_s=_rounded(statistics.median(made[0] for made in times) / len(audios)),
                decider_s=_rounded(statistics.median(made[1] for made in times) / len(audios)),
            )
        )
    return DecisionCosts(decider=decider_sha256(folder), points=tuple(points))


def trained(params: Params, arms: Mapping[str, ArmCosts]) -> dict[str, AnyExtractor]:
    """Extractors by decider, of those that train has made for these arms."""
    found: dict[str, AnyExtractor] = {}
    for name, options in params.deciders.items():
        if (DECIDER / name).is_dir():
            extractor = params.extractors[options.extractor]
            _, description = load_decider(DECIDER / name)
            specs: dict[ArmName, Any] = {"weak": arms["weak"].spec, "strong": arms["strong"].spec}
            if description["extractor"] == identity_of(extractor, specs):
                found[name] = extractor
    return found


def measure_table(params: Params, manifest: pd.DataFrame) -> CostTable:
    """Measure the arms of params.yaml, and the deciders that train has made for them.

    Raises
    ------
    UserError
        Audio of the manifest is not to be had, or none is decoded without a retry.
    """
    torch.set_num_threads(1)
    rows = utterances(manifest)
    batch_size = params.runtime.batch_size
    options = {"weak": params.arms.weak, "strong": params.arms.strong}
    checkpoints = {name: find_checkpoint(arm.model) for name, arm in options.items()}
    plans = {
        name: plan_arm(checkpoints[name], arm.decode, rows, batch_size)
        for name, arm in progress(options.items(), "cost: warm up", unit="arm")
    }
    every = [batch for plan in plans.values() for batch in plan]
    times: dict[Batch, list[Times]] = {batch: [] for batch in every}
    for batch in progress([*every] * REPEATS, f"cost: {REPEATS} repeats", unit="batch"):
        times[batch] += everywhere(batch.run)

    arms: dict[str, ArmCosts] = {}
    checks: dict[str, Check] = {}
    loaded: dict[str, Arm] = {}
    energy = Energy(kind="not measured", how="codecarbon is not installed: pip install codecarbon")
    for name, plan in progress(plans.items(), "cost: energy and check", unit="arm"):
        watts = None
        if can_measure():
            watts, reading = measure_watts(plan[0])
            energy = Energy(kind=reading.kind, how=reading.how)
        checkpoint, arm = checkpoints[name], options[name]
        reference = ArmReference(
            model=arm.model, sha256=checkpoint.sha256, size=checkpoint.size, decode=arm.decode
        )
        arms[name] = ArmCosts(
            model=arm.model,
            spec=reference.spec(),
            batched=batch_costs({batch: times[batch] for batch in plan if not batch.alone}),
            single=batch_costs({batch: times[batch] for batch in plan if batch.alone}),
            watts=watts,
        )
        loaded[name] = load_arm(checkpoint, arm.decode)
        checks[name] = check_arm(loaded[name], rows, batch_size, arms[name])
    deciders = {
        name: measure_decision(name, extractor, loaded, rows, batch_size)
        for name, extractor in progress(trained(params, arms).items(), "cost: deciders", unit="decider")
    }
    return CostTable(
        machine=describe_machine(),
        date=date.today().isoformat(),
        conditions={
            "batch_size": batch_size,
            "batches_at_once": WORKERS,
            "torch_threads_a_batch": 1,
            "repeats": REPEATS,
            "corpora": sorted(manifest["corpus"].unique()),
            "utterances": len(rows),
        },
        code=code_hash("whisper_router.asr.load"),
        arms=arms,
        checks=checks,
        deciders=deciders,
        energy=energy,
        gpu_seconds="not measured: "
        + ("the arms run on the CPU" if torch.cuda.is_available() else "torch finds no GPU"),
    )
