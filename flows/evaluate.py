"""evaluate: the packaged router on the test split -> metrics, charts, report."""

import io
from collections.abc import Mapping
from typing import Any

import pandas as pd
import soundfile
import torch
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from tqdm import tqdm

from flows.stage import main
from whisper_router import report
from whisper_router.audio import SAMPLE_RATE, WINDOW_S, Audio
from whisper_router.cost import Dims
from whisper_router.decider.scores import Scores, score_split
from whisper_router.errors import UserError
from whisper_router.evaluation import Spent, build_pair, spent_on, sweep
from whisper_router.evaluation import evaluate as measure
from whisper_router.files import read_json, replacing_folder, write_json, write_text
from whisper_router.findings import left_out, warned
from whisper_router.hashing import unit_interval
from whisper_router.labelling import utterances
from whisper_router.long_audio import CHOICES, measure_long
from whisper_router.params import load_params
from whisper_router.paths import (
    ARMS,
    CHECKED,
    DECIDER,
    LABELS,
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
from whisper_router.router import Router
from whisper_router.store import ContentStore


def _wav(audio: Audio) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


@task(name="verify-router", cache_policy=NO_CACHE)
def verify(router: Router, sample: pd.DataFrame, scores: Mapping[str, float], cached: pd.DataFrame) -> None:
    """Let the packaged Router transcribe; fail where a route or a text is not that of the cache."""
    texts = cached.set_index(["id", "arm"])["hypothesis"]
    wrong = []
    rows, store = utterances(sample), ContentStore()
    for start in tqdm(range(0, len(rows), 4), "evaluate: verify the router", unit="batch"):
        chunk = rows[start : start + 4]
        for row, made in zip(
            chunk, router.transcribe([_wav(row.load_or_raise(store)) for row in chunk]), strict=True
        ):
            arm = "strong" if scores[row.id] >= router.policy.threshold else "weak"
            if made.error is not None:
                wrong.append(f"{row.id}: {made.error}")
            elif made.arm != arm:
                was = f"cached {arm} (score {scores[row.id]})"
                wrong.append(f"{row.id}: routed {made.arm} (score {made.score}), {was}")
            elif made.text != texts[row.id, arm]:
                wrong.append(f"{row.id}: {arm} said {made.text!r}, cached {texts[row.id, arm]!r}")
    if wrong:
        lines = "\n  ".join(wrong)
        raise UserError(
            f"the packaged router differs from the cached transcripts on {len(wrong)} rows:\n  {lines}"
        )


@flow(name="evaluate", validate_parameters=False)
def evaluate() -> None:
    """Measure every policy, prove the packaged router against the cache, draw and report."""
    params = load_params()
    torch.set_num_threads(1)
    labels = pd.read_parquet(LABELS)
    labels = labels[labels["split"] == "test"].reset_index(drop=True)
    transcripts = pd.read_parquet(TRANSCRIPTS)
    transcripts = transcripts[transcripts["id"].isin(labels["id"])]
    manifest = pd.read_parquet(MANIFEST)
    ids = labels["id"].tolist()
    arms = read_json(ARMS)
    pair = build_pair(labels, transcripts, {name: Dims(**arm["dims"]) for name, arm in arms.items()})
    options = params.evaluate

    policies = {name: Policy.model_validate(read_json(POLICY / f"{name}.json")) for name in params.policies}
    scored: dict[str, Scores] = {}
    spent: dict[str, Spent] = {}
    sweeps: dict[str, pd.DataFrame] = {}
    for name in {policy.decider: None for policy in policies.values()}:
        scored[name] = score_split(params, name, ids)
        spent[name] = spent_on(params.extractors[params.deciders[name].extractor], scored[name].macs)
        sweeps[name] = sweep(pair, scored[name].scores, spent[name])
    metrics: dict[str, Any] = {
        name: measure(
            pair,
            scored[policy.decider].scores,
            policy.threshold,
            spent[policy.decider],
            options.bootstrap,
            options.seed,
        )
        for name, policy in policies.items()
    }

    chosen = params.router.policy
    router = Router.load(ROUTER)
    test = manifest[manifest["id"].isin(ids)]
    order = test["id"].map(lambda id_: unit_interval("verify", id_))
    sample = test.loc[order.sort_values().index[: options.verify]]
    verify(
        router,
        sample,
        dict(zip(ids, scored[policies[chosen].decider].scores.tolist(), strict=True)),
        transcripts,
    )

    tested = manifest[(manifest["split"] == "test") & (manifest["duration_s"] > WINDOW_S)]
    long = measure_long(router, tested, _wav, options.bootstrap, options.seed)

    shown = report.summary(metrics[chosen], len(sample))
    with replacing_folder(METRICS) as folder:
        write_json(folder / "test.json", metrics[chosen])
        write_json(folder / "policies.json", metrics)
        write_json(folder / "long.json", long)
        write_json(folder / "summary.json", shown)
    note = report.DEMO_NOTE if report.is_demo(params) else None
    with replacing_folder(PLOTS) as folder:
        for currency in ("macs", "macs_paper"):
            path = folder / f"frontier_{currency}.png"
            report.draw_frontier(path, pair, sweeps, metrics, chosen, currency, arms, note)
        for name, table in sweeps.items():
            table.round(6).to_csv(folder / f"sweep_{name}.csv", index=False)
    page = report.page(
        params,
        manifest,
        policies,
        metrics,
        chosen,
        arms,
        PLOTS,
        DECIDER,
        read_json(ROUTER / "provenance.json"),
        left_out(read_json(REJECTED)),
        warned([read_json(path) for path in CHECKED]),
        long,
    )
    write_text(REPORT, page)
    print(
        f"evaluate: {len(ids)} test utterances; WER weak {shown['wer_weak']:.1%}, "
        f"strong {shown['wer_strong']:.1%}, routed {shown['wer_routed']:.1%} with "
        f"{shown['strong_share']:.0%} sent to strong;\n"
        f"evaluate: the packaged router agrees with the cache on {len(sample)} utterances"
    )
    if long["counts"]["recordings"]:
        wer = ", ".join(f"{choice} {long[f'wer_{choice}']['value']:.1%}" for choice in CHOICES)
        print(f"evaluate: {len(tested)} recordings over {WINDOW_S:g} s, window by window: WER {wer}")


if __name__ == "__main__":
    main(evaluate)
