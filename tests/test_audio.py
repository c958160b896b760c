"""Levels, hashes, segments and windows of samples."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import sound_file

from whisper_router.audio import SAMPLE_RATE as RATE
from whisper_router.audio import audio_sha256, clipped_share, cut, level_db, windows
from whisper_router.decode import load_audio

few = settings(max_examples=25)


def test_a_segment_is_the_stretch_asked_for():
    data = sound_file(np.random.default_rng(2).uniform(-0.5, 0.5, 2 * RATE), RATE)
    whole = load_audio(data)
    assert np.array_equal(cut(whole, 0.25, 0.5), whole[RATE // 4 : RATE * 3 // 4])
    assert np.array_equal(cut(whole, 1.5, 5.0), whole[RATE * 3 // 2 :])


@pytest.mark.parametrize("level", [0.0, -6.0, -40.0])
def test_the_level_is_that_of_a_square_wave_of_its_amplitude(level):
    square = np.where(np.arange(RATE) % 2, 1, -1).astype(np.float32) * np.float32(10 ** (level / 20))
    assert level_db(square) == pytest.approx(level, abs=1e-4)


def test_silence_has_a_level_that_is_a_number():
    assert level_db(np.zeros(RATE, np.float32)) == level_db(np.zeros(0, np.float32)) == -120


@pytest.mark.parametrize(("run", "share"), [(1, 0.0), (2, 0.0), (3, 0.003), (7, 0.007)])
def test_samples_at_full_scale_are_clipped_where_three_or_more_run(run, share):
    samples = np.full(1000, 0.5, np.float32)
    samples[100 : 100 + run] = -1.0
    assert clipped_share(samples) == pytest.approx(share)


def test_clipping_is_seen_at_both_ends_and_in_few_samples():
    assert clipped_share(np.ones(50, np.float32)) == 1.0
    assert clipped_share(np.ones(2, np.float32)) == 0.0


def test_the_hash_is_that_of_the_samples_not_of_the_container():
    pcm = np.random.default_rng(3).integers(-9000, 9000, 8000, dtype=np.int16)
    wav, flac = (load_audio(sound_file(pcm, RATE, container)) for container in ("WAV", "FLAC"))
    assert audio_sha256(wav) == audio_sha256(flac) == audio_sha256(np.repeat(wav, 2)[::2])
    assert audio_sha256(wav) != audio_sha256(wav[:-1])


@settings(max_examples=60)
@given(samples=st.integers(1, 130 * RATE), seed=st.integers(0, 5))
def test_windows_cover_all_samples_once_in_order_and_none_over_30_s(samples, seed):
    noise = np.resize(np.random.default_rng(seed).standard_normal(7 * RATE).astype(np.float32), samples)
    cut = windows(noise)
    assert [window.start for window in cut] == [0, *(window.stop for window in cut[:-1])]
    assert cut[-1].stop == samples
    assert all(0 < window.stop - window.start <= 30 * RATE for window in cut)
    assert all(window.stop - window.start >= 22 * RATE for window in cut[:-1])


def test_audio_of_30_s_is_one_window_and_a_sample_more_is_two():
    assert windows(np.zeros(30 * RATE, np.float32)) == [slice(0, 30 * RATE)]
    assert len(windows(np.zeros(30 * RATE + 1, np.float32))) == 2


@few
@given(at=st.floats(22.3, 29.7))
def test_long_audio_is_cut_inside_the_silence_near_the_window_s_end(at):
    speech = np.random.default_rng(4).uniform(-0.5, 0.5, 40 * RATE).astype(np.float32)
    silence = slice(round((at - 0.2) * RATE), round((at + 0.2) * RATE))
    speech[silence] = 0
    first, second = windows(speech)
    assert silence.start < first.stop == second.start < silence.stop


@few
@given(step=st.integers(0, 77))
def test_the_cut_is_in_the_middle_of_the_quietest_fifth_of_a_second(step):
    speech = np.random.default_rng(6).uniform(-0.5, 0.5, 40 * RATE).astype(np.float32)
    start = 22 * RATE + step * RATE // 10
    speech[start : start + RATE // 5] = 0
    assert windows(speech)[0].stop == start + RATE // 10


def test_a_silence_too_early_to_fill_a_window_is_passed_over():
    speech = np.random.default_rng(5).uniform(-0.5, 0.5, 40 * RATE).astype(np.float32)
    speech[10 * RATE : 11 * RATE] = 0
    assert windows(speech)[0].stop > 22 * RATE


@few
@given(begin=st.integers(0, 500), tenths=st.integers(22, 700))
def test_a_pause_of_digital_silence_stands_alone_so_that_times_are_true(begin, tenths):
    """Whatever its length, no window mixes more than a step of it with sound."""
    step = RATE // 10
    sound = np.random.default_rng(8).uniform(-0.5, 0.5, (begin + tenths + 320) * step).astype(np.float32)
    pause = slice(begin * step, (begin + tenths) * step)
    sound[pause] = 0
    cut = windows(sound)
    edges = {window.start for window in cut} | {window.stop for window in cut}
    if begin * step % (30 * RATE) < 22 * RATE:
        assert pause.stop in edges or any(pause.stop - 2 * RATE < edge <= pause.stop for edge in edges)
    assert [window.start for window in cut] == [0, *(window.stop for window in cut[:-1])]
    assert cut[-1].stop == sound.size
    assert all(0 < window.stop - window.start <= 30 * RATE for window in cut)
