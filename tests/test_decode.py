"""Sound of any container, rate and channels is decoded alike, within limits; the rest is refused by name."""

import io
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import sound_file

from whisper_router.audio import SAMPLE_RATE as RATE
from whisper_router.audio import AudioError, windows
from whisper_router.decode import (
    Limits,
    TooLongError,
    cut_windows,
    decode_pieces,
    load_audio,
    read_recording,
    source_windows,
)

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


def encoded(samples: np.ndarray, kind: str = "FLAC", rate: int = RATE) -> bytes:
    """Mono audio as libsndfile writes it."""
    return sound_file(samples, rate, kind, None)


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


def test_the_limit_on_bytes_is_refused_before_decoding():
    data = sound_file(tone(2.0, RATE), RATE)
    with pytest.raises(TooLongError, match=f"more than the limit of {len(data) - 1}"):
        read_recording(data, Limits(max_bytes=len(data) - 1))
    assert read_recording(data, Limits(max_bytes=len(data))).audio.size == 2 * RATE


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
    assert all(0 < audio.size <= 30 * RATE for _, audio in made)


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
    data = encoded(np.zeros(3600 * RATE, np.int16))
    assert len(data) < 1_000_000
    tracemalloc.start()
    with pytest.raises(TooLongError):
        list(source_windows(data, Limits(max_seconds=60)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 30e6


def test_an_hour_is_cut_in_the_memory_of_a_window():
    data = encoded(np.zeros(3600 * RATE, np.int16))
    tracemalloc.start()
    assert sum(audio.size for _, audio in source_windows(data)) == 3600 * RATE
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
