"""What the packaged router makes of recordings, kept by arm and window in the content store.

Kept are the score and each arm's text, so that another threshold, or another policy of the same decider,
decodes nothing. Weights, options, decider, code, versions and audio are in the key: where one changes, the
Router transcribes again.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from whisper_router.asr.arm import arm_key
from whisper_router.audio import Audio
from whisper_router.decision import Route, Transcript
from whisper_router.errors import UserError
from whisper_router.hashing import code_hash, digest
from whisper_router.labelling import Utterance
from whisper_router.policy.calibrate import NEVER_STRONG
from whisper_router.router import Router
from whisper_router.store import ContentStore

Way = Literal["stays weak", "goes strong", "always strong"]

ROUTES: dict[Way, Route] = {
    "stays weak": Route(None, NEVER_STRONG),  # scored, and every window transcribed by the weak arm
    "goes strong": Route(None, 0.0),  # scored, and every window with speech by the strong arm
    "always strong": Route("strong", None, "strong"),
}
CODE = ("whisper_router.router", "whisper_router.wav")
LIBRARIES = ("av", "lightgbm", "numpy", "scikit-learn", "scipy", "silero-vad", "soundfile")


@dataclass(frozen=True)
class Window:
    """A window of a recording, one way."""

    start_s: float
    end_s: float
    score: float | None
    arm: str
    text: str


@dataclass(frozen=True)
class Routed:
    """A packaged router whose work is kept.

    Parameters
    ----------
    encode : callable
        Samples to the bytes of an audio file without loss.
    """

    router: Router
    encode: Callable[[Audio], bytes]
    store: ContentStore

    @cached_property
    def _strong(self) -> list[object]:
        """All that shapes what the strong arm says, but for the audio."""
        strong, size = self.router.description.strong, self.router.description.batch_size
        libraries = {name: version(name) for name in LIBRARIES}
        return [arm_key(strong.sha256, strong.decode), size, code_hash(*CODE), libraries]

    @cached_property
    def _scored(self) -> list[object]:
        """All that shapes a score and the texts beside it."""
        weak, bound = self.router.description.weak, self.router.policy.bound
        return [*self._strong, arm_key(weak.sha256, weak.decode), bound.extractor, bound.decider]

    def path(self, way: Way, row: Utterance) -> Path:
        """Where the windows of a recording lie, one way."""
        made_by = self._strong if way == "always strong" else self._scored
        return self.store.value_path("routed", digest([way, made_by, row.sha256]))

    def hear(self, rows: Sequence[Utterance], ways: Sequence[Way]) -> dict[tuple[str, Way], list[Window]]:
        """The windows of recordings by id and way; those that the store lacks are transcribed together.

        Raises
        ------
        UserError
            Audio is not to be had, or the router refuses it.
        """
        found: dict[tuple[str, Way], list[Window]] = {}
        lacking: list[tuple[Utterance, Way]] = []
        for row in rows:
            for way in ways:
                value = self.store.read_value(self.path(way, row))
                if value is None:
                    lacking.append((row, way))
                else:
                    found[row.id, way] = [Window(**window) for window in value]
        if lacking:
            data = {row.id: self.encode(row.load_or_raise(self.store)) for row, _ in lacking}
            routes = [ROUTES[way] for _, way in lacking]
            made = self.router.process([data[row.id] for row, _ in lacking], routes)
            for (row, way), transcript in zip(lacking, made, strict=True):
                found[row.id, way] = _windows(row, transcript)
                self.store.write_value(self.path(way, row), [asdict(one) for one in found[row.id, way]])
        return found

    def forget(self, row: Utterance) -> None:
        """Drop what is kept of a recording, so that it is transcribed again."""
        for way in ROUTES:
            self.path(way, row).unlink(missing_ok=True)


def _windows(row: Utterance, made: Transcript) -> list[Window]:
    if made.error is not None:
        raise UserError(f"{row.id}: {made.error}")
    return [
        Window(segment.start_s, segment.end_s, segment.score, segment.arm, segment.text or "")
        for segment in made.segments
    ]
