"""What a router is worth on the test split: WER, cost, and the lines it must be compared with.

Pooled figures: all errors over all reference words; all multiply-accumulates over those of always-strong.
Intervals are the 2.5 and 97.5 percentiles of a bootstrap over speakers.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import pandas as pd

from whisper_router.cost import Dims, arm_macs, encoder_macs, paper_encoder_macs, paper_macs
from whisper_router.cost_table import ArmCosts
from whisper_router.features.kinds import AnyExtractor, blocks_of
from whisper_router.features.options import Reads

MIN_SPEAKERS = 10
PAID = ("cpu_seconds", "macs", "joules", "macs_paper")  # costs are compared in the first that is known

Array = np.ndarray
Costs = Mapping[str, Array]  # currency -> cost of each utterance


class Labelled(Protocol):
    """Errors of both arms on the same utterances; all arrays have the shape (utterances,)."""

    @property
    def speakers(self) -> Array: ...
    @property
    def words(self) -> Array: ...
    @property
    def weak_errors(self) -> Array: ...
    @property
    def strong_errors(self) -> Array: ...


@dataclass(frozen=True)
class Pair:
    """Both arms on the same utterances; all arrays have the shape (utterances,)."""

    speakers: Array  # speaker of each utterance, as a number from 0 on
    words: Array
    weak_errors: Array
    strong_errors: Array
    label: Array
    weak_logprob: Array
    strong_logprob: Array
    weak: Costs  # the whole weak arm
    strong: Costs
    weak_encoder: Costs  # the weak arm's encoder alone, first attempt
    strong_encoder: Costs
    strong_blocks: Mapping[int, Costs] = field(default_factory=dict)  # that encoder's first blocks alone

    @property
    def n_speakers(self) -> int:
        """How many different speakers."""
        return len(np.unique(self.speakers))


def build_pair(
    labels: pd.DataFrame,
    transcripts: pd.DataFrame,
    dims: Mapping[str, Dims],
    measured: Mapping[str, ArmCosts] = MappingProxyType({}),
) -> Pair:
    """Align labels and transcripts; count the cost of every utterance.

    Parameters
    ----------
    measured : mapping
        What each arm costs on a machine: adds the currencies of its table, ``cpu_seconds`` and ``joules``.
    """
    rows = {arm: transcripts[transcripts["arm"] == arm].set_index("id").loc[labels["id"]] for arm in dims}
    costs: dict[str, dict[str, Array]] = {}
    for arm, part in rows.items():
        attempts = [
            list(zip(contexts, tokens, strict=True))
            for contexts, tokens in zip(part["attempt_contexts"], part["attempt_tokens"], strict=True)
        ]
        costs[arm] = {
            "macs": np.array([arm_macs(dims[arm], pairs) for pairs in attempts], dtype=np.float64),
            "macs_paper": np.array(
                [
                    paper_macs(dims[arm], int(n)) if pairs else 0
                    for n, pairs in zip(part["tokens"], attempts, strict=True)
                ],
                dtype=np.float64,
            ),
        }
        if arm in measured:
            costs[arm] |= _columns([measured[arm].utterance(pairs) for pairs in attempts])
    encoders: dict[str, dict[str, Array]] = {}
    blocks: dict[int, dict[str, Array]] = {}
    for arm, part in rows.items():
        first = [int(contexts[0]) if len(contexts) else 0 for contexts in part["attempt_contexts"]]
        encoders[arm] = _encoder_costs(dims[arm], first)
        if arm in measured:
            encoders[arm] |= _columns(
                [measured[arm].encoder(frames) if frames else measured[arm].utterance([]) for frames in first]
            )
        if arm == "strong":
            blocks = {
                count: _encoder_costs(first_blocks(dims[arm], count), first)
                for count in range(1, dims[arm].audio_layers)
            }
    return Pair(
        speakers=pd.factorize(labels["speaker"])[0],
        words=labels["words"].to_numpy(),
        weak_errors=labels["errors_weak"].to_numpy(),
        strong_errors=labels["errors_strong"].to_numpy(),
        label=labels["label"].to_numpy(),
        weak_logprob=rows["weak"]["avg_logprob"].to_numpy(dtype=np.float64),
        strong_logprob=rows["strong"]["avg_logprob"].to_numpy(dtype=np.float64),
        weak=costs["weak"],
        strong=costs["strong"],
        weak_encoder=encoders["weak"],
        strong_encoder=encoders["strong"],
        strong_blocks=blocks,
    )


def first_blocks(dims: Dims, blocks: int) -> Dims:
    """The sizes of an encoder that ends after its first blocks."""
    return replace(dims, audio_layers=blocks)


def _encoder_costs(dims: Dims, contexts: Sequence[int]) -> dict[str, Array]:
    """Products of an encoder at the context of each utterance; none at context 0, which is not decoded."""
    by_context = {frames: encoder_macs(dims, frames) for frames in set(contexts)}
    return {
        "macs": np.array([by_context[frames] for frames in contexts], dtype=np.float64),
        "macs_paper": np.where(np.array(contexts) > 0, float(paper_encoder_macs(dims)), 0.0),
    }


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Array]:
    """Costs by currency of all utterances."""
    return {currency: np.array([row[currency] for row in rows]) for currency in (rows[0] if rows else ())}


@dataclass(frozen=True)
class Spent:
    """What is paid before the decision: what the extractor reads, and the decider."""

    reads: Reads  # an encoder, whose output its own arm goes on with; or the whole weak arm (a cascade)
    decider: Costs
    blocks: int | None = None  # of the strong encoder, where not all are run


def spent_on(extractor: AnyExtractor, decider: Costs) -> Spent:
    """What a decision costs that reads this extractor."""
    return Spent(extractor.reads, decider, blocks_of(extractor))


def routed_cost(pair: Pair, strong: Array, spent: Spent) -> Costs:
    """Cost of each utterance routed by ``strong`` (bool); what was spent on the decision is always paid.

    Currencies are those in which the decider's cost is known, and that of the encoder's first blocks.
    """
    read: Costs = getattr(pair, spent.reads) if spent.blocks is None else pair.strong_blocks[spent.blocks]
    result = {}
    for currency in spent.decider:
        if currency not in read:
            continue
        paid = read[currency]
        rest: dict[Reads, tuple[Any, Array]] = {
            "weak": (0.0, pair.strong[currency]),
            "weak_encoder": (pair.weak[currency] - paid, pair.strong[currency]),
            "strong_encoder": (pair.weak[currency], pair.strong[currency] - paid),
        }
        to_weak, to_strong = rest[spent.reads]
        result[currency] = paid + spent.decider[currency] + np.where(strong, to_strong, to_weak)
    return result


@dataclass(frozen=True)
class Choice:
    """A way to transcribe every utterance: the errors it makes and what it costs."""

    errors: Array
    cost: Costs
    strong: Array  # share of each utterance that goes to the strong arm, 0 to 1


def paid_currency(known: Container[str]) -> str:
    """The currency in which costs are compared first: seconds where they were measured, else MACs."""
    return next(currency for currency in PAID if currency in known)


def mixing_share(weak: Array, strong: Array, cost: Array) -> Array:
    """The share of utterances to send to the strong arm at random so that this cost is paid, 0 to 1.

    Parameters
    ----------
    weak, strong, cost : ndarray
        Total costs of always-weak, of always-strong and to be met, of any one shape.
    """
    price = strong - weak
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(price == 0, 0.0, (cost - weak) / price)
    return np.clip(share, 0.0, 1.0)


def choices(pair: Pair, strong: Array, routed: Costs) -> dict[str, Choice]:
    """The routed choice beside always-weak, always-strong, random at the same cost, oracle and both arms."""
    n = len(strong)
    paid = paid_currency(routed)
    share = float(mixing_share(*(costs[paid].sum() for costs in (pair.weak, pair.strong, routed))))
    better = pair.strong_logprob > pair.weak_logprob
    oracle = pair.label == 1

    def mix(to_strong: Array) -> Costs:
        return {c: np.where(to_strong, pair.strong[c], pair.weak[c]) for c in pair.weak}

    return {
        "weak": Choice(pair.weak_errors, pair.weak, np.zeros(n)),
        "strong": Choice(pair.strong_errors, pair.strong, np.ones(n)),
        "routed": Choice(
            np.where(strong, pair.strong_errors, pair.weak_errors), routed, strong.astype(float)
        ),
        "random": Choice(
            share * pair.strong_errors + (1 - share) * pair.weak_errors,
            {c: share * pair.strong[c] + (1 - share) * pair.weak[c] for c in pair.weak},
            np.full(n, share),
        ),
        "oracle": Choice(
            np.where(oracle, pair.strong_errors, pair.weak_errors), mix(oracle), oracle.astype(float)
        ),
        "posthoc": Choice(
            np.where(better, pair.strong_errors, pair.weak_errors),
            {c: pair.weak[c] + pair.strong[c] for c in pair.weak},
            np.ones(n),
        ),
    }


def figures(
    pair: Pair,
    made: Mapping[str, Choice],
    scores: Array,
    weights: Array,
    folds: Array | None = None,
    tau: float = 0.0,
) -> dict[str, Array]:
    """All figures, once for each row of ``weights``, which says how often each utterance counts.

    Parameters
    ----------
    weights : ndarray
        Shape (draws, utterances); the figures have the shape (draws,).
    """
    routed = made["routed"]
    right = (routed.strong == 1) == (pair.label == 1)
    count, words = weights.sum(axis=1), weights @ pair.words
    wer = {name: weights @ choice.errors / words for name, choice in made.items()}
    share = weights @ routed.strong / count
    paid = paid_currency(routed.cost)
    mixed = mixing_share(*(weights @ made[name].cost[paid] for name in ("weak", "strong", "routed")))
    wer["random"] = mixed * wer["strong"] + (1 - mixed) * wer["weak"]
    gap = wer["weak"] - wer["strong"]
    result = {f"wer_{name}": value for name, value in wer.items()}
    result |= {
        "strong_share": share,
        "positive_share": weights @ pair.label / count,
        "accuracy": weights @ right / count,
        "auroc": auroc(pair.label, scores, weights, folds),
        "wer_gap": gap,
        "wer_rise": wer["routed"] - wer["strong"],
        **risks(pair, routed.strong == 1, weights, tau),
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        result["gap_recovered"] = (wer["weak"] - wer["routed"]) / gap
    for currency in routed.cost:
        costs = {name: weights @ choice.cost[currency] for name, choice in made.items()}
        costs["random"] = mixed * costs["strong"] + (1 - mixed) * costs["weak"]
        for name, cost in costs.items():
            result[f"{currency}_{name}"] = cost / costs["strong"]
        result[f"saving_{currency}"] = 1 - result[f"{currency}_routed"]
    return result


def risks(pair: Labelled, strong: Array, weights: Array, tau: float = 0.0) -> dict[str, Array]:
    """What going to the weak arm does to utterances, for each row of weights (draws, utterances).

    ``harm_all``: share of all that go to weak and come out worse by more than ``tau`` WER; ``harm_weak``: of
    those that go to weak; ``mean_loss``: mean WER lost, at most 1 an utterance. ``..._by_speaker``: each
    speaker counts the same.
    """
    lost = (pair.weak_errors - pair.strong_errors) / pair.words
    harm, loss = (lost > tau + 1e-9) & ~strong, np.where(strong, 0.0, np.clip(lost, 0, 1))
    result = {}
    for suffix, counted in (
        ("", weights),
        ("_by_speaker", weights / np.bincount(pair.speakers)[pair.speakers]),
    ):
        total, harmed = counted.sum(axis=1), counted @ harm
        result[f"harm_all{suffix}"] = harmed / total
        with np.errstate(invalid="ignore", divide="ignore"):
            result[f"harm_weak{suffix}"] = harmed / (counted @ ~strong)
        result[f"mean_loss{suffix}"] = counted @ loss / total
    return result


def auroc(label: Array, scores: Array, weights: Array, folds: Array | None = None) -> Array:
    """Area under the ROC curve for each row of weights (draws, utterances); nan where there is one class.

    ``folds`` numbers the decider that scored each utterance: only pairs of one decider are compared.
    scikit-learn's takes one row of weights at a time, a thousand for a bootstrap.
    """
    parts = np.zeros(len(scores), dtype=int) if folds is None else folds
    won, pairs = np.zeros(len(weights)), np.zeros(len(weights))
    for part in np.unique(parts):
        rows = np.flatnonzero(parts == part)
        order = rows[np.argsort(scores[rows], kind="stable")]
        starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
        positive, negative = (
            np.add.reduceat(weights[:, order] * (label[order] == value), starts, axis=1) for value in (1, 0)
        )
        below = np.cumsum(negative, axis=1) - negative / 2
        won += (positive * below).sum(axis=1)
        pairs += positive.sum(axis=1) * negative.sum(axis=1)
    with np.errstate(invalid="ignore"):
        area: Array = won / pairs
    return area


def speaker_weights(speakers: Array, resamples: int, seed: int) -> Array:
    """How often each utterance counts in each resample of the speakers, shape (resamples, utterances)."""
    n = int(speakers.max()) + 1
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    return counts[:, speakers].astype(np.float64)


def with_intervals(
    measure: Callable[[Array], dict[str, Array]], speakers: Array, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Value and 95 % interval of each figure; under 10 speakers the interval is 'too few'."""
    point = {name: values[0] for name, values in measure(np.ones((1, len(speakers)))).items()}
    n = len(np.unique(speakers))
    if n < MIN_SPEAKERS:
        reason = f"too few: {n} speakers, an interval takes {MIN_SPEAKERS}"
        return {name: {"value": _rounded(value), "interval": reason} for name, value in point.items()}
    result = {}
    for name, sample in measure(speaker_weights(speakers, resamples, seed)).items():
        sample = sample[np.isfinite(sample)]
        low, high = np.quantile(sample, [0.025, 0.975]) if sample.size else (float("nan"), float("nan"))
        result[name] = {"value": _rounded(point[name]), "interval": [_rounded(low), _rounded(high)]}
    return result


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def evaluate(
    pair: Pair,
    scores: Array,
    threshold: float | Array,
    spent: Spent,
    resamples: int,
    seed: int,
    folds: Array | None = None,
    tau: float = 0.0,
) -> dict[str, Any]:
    """Metrics of one policy on one split: each figure with its interval, or null with a reason.

    ``threshold`` may be one for each utterance. ``folds`` numbers the decider that scored each utterance,
    where they are several; ``tau`` is the WER
    lost that a guarantee does not count.
    """
    strong = scores >= threshold
    made = choices(pair, strong, routed_cost(pair, strong, spent))
    result: dict[str, Any] = with_intervals(
        lambda weights: figures(pair, made, scores, weights, folds, tau), pair.speakers, resamples, seed
    )
    gap = result["wer_gap"]
    interval = gap["interval"]
    if isinstance(interval, list) and interval[0] <= 0:
        holds = "holds 0" if interval[1] >= 0 else "is below 0: the weak arm is the better"
        span = f"{interval[0]:.4f} to {interval[1]:.4f}"
        reason = f"the interval of WER_weak - WER_strong, {span}, {holds}"
        result["gap_recovered"] = {"value": None, "reason": reason}
    reasons = {
        "gap_recovered": "both arms have the same WER",
        "auroc": "no split or fold holds both classes",
        "harm_weak": "nothing goes to the weak arm",
        "harm_weak_by_speaker": "nothing goes to the weak arm",
    }
    for name, reason in reasons.items():
        if result[name]["value"] is None:
            result[name] = {"value": None, "reason": result[name].get("reason", reason)}
    result["counts"] = {
        "utterances": len(scores),
        "speakers": pair.n_speakers,
        "need_strong": int(pair.label.sum()),
        "sent_to_strong": int(strong.sum()),
    }
    return result


def sweep(pair: Pair, scores: Array, spent: Spent) -> pd.DataFrame:
    """WER and cost at every threshold, from always-weak to always-strong."""
    unique, group = np.unique(scores, return_inverse=True)

    def totals(to_weak: Array, to_strong: Array) -> Array:
        """Sums over all utterances: none to strong, then those of the highest score, of the next..."""
        moved = np.bincount(group, weights=to_strong - to_weak, minlength=len(unique))[::-1]
        sums: Array = to_weak.sum() + np.concatenate([[0.0], np.cumsum(moved)])
        return sums

    none = np.zeros(len(scores), dtype=bool)
    weak, strong = routed_cost(pair, none, spent), routed_cost(pair, ~none, spent)
    errors = totals(pair.weak_errors.astype(float), pair.strong_errors.astype(float))
    return pd.DataFrame(
        {
            "threshold": [np.inf, *unique[::-1]],
            "strong_share": totals(none.astype(float), (~none).astype(float)) / len(scores),
            "wer_routed": errors / pair.words.sum(),
            **{f"{c}_routed": totals(weak[c], strong[c]) / pair.strong[c].sum() for c in weak},
        }
    )


def oracle_frontier(pair: Pair, currency: str) -> tuple[Array, Array]:
    """Cost share and WER of the oracle that sends the utterances with the largest gain a cost first."""
    gain = pair.weak_errors - pair.strong_errors
    price = pair.strong[currency] - pair.weak[currency]
    worth = np.where(
        price > 0, gain / np.where(price > 0, price, 1), np.inf
    )  # retries can make weak the dearer
    order = np.argsort(-worth, kind="stable")
    order = order[gain[order] > 0]
    errors = pair.weak_errors.sum() - np.concatenate([[0], np.cumsum(gain[order])])
    cost = pair.weak[currency].sum() + np.concatenate([[0.0], np.cumsum(price[order])])
    return cost / pair.strong[currency].sum(), errors / pair.words.sum()
