"""Commands: thin over the package."""

import json
import os
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from whisper_router import environment
from whisper_router.cli_audit import audit, sign
from whisper_router.cli_check import check, check_before_run, refuse_other_columns
from whisper_router.cli_common import Json, friendly
from whisper_router.cli_drift import drift
from whisper_router.cli_models import compare, models, promote, rollback, show_uncommitted
from whisper_router.cli_project import init, ui
from whisper_router.cli_transcribe import decide, transcribe
from whisper_router.errors import UserError
from whisper_router.experiments.cli import experiments
from whisper_router.policy.commands import calibrate, recalibrate
from whisper_router.serving.command import serve

environment.prepare()

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Learns from your own audio when the small Whisper is good enough, and serves that decision. "
    "Run it in the project's folder.",
)

cache = typer.Typer(no_args_is_help=True, help="The content store: what it holds, how to shrink it.")
app.add_typer(cache, name="cache")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"whisper-router {version('whisper-router')}")
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """What holds for all commands."""


Assignments = Annotated[
    list[str],
    typer.Option("--set", "-S", help="key.path=value written into params.yaml first; may be repeated."),
]


@app.command()
@friendly
def run(
    assignments: Assignments = [],  # noqa: B006
    preset: Annotated[
        str | None,
        typer.Option(help="Write a preset into params.yaml first: paper, paper-code or paper-compact."),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(help="A folder of audio without transcripts: write it into params.yaml as the corpus."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Stages say intervals and promises in full.")
    ] = False,
) -> None:
    """Run what is not up to date of the DAG: audio -> labels -> decider -> policy -> router -> report.

    Example with your own table of audio and transcripts:

    whisper-router run -S ingest.root=/data/calls
    -S 'ingest.corpora=[{name: calls, kind: table, path: calls.jsonl}]'

    Without transcripts, the strong model's text being the reference (a subfolder is a speaker):

    whisper-router run --audio /data/calls
    """
    from whisper_router.params import edit_params, folder_corpus, load_params
    from whisper_router.progress import VERBOSE

    if verbose:
        os.environ[VERBOSE] = "1"
    if audio is not None:
        assignments = [*folder_corpus(audio), *assignments]
    if assignments or preset:
        edit_params(preset, assignments)
    params = load_params()
    check_before_run(params)
    from whisper_router.asr.weights import find_checkpoint
    from whisper_router.run import run as run_dag
    from whisper_router.summary import show_next, show_summary

    if preset:
        names = ", ".join(params.deciders)
        print(f"params.yaml: deciders {names}; the router's policy is {params.router.policy}")
    for arm in (params.arms.weak, params.arms.strong):
        find_checkpoint(arm.model)  # before DVC removes the outputs of the last run
    run_dag()
    console = Console()
    show_summary(console)
    show_next(console)


@app.command()
@friendly
def ingest(assignments: Assignments = []) -> None:  # noqa: B006
    """Read the corpora of params.yaml into the manifest, and check it. `run` goes on from there.

    \b
    -S ingest.root=/data -S 'ingest.corpora=[...]', with an entry a corpus:
    {name: a, kind: librispeech, path: LibriSpeech}    folder, part or .tar.gz
    {name: b, kind: commonvoice, path: cv-corpus-7.0/en}   its tsv files, clips
    {name: c, kind: nemo, path: manifest.json}
    {name: d, kind: audiofolder, path: folder}          metadata.csv or .jsonl
    {name: e, kind: kaldi, path: data/train}
    {name: f, kind: lhotse, path: cuts.jsonl.gz}
    {name: f, kind: lhotse, path: supervisions.jsonl, recordings: recs.jsonl}
    {name: g, kind: table, path: calls.csv}   .tsv, .jsonl, .parquet: audio, text
    {name: g, kind: table, path: calls.csv, columns: {audio: file, text: said}}
    {name: h, kind: folder, path: calls}    audio without texts; speaker_level: 2

    \b
    path is below ingest.root. Any entry may have utterances: 500 (a sample),
    min_words: 3 and max_train_duration_s: 10. With reference: strong rows with an
    empty text are taken too; the strong model's text is then their reference.
    """
    from whisper_router.params import edit_params, load_params
    from whisper_router.run import run as run_dag

    if assignments:
        edit_params(None, assignments)
    options = load_params().ingest
    for corpus in options.corpora:
        refuse_other_columns(corpus, options.root)
    run_dag("check")


@app.command()
@friendly
def demo() -> None:
    """Run the DAG, register the router, transcribe one clip through the registered champion."""
    from whisper_router.demo import run_demo

    run_demo(Console())


@app.command()
@friendly
def register(
    champion: Annotated[
        bool, typer.Option("--champion", help="Move the alias champion to this version.")
    ] = False,
    embed_weights: Annotated[
        bool, typer.Option("--embed-weights", help="Put the Whisper checkpoints into the model.")
    ] = False,
    commit: Annotated[
        bool,
        typer.Option("--commit", help="Commit dvc.lock and params.yaml first, and nothing else."),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --champion: even if the verdict is not to route.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Record the last run in MLflow and register its router; the same dvc.lock registers nothing twice."""
    from whisper_router.promotion import CHAMPION, MODEL
    from whisper_router.registry import register as register_model

    made = register_model(champion or None, embed_weights, commit, force)
    show_uncommitted(made.uncommitted)
    if as_json:
        print(json.dumps(asdict(made)))
        return
    state = "registered" if made.new else "was registered before"
    alias = (
        f", {CHAMPION}" if made.champion else f"; {CHAMPION} stays on another version (--champion moves it)"
    )
    print(f"{MODEL} version {made.version} {state}{alias}; run {made.run_id}")


@app.command()
@friendly
def cost(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine first: minutes, all cores busy.")
    ] = False,
    table: Annotated[
        str | None, typer.Option(help="Name of a table in costs/; default: this machine's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what an hour of audio costs by each choice and policy, in every currency with data.

    Multiply-accumulates are counted. Seconds and joules come from costs/MACHINE.json, which --measure
    writes: encoder and decoder of both arms, deciders, energy, on the manifest's audio.
    """
    from whisper_router.cost_report import show_cost, write_table
    from whisper_router.paths import LABELS

    console = Console(quiet=as_json)
    if measure:
        if table is not None:
            raise UserError(f"--table {table}: --measure writes this machine's table; leave one of them out")
        write_table(console)
        if not LABELS.is_file():
            return
    shown = show_cost(console, table)
    if as_json:
        print(json.dumps(shown))


@app.command()
@friendly
def replicate(
    table: Annotated[
        Path, typer.Argument(help="Utterances (.jsonl, .csv, .tsv, .parquet): audio, text, speaker.")
    ],
    weak: Annotated[
        str | None, typer.Option(help="Default: tiny, or tiny.en where small is not to be had.")
    ] = None,
    strong: Annotated[
        str | None, typer.Option(help="Default: small, or base where it is not to be had.")
    ] = None,
    folds: Annotated[int, typer.Option(min=3, help="Parts of the speakers; one a fold is the test.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the division into folds.")] = 0,
) -> None:
    """Cross-validate the paper's router over speakers and write docs/paper-replication.md.

    Takes hours on a CPU; killed, it goes on where it was. Example:

    whisper-router replicate ../shared/speech/manifest.jsonl
    """
    if (weak is None) != (strong is None):
        raise UserError("name both --weak and --strong, or neither")
    from whisper_router.replication import DOCUMENT, candidates, find_pair, write_document
    from whisper_router.replication import replicate as run_replication

    write_document(run_replication(table, find_pair(weak, strong), candidates(), folds, seed))
    print(f"{DOCUMENT.absolute()}, .json and the charts beside it")


ELSEWHERE = (
    check,
    init,
    ui,
    transcribe,
    decide,
    serve,
    calibrate,
    recalibrate,
    models,
    promote,
    rollback,
    compare,
    audit,
    sign,
    drift,
    experiments,
)
for command in ELSEWHERE:
    app.command()(friendly(command))


@cache.command("ls")
@friendly
def cache_ls(as_json: Json = False) -> None:
    """Say what decodes, encodings and trainings take, beside the outputs and DVC's cache."""
    from whisper_router.disk import show_cache

    shown = show_cache(Console(quiet=as_json))
    if as_json:
        print(json.dumps(shown))


@cache.command("gc")
@friendly
def cache_gc(
    limit: Annotated[
        str | None,
        typer.Option(help="Keep at most this, such as 5GB; else WHISPER_ROUTER_CACHE_LIMIT, else 50GB."),
    ] = None,
) -> None:
    """Delete what killed runs left, and what was not used for longest, down to a limit."""
    from whisper_router.disk import size_text
    from whisper_router.store import ContentStore, parse_bytes

    store = ContentStore()
    gone = store.collect(store.limit() if limit is None else parse_bytes(limit, "--limit"))
    print(f"{store.root}: {len(gone)} entries deleted, {size_text(sum(entry.size for entry in gone))} freed")


@app.command()
@friendly
def summary() -> None:
    """Print the figures of the last run and where its outputs are."""
    from whisper_router.summary import show_summary

    show_summary(Console())
