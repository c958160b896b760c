"""Every complete file is accepted, and of a damaged one what can be decoded."""

import io
import struct

import av
import numpy as np
import pytest
from sounds import RATE, encode, noise, rf64, timed_opus, wav

from whisper_router.audio import AudioError
from whisper_router.decode import Limits, TooLongError, load_audio, read_recording

SECOND = RATE
JUNK = {
    "ID3v1": b"TAG" + b"a title".ljust(125, b"\0"),
    "APE": b"APETAGEX" + struct.pack("<IIII", 2000, 56, 1, 0x80000000) + bytes(8) + b"x" * 24,
    "zeros": bytes(3000),
    "text": b"this is no sound at all. " * 40,
}


def pcm(data: bytes) -> np.ndarray:
    return np.round(load_audio(data) * 32768).astype(np.int16)


@pytest.mark.parametrize(
    "stated", [0, 0x7FFFF024, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB, 0xFFFFF000, 2 * SECOND + 8]
)
@pytest.mark.parametrize("riff", [0, None, 0xFFFFFFFF, 2 * SECOND + 44])
def test_a_wav_of_unknown_size_is_decoded_whole(stated, riff):
    samples = noise(1)
    assert np.array_equal(pcm(wav(samples, stated, riff)), samples)


@pytest.mark.parametrize("stated", [0, 2 * SECOND, 0xFFFFFFFFFFFFFFFF])
def test_an_rf64_is_decoded_whole(stated):
    samples = noise(1)
    assert np.array_equal(pcm(rf64(samples, stated)), samples)


def test_a_truncated_rf64_and_w64_are_refused():
    w64 = encode(noise(2), "w64", "pcm_s16le")
    assert load_audio(w64).size == 2 * SECOND
    for data in (rf64(noise(1), 4 * SECOND), w64[: len(w64) // 2]):
        with pytest.raises(AudioError, match=r"truncated, \d+ bytes of the \d+ that its header states"):
            load_audio(data)


def test_a_w64_of_unknown_size_is_decoded_whole():
    data = encode(noise(1), "w64", "pcm_s16le")
    at = data.index(b"data") + 16
    for stated in (0, (1 << 64) - 1, 24):
        assert load_audio(data[:at] + stated.to_bytes(8, "little") + data[at + 8 :]).size == SECOND


def test_an_odd_wav_without_its_padding_is_decoded():
    samples = (noise(1)[:-1] // 256 + 128).astype(np.uint8)
    for stated in (samples.size, samples.size + 1):
        assert load_audio(wav(samples, stated)).size == pytest.approx(SECOND, abs=2)


def test_chunks_before_and_after_the_samples_are_no_sound():
    samples, list_ = (
        noise(0.5),
        b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"x" * 14,
    )
    data = wav(samples, after=list_)
    assert np.array_equal(pcm(data), samples)
    assert np.array_equal(pcm(data[:36] + list_ + data[36:]), samples)


@pytest.mark.parametrize("missing", [100, SECOND, 2 * SECOND - 10])
def test_a_wav_that_plainly_states_more_is_refused(missing):
    data = wav(noise(1))
    with pytest.raises(AudioError, match=f"truncated, {len(data) - missing} bytes of the {len(data)} "):
        load_audio(data[:-missing])


def vbr_mp3(xing: bool) -> bytes:
    """Loud noise after silence: a guess from the first frames is far off."""
    samples = np.concatenate([np.zeros(2 * SECOND, np.int16), noise(4)])
    options = {"write_xing": "1" if xing else "0", "id3v2_version": "0"}
    return encode(samples, "mp3", "libmp3lame", options=options)


def test_an_mp3_without_a_count_of_frames_is_decoded_whole():
    assert load_audio(vbr_mp3(xing=False)).size == pytest.approx(6 * SECOND, abs=2500)


def test_an_mp3_with_a_count_of_frames_is_refused_where_frames_lack():
    data = vbr_mp3(xing=True)
    assert load_audio(data).size == pytest.approx(6 * SECOND, abs=2500)
    with pytest.raises(AudioError, match="truncated"):
        load_audio(data[: len(data) // 2])


def test_adts_is_decoded_whole_wherever_it_ends():
    data = encode(np.concatenate([np.zeros(3 * SECOND, np.int16), noise(1)]), "adts", "aac")
    assert load_audio(data).size == pytest.approx(4 * SECOND, abs=3000)
    assert load_audio(data[: len(data) // 2]).size > 2 * SECOND


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize(
    ("muxer", "codec"), [("mp3", "libmp3lame"), ("adts", "aac"), ("flac", "flac"), ("wav", "pcm_s16le")]
)
def test_junk_at_the_end_costs_nothing(muxer, codec, junk):
    data = encode(noise(3), muxer, codec)
    clean, dirty = load_audio(data), read_recording(data + JUNK[junk])
    assert dirty.audio.size == pytest.approx(clean.size, abs=1600)
    assert np.array_equal(dirty.audio[: clean.size - 5000], clean[:-5000])


@pytest.mark.parametrize(
    ("muxer", "codec"),
    [("mp3", "libmp3lame"), ("adts", "aac"), ("flac", "flac"), ("ogg", "flac"), ("ipod", "aac")],
)
def test_a_hole_costs_its_packets_alone(muxer, codec):
    data = bytearray(encode(noise(10), muxer, codec))
    middle = len(data) // 2
    data[middle : middle + 300] = bytes(300)
    made = read_recording(bytes(data))
    assert made.audio.size / SECOND == pytest.approx(10, abs=0.6)
    assert made.bad_packets <= 0.05 * made.packets


def spoiled(share: float) -> bytes:
    """AAC in an MP4 with a share of packets, from the 20th on, that no decoder takes."""
    data = bytearray(encode(noise(6), "ipod", "aac"))
    with av.open(io.BytesIO(bytes(data))) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    for place, size in places[20 : 20 + round(share * len(places))]:
        data[place : place + size] = b"\xff" * size
    return bytes(data)


def test_bad_packets_are_counted_told_and_refused_above_a_tenth(caplog):
    made = read_recording(spoiled(0.08))
    assert caplog.messages == ["audio bytes: 8 of 95 packets cannot be decoded; the rest is used"]
    assert (made.bad_packets, made.packets) == (8, 95)
    with pytest.raises(
        AudioError, match=r"damaged, 11 of 95 packets cannot be decoded; at most 10% may be bad"
    ):
        load_audio(spoiled(0.12))


def test_what_bad_packets_hid_is_silence_where_packets_have_times():
    audio, whole = load_audio(spoiled(0.08)), load_audio(spoiled(0))
    assert audio.size == pytest.approx(whole.size, abs=0.1 * RATE)
    assert np.abs(audio[20_500:25_000]).max() < 0.02  # 8 packets of 1024 samples from the 20th on
    assert np.corrcoef(audio[-20_000:], whole[-20_000:])[0, 1] > 0.99


@pytest.mark.parametrize(("muxer", "codec"), [("mp3", "libmp3lame"), ("adts", "aac")])
def test_a_change_of_rate_and_channels_within_a_stream_is_followed(muxer, codec):
    options = {"write_xing": "0", "id3v2_version": "0"} if muxer == "mp3" else {}
    parts = [
        encode(noise(2, rate), muxer, codec, rate, layout, options=options)
        for rate, layout in ((RATE, "mono"), (RATE, "stereo"), (44_100, "stereo"))
    ]
    made = load_audio(b"".join(parts))
    assert made.size == pytest.approx(sum(load_audio(part).size for part in parts), abs=1000)


def beeps_at(audio: np.ndarray) -> list[float]:
    """Seconds at which sound begins after silence."""
    loud = np.abs(audio).reshape(-1, 160).max(axis=1) > 0.02
    return [i / 100 for i in range(1, loud.size) if loud[i] and not loud[max(0, i - 8) : i].any()]


TIMES = [20 * i for i in range(200)]  # 4 s


@pytest.mark.parametrize("seconds", [None, 7.0])
def test_a_gap_is_silence_so_that_times_stay_true(seconds):
    audio = load_audio(timed_opus([t if t < 2000 else t + 3000 for t in TIMES], seconds))
    assert audio.size / SECOND == pytest.approx(7, abs=0.03)
    assert beeps_at(audio[: audio.size // 160 * 160]) == [pytest.approx(5, abs=0.03)]


def test_many_small_losses_add_up():
    kept = [t for i, t in enumerate(TIMES) if i % 4]
    audio = load_audio(timed_opus(kept))
    assert audio.size / SECOND == pytest.approx(4, abs=0.15)


def test_jitter_and_a_drifting_clock_make_no_silence_of_note():
    random = np.random.default_rng(1)
    jitter = [max(0, t + int(random.integers(-30, 31))) for t in TIMES]
    assert load_audio(timed_opus(jitter)).size == load_audio(timed_opus(TIMES)).size


@pytest.mark.parametrize(
    "times",
    [
        [t if i != 100 else t + 50_000 for i, t in enumerate(TIMES)],  # one packet from the future
        [t if i != 100 else 0 for i, t in enumerate(TIMES)],  # one from the past
        [t if i < 100 else t - 2000 for i, t in enumerate(TIMES)],  # the clock begins anew
        [t if i < 100 else t + 90_000_000 for i, t in enumerate(TIMES)],  # 25 hours later
        [t + 500_000 for t in TIMES],  # a clock that does not begin at 0
    ],
    ids=["future", "past", "anew", "absurd", "late start"],
)
def test_an_error_of_the_clock_neither_adds_nor_takes(times):
    assert load_audio(timed_opus(times)).size == load_audio(timed_opus(TIMES)).size


def test_a_jump_beyond_the_stated_duration_is_an_error_of_the_clock():
    times = [t if i < 100 else t + 60_000 for i, t in enumerate(TIMES)]
    assert load_audio(timed_opus(times, seconds=4.0)).size == load_audio(timed_opus(TIMES)).size


def test_silence_counts_for_the_limit_of_seconds():
    data = timed_opus([t if t < 2000 else t + 600_000 for t in TIMES])
    assert load_audio(data).size / SECOND == pytest.approx(604, abs=0.1)
    with pytest.raises(TooLongError, match="longer than the limit of 60 s"):
        read_recording(data, Limits(max_seconds=60))


def test_chained_ogg_is_decoded_whole():
    one, two = (encode(noise(s, 48_000), "ogg", "libopus", 48_000) for s in (1, 2))
    assert load_audio(one + two).size / SECOND >= 2.9


def test_an_edit_list_that_shows_a_part_is_no_truncation():
    data = encode(noise(4), "ipod", "aac")
    at = data.index(b"elst")
    version, edits, length = struct.unpack(">III", data[at + 4 : at + 16])
    assert (version, edits) == (0, 1)
    shown = data[: at + 12] + struct.pack(">I", length // 2) + data[at + 16 :]
    assert load_audio(shown).size / SECOND == pytest.approx(2, abs=0.15)


def test_a_fragmented_mp4_is_decoded_whole():
    data = encode(noise(3), "mp4", "aac", options={"movflags": "frag_keyframe+empty_moov"})
    assert load_audio(data).size / SECOND == pytest.approx(3, abs=0.15)


@pytest.mark.parametrize(
    ("muxer", "codec", "rate"),
    [
        ("ogg", "libopus", 48_000),
        ("webm", "libopus", 48_000),
        ("ipod", "aac", 44_100),
        ("mp4", "aac", 16_000),
        ("ogg", "flac", 44_100),
        ("matroska", "flac", 16_000),
        ("matroska", "pcm_s16le", 44_100),
        ("matroska", "libmp3lame", 44_100),
        ("mov", "pcm_s16le", 44_100),
        ("ipod", "alac", 48_000),
    ],
)
def test_plain_files_get_no_silence_and_lose_nothing(muxer, codec, rate):
    data = encode(noise(12, rate), muxer, codec, rate)
    with av.open(io.BytesIO(data)) as container:
        resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
        frames = []
        for frame in container.decode(audio=0):
            frame.pts = None
            frames += resampler.resample(frame)
        plain = np.concatenate([one.to_ndarray()[0] for one in (*frames, *resampler.resample(None))])
    assert np.array_equal(pcm(data), plain)
