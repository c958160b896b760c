"""Both arms on a sampled share of what was routed: what a label-free estimate of the WER needs."""

import random
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from whisper_router.audio import Audio
from whisper_router.decision import Route, Segment, Transcript
from whisper_router.disagreement import disagreements
from whisper_router.features.options import ArmName
from whisper_router.serving.batcher import Batcher
from whisper_router.serving.champion import Served
from whisper_router.serving.metrics import Metrics
from whisper_router.serving.prediction_log import SHADOW, PredictionLog
from whisper_router.serving.savings import work_macs
from whisper_router.serving.settings import Settings


class Shadow:
    """Lets the other arm transcribe some of the routed windows too, once the answer is made.

    Windows are drawn by chance alone, whatever their score. They run when a worker has nothing else to do,
    one at a time; where too many wait, new ones are dropped and counted.

    Raises
    ------
    UserError
        The log's folder cannot be written.
    """

    def __init__(self, settings: Settings, batcher: Batcher, metrics: Metrics) -> None:
        if settings.log is None:
            raise ValueError("shadow transcripts need a log")
        self._share, self._batcher, self._metrics = settings.shadow, batcher, metrics
        self._log = PredictionLog(settings.log, settings.log_rows, settings.log_s, settings.log_text, SHADOW)
        self._random = random.SystemRandom()

    def stop(self) -> None:
        """Write the rows that are held."""
        self._log.stop()

    def offer(
        self, served: Served, windows: Sequence[tuple[int, Audio]], made: Transcript, request: str
    ) -> None:
        """Draw windows of a transcript that was routed by its scores."""
        for window, segment in zip(windows, made.segments, strict=True):
            if segment.score is None or self._random.random() >= self._share:
                continue
            if not self._batcher.when_idle(partial(self._run, served, window, segment, made, request)):
                self._metrics.shadow.labels("dropped").inc()

    def _run(
        self, served: Served, window: tuple[int, Audio], segment: Segment, made: Transcript, request: str
    ) -> None:
        begun = time.monotonic()
        other: ArmName = "strong" if segment.arm == "weak" else "weak"
        try:
            (heard,) = served.router.hear([window], [Route(other, None, other)], True)
            by_arm = {segment.arm: segment, other: heard}
            texts = {arm: by_arm[arm].text or "" for arm in by_arm}
            (found,) = disagreements([texts["weak"]], [texts["strong"]])
        except Exception:
            self._metrics.shadow.labels("failed").inc()
            raise
        self._metrics.shadow_s.inc(time.monotonic() - begun)
        self._metrics.shadow_macs.inc(work_macs(served.router, heard.spent))
        self._log.add(
            {
                "time": datetime.now(UTC),
                "request": request,
                "version": served.version,
                "policy": made.policy,
                "start_s": segment.start_s,
                "duration_s": segment.end_s - segment.start_s,
                "score": segment.score,
                "threshold": made.threshold,
                "route": segment.arm,
                "words_weak": found.words_weak,
                "words_strong": found.words_strong,
                "differences": found.differences,
                **{f"avg_logprob_{arm}": one.avg_logprob for arm, one in by_arm.items()},
                **{f"text_{arm}": text for arm, text in texts.items()},
            }
        )
        self._metrics.shadow.labels("done").inc()
