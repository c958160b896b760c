"""The weak arm's confidence in its finished hypothesis: what a cascade decides on."""

import numpy as np

from whisper_router.asr.decoding import Hypothesis

LOWEST = (3, 5, 8)  # tokens of a tail: a handful of doubtful words is what the strong arm can mend
DOUBTS = (0.2, 0.3, 0.5, 0.7)  # -log-probability above which a token is counted, nats

CONFIDENCE_NAMES = (
    "avg_logprob",
    "min_logprob",
    "low_logprob",
    "std_logprob",
    *(f"low{k}_logprob" for k in LOWEST),
    "log_sum",
    "log_saturated_sum",
    "log_doubt",
    *(f"log_count_{limit}" for limit in DOUBTS),
    "mean_entropy",
    "max_entropy",
    "log_sum_entropy",
    "log_count_entropy",
    *(f"high{k}_entropy" for k in LOWEST),
    "mean_margin",
    "min_margin",
    *(f"low{k}_margin" for k in LOWEST),
    "compression_ratio",
    "no_speech_prob",
    "log_tokens",
    "tokens_per_s",
    "tokens_per_word",
    "log_duration",
    "temperature",
    "attempts",
)
SURE_MARGIN = 10.0  # nats: what a text too short for a tail is filled up with


def _lowest(values: np.ndarray, filler: float) -> list[float]:
    """Mean of the lowest few values, for each number of ``LOWEST``."""
    filled = np.sort(np.concatenate([values, np.full(max(0, LOWEST[-1] - values.size), filler)]))
    return [float(filled[:k].mean()) for k in LOWEST]


def confidence(hypothesis: Hypothesis, duration_s: float) -> np.ndarray:
    """The numbers of ``CONFIDENCE_NAMES`` for one utterance, shape (1, 34), float32.

    A sum over tokens and a mean over the least sure few say more than the mean over all: the strong arm wins
    on single words, however long the text.
    """
    logprob = np.array(hypothesis.token_logprob or (hypothesis.avg_logprob,))
    entropy = np.array(hypothesis.token_entropy or (0.0,))
    margin = np.array(hypothesis.token_margin or (0.0,))
    values = (
        hypothesis.avg_logprob,
        logprob.min(),
        np.quantile(logprob, 0.1),
        logprob.std(),
        *_lowest(logprob, 0.0),
        np.log1p(-logprob.sum()),
        np.log1p(np.minimum(-logprob, 1.0).sum()),
        np.log1p((1 - np.exp(logprob)).sum()),
        *(np.log1p((logprob < -limit).sum()) for limit in DOUBTS),
        entropy.mean(),
        entropy.max(),
        np.log1p(entropy.sum()),
        np.log1p((entropy > 1).sum()),
        *(-value for value in _lowest(-entropy, 0.0)),
        margin.mean(),
        margin.min(),
        *_lowest(margin, SURE_MARGIN),
        hypothesis.compression_ratio,
        hypothesis.no_speech_prob,
        np.log1p(hypothesis.tokens),
        hypothesis.tokens / duration_s,
        hypothesis.tokens / max(1, len(hypothesis.text.split())),
        np.log(duration_s),
        hypothesis.temperature,
        len(hypothesis.attempts),
    )
    return np.array([values], dtype=np.float32)
