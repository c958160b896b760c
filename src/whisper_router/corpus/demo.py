"""The demo corpus: our own sentences in a synthetic voice, under conditions that strain a small Whisper."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from hibari import Hibari
from numpy.typing import NDArray
from scipy import signal

from whisper_router.audio import SAMPLE_RATE
from whisper_router.files import replacing
from whisper_router.progress import progress

Samples = NDArray[np.float64]

VOICE_RATE = 24_000  # Hz, what hibari speaks
LEVEL_DB = -23.0  # RMS of every file relative to full scale
PEAK = 0.95  # of full scale
BABBLE_TALKERS = 4
TELEPHONE_HZ = (300.0, 3400.0)
TELEPHONE_RATE = 8_000  # Hz
MU = 255.0  # of the mu-law

# Speakers and share of the utterances, split by split.
SPLIT_SIZES = {"train": (12, 0.38), "dev": (5, 0.14), "calibration": (5, 0.18), "test": (12, 0.30)}

# Share of the utterances, and the range of signal-to-noise ratios in dB where there is noise.
CONDITIONS: dict[str, tuple[float, tuple[float, float] | None]] = {
    "clean": (0.14, None),
    "pink": (0.16, (-4.0, 6.0)),
    "white": (0.14, (2.0, 10.0)),
    "babble": (0.14, (2.0, 9.0)),
    "reverb": (0.22, None),
    "telephone": (0.10, (3.0, 12.0)),
    "fast": (0.10, None),
}

BABBLE_SENTENCES = (
    "Then he told me that the whole shipment had gone to the wrong warehouse.",
    "I never said you couldn't come, I said there wasn't room in the car.",
    "So we waited for another twenty minutes, and of course it started to snow.",
    "They've changed the menu again, and now there isn't a single thing I like.",
    "Her sister moved out last spring, but the piano is still in the hallway.",
    "What I mean is that nobody asked the people who actually live there.",
    "You take the second exit, go past the garage, and it's right on the corner.",
    "If the weather holds, we might paint the fence before your parents arrive.",
)


@dataclass(frozen=True)
class Speaker:
    """A pseudo-speaker: the one voice, changed in a fixed way.

    Attributes
    ----------
    factor : float
        Pitch and formants relative to the voice's own.
    tilt_db : float
        Gain at 8 kHz relative to that at 0 Hz.
    pace : float
        Speed of speech relative to the voice's own.
    """

    name: str
    split: str
    factor: float
    tilt_db: float
    pace: float


def _rng(*parts: object) -> np.random.Generator:
    """A generator that depends on the parts alone."""
    text = "\x1f".join(str(part) for part in parts)
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))


def _speakers(seed: int) -> list[Speaker]:
    """All pseudo-speakers, split by split, drawn from the seed."""
    speakers: list[Speaker] = []
    for split, (count, _) in SPLIT_SIZES.items():
        for _ in range(count):
            name = f"voice-{len(speakers):02d}"
            drawn = _rng(seed, "speaker", name).uniform((0.85, -6.0, 0.9), (1.2, 6.0, 1.15))
            speakers.append(Speaker(name, split, *drawn.round(2).tolist()))
    return speakers


def _amplitude(level_db: float) -> float:
    """The amplitude whose level is ``level_db`` dB."""
    return float(10.0 ** (level_db / 20.0))


def rms(samples: Samples) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(samples))))


def mix(speech: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add noise to speech so that their mean powers over the whole signal differ by ``snr_db`` dB."""
    gain = rms(speech) / rms(noise) * _amplitude(-snr_db)
    return speech + gain * noise


def pink_noise(size: int, rng: np.random.Generator) -> Samples:
    """Gaussian noise whose power falls by 3 dB an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum[0] = 0.0
    spectrum[1:] /= np.sqrt(np.arange(1, spectrum.size))
    return np.fft.irfft(spectrum, size)


def babble_noise(size: int, talk: Samples, rng: np.random.Generator) -> Samples:
    """Several stretches of ``talk`` at once, each from a place drawn at random."""
    starts = rng.integers(talk.size, size=BABBLE_TALKERS)
    noise: Samples = np.sum([np.resize(np.roll(talk, -start), size) for start in starts], axis=0)
    return noise


def reverberate(speech: Samples, rt60_s: float, direct_db: float, rng: np.random.Generator) -> Samples:
    """Convolve with one impulse and an exponentially decaying noise tail.

    Parameters
    ----------
    rt60_s : float
        Seconds in which the tail falls by 60 dB.
    direct_db : float
        Energy of the impulse relative to that of the tail.
    """
    times = np.arange(1, round(rt60_s * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(times.size) * np.power(10.0, -3.0 * times / rt60_s)
    tail *= _amplitude(-direct_db) / np.sqrt(np.sum(np.square(tail)))
    reverberant: Samples = signal.fftconvolve(speech, np.concatenate([[1.0], tail]))
    return reverberant


def _resample(samples: Samples, up: int, down: int) -> Samples:
    """Change the rate by ``up / down``."""
    resampled: Samples = signal.resample_poly(samples, up, down)
    return resampled


def telephone(speech: Samples) -> Samples:
    """Band pass, 8 kHz and 8-bit mu-law, brought back to 16 kHz."""
    band = signal.butter(4, TELEPHONE_HZ, "bandpass", fs=SAMPLE_RATE, output="sos")
    narrow = _resample(signal.sosfilt(band, speech), TELEPHONE_RATE, SAMPLE_RATE)
    peak = float(np.max(np.abs(narrow)))
    companded = np.sign(narrow) * np.log1p(MU * np.abs(narrow) / peak) / np.log1p(MU)
    coded = np.round(companded * 127.0) / 127.0
    expanded = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MU)) / MU * peak
    return _resample(expanded, SAMPLE_RATE, TELEPHONE_RATE)


def _level(samples: Samples) -> Samples:
    """Scale to the common level, or to the highest peak where that is lower."""
    return samples * min(_amplitude(LEVEL_DB) / rms(samples), PEAK / float(np.max(np.abs(samples))))


def _speak(voice: Hibari, text: str, speaker: Speaker, hurry: float, seed: int) -> Samples:
    """A sentence at 16 kHz as a pseudo-speaker says it, ``hurry`` times faster than usual."""
    spoken = voice(text, speed=speaker.pace * hurry / speaker.factor, seed=seed).astype(np.float64)
    shifted = _resample(spoken, SAMPLE_RATE, round(VOICE_RATE * speaker.factor))
    gain = _amplitude(speaker.tilt_db)
    tilted: Samples = signal.lfilter([1.0 + gain, 1.0 - gain], [2.0], shifted)
    return tilted


def _babble_talk(voice: Hibari, seed: int) -> Samples:
    """Half a minute of talk by several pseudo-speakers, all at one level."""
    pairs = zip(BABBLE_SENTENCES, _speakers(seed), strict=False)
    return np.concatenate([_level(_speak(voice, text, speaker, 1.0, seed)) for text, speaker in pairs])


def _strain(
    speech: Samples, condition: str, snr_db: float | None, talk: Samples, rng: np.random.Generator
) -> Samples:
    """Speech under a condition; a telephone's noise is in the room, ahead of the band pass."""
    if condition == "reverb":
        return reverberate(speech, rng.uniform(0.5, 1.2), rng.uniform(-9.0, 0.0), rng)
    if snr_db is None:
        return speech
    if condition == "white":
        return mix(speech, rng.standard_normal(speech.size), snr_db)
    if condition == "babble":
        return mix(speech, babble_noise(speech.size, talk, rng), snr_db)
    noisy = mix(speech, pink_noise(speech.size, rng), snr_db)
    return telephone(noisy) if condition == "telephone" else noisy


def _utterance(
    voice: Hibari, text: str, speakers: list[Speaker], talk: Samples, seed: int
) -> tuple[Samples, dict[str, object]]:
    """Draw an utterance's split, speaker and condition from the seed and its text, and speak it."""
    rng = _rng(seed, "utterance", text)
    split = str(rng.choice(list(SPLIT_SIZES), p=[share for _, share in SPLIT_SIZES.values()]))
    own = [speaker for speaker in speakers if speaker.split == split]
    speaker = own[rng.integers(len(own))]
    condition = str(rng.choice(list(CONDITIONS), p=[share for share, _ in CONDITIONS.values()]))
    bounds = CONDITIONS[condition][1]
    snr_db = round(rng.uniform(*bounds), 1) if bounds else None
    hurry = round(rng.uniform(1.4, 1.8), 2) if condition == "fast" else 1.0
    speech = _speak(voice, text, speaker, hurry, int(rng.integers(2**31)))
    tags = {"condition": condition, "speed": f"{speaker.pace * hurry:.2f}"}
    if snr_db is not None:
        tags["snr_db"] = f"{snr_db:.1f}"
    row: dict[str, object] = {
        "id": "demo-" + hashlib.sha256(text.encode()).hexdigest()[:10],
        "text": text,
        "speaker": speaker.name,
        "split": split,
        "language": "en",
        "tags": tags,
    }
    return _level(_strain(speech, condition, snr_db, talk, rng)), row


def make_demo(sentences: Path, audio_dir: Path, utterances: int, seed: int) -> list[dict[str, object]]:
    """Speak sentences and write one FLAC file each, 16 kHz, mono, 16 bit.

    Parameters
    ----------
    sentences : Path
        Text file with one sentence a line.
    audio_dir : Path
        Folder of the audio files, named by the hash of their sentence.
    utterances : int
        Most sentences to speak, taken from a seeded shuffle.

    Returns
    -------
    list of dict
        ``id``, ``audio``, ``text``, ``speaker``, ``split``, ``language`` and ``tags`` of each utterance. The
        tags are ``condition``, ``speed`` (1 is the voice's own) and, where there is noise, ``snr_db``.
    """
    lines = sentences.read_text(encoding="utf-8").splitlines()
    chosen = [lines[place] for place in _rng(seed, "shuffle").permutation(len(lines))[:utterances]]
    voice = Hibari(threads=1)  # other thread counts change the last bits
    speakers = _speakers(seed)
    talk = _babble_talk(voice, seed)
    rows = []
    for text in progress(chosen, "ingest: speak the demo"):
        samples, row = _utterance(voice, text, speakers, talk, seed)
        path = audio_dir / f"{row['id']}.flac"
        with replacing(path) as temporary:
            soundfile.write(temporary, samples, SAMPLE_RATE, "PCM_16")
        rows.append({**row, "audio": str(path)})
    return rows
