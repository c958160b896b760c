"""Commands: thin over the package."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from whisper_router import environment
from whisper_router.cli_audit import audit, sign
from whisper_router.cli_common import Json, friendly
from whisper_router.cli_drift import drift
from whisper_router.cli_models import compare, models, promote, rollback, show_uncommitted
from whisper_router.errors import UserError
from whisper_router.experiments.cli import experiments
from whisper_router.policy.commands import calibrate, recalibrate
from whisper_router.serving.command import serve

environment.prepare()

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learns from your own audio when the small Whisper is good enough, and serves that decision. "
    "Run it in the project's folder.",
)

cache = typer.Typer(no_args_is_help=True, help="The content store: what it holds, how to shrink it.")
app.add_typer(cache, name="cache")

Assignments = Annotated[
    list[str],
    typer.Option("--set", "-S", help="key.path=value written into params.yaml first; may be repeated."),
]
Files = Annotated[
    list[Path],
    typer.Argument(
        help="Audio files: wav, flac, mp3, ogg, opus, m4a, mp4, aac, webm, mkv, aiff.", show_default=False
    ),
]
RouterOption = Annotated[
    str, typer.Option("--router", help="A packaged folder, or models:/whisper-router@champion.")
]
Threshold = Annotated[
    float | None, typer.Option(help="Instead of the policy's: strong iff score >= threshold.")
]
PolicyName = Annotated[
    str | None, typer.Option("--policy", help="Another packaged policy; or an arm: weak, strong.")
]


@app.command()
@friendly
def run(
    assignments: Assignments = [],  # noqa: B006
    preset: Annotated[
        str | None,
        typer.Option(help="Write a preset into params.yaml first: paper, paper-code or paper-compact."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Stages say intervals and promises in full.")
    ] = False,
) -> None:
    """Run what is not up to date of the DAG: audio -> labels -> decider -> policy -> router -> report.

    Example with your own table of audio and transcripts:

    whisper-router run -S ingest.root=/data/calls
    -S 'ingest.corpora=[{name: calls, kind: table, path: calls.jsonl}]'
    """
    from whisper_router.asr.weights import find_checkpoint
    from whisper_router.params import edit_params, load_params
    from whisper_router.progress import VERBOSE
    from whisper_router.run import run as run_dag
    from whisper_router.summary import show_summary

    if verbose:
        os.environ[VERBOSE] = "1"
    if assignments or preset:
        edit_params(preset, assignments)
    params = load_params()
    if preset:
        names = ", ".join(params.deciders)
        print(f"params.yaml: deciders {names}; the router's policy is {params.router.policy}")
    for arm in (params.arms.weak, params.arms.strong):
        find_checkpoint(arm.model)  # before DVC removes the outputs of the last run
    run_dag()
    show_summary(Console())
    print("\nNext: whisper-router register --champion")


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

    \b
    path is below ingest.root. Any entry may have utterances: 500 (a sample),
    min_words: 3 and max_train_duration_s: 10.
    """
    from whisper_router.params import edit_params
    from whisper_router.run import run as run_dag

    if assignments:
        edit_params(None, assignments)
    run_dag("check")


@app.command()
@friendly
def demo() -> None:
    """Run the DAG, register the router, transcribe one clip through the registered champion."""
    from whisper_router.demo import run_demo

    run_demo(Console())


def _each(
    files: list[Path],
    router: str,
    threshold: float | None,
    policy: str | None,
    as_json: bool,
    transcribe: bool,
) -> None:
    from whisper_router.progress import progress
    from whisper_router.router import Router

    loaded = Router.load(router)
    if threshold is not None and (known := loaded.policy.expects(threshold)):
        said = f"{known.strong_share:.0%} to strong, WER {known.wer_routed:.1%}"
        saved = f"{known.saving_macs:.0%} of macs saved"
        print(f"calibration split at threshold {known.threshold:.3f}: {said}, {saved}", file=sys.stderr)
    size = loaded.description.batch_size
    failed = 0
    for start in progress(range(0, len(files), size), "files", unit="batch"):
        chunk = files[start : start + size]
        route = loaded.transcribe if transcribe else loaded.decide
        made = route(chunk, threshold, policy)
        for path, row in zip(chunk, made, strict=True):
            failed += row.error is not None
            if as_json:
                print(json.dumps({"audio": str(path), **asdict(row)}, ensure_ascii=False, allow_nan=False))
            elif row.error is not None:
                print(f"{path}: error: {row.error}", file=sys.stderr)
            else:
                text = f"  {getattr(row, 'text', '')}" if transcribe else ""
                if all(segment.no_speech for segment in row.segments):
                    by = "no speech"
                elif row.score is None:
                    by = str(row.policy)
                else:
                    by = f"score {row.score:.3f}, threshold {row.threshold:.3f}"
                print(f"{path}: {row.model} ({row.arm}; {by}){text}")
    if failed:
        raise SystemExit(1)


@app.command()
@friendly
def transcribe(
    files: Files,
    router: RouterOption = "data/router",
    threshold: Threshold = None,
    policy: PolicyName = None,
    as_json: Json = False,
) -> None:
    """Transcribe audio files, each by the arm it needs. Exit code 1 if one failed; the others are done."""
    _each(files, router, threshold, policy, as_json, transcribe=True)


@app.command()
@friendly
def decide(
    files: Files,
    router: RouterOption = "data/router",
    threshold: Threshold = None,
    policy: PolicyName = None,
    as_json: Json = False,
) -> None:
    """Say which arm each file needs, without transcribing more than the decision takes."""
    _each(files, router, threshold, policy, as_json, transcribe=False)


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
    as_json: Json = False,
) -> None:
    """Record the last run in MLflow and register its router; the same dvc.lock registers nothing twice."""
    from whisper_router.promotion import CHAMPION, MODEL
    from whisper_router.registry import register as register_model

    made = register_model(champion or None, embed_weights, commit)
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
