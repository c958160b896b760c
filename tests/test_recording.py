"""Decoding piece by piece: the samples and windows of the whole, within limits, in bounded memory."""

import io
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from whisper_router.audio import SAMPLE_RATE, AudioError, load_audio, windows
from whisper_router.recording import Limits, TooLongError, cut_windows, decode_pieces, source_windows


def encoded(samples: np.ndarray, kind: str = "FLAC", rate: int = SAMPLE_RATE) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize("seconds", [0.5, 30, 71.3])
def test_windows_are_those_of_the_whole(speech, kind, seconds):
    data = encoded(speech(seconds), kind)
    whole = load_audio(data)
    made = list(source_windows(data))
    expected = windows(whole)
    assert [(start, start + audio.size) for start, audio in made] == [(s.start, s.stop) for s in expected]
    for (_, audio), span in zip(made, expected, strict=True):
        assert np.array_equal(audio, whole[span])
        assert audio.dtype == np.float32


@given(st.lists(st.integers(1, 400_000), min_size=1, max_size=6), st.integers(0, 1000))
def test_windows_tile_the_sound_however_it_comes(sizes, seed):
    random = np.random.default_rng(seed)
    pieces = [random.integers(-1000, 1000, size).astype(np.int16) for size in sizes]
    whole = np.concatenate(pieces)
    made = list(cut_windows(pieces))
    assert [start for start, _ in made] == [0, *np.cumsum([audio.size for _, audio in made])[:-1]]
    assert np.array_equal(np.concatenate([audio for _, audio in made]) * 32768, whole)
    assert all(0 < audio.size <= 30 * SAMPLE_RATE for _, audio in made)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty"),
        (b"not a sound", "not readable as audio"),
        (encoded(np.zeros(16_000), "WAV")[:20_000], "truncated"),
        (encoded(np.zeros(16_000), "WAV")[:44], "truncated|no samples"),
        (encoded(np.zeros(16_000), "WAV", 400), "states 400 samples a second"),
    ],
)
def test_what_is_no_recording_is_refused_with_a_reason(source, reason):
    with pytest.raises(AudioError, match=reason):
        list(source_windows(source))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(max_bytes=1000), "more than the limit of 1000"),
        (Limits(max_seconds=2), "longer than the limit of 2 s"),
        (Limits(decode_s=-1), "takes longer than -1 s to decode"),
    ],
)
def test_limits(speech, limits, reason):
    with pytest.raises(TooLongError, match=reason):
        list(decode_pieces(encoded(speech(3)), limits))


def test_hours_of_silence_are_refused_by_the_first_seconds_beyond_the_limit():
    data = encoded(np.zeros(3600 * SAMPLE_RATE, np.int16))
    assert len(data) < 1_000_000
    tracemalloc.start()
    with pytest.raises(TooLongError):
        list(source_windows(data, Limits(max_seconds=60)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def test_an_hour_is_cut_in_the_memory_of_a_window():
    data = encoded(np.zeros(3600 * SAMPLE_RATE, np.int16))
    tracemalloc.start()
    assert sum(audio.size for _, audio in source_windows(data)) == 3600 * SAMPLE_RATE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
