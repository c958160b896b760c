"""What deciding takes in seconds, beside the weak arm, in one process on one thread."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from whisper_router.decider.registry import fit_decider
from whisper_router.decider.training import Examples
from whisper_router.experiments.candidates import EXTRACTORS, TAGS, Candidate
from whisper_router.experiments.data import Corpus, pool_parts
from whisper_router.experiments.training import Job, reader_of
from whisper_router.features.reading import Heard, read_feature
from whisper_router.labelling import utterances
from whisper_router.params import POOLED
from whisper_router.store import ContentStore

UTTERANCES, REPEATS = 8, 3


def _median(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def measure_seconds(corpus: Corpus, tried: Sequence[Candidate], job: Job) -> dict[str, Any]:
    """Seconds an utterance of the weak arm, and of each candidate's extractors and decider.

    Deciders are as large as the trained ones; networks are trained for one epoch on a few utterances.
    """
    store = ContentStore()
    order = np.argsort(corpus.labels["duration_s"].to_numpy(), kind="stable")
    middle = order[len(order) // 2 :][:UTTERANCES]
    rows = utterances(corpus.manifest.iloc[np.sort(middle)])
    audios = [row.load_or_raise(store) for row in rows]
    ids = [row.id for row in rows]
    found: dict[str, Any] = {"utterances": len(rows)}
    arms = {name: reference.load() for name, reference in corpus.references.items()}
    made = {name: [arm.encode_audio([audio]) for audio in audios] for name, arm in arms.items()}
    weak = arms["weak"]
    hypotheses = [
        weak.decode(encoding, [audio])[0] for encoding, audio in zip(made["weak"], audios, strict=True)
    ]

    def transcribe() -> None:
        for audio in audios:
            weak.decode(weak.encode_audio([audio]), [audio])

    found["weak_arm"] = round(_median(transcribe) / len(rows), 5)
    extractors = {TAGS: 0.0}  # they are there already
    for name in {part.extractor: None for one in tried for part in one.parts if part.extractor != TAGS}:
        options = EXTRACTORS[name]
        heard = [
            Heard(audio, made[options.arm][i].states, 0, hypotheses[i], made["weak"][i].mel[0])
            for i, audio in enumerate(audios)
        ]

        def read(options: Any = options, heard: Any = heard) -> None:
            for one in heard:
                read_feature(options, one)

        extractors[name] = _median(read) / len(rows)
    found["extractors"] = {name: round(value, 6) for name, value in extractors.items()}
    found["candidates"] = {}
    for one in tried:
        reader = reader_of(one)
        few = Examples(reader, *_few(job))
        short = {} if one.options.kind in POOLED else {"epochs": 1}
        decider, _ = fit_decider(one.options.model_copy(update=short), few, few, one.name)

        def decide(one: Candidate = one, decider: Any = decider) -> None:
            if one.options.kind in POOLED:  # their pooling is part of the decision
                decider.score([pool_parts(one.parts, id_) for id_ in ids])
            else:
                decider.score(reader_of(one).batch(ids))

        taken = _median(decide) / len(rows)
        read_s = sum(extractors[part.extractor] for part in one.parts)
        found["candidates"][one.name] = {
            "extractor": round(read_s, 6),
            "decider": round(taken, 6),
            "share_of_weak": round((read_s + taken) / found["weak_arm"], 5),
        }
    return found


def _few(job: Job) -> tuple[list[str], np.ndarray, np.ndarray]:
    """A handful of utterances of both classes, but as many as trees need."""
    parts = [job.fold.train[job.labels[job.fold.train] == value][:60] for value in (0, 1)]
    rows = np.concatenate(parts)
    return job.ids[rows].tolist(), job.labels[rows], job.gains[rows]
