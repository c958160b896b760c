"""A transcript in the response formats of OpenAI's transcription API."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal, get_args

from whisper_router.decision import Decision, Segment, Transcript

ResponseFormat = Literal["json", "text", "verbose_json", "srt", "vtt"]
FORMATS: tuple[ResponseFormat, ...] = get_args(ResponseFormat)
NAMESPACE = "whisper_router"  # the one field of verbose_json that OpenAI's does not have


def _clock(seconds: float, point: str) -> str:
    total = round(seconds * 1000)
    minutes, milliseconds = divmod(total, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _cues(made: Transcript, point: str) -> list[str]:
    spoken = [segment for segment in made.segments if segment.text]
    return [
        f"{_clock(segment.start_s, point)} --> {_clock(segment.end_s, point)}\n{segment.text}\n"
        for segment in spoken
    ]


def as_srt(made: Transcript) -> str:
    """SubRip: a cue a window of at most 30 s."""
    return "\n".join(f"{i}\n{cue}" for i, cue in enumerate(_cues(made, ","), 1))


def as_vtt(made: Transcript) -> str:
    """WebVTT: a cue a window of at most 30 s."""
    return "\n".join(["WEBVTT\n", *_cues(made, ".")])


def segment_rows(made: Decision) -> list[dict[str, Any]]:
    """Windows with their routes, without the counts that costs come from."""

    def row(segment: Segment) -> dict[str, Any]:
        return {key: value for key, value in asdict(segment).items() if key != "spent"}

    return [row(segment) for segment in made.segments]


def routing(made: Decision) -> dict[str, Any]:
    """What the router did with the whole recording."""
    seconds = sum(s.end_s - s.start_s for s in made.segments if s.arm == "strong")
    return {
        "arm": made.arm,
        "model": made.model,
        "score": made.score,
        "threshold": made.threshold,
        "policy": made.policy,
        "strong_seconds": round(seconds, 3),
        "timestamps": "windows of at most 30 s, cut at silences",
    }


def as_verbose(made: Transcript, language: str, more: dict[str, Any] | None = None) -> dict[str, Any]:
    """OpenAI's verbose_json; ``tokens`` are empty, a segment is a window, routes are in one field of ours."""
    segments: list[dict[str, Any]] = [
        {
            "id": i,
            "seek": round(segment.start_s * 100),
            "start": segment.start_s,
            "end": segment.end_s,
            "text": segment.text or "",
            "tokens": [],
            "temperature": segment.temperature,
            "avg_logprob": segment.avg_logprob,
            "compression_ratio": segment.compression_ratio,
            "no_speech_prob": segment.no_speech_prob,
        }
        for i, segment in enumerate(made.segments)
    ]
    routes = [
        {key: getattr(segment, key) for key in ("start_s", "end_s", "arm", "model", "score", "no_speech")}
        for segment in made.segments
    ]
    return {
        "task": "transcribe",
        "language": language,
        "duration": made.duration_s,
        "text": made.text,
        "segments": segments,
        NAMESPACE: {**routing(made), "segments": routes, **(more or {})},
    }


def as_json(made: Transcript) -> dict[str, Any]:
    """OpenAI's json: the text alone."""
    return {"text": made.text}


def render(made: Transcript, response_format: ResponseFormat, language: str) -> str:
    """A transcript as text in one of the formats."""
    renderers: dict[ResponseFormat, Callable[[], str]] = {
        "text": lambda: made.text or "",
        "json": lambda: json.dumps(as_json(made), ensure_ascii=False),
        "verbose_json": lambda: json.dumps(as_verbose(made, language), ensure_ascii=False),
        "srt": lambda: as_srt(made),
        "vtt": lambda: as_vtt(made),
    }
    return renderers[response_format]()
