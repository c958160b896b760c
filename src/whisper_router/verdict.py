"""Whether routing is worth it: the rule that turns figures into advice.

Compared are always-weak, always-strong and one policy, on utterances of the test split. The policy is the one
that the same rule prefers on the calibration split, so that the test split confirms one choice instead of
picking the luckiest of many. In cross-validation each fold goes by the policy that the other folds prefer.

A choice is *good enough* if its WER is not above that of any other choice by more than ``tolerance`` points,
by the upper end of the 95 % interval of a bootstrap over speakers, paired: both choices are measured on the
same resampled speakers. The verdict is the cheapest choice that is good enough. A policy must also have a
lower WER than random routing at the same cost, else a die would do its work. Where no choice is good enough,
there is too little data to tell.

Intervals of a bootstrap are too narrow where few utterances decide. Where a choice makes more errors than
another on fewer than ``FEW`` utterances, their number is taken at its upper 97.5 % bound (of a Poisson rate,
Garwood 1936) if that is more.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.stats import chi2

from whisper_router.evaluation import (
    MIN_SPEAKERS,
    Choice,
    Costs,
    Pair,
    choices,
    paid_currency,
    speaker_weights,
)
from whisper_router.files import read_json, write_json
from whisper_router.paths import METRICS
from whisper_router.policy.options import VerdictOptions
from whisper_router.reference import Reference, ReferenceKind

Array = np.ndarray
Outcome = Literal["route", "weak", "strong", "open"]
Arm = Literal["weak", "strong"]

VERDICT = METRICS / "verdict.json"
RANDOM = "random at the same cost"
FEW = 20
UNITS: dict[str, str] = {
    "cpu_seconds": "CPU seconds",
    "joules": "energy",
    "macs": "multiply-accumulates",
    "macs_paper": "multiply-accumulates as the paper counts",
}


@dataclass(frozen=True)
class Candidate:
    """A policy on the utterances of a split, and what it did on those where its threshold was chosen."""

    strong: Array  # bool, shape (utterances,)
    cost: Costs
    calibration_rise: float  # WER above always-strong's, the upper end of the interval if there is one
    calibration_saving: Mapping[str, float]  # by currency, of always-strong's cost


@dataclass(frozen=True)
class FoldCandidates:
    """One fold of cross-validated utterances, and the candidates with their figures on the other folds."""

    rows: Array  # bool, shape (utterances,)
    candidates: Mapping[str, Candidate]


@dataclass(frozen=True)
class Standing:
    """One choice on the test split."""

    name: str  # weak, strong, RANDOM or the policy's name
    wer: float
    cost: float  # of always-strong's
    strong_share: float
    at_most_worse: float | None  # WER above any other choice's: the upper end; None without intervals


@dataclass(frozen=True)
class More:
    """Further data, like those at hand, that would settle a difference."""

    utterances: int
    speakers: int
    points: float  # of WER: the difference that they settle


@dataclass(frozen=True)
class Verdict:
    """The advice, and what it rests on.

    Attributes
    ----------
    outcome : str
        ``route`` with the policy, the ``weak`` or the ``strong`` arm alone, or ``open``: too little data.
    leaning : str
        The outcome, or for ``open`` what the figures say without their intervals.
    dominated_by : str or None
        The arm alone that has no higher WER and no higher cost than the policy.
    """

    outcome: Outcome
    leaning: Literal["route", "weak", "strong"]
    policy: str
    policies: int  # how many the calibration split chose from
    currency: str
    tolerance: float  # points of WER
    models: Mapping[str, str]
    reference: ReferenceKind
    utterances: int
    speakers: int
    hard: int  # utterances that need the strong arm
    standings: tuple[Standing, ...]
    dominated_by: Arm | None
    resolution: float | None  # points: the widest half of an interval; None without intervals
    more: More | None

    def __getitem__(self, name: str) -> Standing:
        """The standing of a choice by its name."""
        return next(standing for standing in self.standings if standing.name == name)

    @property
    def routes(self) -> bool:
        """Whether the figures speak for routing, surely or so far."""
        return self.leaning == "route"

    @property
    def measure(self) -> str:
        """What the rate of a choice counts."""
        return Reference(self.reference, self.models["weak"], self.models["strong"]).wer

    def title(self, name: str) -> str:
        """A choice as people call it."""
        if name in self.models:
            return f"{self.models[name]} alone"
        return f"policy {name}" if name == self.policy else name

    def share_words(self, name: str) -> str:
        """How many utterances a choice sends to the strong arm, as people count."""
        share, strong = self[name].strong_share, self.models["strong"]
        if share in (0.0, 1.0):
            return f"{'all' if share else 'no'} utterances go to {strong}"
        tens = round(10 * share)
        if 0 < tens < 10:
            return f"{tens} of 10 utterances go to {strong}"
        return f"{round(100 * share)} of 100 utterances go to {strong}"

    @property
    def headline(self) -> str:
        """The verdict in a few sentences."""
        said = self._lean()
        return f"too little data to tell. So far: {said}" if self.outcome == "open" else said

    @property
    def basis(self) -> str:
        """What the verdict rests on, in a sentence or two."""
        strong = self.models["strong"]
        verb = "needs" if self.hard == 1 else "need"
        said = (
            f"{self.utterances} test utterances of {self.speakers} speakers, {self.hard} of which {verb} "
            f"{strong}."
        )
        if self.resolution is None:
            return f"{said} An interval takes {MIN_SPEAKERS} speakers."
        if self.more is None:
            return f"{said} They tell differences of {self.resolution:.1f} points."
        more = self.more
        if self.outcome == "open":
            return f"{said} About {more.utterances:,} more from {more.speakers:,} more speakers would tell."
        return (
            f"{said} About {more.utterances:,} more from {more.speakers:,} more speakers would settle a "
            f"difference of {more.points:g} {'point' if more.points == 1 else 'points'}."
        )

    def next_steps(self, default_policy: str) -> list[str]:
        """What to do now, a line each.

        Parameters
        ----------
        default_policy : str
            The policy that the packaged router goes by.
        """
        weak, strong = self.models["weak"], self.models["strong"]
        if self.outcome == "open":
            return [
                "add utterances with the words spoken in them, then `whisper-router run`",
                "`whisper-router register --commit` keeps this state",
            ]
        if self.outcome == "route":
            if self.policy != default_policy:
                return [f"`whisper-router run -S router.policy={self.policy}` makes it the router's policy"]
            return ["`whisper-router register --commit --champion` lets it serve"]
        model = weak if self.outcome == "weak" else strong
        other = "-S arms.strong.model=NAME" if self.outcome == "weak" else "-S arms.weak.model=NAME"
        return [
            f"use {model} alone: `whisper-router transcribe --policy {self.outcome} FILES`",
            f"or try another pair: `whisper-router run {other}`",
        ]

    def _figure(self, name: str) -> str:
        return f"{self[name].wer:.1%}"

    def _lean(self) -> str:
        weak, strong, policy = self.models["weak"], self.models["strong"], self.policy
        at = f"{self[self.leaning if self.leaning != 'route' else policy].cost:.0%}"
        unit = UNITS[self.currency]
        figures = self._figure
        measure = self.measure
        if self.leaning == "route":
            sent = self.share_words(policy)
            against = "" if self.reference != "text" else f", {strong} alone {figures('strong')}"
            return (
                f"route with {policy}. {measure}: {figures(policy)} at {at} of {strong}'s {unit}{against}, "
                f"random routing at that cost {figures(RANDOM)}, {weak} alone {figures('weak')}; {sent}."
            )
        if self.leaning == "weak":
            better = (
                "better" if self["weak"].wer < min(self[policy].wer, self["strong"].wer) else "good enough"
            )
            against = f"{figures(policy)} with {policy}"
            if self.reference == "text":
                against += f", {figures('strong')} with {strong}"
            return (
                f"do not route. {weak} alone is {better}: {measure} {figures('weak')} against {against}, at "
                f"{at} of {strong}'s {unit}."
            )
        cost = self[policy].cost
        if cost >= 1:
            why = f"{policy} costs {cost:.0%} of its {unit}"
        elif self[policy].wer >= self[RANDOM].wer:
            why = f"{policy} does no better than random routing at its cost"
        else:
            why = f"{policy} saves {1 - cost:.0%} of its {unit} and loses too much"
        if self.reference != "text":
            return f"do not route. Use {strong} alone: {why}, {measure} {figures(policy)}."
        return (
            f"do not route. Use {strong} alone: {why}. WER {figures('strong')}, {figures(policy)} with "
            f"{policy} and {figures('weak')} with {weak}."
        )

    def write(self, path: Path = VERDICT) -> None:
        """Write it as JSON, sentences and all."""
        write_json(path, asdict(self) | {"headline": self.headline, "basis": self.basis})

    @classmethod
    def read(cls, path: Path = VERDICT) -> "Verdict":
        """Read what :meth:`write` wrote."""
        values: dict[str, Any] = read_json(path)
        values = {key: value for key, value in values.items() if key not in ("headline", "basis")}
        values["standings"] = tuple(Standing(**row) for row in values["standings"])
        values["more"] = More(**values["more"]) if values["more"] else None
        return cls(**values)


def choose_policy(candidates: Mapping[str, Candidate], tolerance: float, currency: str) -> str:
    """The policy that is to be confirmed, by its figures on the calibration split.

    The cheapest whose WER is above always-strong's by at most ``tolerance`` points, by the upper end of the
    interval. Where there is none, the one with the lowest such end among those that save anything.
    """
    rise = {name: candidate.calibration_rise for name, candidate in candidates.items()}
    saving = {name: candidate.calibration_saving[currency] for name, candidate in candidates.items()}
    near = [name for name in rise if rise[name] <= tolerance / 100 + 1e-9]
    if near:
        return max(near, key=lambda name: (saving[name], -rise[name]))
    saves = [name for name in rise if saving[name] > 0] or list(rise)
    return min(saves, key=lambda name: (rise[name], -saving[name]))


def judge(
    pair: Pair,
    candidates: Mapping[str, Candidate],
    models: Mapping[str, str],
    options: VerdictOptions,
    resamples: int,
    seed: int,
    reference: ReferenceKind = "text",
    folds: Sequence[FoldCandidates] = (),
) -> Verdict:
    """The verdict on labelled utterances that no threshold was chosen on.

    Parameters
    ----------
    candidates : mapping
        The packaged policies by name.
    models : mapping
        Names of the arms' models.
    resamples, seed : int
        Of the bootstrap over speakers.
    folds : sequence of FoldCandidates
        Of cross-validated utterances: each fold is routed by the policy that the other folds prefer. The
        verdict names the policy that all of them prefer.
    """
    known = set.intersection(*(set(one.cost) for one in candidates.values()))
    currency = options.currency or paid_currency(known)
    policy = choose_policy(candidates, options.tolerance, currency)
    chosen = candidates[policy]
    for fold in folds:
        preferred = fold.candidates[choose_policy(fold.candidates, options.tolerance, currency)]
        chosen = replace(
            chosen,
            strong=np.where(fold.rows, preferred.strong, chosen.strong),
            cost={paid: np.where(fold.rows, preferred.cost[paid], chosen.cost[paid]) for paid in known},
        )
    made = choices(pair, chosen.strong, {currency: chosen.cost[currency]})
    sides: dict[str, Choice] = {"weak": made["weak"], "strong": made["strong"], policy: made["routed"]}
    total = pair.strong[currency].sum()
    wer = {name: float(side.errors.sum() / pair.words.sum()) for name, side in sides.items()}
    cost = {name: float(side.cost[currency].sum() / total) for name, side in sides.items()}
    worse, half = _worse(pair, sides, resamples, seed)
    random = float(made["random"].errors.sum() / pair.words.sum())
    tolerance = options.tolerance / 100
    fit = [name for name in sides if name != policy or wer[policy] < random]

    def cheapest(names: list[str]) -> str:
        return min(names, key=lambda name: (cost[name], wer[name]))

    best = min(wer.values())
    lean = cheapest([name for name in fit if wer[name] <= best + tolerance + 1e-9] or ["strong"])
    enough = [name for name in fit if worse is not None and worse[name] <= tolerance + 1e-9]
    pick = cheapest(enough) if enough else None
    leaning = pick or lean
    dominating = [arm for arm in ("weak", "strong") if wer[arm] <= wer[policy] and cost[arm] <= cost[policy]]
    outcome: Any = "route" if pick == policy else pick or "open"
    more = None
    if half is not None:
        margin = tolerance if pick else max(tolerance - (wer[lean] - best), tolerance / 4)
        more = _more(pair, half[leaning], margin)
    standings = [
        Standing(
            name,
            round(wer[name], 6),
            round(cost[name], 6),
            round(float(side.strong.mean()), 6),
            None if worse is None else round(worse[name], 6),
        )
        for name, side in sides.items()
    ]
    mixed = made["random"]
    standings.append(
        Standing(
            RANDOM,
            round(random, 6),
            round(float(mixed.cost[currency].sum() / total), 6),
            round(float(mixed.strong.mean()), 6),
            None,
        )
    )
    return Verdict(
        outcome=outcome,
        leaning="route" if leaning == policy else leaning,  # type: ignore[arg-type]
        policy=policy,
        policies=len(candidates),
        currency=currency,
        tolerance=options.tolerance,
        models=dict(models),
        reference=reference,
        utterances=len(pair.words),
        speakers=pair.n_speakers,
        hard=int(pair.label.sum()),
        standings=tuple(standings),
        dominated_by=cheapest(dominating) if dominating else None,  # type: ignore[arg-type]
        resolution=None if half is None else round(100 * half[leaning], 2),
        more=more,
    )


def _worse(
    pair: Pair, sides: Mapping[str, Choice], resamples: int, seed: int
) -> tuple[dict[str, float], dict[str, float]] | tuple[None, None]:
    """By how much each choice may be worse than any other, and the widest half of these intervals.

    None with fewer than 10 speakers.
    """
    if pair.n_speakers < MIN_SPEAKERS:
        return None, None
    weights = speaker_weights(pair.speakers, resamples, seed)
    words = weights @ pair.words
    sampled = {name: weights @ side.errors / words for name, side in sides.items()}
    point = {name: side.errors.sum() / pair.words.sum() for name, side in sides.items()}
    worse, half = {}, {}
    for name in sides:
        upper = {
            other: max(
                float(np.quantile(sampled[name] - sampled[other], 0.975)),
                _few_bound(sides[name].errors - side.errors, pair.words),
            )
            for other, side in sides.items()
            if other != name
        }
        worse[name] = max(upper.values())
        half[name] = max(float(value - (point[name] - point[other])) for other, value in upper.items())
    return worse, half


def _few_bound(lost: Array, words: Array) -> float:
    """The most that a choice may lose where few utterances lose; -inf where they are not few.

    Parameters
    ----------
    lost : ndarray
        Word errors more than another choice's, shape (utterances,).
    """
    losing = lost[lost > 0]
    if losing.size >= FEW:
        return -math.inf
    each = float(losing.mean()) if losing.size else 1.0
    count = float(chi2.ppf(0.975, 2 * (losing.size + 1))) / 2
    return float((count * each + lost[lost < 0].sum()) / words.sum())


def _more(pair: Pair, half: float, margin: float) -> More | None:
    """Data that would make half an interval as narrow as this: it shrinks with the root of the speakers."""
    factor = (half / margin) ** 2
    if factor <= 1:
        return None
    return More(
        _rounded_up((factor - 1) * len(pair.words)),
        _rounded_up((factor - 1) * pair.n_speakers),
        round(100 * margin, 2),
    )


def _rounded_up(value: float) -> int:
    """At least the value, with two digits that say something."""
    step: int = 10 ** max(math.floor(math.log10(max(value, 1))) - 1, 0)
    return math.ceil(value / step) * step
