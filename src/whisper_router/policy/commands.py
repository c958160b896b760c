"""`whisper-router calibrate` and `recalibrate`: what a threshold means, here and in another domain."""

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table

from whisper_router.cli_common import Json
from whisper_router.errors import UserError


def _options(text: str, decider: str) -> Any:
    from whisper_router.params import load_yaml
    from whisper_router.policy.options import PolicyOptions

    given = load_yaml(text, f"--try {text[:200]}")
    try:
        return TypeAdapter(PolicyOptions).validate_python({"decider": decider, **given})
    except (ValidationError, TypeError) as error:
        raise UserError(
            f"--try {text}: not a policy; write for example '{{kind: guarantee, alpha: 0.05}}': {error}"
        ) from error


def show_policies(console: Console, policies: Mapping[str, Any], title: str) -> None:
    """Print thresholds and what they did on the utterances they were chosen on."""
    from whisper_router.policy.names import KIND_NAMES
    from whisper_router.report.words import percent

    table = Table(title=title)
    told = next(iter(policies.values())).calibration.reference == "text"
    about = ("WER", "above strong's", "weak and worse") if told else ("differs", "", "weak and differs")
    for column in ("policy", "threshold", "to strong", *filter(None, about), "saving in macs"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, policy in policies.items():
        figures = {key: figure.model_dump() for key, figure in policy.calibration.figures.items()}
        keys = ("strong_share", "wer_routed", *(["wer_rise"] if told else []), "harm_all", "saving_macs")
        shown = (percent(figures[key]) if key in figures else "-" for key in keys)
        table.add_row(f"{name}\n{KIND_NAMES[policy.kind]}", f"{policy.threshold:.4f}", *shown)
    console.print(table)
    if not told:
        console.print("  no transcripts: what differs are words, from the strong arm's text")
    few = next(iter(policies.values())).calibration.figures["wer_routed"].interval
    if isinstance(few, str):
        console.print(f"  no intervals: {few}", highlight=False)
    for name, policy in policies.items():
        console.print(f"  {name}: {policy.meaning}", highlight=False)
        if policy.promise:
            console.print(f"    {policy.promise.assumes}", highlight=False)


def calibrate(
    threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Say what is to be expected of this threshold.")
    ] = None,
    attempt: Annotated[
        str | None,
        typer.Option("--try", help="Options of a policy in YAML: '{kind: wer_budget, points: 0.5}'."),
    ] = None,
    decider: Annotated[
        str | None, typer.Option(help="For --threshold and --try; default: the router's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the policies do on calibration utterances; try a threshold or a policy there. Writes nothing.

    \b
    --try '{kind: fixed, threshold: 0.4}'
    --try '{kind: strong_share, share: 0.3}'
    --try '{kind: cost_budget, budget: 0.8, currency: macs}'    of always-strong's
    --try '{kind: wer_budget, points: 0.5}'     above always-strong's WER
    --try '{kind: best_wer}'
    --try '{kind: guarantee, risk: all, alpha: 0.05, delta: 0.1, tau: 0.0}'
    --try '{kind: guarantee, risk: weak, alpha: 0.1, unit: speaker}'
    --try '{kind: guarantee, risk: mean_loss, alpha: 0.02}'

    docs/policies.md explains them. To keep one:
    whisper-router run -S 'policies.NAME={decider: ..., kind: ...}' -S router.policy=NAME
    """
    from whisper_router.files import read_json
    from whisper_router.params import load_params
    from whisper_router.paths import POLICY
    from whisper_router.policy.calibrate import Policy
    from whisper_router.policy.make import make_policy
    from whisper_router.policy.options import FixedOptions
    from whisper_router.policy.samples import ids_of, read_labelled, score

    params = load_params()
    tried: dict[str, Any] = {}
    name = decider or params.policies[params.router.policy].decider
    if name not in params.deciders:
        raise UserError(f"--decider {name}: none of {', '.join(params.deciders)}")
    if threshold is not None:
        tried["by hand"] = FixedOptions(kind="fixed", decider=name, threshold=threshold)
    if attempt is not None:
        tried["tried"] = _options(attempt, name)
    if tried:
        part = read_labelled(params, "calibration")
        sample, extractor = score(params, name, part, ids_of("dev"))
        found = {
            key: make_policy(
                key,
                options,
                sample,
                part.bound(name, extractor, getattr(options, "currency", None)),
            )
            for key, options in tried.items()
        }
    else:
        found = {key: Policy.model_validate(read_json(POLICY / f"{key}.json")) for key in params.policies}
    if as_json:
        print(json.dumps({key: policy.model_dump(mode="json") for key, policy in found.items()}))
        return
    first = next(iter(found.values())).calibration
    title = f"on the {first.utterances} calibration utterances of {first.speakers} speakers"
    show_policies(Console(), found, title)


def recalibrate(
    table: Annotated[
        Path,
        typer.Argument(
            help="Utterances of the new domain (.jsonl, .csv, .tsv, .parquet): audio, text, speaker."
        ),
    ],
    policy: Annotated[
        str | None,
        typer.Option(help="A policy of params.yaml with the router's decider; default: the router's."),
    ] = None,
    router: Annotated[Path, typer.Option(help="A packaged folder.")] = Path("data/router"),
    out: Annotated[
        Path | None,
        typer.Option(help="Where the router with the new threshold goes; default: data/recalibrated/TABLE."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Choose a policy's threshold anew for another domain, from about 100 labelled utterances of it.

    Both arms transcribe them (the content store keeps that); first it is said what the present threshold does
    there. The decider stays as it is. Example:

    whisper-router recalibrate calls.jsonl, then
    whisper-router transcribe --router data/recalibrated/calls new.wav
    """
    from whisper_router.policy.names import FIGURE_NAMES
    from whisper_router.policy.recalibrate import recalibrate as choose_anew
    from whisper_router.report.words import percent

    target = out or Path("data/recalibrated") / table.stem
    with redirect_stdout(sys.stderr):  # what is under way is no result
        before, after = choose_anew(table, policy, router, target)
    if as_json:
        print(
            json.dumps(
                {key: made.model_dump(mode="json") for key, made in (("before", before), ("after", after))}
            )
        )
        return
    console = Console()
    counted = after.calibration
    title = f"{table.name}: {counted.utterances} utterances of {counted.speakers} speakers"
    show_policies(console, {"threshold of before": before, after.name: after}, title)
    if figure := before.calibration.figures.get(after.figure):
        said = f"{FIGURE_NAMES[after.figure]}: {percent(figure.model_dump())} with the threshold of before"
        console.print(f"  {said}; asked for at most {after.target:.1%}", highlight=False)
    console.print(f"  router with the new threshold: {target.absolute()}", highlight=False, soft_wrap=True)
