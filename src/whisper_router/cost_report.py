"""`whisper-router cost`: what an hour of audio costs by each choice, and the table that was measured."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from whisper_router.asr.reference import arm_references
from whisper_router.cost import CURRENCIES, Dims
from whisper_router.cost_table import COSTS, MEASURED, ArmCosts, CostTable, decision_costs, load_table
from whisper_router.decider.registry import decider_sha256
from whisper_router.decider.scores import score_split
from whisper_router.errors import UserError
from whisper_router.evaluation import Choice, build_pair, choices, routed_cost, spent_on
from whisper_router.files import read_json, read_parquet, write_text
from whisper_router.hashing import code_hash
from whisper_router.machine import machine_name
from whisper_router.params import load_params
from whisper_router.paths import ARMS, DECIDER, LABELS, MANIFEST, POLICY, TRANSCRIPTS
from whisper_router.policy.calibrate import Policy
from whisper_router.policy.choose import Sample
from whisper_router.policy.folds import thresholds
from whisper_router.policy.samples import rows_of
from whisper_router.reference import Reference, kind_of
from whisper_router.report.words import CHOICE_NAMES

UNITS = {"macs": 1e9, "macs_paper": 1e9}  # shown in 10^9


def write_table(console: Console) -> None:
    """Measure this machine and write its table to ``costs/``."""
    from whisper_router.cost_measure import measure_table

    made = measure_table(load_params(), read_parquet(MANIFEST))
    path = COSTS / f"{machine_name()}.json"
    write_text(path, made.model_dump_json(indent=1) + "\n")
    show_table(console, made)
    console.print(f"{path.absolute()}: commit it", highlight=False, soft_wrap=True)


def show_table(console: Console, made: CostTable) -> None:
    """Print the measured seconds of every arm, in milliseconds an utterance."""
    table = Table(title="ms of one core for an utterance, all cores busy; medians")
    for column in ("arm", "batch", "frames", "log-mel", "encoder", "decoder, 20 tokens", "and a token more"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for name, arm in made.arms.items():
        for costs in (arm.batched, arm.single):
            for point in costs.encode:
                start = costs.decode_s(point.context, 20)
                seconds = (point.mel_s, point.encode_s, start, costs.decode_s(point.context, 21) - start)
                cells = (f"{1000 * value:.1f}" for value in seconds)
                size = max(p.utterances for p in costs.decode if p.context == point.context)
                table.add_row(f"{name}: {arm.model}", str(size), str(point.context), *cells)
    console.print(table)
    for name, check in made.checks.items():
        console.print(
            f"  check, {name} arm on {check.utterances} utterances as labelling runs them: "
            f"{check.measured_s:.1f} s of a core, by the table {check.predicted_s:.1f} s "
            f"({check.predicted_s / check.measured_s - 1:+.1%})",
            highlight=False,
        )
    for name, decision in made.deciders.items():
        slowest = max(point.extractor_s + point.decider_s for point in decision.points)
        console.print(f"  decider {name} with its extractor: up to {1000 * slowest:.2f} ms", highlight=False)
    console.print(f"  energy: {made.energy.kind}; {made.energy.how}", highlight=False)
    console.print(f"  GPU seconds: {made.gpu_seconds}", highlight=False)


def _measured(arms: Mapping[str, Any], name: str | None) -> tuple[CostTable | None, dict[str, ArmCosts], str]:
    """The table, the arms' costs in it, and a sentence that names the table or says what is to be done."""
    path = COSTS / f"{name or machine_name()}.json"
    try:
        table = load_table(path)
    except UserError as error:
        if name is not None:
            raise
        return None, {}, f"no seconds and joules: {error}"
    try:
        costs = {arm: table.arm(arm, ref.spec()) for arm, ref in arm_references(arms).items()}
    except UserError as error:
        return None, {}, f"no seconds and joules: {path}: {error}"
    note = f"seconds and joules by {path} ({table.machine['cpu']}, {table.date}); joules {table.energy.kind}"
    if table.code != code_hash("whisper_router.asr.load"):
        note += "; the arms' code has changed since, `whisper-router cost --measure` measures it anew"
    return table, costs, note


def show_cost(console: Console, table_name: str | None = None) -> dict[str, Any]:
    """Print what an hour of the test split's audio costs by each choice and policy.

    Returns
    -------
    dict
        ``table``: the sentence about the table; ``choices``: WER and costs of an hour by choice, MACs in
        10^9.

    Raises
    ------
    UserError
        The DAG has not run, or there is no table of that name.
    """
    params, arms = load_params(), read_json(ARMS)
    labels, transcripts = read_parquet(LABELS), read_parquet(TRANSCRIPTS)
    labels = rows_of(labels, "test")
    wer = Reference(kind_of(labels), **{name: arm["model"] for name, arm in arms.items()}).wer
    table, costs, note = _measured(arms, table_name)
    dims = {name: Dims(**arm["dims"]) for name, arm in arms.items()}
    pair = build_pair(labels, transcripts, dims, costs)
    lines: dict[str, Choice] = {}
    lacking = []
    for name in params.policies:
        policy = Policy.model_validate(read_json(POLICY / f"{name}.json"))
        scored = score_split(params, policy.decider, labels["id"].tolist())
        extractor = params.extractors[params.deciders[policy.decider].extractor]
        durations = labels["duration_s"].to_numpy()
        sha256 = decider_sha256(DECIDER / policy.decider)
        decision = decision_costs(table, costs[extractor.arm], sha256, durations) if table else {}
        if table and not decision:
            lacking.append(policy.decider)
        spent = spent_on(extractor, {**scored.macs, **decision})
        sample = Sample(pair, scored.scores, spent, scored.scores, scored.folds)
        strong = scored.scores >= thresholds(params.policies[name], policy, sample)
        made = choices(pair, strong, routed_cost(pair, strong, spent))
        for choice in ("weak", "strong", "posthoc", "oracle"):
            lines[CHOICE_NAMES[choice]] = made[choice]
        lines[f"policy {name}"] = made["routed"]
        lines[f"random, {strong.mean():.0%} strong"] = made["random"]
    if lacking:
        names = ", ".join(dict.fromkeys(lacking))
        note += f"; it has no decider {names} as trained now: `whisper-router cost --measure`"
    hours = labels["duration_s"].sum() / 3600
    currencies = [c for c in (*CURRENCIES, *MEASURED) if c in pair.weak]
    shown = {
        name: {
            "wer": float(choice.errors.sum() / pair.words.sum()),
            **{
                c: round(float(choice.cost[c].sum()) / hours / UNITS.get(c, 1.0), 1)
                if c in choice.cost
                else None
                for c in currencies
            },
        }
        for name, choice in lines.items()
    }
    _print(console, shown, currencies, wer)
    console.print(f"  {note}", highlight=False)
    return {"table": note, "choices": shown}


def _print(
    console: Console, shown: Mapping[str, Mapping[str, float | None]], currencies: list[str], wer: str
) -> None:
    table = Table(title="an hour of audio")
    table.add_column("choice")
    for column in (wer, *(f"{c}, 10^9" if c in UNITS else c for c in currencies)):
        table.add_column(column, justify="right")
    for name, row in shown.items():
        cells = ["-" if row[c] is None else f"{row[c]:,.0f}" for c in currencies]
        reference = wer != "WER" and name == CHOICE_NAMES["strong"]
        shown_wer = "reference" if reference else f"{row['wer']:.1%}"
        table.add_row(name, shown_wer, *cells, style="bold" if name.startswith("policy") else None)
    console.print(table)
    for currency, meaning in {**CURRENCIES, **MEASURED}.items():
        if currency in currencies:
            console.print(f"  {currency}: {meaning}", highlight=False)
