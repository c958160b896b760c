"""evaluate: the packaged router on the test split -> metrics, charts, report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.stage import main
from whisper_router.audio import WINDOW_S
from whisper_router.decider.scores import score_split
from whisper_router.errors import UserError
from whisper_router.evaluation import auroc, choices, routed_cost, sweep
from whisper_router.files import read_json, replacing_folder, write_json, write_text
from whisper_router.findings import left_out, warned
from whisper_router.hashing import unit_interval
from whisper_router.labelling import reference_texts, utterances
from whisper_router.long_audio import CHOICES, measure_long
from whisper_router.params import Params, load_params
from whisper_router.paths import (
    CHECKED,
    DECIDER,
    MANIFEST,
    METRICS,
    PLOTS,
    POLICY,
    REJECTED,
    REPORT,
    ROUTER,
    TRANSCRIPTS,
)
from whisper_router.policy.calibrate import Policy
from whisper_router.policy.candidates import candidate, fold_candidates
from whisper_router.policy.choose import Sample
from whisper_router.policy.folds import thresholds
from whisper_router.policy.lines import share
from whisper_router.policy.make import policy_metrics
from whisper_router.policy.names import figure_names
from whisper_router.policy.samples import Labelled, read_labelled, score
from whisper_router.progress import progress, say
from whisper_router.reference import Reference, told
from whisper_router.report import charts
from whisper_router.report.page import Chart, page
from whisper_router.report.style import write_chart
from whisper_router.report.words import (
    DEMO_NOTE,
    currencies_of,
    deciding,
    is_demo,
    percent,
    summary,
)
from whisper_router.report.wrong import most_wrong
from whisper_router.routed import Routed
from whisper_router.router import Router
from whisper_router.slices import confusion, losing, slice_columns, slice_table
from whisper_router.store import ContentStore
from whisper_router.verdict import VERDICT, judge
from whisper_router.wav import wav_bytes


@task(name="verify-router", cache_policy=NO_CACHE)
def verify(router: Router, sample: pd.DataFrame, scores: Mapping[str, float], cached: pd.DataFrame) -> None:
    """Let the packaged Router transcribe; fail where a route or a text is not that of the cache."""
    texts = cached.set_index(["id", "arm"])["hypothesis"]
    routed, threshold = Routed(router, wav_bytes, ContentStore()), router.policy.threshold
    wrong = []
    rows = utterances(sample)
    for start in progress(range(0, len(rows), 4), "evaluate: verify the router", unit="batch"):
        chunk = rows[start : start + 4]
        heard = routed.hear(chunk, ["stays weak", "goes strong"])
        for row in chunk:
            (weak,), (strong,) = heard[row.id, "stays weak"], heard[row.id, "goes strong"]
            made = strong if weak.score is not None and weak.score >= threshold else weak
            arm = "strong" if scores[row.id] >= threshold else "weak"
            if made.arm != arm:
                was = f"cached {arm} (score {scores[row.id]})"
                wrong.append(f"{row.id}: routed {made.arm} (score {made.score}), {was}")
            elif made.text != texts[row.id, arm]:
                wrong.append(f"{row.id}: {arm} said {made.text!r}, cached {texts[row.id, arm]!r}")
            else:
                continue
            routed.forget(row)
    if wrong:
        lines = "\n  ".join(wrong)
        raise UserError(
            f"the packaged router differs from the cached transcripts on {len(wrong)} rows:\n  {lines}"
        )


def _charts(
    part: Labelled,
    scored: Mapping[str, Sample],
    sweeps: Mapping[str, pd.DataFrame],
    metrics: Mapping[str, Mapping[str, Any]],
    policy: Policy,
    threshold: float | np.ndarray,
    currency: str,
    slices: list[dict[str, Any]],
    note: str | None,
) -> dict[str, Chart]:
    """The charts of the report, by the name of their file."""
    made, models, wer = metrics[policy.name], part.models, part.reference.wer
    found = {
        f"frontier_{paid}": Chart(
            f"{wer} against cost in {paid}",
            charts.frontier(part.pair, sweeps, metrics, policy.name, paid, models, note, wer),
            charts.FRONTIER_HEIGHT,
        )
        for paid in currencies_of(made, currency)
    }
    labels = part.pair.label
    told = {name: (sample.scores, labels) for name, sample in scored.items()}
    everyone = np.ones((1, len(labels)))
    areas = {name: auroc(labels, sample.scores, everyone, sample.folds)[0] for name, sample in scored.items()}
    areas = {name: float(area) if np.isfinite(area) else None for name, area in areas.items()}
    curve = charts.threshold_sweep(sweeps[policy.decider], made, policy.threshold, "macs", policy.name, wer)
    return found | {
        "sweep": Chart(f"Every threshold of decider {policy.decider}", curve, 6.0),
        "roc": Chart("ROC: needed against sent", charts.roc(told, areas, (policy.decider, threshold)), 5.6),
        "reliability": Chart("Scores against what happened", charts.reliability(told), 5.6),
        "slices": Chart(
            "WER above always-strong's, by slice" if part.reference.is_text else f"{wer}, by slice",
            charts.slice_chart(slices, wer),
            charts.slices_height(slices),
        ),
    }


def _untold(params: Params, policy: Policy, part: Labelled) -> dict[str, Any]:
    """A policy's figures on the test rows without transcripts; empty where there are none."""
    rows = read_labelled(params, "test", untold=True) if part.reference.is_text else part
    if rows.labels.empty:
        return {}
    sample, _ = score(params, policy.decider, rows)
    return policy_metrics(policy, sample, params.evaluate.bootstrap, params.evaluate.seed)


@flow(name="evaluate", validate_parameters=False)
def evaluate() -> None:
    """Measure every policy, prove the packaged router against the cache, draw and report."""
    params = load_params()
    torch.set_num_threads(1)
    part = read_labelled(params, "test")
    labels, options = part.labels, params.evaluate
    transcripts = pd.read_parquet(TRANSCRIPTS)
    transcripts = transcripts[transcripts["id"].isin(labels["id"])]
    manifest = pd.read_parquet(MANIFEST)
    ids = labels["id"].tolist()

    policies = {name: Policy.model_validate(read_json(POLICY / f"{name}.json")) for name in params.policies}
    scored = {
        name: score(params, name, part)[0] for name in {policy.decider: None for policy in policies.values()}
    }
    at = {
        name: thresholds(params.policies[name], policy, scored[policy.decider])
        for name, policy in policies.items()
    }
    metrics = {
        name: policy_metrics(policy, scored[policy.decider], options.bootstrap, options.seed, at[name])
        for name, policy in policies.items()
    }

    chosen = policies[params.router.policy]
    sample = scored[chosen.decider]
    candidates = {
        name: candidate(policy, scored[policy.decider], at[name]) for name, policy in policies.items()
    }
    verdict = judge(
        part.pair,
        candidates,
        part.models,
        params.verdict,
        options.bootstrap,
        options.seed,
        part.reference.kind,
        fold_candidates(candidates, policies, scored, at, options.bootstrap, options.seed),
    )
    router = Router.load(ROUTER)
    rows = manifest.set_index("id", drop=False).loc[ids]
    order = rows["id"].map(lambda id_: unit_interval("verify", id_))
    verified = rows.loc[order.sort_values().index[: options.verify]]
    own = score_split(params, chosen.decider, verified["id"].tolist(), final=True).scores
    verify(router, verified, dict(zip(verified["id"], own.tolist(), strict=True)), transcripts)

    tested = manifest[(manifest["split"] == "test") & (manifest["duration_s"] > WINDOW_S)]
    tested = tested[told(tested) == part.reference.is_text]
    long = measure_long(router, tested, wav_bytes, options.bootstrap, options.seed)

    strong = sample.scores >= at[chosen.name]
    made = choices(part.pair, strong, routed_cost(part.pair, strong, sample.spent))
    slices = slice_table(slice_columns(rows), part.pair, made, options.bootstrap, options.seed)
    if not part.reference.is_text:  # nothing is better than the reference: no slice can win
        slices = [{**row, "verdict": "open"} for row in slices]
    worse = losing(slices)
    untold = _untold(params, chosen, part)
    sliced = {"slices": slices, "confusion": confusion(part.pair, made), "losing": worse}
    shown = summary(metrics[chosen.name], len(verified))
    with replacing_folder(METRICS) as folder:
        write_json(folder / "test.json", metrics[chosen.name])
        write_json(folder / "policies.json", metrics)
        write_json(folder / "slices.json", sliced)
        write_json(folder / "long.json", long)
        write_json(folder / "unlabelled.json", untold)
        write_json(folder / "summary.json", shown)
        write_json(folder / "key.json", deciding(metrics[chosen.name], verdict.currency))
        verdict.write(folder / VERDICT.name)
    sweeps = {name: sweep(part.pair, one.scores, one.spent) for name, one in scored.items()}
    note = DEMO_NOTE if is_demo(params) else None
    drawn = _charts(part, scored, sweeps, metrics, chosen, at[chosen.name], verdict.currency, slices, note)
    with replacing_folder(PLOTS) as folder:
        for name, chart in drawn.items():
            write_chart(folder / f"{name}.png", chart.draw, chart.height)
        for name, table in sweeps.items():
            table.round(6).to_csv(folder / f"sweep_{name}.csv", index=False)

    heard = {row.id: row for row in utterances(rows)}
    store = ContentStore()
    wrong = most_wrong(
        labels,
        part.pair,
        sample.scores,
        at[chosen.name],
        reference_texts(rows.reset_index(drop=True), transcripts),
        transcripts.set_index(["id", "arm"])["hypothesis"].to_dict(),
        lambda id_: heard[id_].load_or_raise(store),
    )
    text = page(
        params,
        manifest,
        policies,
        metrics,
        chosen.name,
        verdict,
        part.models,
        drawn,
        PLOTS,
        DECIDER,
        sliced,
        wrong,
        read_json(ROUTER / "provenance.json"),
        left_out(read_json(REJECTED)),
        warned([read_json(path) for path in CHECKED]),
        long,
        part.reference,
        untold if part.reference.is_text else {},
    )
    write_text(REPORT, text)
    what = "test" if sample.folds is None else "cross-validated"
    strong_wer = f"strong {shown['wer_strong']:.1%}, " if part.reference.is_text else ""
    say(f"evaluate: VERDICT: {verdict.headline}")
    say(
        f"evaluate: {len(ids)} {what} utterances; {part.reference.wer}: weak {shown['wer_weak']:.1%}, "
        f"{strong_wer}routed {shown['wer_routed']:.1%}; {shown['strong_share']:.0%} are sent to strong"
    )
    say(f"evaluate: the packaged router says what the stages say of {len(verified)} utterances")
    if untold and part.reference.is_text:
        differ = Reference("strong", **part.models).wer
        say(
            f"evaluate: {untold['counts']['utterances']} test utterances without transcripts; {differ}: weak "
            f"{percent(untold['wer_weak'])}, routed {percent(untold['wer_routed'])}"
        )
    for name, one in metrics.items():
        if one["target"]["met"] is False:
            target, figure = one["target"], figure_names(part.reference)[one["target"]["figure"]]
            asked = f"{share(target['value'], 1)}, at most {share(target['at_most'], 1)} were asked for"
            say(f"evaluate: {name} misses its target on {what} utterances: {figure} {asked}")
    if worse:
        say(f"evaluate: worse than always-strong beyond doubt: {', '.join(worse)}")
    if long["counts"]["recordings"]:
        heard_by = [choice for choice in CHOICES if choice != "strong" or part.reference.is_text]
        wer = ", ".join(f"{choice} {long[f'wer_{choice}']['value']:.1%}" for choice in heard_by)
        say(
            f"evaluate: {len(tested)} recordings over {WINDOW_S:g} s, window by window: "
            f"{part.reference.wer}: {wer}"
        )


if __name__ == "__main__":
    main(evaluate)
