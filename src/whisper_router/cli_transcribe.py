"""The commands that route audio files."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from whisper_router.cli_common import Json, RouterOption
from whisper_router.errors import UserError

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Audio files: wav, flac, mp3, ogg, opus, m4a, mp4, aac, webm, mkv, aiff.", show_default=False
    ),
]
Threshold = Annotated[
    float | None, typer.Option(help="Instead of the policy's: strong iff score >= threshold.")
]
PolicyName = Annotated[
    str | None, typer.Option("--policy", help="Another packaged policy; or an arm: weak, strong.")
]


class Format(StrEnum):
    """What a transcript is written as."""

    TXT = "txt"
    SRT = "srt"
    VTT = "vtt"
    JSON = "json"


def _json(path: Path, row: Any) -> str:
    return json.dumps({"audio": str(path), **asdict(row)}, ensure_ascii=False, allow_nan=False)


def _render(path: Path, row: Any, written: Format) -> str:
    """A transcript as the whole text of a file."""
    from whisper_router.serving.formats import as_srt, as_vtt

    match written:
        case Format.TXT:
            return f"{row.text}\n"
        case Format.SRT:
            return as_srt(row)
        case Format.VTT:
            return as_vtt(row)
        case Format.JSON:
            return f"{_json(path, row)}\n"


def _route(row: Any) -> str:
    """The model that a file went to, and why."""
    if all(segment.no_speech for segment in row.segments):
        by = "no speech"
    elif row.score is None:
        by = str(row.policy)
    else:
        by = f"score {row.score:.3f}, threshold {row.threshold:.3f}"
    return f"{row.model} ({row.arm}; {by})"


def _write(target: Path, text: str) -> None:
    from whisper_router.files import write_text

    try:
        write_text(target, text)
    except OSError as error:
        raise UserError(
            f"{target} cannot be written: {error.strerror}; name another folder with --output"
        ) from error


def _targets(files: Sequence[Path], folder: Path, written: Format) -> dict[Path, Path]:
    """The file that each input's transcript goes to; refused where two inputs have one."""
    targets: dict[Path, Path] = {}
    sources: dict[Path, Path] = {}
    for path in files:
        target = folder / f"{path.stem}.{written}"
        if (other := sources.setdefault(target, path)) != path:
            raise UserError(
                f"{other} and {path} would both be written to {target}; rename one of them, or transcribe "
                "them with different --output folders"
            )
        targets[path] = target
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror}; name a folder that can be written") from error
    return targets


def _each(
    files: list[Path],
    router: str | None,
    threshold: float | None,
    policy: str | None,
    written: Format | None,
    output: Path | None = None,
    transcribe: bool = True,
) -> None:
    from whisper_router.progress import progress
    from whisper_router.reference import Reference
    from whisper_router.router import Router
    from whisper_router.serving.default import default_router

    targets = _targets(files, output, written) if output and written else {}
    loaded = Router.load(router or default_router())
    if threshold is not None and (known := loaded.policy.expects(threshold)):
        wer = Reference(loaded.policy.calibration.reference).wer
        said = f"{known.strong_share:.0%} to strong, {wer} {known.wer_routed:.1%}"
        saved = f"{known.saving_macs:.0%} of macs saved"
        print(
            f"on calibration utterances, at threshold {known.threshold:.3f}: {said}, {saved}", file=sys.stderr
        )
    size = loaded.description.batch_size
    failed = 0
    for start in progress(range(0, len(files), size), "files", unit="batch"):
        chunk = files[start : start + size]
        route = loaded.transcribe if transcribe else loaded.decide
        rows: Sequence[Any] = route(chunk, threshold, policy)
        for path, row in zip(chunk, rows, strict=True):
            failed += row.error is not None
            if written is Format.JSON and not targets:
                print(_json(path, row))
            elif row.error is not None:
                print(f"{path}: error: {row.error}", file=sys.stderr)
            elif written is None:
                text = f"  {row.text}" if transcribe else ""
                print(f"{path}: {_route(row)}{text}")
            elif targets:
                _write(targets[path], _render(path, row, written))
                print(f"{targets[path]}: {_route(row)}")
            else:
                print(_render(path, row, written), end="")
    if failed:
        raise SystemExit(1)


def transcribe(
    files: Files,
    router: RouterOption = None,
    threshold: Threshold = None,
    policy: PolicyName = None,
    written: Annotated[
        Format | None,
        typer.Option("--format", help="The text alone, subtitles, or all that is known as JSON."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write one file per input into this folder; txt unless --format says otherwise.",
            show_default="print",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Transcribe audio files, each by the arm it needs. Exit code 1 if one failed; the others are done.

    Subtitles have one cue for each window of at most 30 s: the arms give no times of words.
    """
    if as_json and written not in (None, Format.JSON):
        raise UserError(f"--json and --format {written}: give one of them")
    if as_json:
        written = Format.JSON
    elif output is not None:
        written = written or Format.TXT
    if written in (Format.SRT, Format.VTT) and output is None and len(files) > 1:
        raise UserError(
            f"--format {written}: {len(files)} files do not make one file of subtitles; "
            "--output FOLDER writes one for each"
        )
    _each(files, router, threshold, policy, written, output)


def decide(
    files: Files,
    router: RouterOption = None,
    threshold: Threshold = None,
    policy: PolicyName = None,
    as_json: Json = False,
) -> None:
    """Say which arm each file needs, without transcribing more than the decision takes."""
    _each(files, router, threshold, policy, Format.JSON if as_json else None, transcribe=False)
