"""Statistics of the sound itself."""

import numpy as np
from scipy.signal import find_peaks

from whisper_router.audio import SAMPLE_RATE, Audio, clipped_share

FRAME, HOP = 400, 160  # samples: 25 ms every 10 ms
SILENCE = 1e-10  # power of the least that is told from nothing
SPEECH_DB = 12.0  # above the noise floor a frame counts as speech
SYLLABLE_S, SYLLABLE_DB = 0.12, 3.0  # least distance and prominence of the peaks of loudness
SIGNAL_NAMES = (
    "snr_db",
    "level_db",
    "floor_db",
    "range_db",
    "speech_share",
    "tilt_db",
    "centroid_khz",
    "rolloff_khz",
    "syllables_per_s",
    "clipped_share",
    "log_duration",
)
EDGE_HZ = 1000  # the tilt is the power below it over that above
ROLLOFF = 0.85  # share of the power below the rolloff


def signal_statistics(audio: Audio) -> np.ndarray:
    """The numbers of ``SIGNAL_NAMES`` for one utterance, shape (1, 11), float32.

    The SNR is that of the 95th over the 10th percentile of the frames' power; the speaking rate counts peaks
    of loudness in frames of speech.
    """
    padded = np.pad(audio.astype(np.float64), (0, max(0, FRAME - audio.size)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[::HOP]  # (frames, FRAME)
    spectrum = np.abs(np.fft.rfft(frames * np.hanning(FRAME))) ** 2  # (frames, bins)
    loudness = 10 * np.log10((frames**2).mean(axis=1) + SILENCE)  # dB
    floor, top = np.quantile(loudness, [0.1, 0.95])
    speech = loudness > floor + SPEECH_DB
    power = spectrum.sum(axis=0) + SILENCE
    frequency = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
    low = frequency < EDGE_HZ
    smooth = np.convolve(loudness, np.ones(5) / 5, "same")
    peaks, _ = find_peaks(smooth, distance=round(SYLLABLE_S * SAMPLE_RATE / HOP), prominence=SYLLABLE_DB)
    duration = audio.size / SAMPLE_RATE
    values = (
        top - floor,
        10 * np.log10((padded**2).mean() + SILENCE),
        floor,
        loudness.std(),
        speech.mean(),
        10 * np.log10(power[low].sum() / power[~low].sum()),
        (frequency @ power) / power.sum() / 1000,
        frequency[np.searchsorted(np.cumsum(power), ROLLOFF * power.sum())] / 1000,
        speech[peaks].sum() / duration,
        clipped_share(audio),
        np.log(duration),
    )
    return np.array([values], dtype=np.float32)
