"""Decoding in processes of their own: the samples of a decoder in this process, and no harm from any file."""

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from sounds import RATE, bombs, encode, flac_of_silence, noise
from waiting import wait_until

from whisper_router.audio import AudioError
from whisper_router.decode import Limits, TooLongError, source_windows
from whisper_router.serving import decoding
from whisper_router.serving.decoding import DecoderPool

LIMITS = Limits(max_bytes=25 << 20, max_seconds=1800, decode_s=20)
HEAD, SILENCE = flac_of_silence()  # 4 s
SOUND = encode(noise(40), "flac", "flac")
linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no limit on memory that is kept")


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(LIMITS)
    yield made
    made.stop()


def workers() -> list[psutil.Process]:
    """The decoders that this process has started and that still run."""
    running = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie, too
            if "whisper_router.serving.decode_worker" in child.cmdline():
                running.append(child)
    return running


def heard(pool: DecoderPool, data: bytes) -> np.ndarray:
    return np.concatenate([samples for _, samples in pool.windows(data)])


def test_windows_are_those_of_a_decoder_in_this_process(pool):
    made, expected = pool.windows(SOUND), list(source_windows(SOUND))
    assert [start for start, _ in made] == [start for start, _ in expected]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(made, expected, strict=True))


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (b"", AudioError, "audio bytes: empty"),
        (b"no sound" * 99, AudioError, "not readable as audio .*; taken are wav"),
        (
            HEAD + SILENCE * 450,
            TooLongError,
            "longer than the limit of 1800 s",
        ),
    ],
    ids=["empty", "text", "long"],
)
def test_a_refusal_has_its_kind_and_reason_and_costs_no_worker(pool, data, error, reason):
    before = {one.pid for one in workers()}
    with pytest.raises(error, match=reason) as told:
        pool.windows(data)
    assert type(told.value) is error
    assert {one.pid for one in workers()} == before


def test_every_bomb_is_refused_and_the_next_file_is_decoded(pool):
    taken = []
    for name, data in bombs().items():
        try:
            pool.windows(data)
            taken.append(name)
        except AudioError:
            continue
    assert taken == []
    assert heard(pool, SOUND).size == 40 * RATE


def hungry(code: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have workers run some code before they decode bytes that begin with `bomb`."""
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "import whisper_router.decode as decode\n"
        "real = decode.decode_pieces\n"
        "def decode_pieces(data, limits):\n"
        "    if data.startswith(b'bomb'):\n"
        f"        {code}\n"
        "    return real(data, limits)\n"
        "decode.decode_pieces = decode_pieces\n"
    )
    monkeypatch.syspath_prepend(str(folder))


@linux
@pytest.mark.parametrize(
    ("code", "error", "reason"),
    [
        ("raise SystemExit(3)", AudioError, "the decoder died of it"),
        ("import os; os.kill(os.getpid(), 11)", AudioError, "the decoder died of it"),
        ("held = bytearray(1 << 30)", TooLongError, "takes more memory to decode than it may"),
        ("import time; time.sleep(600)", TooLongError, "takes longer than 1 s to decode"),
        ("while True: pass", TooLongError, "takes longer than 1 s to decode"),
    ],
    ids=["exits", "crashes", "memory", "sleeps", "spins"],
)
def test_a_worker_that_a_file_ends_is_replaced(code, error, reason, monkeypatch, tmp_path):
    hungry(code, monkeypatch, tmp_path)
    monkeypatch.setattr(decoding, "LATE_S", 0.2)
    pool = DecoderPool(Limits(max_bytes=1 << 20, decode_s=1))
    try:
        heard(pool, encode(noise(0.5), "wav", "pcm_s16le"))  # the worker has started
        with pytest.raises(error, match=reason):
            pool.windows(b"bomb")
        wait_until(lambda: len(workers()) >= 1)
        assert heard(pool, encode(noise(0.5), "wav", "pcm_s16le")).size == RATE // 2
    finally:
        pool.stop()


def test_files_that_take_all_their_time_leave_workers_for_others(monkeypatch, tmp_path):
    hungry("import time; time.sleep(600)", monkeypatch, tmp_path)
    pool = DecoderPool(Limits(decode_s=15))
    try:
        with ThreadPoolExecutor(2) as threads:
            bad = [threads.submit(pool.windows, b"bomb") for _ in range(2)]
            begun = time.monotonic()
            for _ in range(10):
                assert heard(pool, SOUND).size == 40 * RATE
            assert time.monotonic() - begun < 15
            assert not any(one.done() for one in bad)
            for one in workers():
                one.kill()
            for one in bad:
                with pytest.raises(AudioError, match="the decoder died of it"):
                    one.result()
    finally:
        pool.stop()


def test_a_worker_that_was_killed_while_it_waited_is_not_noticed(pool):
    heard(pool, SOUND)
    for one in workers():
        one.kill()
        one.wait()
    assert heard(pool, SOUND).size == 40 * RATE


def test_a_worker_knows_no_secret_of_the_service(monkeypatch):
    monkeypatch.setenv("WHISPER_ROUTER_SERVE_API_KEY", "a secret")
    pool = DecoderPool(LIMITS)
    try:
        (worker,) = pool._idle
        environment = psutil.Process(worker.process.pid).environ()
        assert "a secret" not in environment.values()
    finally:
        pool.stop()


@linux
def test_a_worker_has_a_limit_on_its_memory_and_no_weights(pool):
    heard(pool, SOUND)
    status = Path(f"/proc/{pool._idle[-1].process.pid}/limits").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("Max address space")]
    assert 256 << 20 < int(line.split()[3]) < 640 << 20
    maps = Path(f"/proc/{pool._idle[-1].process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "pandas" not in maps


def test_stop_ends_the_workers_and_leaves_no_thread():
    threads, before = threading.active_count(), {one.pid for one in workers()}
    pool = DecoderPool(LIMITS)
    with ThreadPoolExecutor(3) as several:
        assert {made.size for made in several.map(heard, [pool] * 6, [SOUND] * 6)} == {40 * RATE}
    assert {one.pid for one in workers()} > before
    pool.stop()
    assert {one.pid for one in workers()} == before
    wait_until(lambda: threading.active_count() <= threads)


@linux
def test_workers_end_when_the_service_is_killed(tmp_path):
    code = (
        "import sys, time\n"
        "from whisper_router.decode import Limits\n"
        "from whisper_router.serving.decoding import DecoderPool\n"
        "print(DecoderPool(Limits())._idle[0].process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    service = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert service.stdout
    worker = psutil.Process(int(service.stdout.readline()))
    service.kill()
    service.wait()
    service.stdout.close()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
