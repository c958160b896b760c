"""The queue: batches of one context, long recordings that yield, jobs that end, a fault that stays alone."""

import threading

import numpy as np
import pytest

from whisper_router.audio import SAMPLE_RATE
from whisper_router.router import Router
from whisper_router.serving.batcher import Batcher, Job, QueueFullError


def job(router: Router, speech, *seconds: float, transcribe: bool = True) -> Job:
    windows, start = [], 0
    for i, length in enumerate(seconds):
        audio = speech(length, i)
        windows.append((start, audio))
        start += audio.size
    return Job(router, windows, router.route(), transcribe)


def test_a_batch_is_of_one_context_and_kind_and_no_larger_than_the_router_s(router, speech, gate):
    batcher = Batcher(1, 1000)
    first = batcher.submit(job(router, speech, 0.5))
    while batcher.waiting:
        pass
    jobs = [job(router, speech, seconds) for seconds in (1.0, 2.5, 1.0, 2.5, 1.0, 1.0, 1.0)]
    jobs.append(job(router, speech, 1.0, transcribe=False))
    futures = [first, *map(batcher.submit, jobs)]
    gate.set()
    made = [future.result(120) for future in futures]
    batcher.stop()
    assert gate.batches == [[0.5], [1.0] * 4, [2.5] * 2, [1.0], [1.0]]
    assert [one.duration_s for one in made[1:]] == [1.0, 2.5, 1.0, 2.5, 1.0, 1.0, 1.0, 1.0]
    assert made[-1].text is None


def test_a_long_recording_yields_to_a_short_one(router, speech, gate):
    batcher = Batcher(1, 1000)
    ended = []
    long = job(router, speech, *[1.0] * 12)
    futures = {"long": batcher.submit(long), "short": batcher.submit(job(router, speech, 1.0))}
    for name, future in futures.items():
        future.add_done_callback(lambda _, name=name: ended.append(name))
    gate.set()
    made = futures["long"].result(30)
    batcher.stop()
    assert ended == ["short", "long"]
    assert [segment.end_s for segment in made.segments] == list(np.arange(1.0, 13.0))


def test_stopping_finishes_what_waits_and_takes_no_more(router, speech, gate):
    batcher = Batcher(2, 1000)
    futures = [batcher.submit(job(router, speech, 1.0)) for _ in range(6)]
    stopping = threading.Thread(target=batcher.stop)
    stopping.start()
    gate.set()
    stopping.join(30)
    assert all(future.done() and future.result().text is not None for future in futures)
    assert not batcher.alive
    with pytest.raises(QueueFullError):
        batcher.submit(job(router, speech, 1.0))


def test_a_job_that_is_given_up_is_not_run(router, speech, gate):
    batcher = Batcher(1, 1000)
    first = batcher.submit(job(router, speech, 0.5))
    while batcher.waiting:
        pass
    second, third = (batcher.submit(job(router, speech, 2.5)) for _ in range(2))
    second.cancel()
    gate.set()
    assert first.result(120)
    assert third.result(120)
    batcher.stop()
    assert gate.batches == [[0.5], [2.5]]


def test_what_cannot_be_heard_fails_alone(router, speech, monkeypatch):
    hear = Router.hear

    def fails(self, windows, routes, transcribe):
        if any(audio.size == SAMPLE_RATE // 2 for _, audio in windows):
            raise RuntimeError("damaged")
        return hear(self, windows, routes, transcribe)

    monkeypatch.setattr(Router, "hear", fails)
    batcher = Batcher(1, 1000)
    jobs = [job(router, speech, seconds) for seconds in (0.6, 0.5, 0.6)]
    futures = list(map(batcher.submit, jobs))
    batcher.stop()
    assert [type(future.exception()).__name__ for future in futures] == [
        "NoneType",
        "RuntimeError",
        "NoneType",
    ]


def test_a_full_queue(router, speech, gate):
    batcher = Batcher(1, 3)
    batcher.submit(job(router, speech, 1.0))
    while batcher.waiting:
        pass
    batcher.submit(job(router, speech, *[1.0] * 5))
    with pytest.raises(QueueFullError) as told:
        batcher.submit(job(router, speech, 1.0))
    assert told.value.retry_s >= 1
    assert batcher.waiting_s == pytest.approx(5)
    gate.set()
    batcher.stop()
