"""Audio without transcripts, alone and beside transcribed audio, through every stage to the report."""

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from whisper_router import environment
from whisper_router.corpus.ingest import ingest
from whisper_router.corpus.options import SPLITS, Splits
from whisper_router.corpus.splits import split_by_speaker
from whisper_router.files import read_json, write_json, write_parquet
from whisper_router.labelling import NO_REFERENCE, compute, transcribe_all
from whisper_router.params import load_params
from whisper_router.paths import (
    AUDIO,
    LABELS,
    MANIFEST,
    METRICS,
    POLICY,
    REJECTED,
    REPORT,
    ROUTER,
    TRANSCRIPTS,
)
from whisper_router.reference import measured, told
from whisper_router.report.words import percent
from whisper_router.scoring import normalise
from whisper_router.store import ContentStore
from whisper_router.summary import show_summary

ROOT = Path(__file__).parents[1]
EACH = 4  # speakers of a split, in either corpus; two utterances a speaker
POLICIES = """\
  half: {kind: strong_share, decider: any, share: 0.5}
  near: {kind: wer_budget, decider: any, points: 20}
  best: {kind: best_wer, decider: any}
  sure: {kind: guarantee, decider: any, alpha: 0.5, delta: 0.5, tau: 0.1}
"""


@pytest.fixture(scope="module")
def stages() -> Iterator[SimpleNamespace]:
    """The stages' modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        for name, value in environment._DEFAULTS.items():
            patch.setenv(name, value)
        names = ("label", "featurize", "train", "calibrate", "package", "evaluate")
        yield SimpleNamespace(**{name: import_module(f"flows.{name}") for name in names})


def speakers(corpus: str, split: str) -> list[str]:
    """Names that fall into a split."""
    names = (f"{corpus}{i}" for i in range(10_000))
    found = (name for name in names if split_by_speaker(f"{corpus}/{name}", Splits()) == split)
    return [next(found) for _ in range(EACH)]


def lay_out(folder: Path, corpora: str, checkpoints: dict[str, Path], plain: Any) -> None:
    decode = json.dumps(plain.model_dump(mode="json"))
    arms = {"weak": checkpoints["english"], "strong": checkpoints["multilingual"]}
    said = ", ".join(f"{arm}: {{model: {path}, decode: {decode}}}" for arm, path in arms.items())
    (folder / "params.yaml").write_text(
        f"ingest: {{root: corpora, corpora: [{corpora}]}}\n"
        "checks: {both_classes_present: warn}\n"
        f"arms: {{{said}}}\n"
        "extractors: {sure: {kind: confidence}}\n"
        "deciders: {any: {kind: logistic, extractor: sure}}\n"
        f"policies:\n{POLICIES}"
        "router: {policy: half}\n"
        "evaluate: {bootstrap: 100}\n"
    )
    (folder / "requirements.lock").write_text("")


def write_audio(folder: Path, wav: Callable, speech: Callable) -> list[dict[str, Any]]:
    """A folder without texts, and a table of as much other audio."""
    rows, seed = [], 0
    for split in SPLITS:
        for corpus in ("untold", "told"):
            for name in speakers(corpus, split):
                for take in range(2):
                    seed += 1
                    path = folder / "corpora" / corpus / name / f"{take}.wav"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(wav(speech(0.6 + 0.02 * (seed % 7), seed)))
                    if corpus == "told":
                        audio = path.relative_to(folder / "corpora").as_posix()
                        text = f"the quick brown fox number {seed}"
                        rows.append({"id": f"t{seed}", "audio": audio, "text": text, "speaker": name})
    (folder / "corpora" / "told.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def decode_with(words: Callable[[str, int, str], str]) -> Callable:
    """Decoding whose texts are replaced: ``words`` of the arm, the row's number and its own text."""

    def transcribe(work: Any, rows: Any, batch_size: int, title: str, run: Any) -> Any:
        found, errors = transcribe_all(work, rows, batch_size, title, run)
        arm = "weak" if "weak" in title else "strong"
        return [replace(made, text=words(arm, i, rows[i].id)) for i, made in enumerate(found)], errors

    return transcribe


def run_stages(stages: SimpleNamespace, patch: pytest.MonkeyPatch, words: Callable) -> None:
    """Every stage but check, without Prefect."""

    def shards(reference: Any, work: Any, title: str, runner: Any, batches: Any) -> dict[str, str]:
        return compute(stages.label.load_once(reference), batches, work, ContentStore(), title, quiet=True)

    params = load_params()
    manifest, rejected = ingest(params.ingest, AUDIO)
    write_parquet(MANIFEST, manifest)
    write_json(REJECTED, [vars(row) for row in rejected])
    patch.setattr(stages.label, "run_shards", shards)
    patch.setattr(stages.label, "transcribe_all", decode_with(words))
    write_json(Path("data/checks/manifest.json"), {"suite": "manifest", "verdicts": []})
    stages.label.label.fn()
    labelled = manifest[manifest["id"].isin(pd.read_parquet(LABELS)["id"])]
    stages.featurize.featurize_one.fn("sure", params, labelled)
    stages.train.train_one.fn("any", params, pd.read_parquet(LABELS))
    stages.calibrate.calibrate.fn()
    stages.package.package.fn()
    patch.setattr(stages.evaluate, "verify", lambda *_: None)  # the texts were replaced
    stages.evaluate.evaluate.fn()


def say(arm: str, number: int, id_: str) -> str:
    """The weak arm differs in a word of one in three, and misses most of another; one file is silent."""
    if number == 0 and arm == "strong" and "/" in id_:
        return " "
    strong = f"a puffin landed on the chart table of our boat and stayed for {id_}"
    return strong if arm == "strong" else (strong, strong.replace("puffin", "parrot"), "a puffin")[number % 3]


@pytest.fixture(scope="module")
def run(
    stages: SimpleNamespace,
    tmp_path_factory: pytest.TempPathFactory,
    checkpoints: dict[str, Path],
    plain: Any,
    wav: Callable,
    speech: Callable,
) -> Iterator[Callable[[str], Path]]:
    """The project after all stages: on the folder alone, or on the folder beside the table."""
    folder = {"name": "untold", "kind": "folder", "path": "untold"}
    table = {"name": "told", "kind": "table", "path": "told.jsonl"}
    corpora = {"alone": [folder], "mixed": [folder, table]}
    made: dict[str, Path] = {}
    with pytest.MonkeyPatch.context() as patch:

        def one(name: str) -> Path:
            if name not in made:
                place = tmp_path_factory.mktemp(name)
                patch.chdir(place)
                patch.setenv("WHISPER_ROUTER_CACHE", str(place / "cache"))
                write_audio(place, wav, speech)
                lay_out(place, ", ".join(map(json.dumps, corpora[name])), checkpoints, plain)
                run_stages(stages, patch, say)
                made[name] = place
            patch.chdir(made[name])
            return made[name]

        yield one


def seen(folder: Path) -> str:
    """What the terminal shows after a run."""
    console = Console(file=io.StringIO(), width=200)
    show_summary(console)
    return console.file.getvalue()


def test_a_folder_alone_is_labelled_by_the_strong_arm_s_texts(run):
    run("alone")
    manifest, labels = pd.read_parquet(MANIFEST), pd.read_parquet(LABELS)
    assert set(manifest["reference"]) == set(labels["reference"]) == {"strong"}
    assert len(manifest) == 2 * EACH * len(SPLITS)
    assert set(manifest["split"]) == set(SPLITS)
    transcripts = pd.read_parquet(TRANSCRIPTS)
    silent = manifest["id"].iloc[0]
    assert transcripts[transcripts["id"] == silent]["error"].tolist() == [NO_REFERENCE] * 2
    assert labels["id"].tolist() == manifest["id"].tolist()[1:]
    numbers = np.arange(1, len(manifest))
    assert (labels["errors_strong"] == 0).all()
    assert (labels["wer_strong"] == 0).all()
    assert labels["label"].tolist() == (numbers % 3 > 0).astype(int).tolist()
    words = [len(normalise(say("strong", 1, id_)).split()) for id_ in labels["id"]]
    assert labels["words"].tolist() == words
    assert labels["errors_weak"][numbers % 3 == 1].unique().tolist() == [1]


def test_promises_of_a_folder_are_about_differing_from_the_strong_arm_s_text(run, checkpoints):
    run("alone")
    weak, strong = (str(checkpoints[name]) for name in ("english", "multilingual"))
    policies = {name: read_json(POLICY / f"{name}.json") for name in ("half", "near", "best", "sure")}
    assert {policy["calibration"]["reference"] for policy in policies.values()} == {"strong"}
    said = policies["sure"]["promise"]["says"]
    differ = f"differ from {strong}'s text by more than 10.0% of the words."
    assert said.endswith(f"at most 50.0% of all utterances go to {weak} and {differ}")
    assert "20 % of the words differ" in policies["near"]["meaning"]
    assert policies["near"]["calibration"]["wer_routed"] <= 0.2
    assert policies["best"]["calibration"]["wer_routed"] == 0


def test_the_report_of_a_folder_shows_no_quality_of_its_reference(run, checkpoints):
    run("alone")
    metrics = read_json(METRICS / "test.json")
    assert metrics["reference"] == "strong"
    assert read_json(METRICS / "unlabelled.json") == metrics
    assert read_json(METRICS / "summary.json")["wer_strong"] is None
    assert read_json(ROUTER / "baseline.json")["reference"] == "strong"
    page, shown = REPORT.read_text(), seen(Path())
    differs = f"words that differ from {checkpoints['multilingual']}'s text"
    for text in (page, shown):
        assert "reference" in text
        assert "Without transcripts nobody can tell which arm is right" in " ".join(text.split())
    assert differs in page.replace("&#39;", "'")
    assert "<td>always strong</td><td>reference</td>" in page
    assert "<th>WER</th>" not in page
    assert "worse than always-strong beyond doubt" not in page.lower()
    assert all(row["verdict"] == "open" for row in read_json(METRICS / "slices.json")["slices"])


def test_figures_of_a_mixed_corpus_are_of_the_rows_with_transcripts_alone(run):
    run("mixed")
    labels = pd.read_parquet(LABELS)
    assert labels["reference"].value_counts().to_dict() == {"text": 32, "strong": 32}
    for split, counted in (("test", read_json(METRICS / "test.json")["counts"]),
                           ("calibration", read_json(POLICY / "half.json")["calibration"])):  # fmt: skip
        part = labels[(labels["split"] == split) & told(labels)]
        assert counted["utterances"] == len(part) == 2 * EACH
    test, other = (read_json(METRICS / name) for name in ("test.json", "unlabelled.json"))
    for made, kind in ((test, "text"), (other, "strong")):
        part = labels[(labels["split"] == "test") & (labels["reference"] == kind)]
        assert made["reference"] == kind
        wer = part["errors_weak"].sum() / part["words"].sum()
        assert made["wer_weak"]["value"] == pytest.approx(wer, abs=1e-6)
    assert other["wer_strong"]["value"] == 0
    assert test["wer_strong"]["value"] > 0
    assert other["target"]["met"] is None
    assert read_json(POLICY / "sure.json")["calibration"]["reference"] == "text"
    assert "come out worse than the strong arm's" in read_json(POLICY / "sure.json")["promise"]["says"]
    assert read_json(ROUTER / "baseline.json")["rows"] == 2 * EACH


def test_the_report_of_a_mixed_corpus_has_a_table_for_each_kind(run):
    run("mixed")
    test, other = (read_json(METRICS / name) for name in ("test.json", "unlabelled.json"))
    page, shown = REPORT.read_text(), seen(Path())
    head, _, rest = page.partition("<h3>Utterances without transcripts</h3>")
    assert percent(test["wer_strong"]).split()[0] in head
    assert "<td>always strong</td><td>reference</td>" in rest
    assert percent(other["wer_weak"]).split()[0] in rest
    assert shown.count("always strong") == 2
    assert "test utterances without transcripts" in shown


def test_a_table_without_the_column_has_transcripts():
    labels = pd.DataFrame({"words": [1, 2]})
    assert told(labels).all()
    assert measured(labels).equals(labels)
    mixed = labels.assign(reference=["strong", "text"])
    assert measured(mixed)["words"].tolist() == [2]
    assert measured(mixed[:1])["words"].tolist() == [1]
