"""`whisper-router cost` on a project of tiny random Whispers: measured, stale, missing."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from whisper_router import cost_measure
from whisper_router.asr.load import cost_dims
from whisper_router.asr.options import ENCODER_FRAMES, DecodeOptions
from whisper_router.asr.weights import find_checkpoint
from whisper_router.audio import SAMPLE_RATE, audio_sha256
from whisper_router.cli import app
from whisper_router.cost_table import COSTS, CostTable, load_table
from whisper_router.decider.logistic import LogisticDecider
from whisper_router.decider.options import LogisticOptions
from whisper_router.decider.registry import save_decider
from whisper_router.errors import UserError
from whisper_router.features.extractors import extractor_identity, pool_states
from whisper_router.features.hypothesis import confidence
from whisper_router.features.store import write_features
from whisper_router.files import write_json, write_parquet, write_text
from whisper_router.hashing import digest
from whisper_router.labelling import (
    Work,
    compute,
    labels_table,
    transcribe_all,
    transcripts_table,
    utterances,
)
from whisper_router.machine import machine_name
from whisper_router.params import load_params
from whisper_router.paths import ARMS, DECIDER, FEATURES, LABELS, MANIFEST, POLICY, TRANSCRIPTS
from whisper_router.policy.calibrate import Bound, Calibration, Policy
from whisper_router.policy.make import make_policy
from whisper_router.policy.options import CostBudgetOptions
from whisper_router.policy.samples import read_labelled, score
from whisper_router.store import ContentStore

PARAMS = """
ingest: {{root: corpora, corpora: [{{name: toy, kind: table, path: toy.csv}}]}}
arms:
  weak: {{model: {english}, decode: {plain}}}
  strong: {{model: {multilingual}, decode: {plain}}}
runtime: {{batch_size: 3}}
extractors:
  states: {{kind: encoder, arm: weak, pool: 4}}
  sure: {{kind: confidence}}
deciders:
  encoder: {{kind: logistic, extractor: states}}
  cascade: {{kind: logistic, extractor: sure}}
policies:
  early: {{kind: fixed, decider: encoder, threshold: 0.5}}
  late: {{kind: fixed, decider: cascade, threshold: 0.5}}
router: {{policy: early}}
"""
CHOICES = {
    "always weak",
    "always strong",
    "oracle",
    "both, the surer text",
    "policy early",
    "policy late",
}


@pytest.fixture(scope="module")
def options(plain) -> DecodeOptions:
    """One context for all clips."""
    return plain.model_copy(update={"floor_frames": 150})


@pytest.fixture(scope="module")
def project(tmp_path_factory, checkpoints, options, clips, wav, make_arm, reference_of) -> Path:
    """A project after calibrate: every clip is in the test split."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WHISPER_ROUTER_CACHE", str(folder / "cache"))
        text = PARAMS.format(**checkpoints, plain=json.dumps(options.model_dump(mode="json")))
        write_text(Path("params.yaml"), text)
        rows = []
        for i, clip in enumerate(clips):
            Path(f"{i}.wav").write_bytes(wav(clip))
            row = (f"u{i}", f"{i}.wav", 0.0, clip.size / SAMPLE_RATE, audio_sha256(clip))
            rows.append((*row, "toy", f"s{i}", "test", "one two three"))
        columns = ["id", "audio", "offset_s", "duration_s", "sha256", "corpus", "speaker", "split", "text"]
        manifest = pd.DataFrame(rows, columns=columns)
        write_parquet(MANIFEST, manifest)
        arms = {"weak": make_arm("english", options), "strong": make_arm("multilingual", options)}
        specs, found = {}, {}
        for name, vocabulary in (("weak", "english"), ("strong", "multilingual")):
            specs[name] = reference_of(checkpoints[vocabulary], options)
            work = Work(arms[name].sha256, options, True, ())
            run = partial(compute, arms[name], work=work, store=ContentStore(), title=name)
            found[name], _ = transcribe_all(work, utterances(manifest), 3, name, run)
        made = {
            name: {**ref.model_dump(mode="json"), "dims": cost_dims(arms[name])}
            for name, ref in specs.items()
        }
        write_json(ARMS, made)
        transcripts = transcripts_table(manifest, found, {})
        labels = labels_table(manifest, transcripts)
        write_parquet(TRANSCRIPTS, transcripts)
        write_parquet(LABELS, labels)
        params = load_params()
        features = {
            "states": [
                pool_states(
                    arms["weak"].encode_audio([clip]).states, 0, clip.size, params.extractors["states"]
                )
                for clip in clips
            ],
            "sure": [
                confidence(made, clip.size / SAMPLE_RATE)
                for made, clip in zip(found["weak"], clips, strict=True)
            ],
        }
        for name, extractor in (("encoder", "states"), ("cascade", "sure")):
            identity = extractor_identity(params.extractors[extractor], specs["weak"].spec())
            write_features(
                FEATURES / extractor, zip(manifest["id"], features[extractor], strict=True), identity
            )
            width = features[extractor][0].astype(np.float64).mean(axis=0).ravel()
            options = LogisticOptions(kind="logistic", extractor=extractor)
            decider = LogisticDecider(np.sign(width) * 1e-3, 0.0, options)
            save_decider(DECIDER / name, decider, options, identity)
        for name, decider in (("early", "encoder"), ("late", "cascade")):
            policy = Policy(
                name=name,
                decider=decider,
                kind="fixed",
                target=0.5,
                threshold=0.5,
                calibration=Calibration(
                    utterances=0, speakers=0, strong_share=0, wer_weak=0, wer_strong=0, wer_routed=0
                ),
                bound=Bound(**dict.fromkeys(Bound.model_fields, "")),
            )
            write_text(POLICY / f"{name}.json", policy.model_dump_json())
    return folder


@pytest.fixture(scope="module")
def table(project) -> CostTable:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.setattr(cost_measure, "ENERGY_S", 0.2)
        patch.setattr(cost_measure, "WORKERS", 2)
        done = CliRunner().invoke(app, ["cost", "--measure"])
        assert done.exit_code == 0, done.output
        return load_table(COSTS / f"{machine_name()}.json")


@pytest.fixture
def run(project, monkeypatch):
    monkeypatch.chdir(project)

    def invoke(*arguments: str) -> dict:
        done = CliRunner().invoke(app, ["cost", "--json", *arguments])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return invoke


def test_the_table_has_every_arm_at_every_context_with_a_price_that_rises(table, options):
    assert set(table.arms) == set(table.checks) == {"weak", "strong"}
    shortest = options.context(1)
    for arm in table.arms.values():
        for costs, size in ((arm.batched, 3), (arm.single, 1)):
            assert max(point.utterances for point in costs.decode) == size
            contexts = [point.context for point in costs.encode]
            assert (contexts[0], contexts[-1], len(contexts)) == (shortest, ENCODER_FRAMES, 3)
            assert {point.context for point in costs.decode} == set(contexts)
            assert costs.encode_s(ENCODER_FRAMES) > costs.encode_s(shortest) > 0
            assert costs.mel_s(ENCODER_FRAMES) > costs.mel_s(shortest) > 0
            assert all(point.decode_s > 0 for point in costs.decode)
    assert all(check.measured_s > 0 and check.predicted_s > 0 for check in table.checks.values())
    assert set(table.deciders) == {"encoder", "cascade"}
    assert table.machine["cores"] >= 1
    assert table.gpu_seconds.startswith("not measured")


def test_a_context_too_short_for_every_utterance_is_left_out(project, options, checkpoints, monkeypatch):
    monkeypatch.chdir(project)
    longest = utterances(pd.read_parquet(MANIFEST).sort_values("duration_s").tail(1))
    found = find_checkpoint(str(checkpoints["english"]))
    short = options.model_copy(update={"floor_frames": 50})
    made = cost_measure.plan_arm(found, short, longest, 3)
    assert sorted({batch.context for batch in made}) == cost_measure.contexts(short)[1:]


def test_energy_says_whether_it_was_measured_or_estimated_and_how(table):
    pytest.importorskip("codecarbon")
    assert table.energy.kind == "estimated" or table.energy.kind.startswith("measured (")
    assert "codecarbon" in table.energy.how
    assert all(arm.watts.encode > 0 and arm.watts.decode > 0 for arm in table.arms.values())


def test_an_hour_is_priced_in_every_currency_and_policies_pay_for_their_decision(run, table):
    made = run()
    assert machine_name() in made["table"]
    choices = made["choices"]
    assert set(choices) >= CHOICES
    assert sum(name.startswith("random, ") for name in choices) >= 1
    for currency in ("macs", "macs_paper", "cpu_seconds"):
        hour = {name: row[currency] for name, row in choices.items()}
        assert all(value > 0 for value in hour.values())
        both = hour["always weak"] + hour["always strong"]
        assert hour["both, the surer text"] == pytest.approx(both, abs=0.2)
        assert hour["policy late"] >= hour["always weak"]


def test_seconds_of_an_hour_are_those_of_the_table(run, table):
    transcripts = pd.read_parquet(TRANSCRIPTS)
    weak = transcripts[transcripts["arm"] == "weak"]
    seconds = sum(
        table.arms["weak"].utterance(list(zip(row.attempt_contexts, row.attempt_tokens, strict=True)))[
            "cpu_seconds"
        ]
        for row in weak.itertuples()
    )
    hours = pd.read_parquet(LABELS)["duration_s"].sum() / 3600
    assert run()["choices"]["always weak"]["cpu_seconds"] == pytest.approx(seconds / hours, abs=0.06)


def test_without_a_table_macs_are_printed_and_the_remedy(run, table, monkeypatch):
    monkeypatch.setattr("whisper_router.cost_report.machine_name", lambda: "another")
    made = run()
    assert "another.json: no such table" in made["table"]
    assert "cost --measure" in made["table"]
    assert set(made["choices"]["always weak"]) == {"wer", "macs", "macs_paper"}


def test_a_table_of_other_options_is_stale_and_says_in_what(run, table):
    stale = table.arms["weak"].model_copy(update={"spec": {**table.arms["weak"].spec, "weights": "0" * 64}})
    arms = {"weak": stale, "strong": table.arms["strong"]}
    write_text(COSTS / "old.json", table.model_copy(update={"arms": arms}).model_dump_json())
    made = run("--table", "old")
    assert "old.json: its weak arm differs in weights (000000000000, now " in made["table"]
    assert "cpu_seconds" not in made["choices"]["always weak"]


def test_a_decider_that_was_trained_since_has_no_seconds(run, table):
    write_text(COSTS / "before.json", table.model_copy(update={"deciders": {}}).model_dump_json())
    made = run("--table", "before")
    assert "it has no decider encoder, cascade as trained now" in made["table"]
    assert made["choices"]["policy early"]["cpu_seconds"] is None
    assert made["choices"]["policy early"]["macs"] > 0
    assert made["choices"]["always strong"]["cpu_seconds"] > 0


def test_a_table_that_is_asked_for_by_name_must_be_there(project, monkeypatch):
    monkeypatch.chdir(project)
    done = CliRunner().invoke(app, ["cost", "--table", "nowhere"])
    assert done.exit_code == 1
    assert "nowhere.json: no such table" in done.stderr


def test_a_policy_in_seconds_reads_the_table_that_params_name_and_is_bound_to_it(project, table, monkeypatch):
    monkeypatch.chdir(project)
    timed = Path("timed.yaml")
    timed.write_text(Path("params.yaml").read_text() + f"cost_table: {machine_name()}\n")
    params = load_params(timed)
    part = read_labelled(params, "test")
    sample, extractor = score(params, "encoder", part)
    bounds = {}
    for currency in ("macs", "cpu_seconds"):
        options = CostBudgetOptions(kind="cost_budget", decider="encoder", budget=5, currency=currency)
        bounds[currency] = part.bound("encoder", extractor, currency)
        policy = make_policy("budget", options, sample, bounds[currency])
        assert 0 < policy.calibration.figures[f"{currency}_routed"].value <= 5
        assert "saving_cpu_seconds" in policy.calibration.figures
    assert bounds["macs"].cost_table is None
    assert bounds["cpu_seconds"].cost_table == digest(table.model_dump(mode="json"))
    timed.write_text(Path("params.yaml").read_text() + "cost_table: another\n")
    with pytest.raises(UserError, match=r"another\.json: no such table"):
        read_labelled(load_params(timed), "test")
