"""What a person wants to know after a run: figures, places, the next command."""

from rich.console import Console
from rich.table import Table

from whisper_router.cost import CURRENCIES
from whisper_router.files import read_json, read_parquet
from whisper_router.findings import warned
from whisper_router.params import load_params
from whisper_router.paths import ARMS, CHECKED, LABELS, METRICS, PLOTS, REJECTED, REPORT, ROUTER
from whisper_router.report.words import CHOICE_NAMES, DEMO_NOTE, is_demo, percent


def show_summary(console: Console) -> None:
    """Print the packaged router's figures on the test split, and where everything is."""
    params, arms = load_params(), read_json(ARMS)
    labels, metrics = read_parquet(LABELS), read_json(METRICS / "test.json")
    counts = metrics["counts"]
    console.print()
    console.rule(
        f"whisper-router: {arms['weak']['model']} -> {arms['strong']['model']}, {params.router.policy}"
    )
    if is_demo(params):
        console.print(DEMO_NOTE, style="yellow")
    tested = "Test split" if "folds" not in counts else f"Cross-validated in {counts['folds']} folds"
    console.print(
        f"{len(labels)} utterances labelled, {labels['label'].sum()} need the strong arm. {tested}: "
        f"{counts['utterances']} utterances of {counts['speakers']} speakers, "
        f"{counts['need_strong']} need it, {counts['sent_to_strong']} were sent to it."
    )
    few = metrics["wer_weak"]["interval"]
    intervals = (
        f"No intervals: {few}." if isinstance(few, str) else "95 % intervals by a bootstrap over speakers."
    )
    table = Table(caption=f"{intervals} Costs are shares of always-strong's.")
    for column in ("choice", "WER", *(f"cost in {currency}" for currency in CURRENCIES)):
        table.add_column(column, justify="left" if column == "choice" else "right")
    for choice, name in CHOICE_NAMES.items():
        costs = [percent({"value": metrics[f"{currency}_{choice}"]["value"]}) for currency in CURRENCIES]
        style = "bold" if choice == "routed" else None
        table.add_row(name, percent(metrics[f"wer_{choice}"]), *costs, style=style)
    console.print(table)
    for name, text in (
        ("strong_share", "share sent to strong"),
        ("accuracy", "decision accuracy"),
        ("auroc", "AUROC"),
        ("gap_recovered", "WER gap recovered"),
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
