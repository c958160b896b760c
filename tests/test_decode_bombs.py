"""Few bytes that are much sound or memory are refused before either is made, and nothing is kept of them."""

import gc
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import pytest
from sounds import RATE, bombs, covers, encode, noise, png

from whisper_router.audio import AudioError
from whisper_router.decode import Limits, decode_pieces, load_audio, source_windows

MOST = 64 << 10  # kB that a file may take beyond what Python has: a quarter of what is allowed
# Prints what became of each file, its seconds and its peak of memory above the one before, in kB.
DECODE = """
import json, pathlib, sys, time
from whisper_router.audio import AudioError
from whisper_router.decode import Limits, source_windows

def resident(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

for path in sys.argv[1:]:
    open("/proc/self/clear_refs", "w").write("5")  # the peak is now what is resident
    before, begun = resident("VmRSS"), time.monotonic()
    try:
        said = sum(audio.size for _, audio in source_windows(path, Limits(max_seconds=1800, decode_s=20)))
    except AudioError as error:
        said = str(error)
    print(json.dumps([said, time.monotonic() - begun, resident("VmHWM") - before]))
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def decoded_apart(files: dict[str, bytes], folder: Path) -> dict[str, tuple[str | int, float, int]]:
    paths = [folder / f"{i}" for i in range(len(files))]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", DECODE, *map(str, paths)], capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return dict(zip(files, map(json.loads, run.stdout.splitlines()), strict=True))


@needs_proc
def test_bombs_are_refused_within_little_memory_and_time(tmp_path):
    for name, (said, seconds, peak) in decoded_apart(bombs(), tmp_path).items():
        assert isinstance(said, str), f"{name}: {said} samples"
        assert peak < MOST, f"{name}: {peak} kB"
        assert seconds < 10, f"{name}: {seconds} s"


@needs_proc
def test_a_large_picture_in_a_file_is_never_decoded_and_its_sound_is(tmp_path):
    for name, (said, _, peak) in decoded_apart(covers(), tmp_path).items():
        assert said == pytest.approx(RATE / 2, abs=2200), f"{name}: {said}"
        assert peak < 24 << 10, f"{name}: {peak} kB; the picture has 48 MB"


def test_a_bad_rate_is_refused_by_its_rate():
    for rate in (1, 400, 3_999, 384_001, 500_000):
        with pytest.raises(AudioError, match=rf"states {rate} samples a second; taken are 4000 to 384000"):
            load_audio(wav_at(rate))
    assert load_audio(wav_at(4_000)).size == 8_000
    assert load_audio(wav_at(384_000)).size == pytest.approx(2_000 * RATE / 384_000, abs=2)


def wav_at(rate: int) -> bytes:
    from sounds import wav

    return wav(np.zeros(2_000, np.int16), rate=rate)


def test_sound_in_a_codec_that_is_not_taken_is_refused_by_its_name():
    data = encode(noise(0.5, 48_000), "matroska", "ac3", 48_000)
    with pytest.raises(AudioError, match=r"holds sound in ac3, which is not taken; taken are wav, flac, mp3"):
        load_audio(data)


@pytest.mark.parametrize(
    "data",
    [
        encode(noise(0.5), "caf", "pcm_s16be"),
        encode(noise(0.5), "au", "pcm_s16be"),
        encode(noise(0.5), "asf", "pcm_s16le"),
        encode(noise(0.5), "mpegts", "libmp3lame"),
        encode(noise(0.5), "avi", "pcm_s16le"),
        png(64),
        b"PK\x03\x04" + bytes(500),
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        b"words, not sound\n" * 100,
    ],
    ids=["caf", "au", "wma", "ts", "avi", "png", "zip", "playlist", "text"],
)
def test_what_is_not_taken_is_refused_with_what_is(data):
    with pytest.raises(
        AudioError, match=r"not readable as audio \(.+\); taken are wav, flac, mp3, ogg"
    ) as told:
        load_audio(data)
    assert "<none>" not in str(told.value)


def test_a_refused_file_leaves_no_thread_and_no_memory_without_the_cyclic_collector():
    files = [
        encode(noise(60), "flac", "flac"),
        encode(noise(60, 48_000), "ogg", "libopus", 48_000),
        encode(noise(60, 44_100), "ipod", "aac", 44_100),
    ]
    gc.collect()
    gc.disable()
    try:
        held = len(gc.get_objects())
        threads, begun = set(os.listdir("/proc/self/task")), threading.active_count()
        errors = []
        for data in files * 4:
            with pytest.raises(AudioError) as told:
                list(source_windows(data, Limits(max_seconds=30)))
            errors.append(told.value)
        assert set(os.listdir("/proc/self/task")) <= threads
        assert threading.active_count() == begun
        assert len(gc.get_objects()) - held < 5_000
        # by type(): isinstance() reads __class__, at which modules that load lazily are imported
        kinds = [type(one) for one in gc.get_objects()]
        assert [kind for kind in kinds if issubclass(kind, av.container.InputContainer | av.AudioFrame)] == []
        sounds = [one for error in errors for one in _arrays_of(error)]
        assert sounds == []
    finally:
        gc.enable()


def _arrays_of(error: BaseException) -> list[np.ndarray]:
    """Samples that an error keeps alive by the frames of its traceback, and of those it came from."""
    found, seen, chain = [], set(), [error]
    while chain:
        one = chain.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        chain += [one.__cause__, one.__context__]
        trace = one.__traceback__
        while trace:
            inside = trace.tb_frame.f_code.co_filename.endswith(("decode.py", "audio.py"))
            found += [v for v in trace.tb_frame.f_locals.values() if inside and isinstance(v, np.ndarray)]
            trace = trace.tb_next
    return found


def test_a_recording_that_is_read_in_part_is_closed():
    data = encode(noise(20), "flac", "flac")
    gc.collect()
    gc.disable()
    try:
        pieces = decode_pieces(data)
        assert next(pieces).size
        pieces.close()
        assert not [one for one in gc.get_objects() if type(one) is av.container.InputContainer]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "name", ["12:30.wav", "http:x.wav", "file:a.wav", "concat:a|b", "pipe:0", "-", "a\nb.wav"]
)
def test_a_name_is_a_file_and_never_a_url(name, tmp_path, monkeypatch):
    buffer = io.BytesIO(encode(noise(0.5), "wav", "pcm_s16le"))
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(buffer.getvalue())
    assert load_audio(name).size == load_audio(tmp_path / name).size == RATE // 2
