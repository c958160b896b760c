"""The command that looks at a corpus before anything is transcribed, and what `run` says of it first."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from whisper_router.cli_common import Json
from whisper_router.errors import UserError

if TYPE_CHECKING:
    from whisper_router.corpus.check import CorpusCheck
    from whisper_router.corpus.options import Corpus, IngestOptions
    from whisper_router.params import Arms, Params
    from whisper_router.planning import ArmTime, Resolution
    from whisper_router.store import ContentStore

Kind = Literal["table", "nemo", "audiofolder", "librispeech", "commonvoice", "kaldi", "lhotse"]
HEAD_ROWS = 10_000  # of a table, that say whether it has its columns
EXAMPLES = 3  # of bad rows of a kind


@dataclass(frozen=True)
class _Settings:
    """What a check takes from params.yaml."""

    ingest: "IngestOptions"
    arms: "Arms"
    cost_table: str | None
    cross_validate_below: int


def check(
    corpus: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A table; with --kind the folder of a corpus.")
    ],
    columns: Annotated[
        list[str],
        typer.Option("--columns", "-c", help="What columns are called there: audio=file,text=said."),
    ] = [],  # noqa: B006
    kind: Annotated[
        Kind | None, typer.Option(help="The layout.", show_default="that in params.yaml, else table")
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Time both arms on a few utterances, about 20 s.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Say what a corpus holds and what it will take, before anything is transcribed.

    Columns and what they are taken to mean; good and bad rows; hours and speakers of each split; minutes for
    each arm on this machine, by the cost_table of params.yaml or by the probe; the smallest difference in WER
    that the test split can tell. Exit code 1 if no row is usable. Example:

    whisper-router check calls.csv -c audio=file,text=said
    """
    entry, root = _entry(corpus, kind, _parsed(columns))
    refuse_other_columns(entry, root)
    from whisper_router.corpus.check import check_corpus
    from whisper_router.planning import arm_times

    settings = _settings(entry, root)
    console = Console(quiet=as_json)
    with _store() as store:
        with console.status("reading the corpus"):
            found = check_corpus(entry, settings.ingest, store, settings.cross_validate_below)
        _show(console, found)
        with console.status("timing both arms"):
            times = arm_times(found.utterances, settings.arms, settings.cost_table, store, probe)
    told = _resolution(found, settings.arms)
    if found.good:
        _show_plan(console, times, told)
        console.print(f"\nNext: {_next(entry, root)}", soft_wrap=True, highlight=False, markup=False)
    else:
        console.print("No row is usable.", style="bold red")
    if as_json:
        arms = [asdict(time) for time in times]
        print(json.dumps(found.as_json() | {"arms": arms, "resolution": asdict(told)}, ensure_ascii=False))
    if not found.good:
        raise SystemExit(1)


def refuse_other_columns(corpus: "Corpus", root: str) -> None:
    """Refuse a table without the columns that it needs by its first rows, before anything heavy is imported.

    Raises
    ------
    UserError
        There is no such table, or it lacks a column; the message says what to type.
    """
    from whisper_router.corpus.names import on_disk
    from whisper_router.corpus.tables import read_table

    if corpus.kind == "table":
        path, texts = on_disk(Path(root) / corpus.path), not corpus.takes_untold
        read_table(path, corpus.columns, most=HEAD_ROWS, texts=texts)


def check_before_run(params: "Params") -> None:
    """Say in a line or two for each corpus what `run` begins with, where ingest is not up to date.

    Raises
    ------
    UserError
        A corpus cannot be read or lacks a column, or no row of any is usable.
    """
    corpora = [corpus for corpus in params.ingest.corpora if corpus.kind != "demo"]
    for corpus in corpora:
        refuse_other_columns(corpus, params.ingest.root)
    if not corpora:
        return
    from whisper_router.corpus.check import check_corpus, is_archive, is_ingested
    from whisper_router.store import ContentStore

    if is_ingested(params.ingest):
        return
    checks = []
    for corpus in corpora:
        if is_archive(corpus, params.ingest):
            print(f"{corpus.name}: an archive, which ingest unpacks first")
            continue
        found = check_corpus(corpus, params.ingest, ContentStore(), params.cross_validation.below)
        checks.append(found)
        _show_short(found, _resolution(found, params.arms))
    if len(checks) == len(params.ingest.corpora) and not any(found.good for found in checks):
        raise UserError("no row of ingest.corpora is usable; `whisper-router check TABLE` says more")


def _parsed(columns: list[str]) -> dict[str, str]:
    """``audio=file,text=said`` as a table."""
    parsed = {}
    for pair in (pair for text in columns for pair in text.split(",")):
        ours, separator, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and separator and theirs):
            raise UserError(f"--columns {pair}: write ours=theirs, such as audio=file,text=said")
        parsed[ours] = theirs
    return parsed


def _entry(path: Path, kind: str | None, columns: Mapping[str, str]) -> tuple["Corpus", str]:
    """The corpus as params.yaml has it, else as it would be written there; and the folder it lies below."""
    from pydantic import ValidationError

    from whisper_router.corpus.options import Corpus
    from whisper_router.params import PARAMS, load_params

    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.absolute().stem).strip(".-")[:100] or "corpus"
    known: dict[str, Any] = {"name": name, "kind": "table", "path": path.name}
    root = str(path.parent)
    ingest = load_params().ingest if PARAMS.is_file() else None
    for corpus in ingest.corpora if ingest else ():
        if ingest and (Path(ingest.root) / corpus.path).resolve() == path.resolve():
            known, root, kind = corpus.model_dump(), ingest.root, kind or corpus.kind
    if path.is_dir() and kind in (None, "table"):
        kinds = ", ".join(name for name in get_args(Kind) if name != "table")
        raise UserError(f"{path}: a folder; name its layout with --kind, one of {kinds}")
    given = ({"kind": kind} if kind else {}) | ({"columns": dict(columns)} if columns else {})
    try:
        return Corpus.model_validate(known | given), root
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None


def _next(entry: "Corpus", root: str) -> str:
    """The command that goes on from here."""
    from whisper_router.params import PARAMS, load_params

    if PARAMS.is_file() and entry in load_params().ingest.corpora:
        return "whisper-router run"
    inside = [
        f"{key}: {value}"
        for key, value in entry.model_dump(exclude_defaults=True).items()
        if key != "columns"
    ]
    if entry.columns:
        inside.append(
            f"columns: {{{', '.join(f'{ours}: {theirs}' for ours, theirs in entry.columns.items())}}}"
        )
    corpora = shlex.quote(f"ingest.corpora=[{{{', '.join(inside)}}}]")
    return f"whisper-router run -S ingest.root={shlex.quote(os.path.abspath(root))} -S {corpora}"


def _settings(entry: "Corpus", root: str) -> "_Settings":
    """What params.yaml says of splits, arms and costs; the defaults where there is none."""
    from whisper_router.corpus.options import IngestOptions
    from whisper_router.params import PARAMS, Arms, CrossValidation, load_params

    if not PARAMS.is_file():
        below = CrossValidation().below
        return _Settings(IngestOptions(root=root, corpora=(entry,)), Arms(), None, below)
    params = load_params()
    ingest = params.ingest.model_copy(update={"root": root, "corpora": (entry,)})
    return _Settings(ingest, params.arms, params.cost_table, params.cross_validation.below)


@contextmanager
def _store() -> Iterator["ContentStore"]:
    """The project's content store; outside of a project one that is thrown away."""
    from whisper_router.params import PARAMS
    from whisper_router.store import FOLDER, ContentStore

    if PARAMS.is_file() or os.environ.get(FOLDER):
        yield ContentStore()
        return
    with TemporaryDirectory() as folder:
        yield ContentStore(Path(folder))


def _resolution(found: "CorpusCheck", arms: "Arms") -> "Resolution":
    from whisper_router.planning import known_spread, resolution

    rows = found.utterances
    test = rows[rows["split"] == found.tested]
    spread = known_spread(rows["id"].tolist(), arms)
    return resolution(found.splits[found.tested].words, test["speaker"].to_numpy(), spread)


def _amount(found: "CorpusCheck") -> str:
    """Good rows of all, and how that is known."""
    if not found.is_partial:
        return f"{found.rows:,}: {found.good:,} good, {found.rows - found.good:,} bad"
    return f"{found.rows:,}, about {found.good:,} good, estimated from {found.examined:,} that were examined"


def _hours(hours: float | None) -> str:
    return "unknown" if hours is None else f"{hours:.2f}"


def _show(console: Console, found: "CorpusCheck") -> None:
    """What the corpus holds."""
    columns = ", ".join(
        name if name == meaning else f"{name} (taken as {meaning})"
        for name, meaning in found.columns.items()
        if meaning != "tag"
    )
    tags = ", ".join(name for name, meaning in found.columns.items() if meaning == "tag")
    columns += f"; kept as tags: {tags}" if tags else ""
    absent = ", ".join(f"{name} ({instead})" for name, instead in found.absent.items())
    grid = _grid()
    grid.add_row("Corpus", escape(f"{found.corpus.name}: {found.corpus.path}, kind {found.corpus.kind}"))
    grid.add_row("Columns", escape(columns))
    if absent:
        grid.add_row("", escape(f"not there: {absent}"))
    grid.add_row("Rows", escape(_amount(found)))
    for finding in found.bad:
        grid.add_row("", escape(f"{finding.count:,}: {finding.what}"))
        for example in finding.examples[:EXAMPLES]:
            grid.add_row("", escape(f"  {example}"))
    if found.good:
        grid.add_row("Audio", f"{_hours(found.hours)} hours, {found.speakers:,} speakers")
    for note in found.notes if found.good else ():
        grid.add_row("Note", escape(note), style="yellow")
    console.print(grid)
    if not found.good:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("split", "utterances", "speakers", "hours"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, size in found.splits.items():
        table.add_row(name, f"{size.utterances:,}", f"{size.speakers:,}", _hours(size.hours))
    console.print(table)


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    return grid


def _show_plan(console: Console, times: "list[ArmTime]", told: "Resolution") -> None:
    """What it will take, and what it can tell."""
    grid = _grid()
    for time in times:
        minutes = "unknown" if time.minutes is None else f"about {_minutes(time.minutes)}"
        grid.add_row("Arms" if time.arm == "weak" else "", escape(f"{time.model}: {minutes}; {time.how}"))
    grid.add_row("Test", escape(_told(told)))
    if told.points is not None:
        grid.add_row("", escape(f"assumed: differences vary as in {told.spread.source}"))
    console.print(grid)


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return f"{60 * minutes:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} hours"


def _told(told: "Resolution") -> str:
    """What the test split can tell."""
    held = f"{told.words:,} words of {told.speakers:,} speakers"
    if told.words == 0:
        return f"{told.speakers:,} speakers; what difference they can tell is known once they are transcribed"
    if told.points is None:
        return f"{held}: no difference can be told, an interval takes {told.speakers_needed} speakers"
    return (
        f"{held} can tell a difference in WER of {told.points:.2g} points; one of "
        f"{told.points_surely:.2g} is told 4 times in 5"
    )


def _show_short(found: "CorpusCheck", told: "Resolution") -> None:
    """The same in a line or two."""
    kinds = ", ".join(f"{finding.count:,} {finding.what}" for finding in found.bad)
    held = f"{_hours(found.hours)} hours, {found.speakers:,} speakers"
    left_out = f"; left out: {kinds}" if kinds else ""
    print(f"{found.corpus.name}: rows {_amount(found)}; {held}{left_out}")
    tested = "test split" if found.tested == "test" else "cross-validated"
    print(f"  {tested}: {_told(told)}")
