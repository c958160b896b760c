"""What a person wants to know after a run: the verdict, figures, places, the next command."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from whisper_router.files import read_json, read_parquet
from whisper_router.findings import warned
from whisper_router.params import load_params
from whisper_router.paths import ARMS, CHECKED, LABELS, METRICS, PLOTS, REJECTED, REPORT, ROUTER
from whisper_router.reference import Reference
from whisper_router.report.words import CHOICE_NAMES, DEMO_NOTE, currencies_of, is_demo, percent
from whisper_router.verdict import Verdict

COLOURS = {"route": "bold green", "weak": "bold red", "strong": "bold red", "open": "bold yellow"}


def _choices(
    metrics: Mapping[str, Any], reference: Reference, currencies: Sequence[str], policy: str
) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("choice", reference.wer, *(f"cost in {currency}" for currency in currencies)):
        table.add_column(column, justify="left" if column == "choice" else "right")
    for choice, name in CHOICE_NAMES.items():
        costs = [percent({"value": metrics[f"{currency}_{choice}"]["value"]}) for currency in currencies]
        is_reference = choice == "strong" and not reference.is_text
        wer = "reference" if is_reference else percent(metrics[f"wer_{choice}"])
        shown = f"routed by {policy}" if choice == "routed" else name
        table.add_row(shown, wer, *costs, style="bold" if choice == "routed" else None)
    return table


def show_summary(console: Console) -> None:
    """Print the verdict and the packaged router's figures on the test split, and where everything is."""
    params, arms, verdict = load_params(), read_json(ARMS), Verdict.read()
    labels, metrics = read_parquet(LABELS), read_json(METRICS / "test.json")
    models = {name: arm["model"] for name, arm in arms.items()}
    reference = Reference(metrics["reference"], **models)
    counts, policy = metrics["counts"], params.router.policy
    console.print()
    console.rule(f"whisper-router: {arms['weak']['model']} -> {arms['strong']['model']}, {policy}")
    console.print(f"VERDICT: {verdict.headline}", style=COLOURS[verdict.outcome], highlight=False)
    console.print(verdict.basis, highlight=False)
    if is_demo(params):
        console.print(DEMO_NOTE, style="yellow")
    tested = "Test split" if "folds" not in counts else f"Cross-validated in {counts['folds']} folds"
    console.print(
        f"\n{len(labels)} utterances labelled, {labels['label'].sum()} need the strong arm. {tested}: "
        f"{counts['utterances']} utterances of {counts['speakers']} speakers, "
        f"{counts['need_strong']} need it, {policy} sent {counts['sent_to_strong']} to it.",
        highlight=False,
    )
    few = metrics["wer_weak"]["interval"]
    intervals = f"No intervals: {few}." if isinstance(few, str) else "95 % intervals over speakers."
    currencies = list(currencies_of(metrics, verdict.currency))
    console.print(_choices(metrics, reference, currencies, policy))
    console.print(f"  {intervals} Costs are shares of always-strong's.", highlight=False)
    untold = read_json(METRICS / "unlabelled.json") if reference.is_text else {}
    if untold:
        blind = Reference("strong", **models)
        console.print(
            f"  {untold['counts']['utterances']} test utterances without transcripts:", highlight=False
        )
        console.print(_choices(untold, blind, currencies, policy))
    if untold or not reference.is_text:
        console.print(f"  {Reference('strong', **models).unseen}", highlight=False)
    if params.cost_table is None:
        console.print(
            "  Seconds of this machine: `whisper-router cost --measure`, then\n"
            "  `whisper-router run -S cost_table=NAME`.",
            highlight=False,
        )
    rejected, warnings = read_json(REJECTED), warned([read_json(path) for path in CHECKED])
    if rejected or warnings:
        names = ", ".join(warning["name"] for warning in warnings)
        said = f"; expectations that do not hold: {names}" if names else ""
        console.print(f"  data: {len(rejected)} rows were left out{said}; the report names them")
    for text, place in (
        ("report", REPORT),
        ("chart", PLOTS / f"frontier_{verdict.currency}.png"),
        ("router", ROUTER),
        ("metrics", METRICS / "test.json"),
    ):
        console.print(f"  {text}: {place.absolute()}", highlight=False, soft_wrap=True)


def show_next(console: Console) -> None:
    """Print what to do after a run, as the verdict has it."""
    steps = Verdict.read().next_steps(load_params().router.policy)
    for number, step in enumerate(steps):
        console.print(f"{'Next:' if number == 0 else '     '} {step}", highlight=False, soft_wrap=True)
