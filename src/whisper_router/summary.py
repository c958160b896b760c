"""What a person wants to know after a run: figures, places, the next command."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from whisper_router.cost import CURRENCIES
from whisper_router.files import read_json, read_parquet
from whisper_router.findings import warned
from whisper_router.params import load_params
from whisper_router.paths import ARMS, CHECKED, LABELS, METRICS, PLOTS, REJECTED, REPORT, ROUTER
from whisper_router.reference import Reference
from whisper_router.report.words import CHOICE_NAMES, DEMO_NOTE, is_demo, percent


def _choices(metrics: Mapping[str, Any], reference: Reference, caption: str) -> Table:
    table = Table(caption=caption)
    for column in ("choice", reference.wer, *(f"cost in {currency}" for currency in CURRENCIES)):
        table.add_column(column, justify="left" if column == "choice" else "right")
    for choice, name in CHOICE_NAMES.items():
        costs = [percent({"value": metrics[f"{currency}_{choice}"]["value"]}) for currency in CURRENCIES]
        is_reference = choice == "strong" and not reference.is_text
        wer = "reference" if is_reference else percent(metrics[f"wer_{choice}"])
        table.add_row(name, wer, *costs, style="bold" if choice == "routed" else None)
    return table


def show_summary(console: Console) -> None:
    """Print the packaged router's figures on the test split, and where everything is."""
    params, arms = load_params(), read_json(ARMS)
    labels, metrics = read_parquet(LABELS), read_json(METRICS / "test.json")
    models = {name: arm["model"] for name, arm in arms.items()}
    reference = Reference(metrics["reference"], **models)
    counts = metrics["counts"]
    console.print()
    console.rule(
        f"whisper-router: {arms['weak']['model']} -> {arms['strong']['model']}, {params.router.policy}"
    )
    if is_demo(params):
        console.print(DEMO_NOTE, style="yellow")
    console.print(
        f"{len(labels)} utterances labelled, {labels['label'].sum()} need the strong arm. Test split: "
        f"{counts['utterances']} utterances of {counts['speakers']} speakers, "
        f"{counts['need_strong']} need it, {counts['sent_to_strong']} were sent to it."
    )
    few = metrics["wer_weak"]["interval"]
    intervals = (
        f"No intervals: {few}." if isinstance(few, str) else "95 % intervals by a bootstrap over speakers."
    )
    console.print(_choices(metrics, reference, f"{intervals} Costs are shares of always-strong's."))
    untold = read_json(METRICS / "unlabelled.json") if reference.is_text else {}
    if untold:
        caption = f"{untold['counts']['utterances']} test utterances without transcripts"
        console.print(_choices(untold, Reference("strong", **models), caption))
    if untold or not reference.is_text:
        console.print(Reference("strong", **models).unseen, style="yellow")
    for name, text in (
        ("strong_share", "share sent to strong"),
        ("accuracy", "decision accuracy"),
        ("auroc", "AUROC"),
        ("gap_recovered", "WER gap recovered" if reference.is_text else "differing words avoided"),
        ("saving_macs", "saving in macs (cached decoder, all products)"),
        ("saving_macs_paper", "saving in macs_paper (the paper's count)"),
    ):
        console.print(f"  {text}: {percent(metrics[name])}", highlight=False)
    rejected, warnings = read_json(REJECTED), warned([read_json(path) for path in CHECKED])
    if rejected or warnings:
        names = ", ".join(verdict["name"] for verdict in warnings)
        said = f"; expectations that do not hold: {names}" if names else ""
        console.print(f"  data: {len(rejected)} rows were left out{said}; the report names them")
    for text, place in (
        ("chart", PLOTS / "frontier_macs.png"),
        ("report", REPORT),
        ("router", ROUTER),
        ("metrics", METRICS / "test.json"),
    ):
        console.print(f"  {text}: {place.absolute()}", highlight=False, soft_wrap=True)
