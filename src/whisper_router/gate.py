"""Whether a challenger may serve: rules of params.yaml, each with a verdict and the figures behind it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from whisper_router.contest import Performance
from whisper_router.evaluation import MIN_SPEAKERS, risks, with_intervals
from whisper_router.files import read_json, write_json, write_parquet
from whisper_router.policy.calibrate import Policy
from whisper_router.retrain_options import GateOptions


@dataclass(frozen=True)
class Verdict:
    """One rule's answer."""

    rule: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Contest:
    """Champion and challenger on the same utterances; arrays have the shape (utterances,)."""

    champion: Performance
    challenger: Performance
    speakers: np.ndarray  # numbers from 0 on
    words: np.ndarray
    weak_errors: np.ndarray  # of today's labels
    strong_errors: np.ndarray
    macs: Mapping[str, np.ndarray] | None  # of SPENDERS; None: the champion or challenger has other arms
    slices: pd.DataFrame  # a column a slicing


def _span(interval: Sequence[float]) -> str:
    return f"{interval[0]:+.2%} to {interval[1]:+.2%}"


def improvement(contest: Contest, options: GateOptions) -> Verdict:
    """More of the gap recovered, or the same WER for less; both by a paired bootstrap over speakers."""
    n = len(np.unique(contest.speakers))
    if n < MIN_SPEAKERS:
        return Verdict("improvement", False, f"{n} test speakers, a judgement takes {MIN_SPEAKERS}")

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        words = weights @ contest.words
        found = {
            "gain": weights @ (contest.champion.errors - contest.challenger.errors) / words,
            "gap": weights @ (contest.weak_errors - contest.strong_errors) / words,
        }
        if contest.macs is not None:
            found["saving"] = 1 - weights @ contest.macs["challenger"] / (weights @ contest.macs["champion"])
        return found

    made = with_intervals(figures, contest.speakers, options.resamples, 0)
    gain, gap = made["gain"], made["gap"]
    words = contest.words.sum()
    before, after = (side.errors.sum() / words for side in (contest.champion, contest.challenger))
    said = f"WER {before:.2%} -> {after:.2%}, lower by {gain['value']:.2%} ({_span(gain['interval'])})"
    if gap["interval"][0] > 0:
        recovered = gain["value"] / gap["value"]
        if recovered >= options.min_gap_gain and gain["interval"][0] > 0:
            return Verdict("improvement", True, f"{said}: recovers {recovered:.1%} more of the gap")
        said += f", {recovered:+.1%} of the gap"
    else:
        said += ", no clear gap between the arms"
    if contest.macs is None:
        return Verdict(
            "improvement", False, f"{said}; costs are not compared: the champion's arms are others"
        )
    saving = made["saving"]
    said += f"; saves {saving['value']:.1%} of its macs ({_span(saving['interval'])})"
    equal = gain["interval"][0] >= -options.wer_tolerance
    if equal and saving["value"] >= options.min_saving and saving["interval"][0] > 0:
        return Verdict("improvement", True, f"{said} at equal WER")
    wanted = f"wanted {options.min_gap_gain:.1%} of the gap, or {options.min_saving:.1%} saved at equal WER"
    return Verdict("improvement", False, f"{said}; {wanted}")


def slices(contest: Contest, options: GateOptions) -> Verdict:
    """No slice with enough words lost more than allowed."""
    lost, judged = [], 0
    for column in contest.slices:
        for value, rows in contest.slices.groupby(column).indices.items():
            words = contest.words[rows].sum()
            if words < options.min_slice_words:
                continue
            judged += 1
            rise = (contest.challenger.errors[rows].sum() - contest.champion.errors[rows].sum()) / words
            if rise > options.max_slice_loss:
                lost.append((rise, f"{column} {value}: WER up by {rise:.2%} on {words} words"))
    if lost:
        return Verdict("slices", False, max(lost)[1] + f"; allowed {options.max_slice_loss:.2%}")
    return Verdict("slices", True, f"none of {judged} slices rose by more than {options.max_slice_loss:.2%}")


def dominating(contest: Contest, side: str) -> str | None:
    """The arm alone that has no more errors and no higher cost than a side, in words; None if neither has."""
    macs = contest.macs
    if macs is None or "weak" not in macs:
        return None
    performance: Performance = getattr(contest, side)
    errors, words = performance.errors.sum(), contest.words.sum()
    for arm in ("weak", "strong"):
        own = getattr(contest, f"{arm}_errors").sum()
        if own <= errors and macs[arm].sum() <= macs[side].sum():
            costs = [f"{macs[name].sum() / macs['strong'].sum():.0%}" for name in (arm, side)]
            return (
                f"always-{arm} has WER {own / words:.2%} at {costs[0]} of always-strong's macs, the {side} "
                f"{errors / words:.2%} at {costs[1]}"
            )
    return None


def worth(contest: Contest) -> Verdict:
    """Neither arm alone does as well as the challenger for no more; says where one does of the champion."""
    if contest.macs is None:
        return Verdict("worth", True, "costs are not compared: the champion's arms are others")
    found, before = dominating(contest, "challenger"), dominating(contest, "champion")
    said = found or "neither arm alone does as well as the challenger for no more"
    if before:
        said += f"; the champion is not worth serving either: {before}"
    return Verdict("worth", found is None, said)


def default_policy(router: Path) -> Policy:
    """The policy that a packaged router goes by unless asked otherwise."""
    name = read_json(router / "router.json")["policy"]
    return Policy.model_validate(read_json(router / "policies" / f"{name}.json"))


def guarantee(contest: Contest, policy: Policy, options: GateOptions) -> Verdict:
    """What the challenger's policy promises is not refuted by the test utterances."""
    promise, rule = policy.promise, "guarantee"
    if promise is None:
        return Verdict(rule, True, f"policy {policy.name} ({policy.kind}) promises nothing")
    if not promise.holds:
        return Verdict(rule, False, f"policy {policy.name}: {promise.says}")
    made = with_intervals(
        lambda weights: risks(contest, contest.challenger.strong, weights, promise.tau or 0.0),
        contest.speakers,
        options.resamples,
        0,
    )[promise.figure]
    found, interval = made["value"], made["interval"]
    if found is None:
        return Verdict(rule, True, "nothing goes to the weak arm")
    said = f"{promise.figure} {found:.2%}, promised at most {promise.alpha:.2%}"
    if isinstance(interval, str):
        return Verdict(rule, False, f"{said}; {interval}")
    span = f"{interval[0]:.2%} to {interval[1]:.2%}"
    return Verdict(rule, interval[0] <= promise.alpha, f"{said} (95 %: {span})")


def latency(contest: Contest, options: GateOptions) -> Verdict:
    """Median seconds an utterance, one at a time."""
    before, after = (float(np.median(side.seconds)) for side in (contest.champion, contest.challenger))
    said = f"median {before:.2f} -> {after:.2f} s an utterance, {after / before:.2f} times"
    return Verdict("latency", after <= before * options.max_latency_ratio, said)


def size(size_bytes: int, options: GateOptions) -> Verdict:
    """Bytes of the packaged router."""
    megabytes = size_bytes / 1e6
    said = f"{megabytes:.1f} MB, allowed {options.max_size_mb:g} MB"
    return Verdict("size", megabytes <= options.max_size_mb, said)


def judge(contest: Contest, options: GateOptions) -> Iterator[Verdict]:
    """The rules that take both models' transcripts."""
    if contest.macs is None or "weak" in contest.macs:  # older evidence does not hold the arms' costs
        yield worth(contest)
    yield improvement(contest, options)
    yield slices(contest, options)
    yield guarantee(contest, default_policy(contest.challenger.router), options)
    yield latency(contest, options)


CONTEST, EVIDENCE = "contest.parquet", "gate.json"  # files of the evidence
SIDES = ("champion", "challenger")
SPENDERS = (*SIDES, "weak", "strong")


@dataclass(frozen=True)
class Evidence:
    """All that a verdict was made of: it is kept with the version, so that anybody can judge again."""

    options: GateOptions
    size_bytes: int  # of the packaged router
    champion: str | None  # the version that served
    contest: Contest | None  # None: nothing served yet, or the contest could not be held
    trouble: str = ""  # why it could not be held

    def judge(self) -> list[Verdict]:
        """Every rule's verdict."""
        verdicts = [size(self.size_bytes, self.options)]
        if self.contest is not None:
            return [*verdicts, *judge(self.contest, self.options)]
        if self.champion is None:
            return [*verdicts, Verdict("improvement", True, "nothing serves yet")]
        detail = f"{self.trouble}; `whisper-router promote` decides by hand"
        return [*verdicts, Verdict("improvement", False, detail)]

    def write(self, folder: Path) -> None:
        """Write it: a table with a row an utterance, and the rest as JSON."""
        said = {name: getattr(self, name) for name in ("size_bytes", "champion", "trouble")}
        write_json(folder / EVIDENCE, said | {"options": self.options.model_dump(mode="json")})
        if (contest := self.contest) is None:
            return
        columns = {
            "speaker": contest.speakers,
            "words": contest.words,
            "errors_weak": contest.weak_errors,
            "errors_strong": contest.strong_errors,
        }
        for name in SIDES:
            side: Performance = getattr(contest, name)
            columns |= {f"{name}_{part}": getattr(side, part) for part in ("errors", "seconds", "strong")}
        if contest.macs is not None:
            columns |= {f"{name}_macs": spent for name, spent in contest.macs.items()}
        columns |= {f"slice_{name}": contest.slices[name].to_numpy() for name in contest.slices}
        write_parquet(folder / CONTEST, pd.DataFrame(columns))

    @classmethod
    def read(cls, folder: Path, router: Path) -> "Evidence":
        """Read what :meth:`write` wrote; the challenger's router lies elsewhere."""
        said = read_json(folder / EVIDENCE)
        options = GateOptions.model_validate(said.pop("options"))
        if not (folder / CONTEST).is_file():
            return cls(options, contest=None, **said)
        table = pd.read_parquet(folder / CONTEST)
        champion, challenger = (
            Performance(
                table[f"{name}_errors"].to_numpy(),
                table[f"{name}_seconds"].to_numpy(),
                table[f"{name}_strong"].to_numpy(),
                router,
            )
            for name in SIDES
        )
        spent = {name: table[f"{name}_macs"].to_numpy() for name in SPENDERS if f"{name}_macs" in table}
        cut = {name.removeprefix("slice_"): table[name] for name in table if name.startswith("slice_")}
        contest = Contest(
            champion,
            challenger,
            table["speaker"].to_numpy(),
            table["words"].to_numpy(),
            table["errors_weak"].to_numpy(),
            table["errors_strong"].to_numpy(),
            spent or None,
            pd.DataFrame(cut),
        )
        return cls(options, contest=contest, **said)
