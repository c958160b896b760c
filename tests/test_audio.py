"""Audio of any container, rate and channels is decoded alike; what cannot be used is refused by name."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_router import audio
from whisper_router.audio import (
    AudioError,
    audio_sha256,
    clipped_share,
    cut,
    level_db,
    load_audio,
    windows,
)

RATE = audio.SAMPLE_RATE
TONE_HZ = 440.0
CONTAINERS = {  # name: muxer, codec, rate
    "wav": ("wav", "pcm_s16le", 22_050),
    "flac": ("flac", "flac", 44_100),
    "mp3": ("mp3", "libmp3lame", 44_100),
    "ogg": ("ogg", "libopus", 48_000),
    "m4a": ("ipod", "aac", 32_000),
    "webm": ("webm", "libopus", 48_000),
}
few = settings(max_examples=25)


def tone(seconds: float, rate: int, hertz: float = TONE_HZ) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encode(samples: np.ndarray, name: str) -> bytes:
    """Stereo audio in a container."""
    muxer, codec, rate = CONTAINERS[name]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        context = stream.codec_context
        frame = av.AudioFrame.from_ndarray(np.stack([samples, samples]), format="fltp", layout="stereo")
        frame.sample_rate = rate
        resampler = av.AudioResampler(context.format, context.layout, rate, frame_size=context.frame_size)
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def sound_file(
    samples: np.ndarray, rate: int, container: str = "FLAC", subtype: str | None = "PCM_16"
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype, format=container)
    return buffer.getvalue()


def loudest_hertz(samples: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(samples))) * RATE / samples.size)


def refused(source: str | Path | bytes, reason: str, **limits: float) -> None:
    name = "audio bytes" if isinstance(source, bytes) else str(source)
    with pytest.raises(AudioError) as caught:
        load_audio(source, **limits)
    assert str(caught.value).startswith(f"{name}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container_decodes_alike_from_path_and_bytes(name, tmp_path):
    data = encode(tone(1.5, CONTAINERS[name][2]), name)
    path = tmp_path / f"sound.{name}"
    path.write_bytes(data)
    from_bytes, from_path = load_audio(data), load_audio(path)
    assert np.array_equal(from_bytes, from_path)
    assert np.array_equal(from_path, load_audio(str(path)))
    assert from_bytes.dtype == np.float32
    assert from_bytes.ndim == 1
    assert from_bytes.size / RATE == pytest.approx(1.5, abs=0.05)
    assert loudest_hertz(from_bytes) == pytest.approx(TONE_HZ, abs=1.0)
    assert np.sqrt(np.mean(from_bytes**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.06)


@few
@given(
    rate=st.sampled_from([8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000]),
    channels=st.integers(1, 8),
    seconds=st.floats(0.3, 2.0),
)
def test_any_rate_and_number_of_channels_becomes_16_khz_mono(rate, channels, seconds):
    samples = np.repeat(tone(seconds, rate)[:, None], channels, axis=1)
    decoded = load_audio(sound_file(samples, rate))
    assert decoded.size == pytest.approx(samples.shape[0] * RATE / rate, abs=2)
    assert loudest_hertz(decoded) == pytest.approx(TONE_HZ, abs=1.1 * RATE / decoded.size)
    assert np.abs(decoded).max() <= 1.0


def test_a_stereo_file_is_the_mean_of_its_channels():
    left, right = tone(1.0, RATE, 300.0), tone(1.0, RATE, 1200.0)
    decoded = load_audio(sound_file(np.stack([left, right], axis=1), RATE))
    assert np.abs(decoded - (left + right) / 2).max() < 2e-4


def test_16_khz_mono_pcm_is_decoded_to_its_exact_samples():
    pcm = np.random.default_rng(0).integers(-32768, 32768, 4000, dtype=np.int16)
    for container in ("WAV", "FLAC"):
        assert np.array_equal(load_audio(sound_file(pcm, RATE, container)), pcm.astype(np.float32) / 32768)


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
def test_every_sample_format_of_wav_is_read(subtype):
    samples = tone(0.5, RATE)
    assert np.abs(load_audio(sound_file(samples, RATE, "WAV", subtype)) - samples).max() < 0.02


def test_samples_beyond_full_scale_are_clipped():
    decoded = load_audio(sound_file(4 * tone(0.5, RATE), RATE, "WAV", "FLOAT"))
    assert decoded.max() == pytest.approx(1.0, abs=1e-4)
    assert decoded.min() == -1.0


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_flac_is_refused(kept, tmp_path):
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 3 * RATE)
    data = sound_file(noise, RATE)
    path = tmp_path / "cut.flac"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(AudioError, match=r"cut\.flac: (truncated|not readable as audio)"):
        load_audio(path)


def test_a_flac_cut_between_two_frames_is_refused_as_truncated():
    data = sound_file(np.random.default_rng(1).uniform(-0.5, 0.5, 3 * RATE), RATE)
    with av.open(io.BytesIO(data)) as container:
        places = [packet.pos for packet in container.demux() if packet.pos is not None]
    refused(data[: places[len(places) // 2]], "s of the 3.00 s that its header states")


@pytest.mark.parametrize("name", ["mp3", "m4a"])
def test_half_a_compressed_file_is_refused(name):
    data = encode(tone(4.0, CONTAINERS[name][2]), name)
    with pytest.raises(AudioError, match=r"audio bytes: (truncated|not readable as audio)"):
        load_audio(data[: len(data) // 2])


def test_a_truncated_wav_is_refused():
    data = sound_file(tone(3.0, RATE), RATE, "WAV")
    refused(data[: len(data) // 2], "truncated")


def test_a_truncated_webm_is_refused():
    data = encode(tone(4.0, CONTAINERS["webm"][2]), "webm")
    refused(data[: len(data) // 2], "truncated")


def test_a_text_file_is_refused_whatever_its_name(tmp_path):
    for name in ("notes.wav", "notes.flac", "notes.mp3", "notes.txt", "notes"):
        path = tmp_path / name
        path.write_text("these are words, not sound\n" * 50)
        with pytest.raises(AudioError, match=rf"{name}: (not readable as audio|holds no)"):
            load_audio(path)
    refused(b"these are words, not sound\n" * 50, "not readable as audio")


def test_empty_and_missing_files_are_refused(tmp_path):
    empty = tmp_path / "empty.wav"
    empty.touch()
    refused(empty, "empty")
    refused(b"", "empty")
    refused(tmp_path / "absent.wav", "no such file")
    refused(tmp_path, "not a file")


def test_a_file_without_samples_is_refused():
    refused(sound_file(np.zeros(0, np.float32), RATE, "WAV"), "holds no samples")


def test_a_video_without_sound_is_refused(tmp_path):
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        container.mux(stream.encode(None))
    refused(path, "holds no audio stream")


def test_the_limit_on_seconds_is_refused_only_above_it():
    data = sound_file(tone(2.0, RATE), RATE)
    assert load_audio(data, max_seconds=2.0).size == 2 * RATE
    refused(data, "longer than the limit of 1.5 s", max_seconds=1.5)


def test_the_limit_on_bytes_is_refused_before_decoding(monkeypatch):
    data = sound_file(tone(2.0, RATE), RATE)
    monkeypatch.setattr(audio, "MAX_BYTES", len(data) - 1)
    refused(data, f"more than the limit of {len(data) - 1}")
    monkeypatch.setattr(audio, "MAX_BYTES", len(data))
    assert load_audio(data).size == 2 * RATE


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


def test_a_playlist_opens_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.wav").write_bytes(sound_file(tone(1.0, RATE), RATE, "WAV"))
    concat = b"ffconcat version 1.0\nfile secret.wav\n"
    hls = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n".encode()
    assert load_audio("secret.wav").size
    for name, data in (("a.wav", concat), ("b.m3u8", hls)):
        (tmp_path / name).write_bytes(data)
        for source in (str(tmp_path / name), data):
            with pytest.raises(AudioError):
                load_audio(source)
