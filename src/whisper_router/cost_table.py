"""Measured costs: a table of a machine, and an utterance's seconds and joules by interpolation in it.

The table is a measurement that `whisper-router cost --measure` made; nothing here reads a clock.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from scipy.optimize import nnls

from whisper_router.errors import UserError
from whisper_router.files import read_json
from whisper_router.hashing import digest

COSTS = Path("costs")
MEASURED = {
    "cpu_seconds": "seconds of one core, all cores at work, a batch on each",
    "joules": "energy of the machine over those seconds",
}
CURRENCY_LABEL = {
    "macs": "cached decoder, all products counted, real contexts and retries",
    "macs_paper": "the paper's count: beam 8, no cache, no attention products, 30 s",
    **MEASURED,
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EncodePoint(_Strict):
    """An utterance in a batch: log-mel and encoder."""

    context: int  # encoder frames
    mel_s: float
    encode_s: float


class DecodePoint(_Strict):
    """An utterance in a batch: the decoder, from the encoder's output to text."""

    context: int
    tokens: float  # run through the decoder, prompt included; mean of the batch
    utterances: int  # of the batch
    decode_s: float


class BatchCosts(_Strict):
    """Medians for an utterance in a batch."""

    encode: tuple[EncodePoint, ...] = Field(min_length=1)
    decode: tuple[DecodePoint, ...] = Field(min_length=1)

    def mel_s(self, context: int) -> float:
        """Seconds of the log-mel."""
        return self._between(context, {p.context: p.mel_s for p in self.encode})

    def encode_s(self, context: int) -> float:
        """Seconds of the encoder."""
        return self._between(context, {p.context: p.encode_s for p in self.encode})

    def decode_s(self, context: int, tokens: int) -> float:
        """Seconds of the decoder: a straight line over tokens, between the measured contexts."""
        return self._between(context, {c: a + b * tokens for c, (a, b) in self._lines.items()})

    @cached_property
    def _lines(self) -> dict[int, tuple[float, float]]:
        """Seconds before the first token and for each, by context: least squares, neither below 0."""
        lines = {}
        for context in {point.context for point in self.decode}:
            points = [(p.tokens, p.decode_s) for p in self.decode if p.context == context]
            tokens, seconds = np.array(points).T
            start, slope = nnls(np.stack([np.ones_like(tokens), tokens], axis=1), seconds)[0]
            lines[context] = float(start), float(slope)
        return lines

    @staticmethod
    def _between(context: int, values: Mapping[int, float]) -> float:
        contexts = sorted(values)
        return float(np.interp(context, contexts, [values[c] for c in contexts]))


class Check(_Strict):
    """The table against a run as labelling runs it: seconds of cores, measured and by the table."""

    utterances: int
    audio_s: float
    measured_s: float
    predicted_s: float


class Watts(_Strict):
    """Joules for a second of one core."""

    encode: float
    decode: float


class ArmCosts(_Strict):
    """What an arm costs on a machine.

    ``batched`` prices first attempts. ``single`` prices retries, which are few at a time, and is what a
    service pays that gets one utterance at a time.
    """

    model: str
    spec: dict[str, Any]  # weights, decode options and engine
    batched: BatchCosts
    single: BatchCosts
    watts: Watts | None

    def utterance(self, attempts: Sequence[tuple[int, int]]) -> dict[str, float]:
        """Seconds and, where energy is known, joules of an utterance.

        Parameters
        ----------
        attempts : sequence of tuple
            Encoder frames and tokens (prompt included) of each attempt. An attempt at the context of the
            one before it goes on from the same encoding.

        Returns
        -------
        dict
            By currency: ``cpu_seconds``, and ``joules`` where the table has energy.
        """
        encoded = 0
        encode = decode = 0.0
        costs = self.batched
        for context, tokens in attempts:
            if context != encoded:
                encode += costs.mel_s(context) + costs.encode_s(context)
                encoded = context
            decode += costs.decode_s(context, tokens)
            costs = self.single
        return self._priced(encode, decode)

    def encoder(self, context: int) -> dict[str, float]:
        """The part of a first attempt before the decoder: what an extractor of the encoder pays."""
        return self._priced(self.batched.mel_s(context) + self.batched.encode_s(context), 0.0)

    def _priced(self, encode_s: float, decode_s: float) -> dict[str, float]:
        made = {"cpu_seconds": encode_s + decode_s}
        if self.watts is not None:
            made["joules"] = encode_s * self.watts.encode + decode_s * self.watts.decode
        return made


class DecisionPoint(_Strict):
    """An utterance in a batch: from an encoding or a hypothesis to features, and from features to a score."""

    duration_s: float
    extractor_s: float
    decider_s: float


class DecisionCosts(_Strict):
    """What a decider and its extractor cost on a machine, the arm that is read left out."""

    decider: str  # SHA-256 of its folder
    points: tuple[DecisionPoint, ...] = Field(min_length=1)

    def utterance(self, duration_s: float, watts: Watts | None) -> dict[str, float]:
        """Seconds and, where energy is known, joules of a decision."""
        points = sorted(self.points, key=lambda point: point.duration_s)
        seconds = np.interp(
            duration_s, [p.duration_s for p in points], [p.extractor_s + p.decider_s for p in points]
        )
        made = {"cpu_seconds": float(seconds)}
        if watts is not None:
            made["joules"] = float(seconds) * watts.encode
        return made


class Energy(_Strict):
    """Where the joules come from: ``measured`` counters, an ``estimated`` model, or ``not measured``."""

    kind: str
    how: str


class CostTable(_Strict):
    """All that was measured on one machine in one run."""

    machine: dict[str, Any]
    date: str
    conditions: dict[str, Any]
    code: str  # hash of the arms' code at the time
    arms: dict[str, ArmCosts]
    checks: dict[str, Check]
    deciders: dict[str, DecisionCosts]
    energy: Energy
    gpu_seconds: str

    def arm(self, name: str, spec: Mapping[str, Any]) -> ArmCosts:
        """The measurement of an arm, which is known by weights, options and engine.

        Raises
        ------
        UserError
            There is none; the message says what differs from the one that was measured under this name.
        """
        for costs in self.arms.values():
            if digest(costs.spec) == digest(dict(spec)):
                return costs
        if name not in self.arms:
            raise UserError(f"it has no arm {name!r}; run `whisper-router cost --measure`")
        differing = ", ".join(_differences(self.arms[name].spec, spec))
        raise UserError(f"its {name} arm differs in {differing}; run `whisper-router cost --measure`")


def decision_costs(
    table: CostTable, costs: ArmCosts, decider: str, durations_s: np.ndarray
) -> dict[str, np.ndarray]:
    """Costs by currency of a decider (SHA-256 of its folder) on utterances; empty where the table lacks it.

    ``costs`` are those of the arm that its extractor reads.
    """
    found = [made for made in table.deciders.values() if made.decider == decider]
    if not found:
        return {}
    rows = [found[0].utterance(float(seconds), costs.watts) for seconds in durations_s]
    return {currency: np.array([row[currency] for row in rows]) for currency in (rows[0] if rows else ())}


def _differences(measured: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*measured, *wanted}):
        before, now = measured.get(key), wanted.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += _differences(before, now)
        elif digest(before) != digest(now):
            before, now = (str(value)[:12] for value in (before, now))
            found.append(f"{key} ({before}, now {now})")
    return found


def load_table(path: Path) -> CostTable:
    """Read a table.

    Raises
    ------
    UserError
        No such file, or not a table of this version; the message names it and the remedy.
    """
    if not path.is_file():
        others = ", ".join(sorted(file.stem for file in path.parent.glob("*.json"))) or "none"
        raise UserError(
            f"{path}: no such table (there: {others}); `whisper-router cost --measure` makes this machine's"
        )
    try:
        return CostTable.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(
            f"{path} is not a cost table of this version; run `whisper-router cost --measure`: {error}"
        ) from error
