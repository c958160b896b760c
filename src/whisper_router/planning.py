"""Before anything is transcribed: how long the arms will take, which differences a test split can tell."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy import stats

from whisper_router.asr.arm import Arm
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import ENCODER_FRAMES, DecodeOptions
from whisper_router.asr.reference import ArmReference
from whisper_router.asr.weights import Checkpoint, find_checkpoint
from whisper_router.audio import SAMPLE_RATE, WINDOW_S
from whisper_router.cost_table import COSTS, ArmCosts, load_table
from whisper_router.environment import cores
from whisper_router.errors import UserError
from whisper_router.evaluation import MIN_SPEAKERS
from whisper_router.files import read_json, read_parquet
from whisper_router.labelling import utterances
from whisper_router.params import ArmOptions, Arms
from whisper_router.paths import ARMS, LABELS
from whisper_router.store import ContentStore

PROBE_S = 7.0  # seconds of decoding by each arm; loading its weights comes on top
LARGEST_BATCH = 8
BATCHES = 2  # that each core decodes after its first utterance
LONGER = 2  # times the shortest utterance takes the average one
TOKENS_A_WORD = 1.35
PROMPT = 5  # tokens around a text
MIN_LABELS = 100  # utterances from which a spread is taken

Array = np.ndarray


@dataclass(frozen=True)
class ArmTime:
    """How long an arm will take to transcribe all utterances on this machine."""

    arm: str
    model: str
    minutes: float | None  # None: not known
    how: str  # what the figure rests on, or why there is none


@dataclass(frozen=True)
class Spread:
    """How the difference of two choices in word errors varies.

    Attributes
    ----------
    per_word : float
        Standard deviation of an utterance's difference, less its expectation, for the square root of its
        words.
    correlation : float
        Of these between utterances of one speaker.
    source : str
        The data that they were seen in.
    """

    per_word: float
    correlation: float
    source: str


# Of docs/paper-replication.json: 1,228 utterances, 13,621 words, 145 speakers of LibriSpeech test-clean and
# speechocean762, half-width 1.18 points, and labels whose interval is that of a design effect of 1.72.
USUAL = Spread(0.53, 0.06, "audiobooks and learners' English, tiny.en against base")


@dataclass(frozen=True)
class Resolution:
    """The smallest difference in WER that a test split can tell; None where it gives no interval."""

    points: float | None  # half the width of the 95 % interval
    points_surely: float | None  # a true difference that is told 4 times in 5
    words: int
    speakers: int
    speakers_needed: int  # for an interval
    spread: Spread


def resolution(words: int, speakers: Array, spread: Spread) -> Resolution:
    """The smallest difference in WER between two choices that a test split can tell.

    The difference is a ratio of sums over utterances, d = sum(e1 - e2) / sum(w), with e the word errors of
    either choice and w the words. What a bootstrap over speakers, paired, finds for its standard error is to
    first order that of a ratio estimator with the speakers as clusters (Cochran 1977, Sampling Techniques,
    sections 6.3 and 9A.1; Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 6.5)::

        se = s * sqrt(deff / W)          half-width = 1.96 * se
        deff = 1 + (m - 1) * rho         (Kish 1965, Survey Sampling, section 5.4)

    with W the words of the split, s and rho the spread, and m the utterances of an utterance's speaker, on
    average. A true difference as large as the half-width is told one time in two, one of 2.80 standard errors
    four times in five (Cohen 1988, Statistical Power Analysis, section 2.4).

    Parameters
    ----------
    words : int
        Words of the test split.
    speakers : ndarray
        Speaker of each of its utterances.
    """
    count = len(np.unique(speakers))
    if count < MIN_SPEAKERS or words == 0:
        return Resolution(None, None, words, count, MIN_SPEAKERS, spread)
    error = spread.per_word * float(np.sqrt(_design_effect(speakers, spread.correlation) / words))
    half, power = float(stats.norm.ppf(0.975)), float(stats.norm.ppf(0.8))
    points = [round(100 * times * error, 2) for times in (half, half + power)]
    return Resolution(points[0], points[1], words, count, MIN_SPEAKERS, spread)


def _mean_cluster(speakers: Array) -> float:
    """Utterances of an utterance's speaker, on average."""
    sizes = np.unique(speakers, return_counts=True)[1]
    return float((sizes**2).sum() / sizes.sum())


def _design_effect(speakers: Array, correlation: float) -> float:
    return 1 + (_mean_cluster(speakers) - 1) * correlation


def spread_of(errors: Array, words: Array, speakers: Array, source: str) -> Spread:
    """The spread of differences that were observed; the counterpart of `resolution`.

    Parameters
    ----------
    errors : ndarray
        Word errors of one choice less those of the other, by utterance.
    """
    rest = errors - words * errors.sum() / words.sum()
    by_speaker = np.bincount(np.unique(speakers, return_inverse=True)[1], rest)
    effect = (by_speaker**2).sum() / max((rest**2).sum(), 1e-9)
    correlation = (effect - 1) / max(_mean_cluster(speakers) - 1, 1e-9)
    per_word = float(np.sqrt((rest**2).sum() / words.sum()))
    return Spread(round(per_word, 4), round(float(np.clip(correlation, 0, 1)), 4), source)


def known_spread(ids: Sequence[str], arms: Arms) -> Spread:
    """The spread in the labels of these utterances, where the last run made them with these arms.

    Else the usual one.
    """
    if not (LABELS.is_file() and ARMS.is_file()):
        return USUAL
    models = {name: arm.get("model") for name, arm in read_json(ARMS).items()}
    if models != {"weak": arms.weak.model, "strong": arms.strong.model}:
        return USUAL
    labels = read_parquet(LABELS)
    labels = labels[labels["id"].isin(ids)]
    speakers = labels["speaker"].to_numpy()
    if len(labels) < MIN_LABELS or len(np.unique(speakers)) < MIN_SPEAKERS:
        return USUAL
    errors = (labels["errors_weak"] - labels["errors_strong"]).to_numpy(float)
    source = f"{len(labels)} of these utterances, labelled by the last run"
    return spread_of(errors, labels["words"].to_numpy(float), speakers, source)


def arm_times(
    rows: pd.DataFrame,
    arms: Arms,
    cost_table: str | None,
    store: ContentStore,
    probe: bool,
    seconds: float = PROBE_S,
) -> list[ArmTime]:
    """How long each arm will take for all utterances: by the cost table, else by decoding a few.

    Parameters
    ----------
    rows : DataFrame
        Utterances as `corpus.check` leaves them.
    cost_table : str or None
        NAME of costs/NAME.json.
    probe : bool
        Decode a few utterances where no table has the arm.
    """
    torch.set_num_threads(1)  # a batch, as in labelling
    heard = rows[rows["examined"]] if len(rows) else rows
    found = []
    for name, arm in (("weak", arms.weak), ("strong", arms.strong)):
        minutes, how = _arm_time(name, arm, heard, cost_table, store, probe, seconds)
        if minutes is not None:
            minutes = float(f"{minutes * rows['weight'].sum() / len(heard):.3g}")
        found.append(ArmTime(name, arm.model, minutes, how))
    return found


def _arm_time(
    name: str,
    arm: ArmOptions,
    heard: pd.DataFrame,
    cost_table: str | None,
    store: ContentStore,
    probe: bool,
    seconds: float,
) -> tuple[float | None, str]:
    """Minutes for these utterances, and what they rest on."""
    if not len(heard):
        return None, "no utterance was examined"
    if not (probe or cost_table):
        return None, "not probed, and params.yaml names no cost_table"
    try:
        checkpoint = find_checkpoint(arm.model, fetch=False)
    except UserError:
        return None, "its weights are not on this machine; `whisper-router run` fetches them"
    lacking = ""
    if cost_table:
        path = COSTS / f"{cost_table}.json"
        try:
            spec = ArmReference.of(arm.model, checkpoint, arm.decode).spec()
            costs = load_table(path).arm(name, spec)
            return _by_table(heard, costs, arm.decode) / cores() / 60, f"by {path}"
        except UserError as error:
            lacking = f"{path}: {error}"
    if not probe:
        return None, lacking
    done = _probe(checkpoint, arm.decode, heard, store, seconds)
    if done is None:
        return None, "no utterance could be decoded"
    count, frame_s = done
    frames = sum(sum(_contexts(duration, arm.decode)) for duration in heard["duration_s"])
    rough = "; roughly, the machine is slow or busy" if count < LARGEST_BATCH else ""
    how = f"measured on {count} utterances, {cores()} cores{rough}{f'; {lacking}' if lacking else ''}"
    return frame_s * frames / cores() / 60, how


def _contexts(duration_s: float, options: DecodeOptions) -> list[int]:
    """Encoder frames of an utterance; of one over 30 s, of its windows."""
    whole = int(duration_s / WINDOW_S) if duration_s > WINDOW_S else 0
    rest = options.context(round((duration_s - whole * WINDOW_S) * SAMPLE_RATE))
    return [*([ENCODER_FRAMES] * whole), rest]


def _by_table(heard: pd.DataFrame, costs: ArmCosts, options: DecodeOptions) -> float:
    """Seconds of a core."""
    seconds = 0.0
    for duration, text in zip(heard["duration_s"], heard["text"], strict=True):
        contexts = _contexts(duration, options)
        tokens = PROMPT + round(TOKENS_A_WORD * len(text.split()) / len(contexts))
        seconds += sum(costs.utterance([(context, tokens)])["cpu_seconds"] for context in contexts)
    return seconds


def _probe(
    checkpoint: Checkpoint, options: DecodeOptions, heard: pd.DataFrame, store: ContentStore, seconds: float
) -> tuple[int, float] | None:
    """Decode a few utterances of all lengths on all cores: how many, and a core's seconds for a frame.

    Each core takes the shortest first, which warms up and says how many more there is time for. Seconds are
    those of the processor, so that what else runs on the machine now does not count.
    """
    short = heard[heard["duration_s"] <= WINDOW_S].sort_values(["duration_s", "id"])
    if short.empty:
        return None
    arm, workers = load_arm(checkpoint, options), cores()
    begun = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:

        def timed(groups: Sequence[pd.DataFrame]) -> tuple[int, float] | None:
            before = time.process_time()
            done = list(pool.map(lambda rows: _transcribe(arm, rows, store), groups))
            count, frames = (sum(values) for values in zip(*done, strict=True))
            return (count, (time.process_time() - before) / frames) if frames else None

        warm = timed([short[:1]] * workers)
        spent = time.monotonic() - begun
        size = min(LARGEST_BATCH, int((seconds - spent) / spent / LONGER / BATCHES))
        if size < 1:
            return warm
        places = np.linspace(0, max(0, len(short) - size), workers * BATCHES + 2).astype(int)[1:-1]
        return timed([short[place : place + size] for place in places]) or warm


def _transcribe(arm: Arm, rows: pd.DataFrame, store: ContentStore) -> tuple[int, int]:
    """Have an arm transcribe utterances: how many, and their encoder frames."""
    loaded = [row.load(store) for row in utterances(rows)]
    audios = [audio for audio in loaded if not isinstance(audio, str)]
    for batch in arm.batches(audios, LARGEST_BATCH):
        chosen = [audios[i] for i in batch]
        arm.transcribe(arm.encode_audio(chosen), chosen)
    return len(audios), sum(arm.options.context(audio.size) for audio in audios)
