"""What was routed, in Parquet, for drift monitoring to read. No audio, and no text unless asked for."""

import logging
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from whisper_router.decision import Transcript
from whisper_router.errors import UserError
from whisper_router.files import write_new_parquet

COLUMNS = (
    "time",  # UTC, when the audio had arrived
    "request",
    "version",  # of the router
    "policy",  # null: a threshold of the request's own
    "duration_s",
    "score",  # the highest of the windows; null: an arm was asked for by name
    "threshold",
    "route",  # weak or strong
    "strong_s",  # seconds of the windows that went to strong
    "windows",
    "avg_logprob",  # of the text, mean over windows weighted by their seconds; null: decided only
    "min_avg_logprob",
    "queue_s",
    "latency_s",
    "text",  # null unless asked for
)
SHADOW_COLUMNS = (  # a row a window that both arms have transcribed
    "time",  # UTC, when the second arm was done
    "request",
    "version",
    "policy",
    "start_s",
    "duration_s",
    "score",
    "threshold",
    "route",
    "words_weak",  # normalised
    "words_strong",
    "differences",  # word edits between both
    "avg_logprob_weak",
    "avg_logprob_strong",
    "text_weak",  # null unless asked for
    "text_strong",
)
PREDICTIONS, SHADOW = "predictions", "shadow"  # what the names of the files begin with
TABLES = {PREDICTIONS: COLUMNS, SHADOW: SHADOW_COLUMNS}
logger = logging.getLogger(__name__)


def row_of(made: Transcript, request: str, version: str, queue_s: float, latency_s: float) -> dict[str, Any]:
    """A row of the log."""
    spoken = [
        (s.end_s - s.start_s, s.avg_logprob)
        for s in made.segments
        if s.avg_logprob is not None and not s.no_speech
    ]
    total = sum(seconds for seconds, _ in spoken)
    return {
        "time": datetime.now(UTC) - pd.Timedelta(seconds=latency_s),
        "request": request,
        "version": version,
        "policy": made.policy,
        "duration_s": made.duration_s,
        "score": made.score,
        "threshold": made.threshold,
        "route": made.arm,
        "strong_s": sum(s.end_s - s.start_s for s in made.segments if s.arm == "strong"),
        "windows": len(made.segments),
        "avg_logprob": sum(seconds * value for seconds, value in spoken) / total if total else None,
        "min_avg_logprob": min((value for _, value in spoken), default=None),
        "queue_s": queue_s,
        "latency_s": latency_s,
        "text": made.text,
    }


class PredictionLog:
    """Rows are held and written as a file, whole or not at all, by number or by age; a kill loses those held.

    Parameters
    ----------
    folder : Path
        Gets ``<kind>-<UTC time>-<random id of this log>-<number>.parquet``; several processes may share it,
        and no file is ever replaced.
    rows : int
        Of a file.
    seconds : float
        After which a file is written with fewer.
    text : bool
        Keep texts too.
    kind : str
        One of ``TABLES``.
    """

    def __init__(self, folder: Path, rows: int, seconds: float, text: bool, kind: str = PREDICTIONS) -> None:
        self._folder, self._rows, self._seconds, self._kind = folder, rows, seconds, kind
        self._columns = TABLES[kind]
        texts = [name for name in self._columns if name.startswith("text")]
        self._hidden: dict[str, None] = {} if text else dict.fromkeys(texts)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"prediction log {folder}: {error}") from error
        self._held: list[dict[str, Any]] = []
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._full = threading.Event()
        self._id, self._files = (
            uuid.uuid4().hex,
            0,
        )  # a process id is no name: in containers all have the same
        self._thread = threading.Thread(target=self._write_in_time, name="prediction-log", daemon=True)
        self._thread.start()

    def add(self, row: dict[str, Any]) -> None:
        """Hold a row; the file is written by another thread."""
        with self._lock:
            self._held.append(row | self._hidden)
            if len(self._held) >= self._rows:
                self._full.set()

    def _write_in_time(self) -> None:
        while not self._stopped.is_set():
            self._full.wait(self._seconds)
            self._full.clear()
            self.flush()

    def flush(self) -> None:
        """Write what is held; rows that cannot be written stay held, up to ten files' worth."""
        with self._lock:
            rows, self._held = self._held, []
        if not rows:
            return
        self._files += 1
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
        path = self._folder / f"{self._kind}-{stamp}-{self._id}-{self._files:06}.parquet"
        table = pd.DataFrame(rows, columns=list(self._columns))
        kinds = {"policy": "string", "score": "float64", "threshold": "float64"}
        kinds |= {name: "float64" for name in self._columns if "avg_logprob" in name}
        kinds |= {name: "string" for name in self._columns if name.startswith("text")}
        table = table.astype(kinds)
        try:
            write_new_parquet(path, table)
        except OSError as error:
            logger.error("prediction log %s: %s", path, error)
            with self._lock:
                self._held = (rows + self._held)[-10 * self._rows :]

    def stop(self) -> None:
        """Write what is held and end."""
        self._stopped.set()
        self._full.set()
        self._thread.join()
        self.flush()
