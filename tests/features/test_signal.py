"""Statistics of the sound move with what their names say."""

import numpy as np
import pytest

from whisper_router.audio import SAMPLE_RATE
from whisper_router.features.signal import SIGNAL_NAMES, signal_statistics


def by_name(audio: np.ndarray) -> dict[str, float]:
    found = signal_statistics(audio)
    assert found.shape == (1, len(SIGNAL_NAMES))
    assert found.dtype == np.float32
    return dict(zip(SIGNAL_NAMES, found[0].tolist(), strict=True))


def tone(hertz: float, seconds: float = 2.0) -> np.ndarray:
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.1 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def test_noise_lowers_the_snr_and_raises_the_floor(speech):
    clean = speech(3.0)
    noise = np.random.default_rng(0).standard_normal(clean.size).astype(np.float32)
    quiet, loud = (by_name(clean + level * noise) for level in (0.001, 0.03))
    assert quiet["snr_db"] > loud["snr_db"] + 6
    assert quiet["floor_db"] < loud["floor_db"] - 6


def test_a_tone_has_its_pitch_as_centroid_and_tilts_to_its_side():
    low, high = by_name(tone(400)), by_name(tone(3000))
    assert low["centroid_khz"] == pytest.approx(0.4, abs=0.05)
    assert high["centroid_khz"] == pytest.approx(3.0, abs=0.05)
    assert low["tilt_db"] > 20 > -20 > high["tilt_db"]


def test_twice_the_amplitude_is_six_decibels_and_no_more_snr(speech):
    one, two = by_name(speech(2.0)), by_name(2 * speech(2.0))
    assert two["level_db"] - one["level_db"] == pytest.approx(6.02, abs=0.05)
    assert two["snr_db"] == pytest.approx(one["snr_db"], abs=0.1)


def test_bursts_are_counted_as_syllables():
    gate = np.sin(2 * np.pi * 4 * np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE) > 0
    assert by_name(tone(300, 3.0) * gate)["syllables_per_s"] == pytest.approx(4, abs=0.7)


@pytest.mark.parametrize(
    "audio", [np.zeros(100, np.float32), np.zeros(SAMPLE_RATE, np.float32), tone(300, 0.02)]
)
def test_silence_and_very_short_sound_have_finite_statistics(audio):
    assert all(np.isfinite(list(by_name(audio).values())))


def test_the_duration_is_that_of_the_sound():
    assert by_name(tone(300, 2.5))["log_duration"] == pytest.approx(np.log(2.5))
