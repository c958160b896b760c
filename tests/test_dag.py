"""The whole DAG on real weights and the demo's speech, in clones of this tree."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from clones import call, kill_when, make_clone, start

from whisper_router.hashing import folder_sha256
from whisper_router.store import ContentStore

pytestmark = [pytest.mark.acceptance, pytest.mark.real]

UTTERANCES = 150
STAGES = ["ingest", "check", "label", "featurize", "train", "calibrate", "package", "evaluate"]


def stages_run(output: str) -> list[str]:
    return [name for name in STAGES if f"Running stage '{name}'" in output]


CORPUS = f"name: demo, kind: demo, path: demo/sentences.txt, utterances: {UTTERANCES}, seed: 7"
SMALL = f"ingest.corpora=[{{{CORPUS}}}]"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_clone(tmp_path_factory.mktemp("clone"))
    assert stages_run(call(folder, "run", "-S", SMALL)) == STAGES
    return folder


def test_a_second_run_runs_nothing(clone: Path) -> None:
    assert stages_run(call(clone, "run")) == []


def test_changing_a_threshold_runs_calibrate_package_and_evaluate_alone(clone: Path) -> None:
    output = call(clone, "run", "-S", "policies.cascade_even.threshold=0.55")
    assert stages_run(output) == ["calibrate", "package", "evaluate"]


def test_a_threshold_by_hand_and_a_policy_of_another_domain_say_what_is_to_be_expected(
    clone: Path, tmp_path: Path
) -> None:
    tried = json.loads(call(clone, "calibrate", "--threshold", "0.4", "--try", "{kind: best_wer}", "--json"))
    calibration = json.loads((clone / "data/policy/cascade_half.json").read_text())["calibration"]
    assert set(tried) == {"by hand", "tried"}
    for policy in tried.values():
        assert policy["calibration"]["wer_strong"] == calibration["wer_strong"]
    assert tried["tried"]["calibration"]["wer_routed"] <= tried["by hand"]["calibration"]["wer_routed"]

    manifest = pd.read_parquet(clone / "data/manifest.parquet")
    rows = manifest[manifest["split"] == "test"].iloc[:12]
    table = tmp_path / "calls.jsonl"
    lines = (
        {"id": row.id, "audio": str(clone / row.audio), "text": row.text, "speaker": row.speaker}
        for row in rows.itertuples()
    )
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    made = json.loads(call(clone, "recalibrate", str(table), "--json"))
    labels = pd.read_parquet(clone / "data/labels.parquet").set_index("id").loc[rows["id"]]
    words = labels["words"].sum()
    for when in ("before", "after"):
        assert made[when]["calibration"]["utterances"] == 12
        assert made[when]["calibration"]["wer_weak"] == pytest.approx(
            labels["errors_weak"].sum() / words, abs=1e-6
        )
    router = clone / "data/recalibrated/calls"
    name = json.loads((router / "router.json").read_text())["policy"]
    policy = json.loads((router / "policies" / f"{name}.json").read_text())
    assert policy["threshold"] == made["after"]["threshold"]
    routed = call(clone, "decide", "--router", str(router), "--json", str(clone / rows["audio"].iloc[0]))
    assert json.loads(routed)["threshold"] == policy["threshold"]


def test_editing_report_code_runs_evaluate_alone(clone: Path) -> None:
    report = clone / "src" / "whisper_router" / "report" / "words.py"
    report.write_text(report.read_text().replace("always weak", "only weak"))
    assert stages_run(call(clone, "run")) == ["evaluate"]


def test_another_clone_with_an_empty_store_has_the_same_hashes(clone: Path, tmp_path: Path) -> None:
    other = make_clone(tmp_path)
    shutil.copy(clone / "params.yaml", other / "params.yaml")
    words = "src/whisper_router/report/words.py"
    shutil.copy(clone / words, other / words)
    assert stages_run(call(other, "run")) == STAGES
    assert (other / "dvc.lock").read_text() == (clone / "dvc.lock").read_text()

    entries = sorted(path for path in (other / ".cache").rglob("*") if path.is_file())
    for path in np.random.default_rng(0).choice(entries, len(entries) // 3, replace=False):
        path.unlink()
    for folder in ("data/features", "data/decider", "data/router", ".dvc/cache"):
        shutil.rmtree(other / folder)
    (other / "data/transcripts.parquet").unlink()
    (other / "dvc.lock").unlink()
    call(other, "run")
    assert (other / "dvc.lock").read_text() == (clone / "dvc.lock").read_text()


def test_the_registered_model_works_with_the_repository_moved_away(clone: Path, tmp_path: Path) -> None:
    first = json.loads(call(clone, "register", "--force", "--json"))
    assert first["new"]
    assert first["champion"]
    assert not json.loads(call(clone, "register", "--json"))["new"]
    clip = sorted((clone / "data/audio/demo").glob("*.flac"))[0]
    uri = "models:/whisper-router@champion"
    routed = json.loads(call(clone, "transcribe", "--router", uri, "--json", str(clip)))

    (model,) = (clone / "mlruns/artifacts/models").glob("m-*/artifacts")
    shutil.copytree(model, tmp_path / "model")
    shutil.copy(clip, tmp_path / "clip.flac")
    away = clone.with_name("moved-away")
    clone.rename(away)
    try:
        code = (
            "import json, mlflow, pandas as pd\n"
            "model = mlflow.pyfunc.load_model('model')\n"
            "audio = [open('clip.flac', 'rb').read(), b'no audio']\n"
            "made = model.predict(pd.DataFrame({'audio': audio}))\n"
            "import whisper_router\n"
            "rows = json.loads(made.to_json(orient='records'))\n"
            "print(json.dumps({'code': whisper_router.__file__, 'rows': rows}))"
        )
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        away.rename(clone)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert loaded["code"].startswith(str(tmp_path / "model" / "code"))
    good, bad = loaded["rows"]
    assert good["threshold"] == pytest.approx(routed["threshold"])  # pandas writes 0.36082400000000003
    assert {key: good[key] for key in ("text", "model")} == {key: routed[key] for key in ("text", "model")}
    assert good["score"] == pytest.approx(routed["score"], abs=1e-3)
    assert good["error"] is None
    assert "not readable as audio" in bad["error"]


def joined(clone: Path, split: str, seconds: float, name: str) -> dict[str, str]:
    """A recording of the demo's clips of a split, one after another, for at least so long."""
    manifest = pd.read_parquet(clone / "data/manifest.parquet")
    rows = manifest[(manifest["corpus"] == "demo") & (manifest["split"] == split)]
    count = int((rows["duration_s"].cumsum() < seconds).sum()) + 1
    chosen = rows.iloc[:count]
    samples = [soundfile.read(clone / audio, dtype="int16")[0] for audio in chosen["audio"]]
    soundfile.write(clone / "data/corpora/calls" / f"{name}.flac", np.concatenate(samples), 16_000)
    text = " ".join(chosen["text"])
    return {"id": name, "audio": f"{name}.flac", "text": text, "speaker": name, "split": split}


def test_audio_over_30_s_and_rows_that_were_left_out_reach_the_report(tmp_path: Path) -> None:
    clone = make_clone(tmp_path)
    call(clone, "ingest", "-S", SMALL)
    calls = clone / "data/corpora/calls"
    calls.mkdir()
    rows = [
        joined(clone, "test", 40, "one"),
        joined(clone, "test", 70, "two"),
        joined(clone, "train", 8, "three"),
    ]
    soundfile.write(calls / "mute.wav", np.zeros(32_000, np.int16), 16_000)
    rows += [{**rows[2], "id": name, "audio": f"{name}.wav"} for name in ("mute", "gone")]
    (calls / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpora = f"[{{{CORPUS}}}, {{name: calls, kind: table, path: calls/table.jsonl}}]"
    assert stages_run(call(clone, "run", "-S", f"ingest.corpora={corpora}")) == STAGES

    long = json.loads((clone / "data/metrics/long.json").read_text())
    assert (long["counts"]["recordings"], long["counts"]["failed"], long["counts"]["speakers"]) == (2, 0, 2)
    assert long["counts"]["windows"] >= 5
    for choice in ("weak", "strong", "routed"):
        assert 0 < long[f"wer_{choice}"]["value"] < 0.6
    labelled = set(pd.read_parquet(clone / "data/labels.parquet")["id"])
    assert "three" in labelled
    assert not {"one", "two", "mute", "gone"} & labelled
    rejected = {row["id"]: row["kind"] for row in json.loads((clone / "data/rejected.json").read_text())}
    assert rejected == {"mute": "silent", "gone": "audio"}
    report = (clone / "data/report.html").read_text()
    for said in ("Audio over 30 s", "calls mute: silence", "gone.wav: no such file"):
        assert said in report


def test_a_killed_featurize_and_a_killed_train_go_on_with_an_equal_result(clone: Path) -> None:
    preset = ["--preset", "paper-compact", "-S", "deciders.paper-compact.epochs=60", "-S", SMALL]
    for arm in ("weak", "strong"):
        preset += ["-S", f"arms.{arm}.decode.floor_frames=500"]  # as decoded already
    assert stages_run(call(clone, "run", *preset)) == STAGES[2:]
    outputs = [clone / "data/features", clone / "data/decider"]
    expected = [folder_sha256(folder) for folder in outputs]
    total = len(list((clone / ".cache/encodings").glob("*/*.safetensors")))
    for folder in (".cache/encodings", ".cache/trainings", "data/features", "data/decider"):
        shutil.rmtree(clone / folder)

    def encodings() -> int:
        return len(list((clone / ".cache/encodings").glob("*/*.safetensors")))

    def epochs() -> list[int]:
        """Of each training that was begun; a name with a dot is of one being written."""
        states = list((clone / ".cache/trainings").glob("*/[!.]*.pt"))
        stored = (io.BytesIO(ContentStore.read_training(path)) for path in states)
        read = (torch.load(state, weights_only=True) for state in stored)
        return [len(state["curve"]) for state in read]

    kill_when(clone, "featurize", lambda: encodings() > 20)
    assert 20 < encodings() < total
    assert start(clone, "featurize").wait() == 0
    assert folder_sha256(outputs[0]) == expected[0]

    kill_when(clone, "train", lambda: len(epochs()) == 2)
    assert not (outputs[1] / "paper-compact").exists()
    assert min(epochs()) < 60
    assert start(clone, "train").wait() == 0
    assert max(epochs()) == 60
    assert folder_sha256(outputs[1]) == expected[1]


def test_the_paper_s_router_runs_without_its_states_on_the_disk(tmp_path: Path) -> None:
    folder = make_clone(tmp_path)
    few = ["-S", SMALL.replace(f"utterances: {UTTERANCES}", "utterances: 80")]
    output = call(folder, "run", *few, "--preset", "paper", "-S", "deciders.paper.epochs=2")
    assert stages_run(output) == STAGES
    assert "featurize: paper: 80 utterances, not stored (it would take 0.86 GB, " in output
    assert not list((folder / "data/features/paper").glob("shard-*"))
    summary = json.loads((folder / "data/metrics/summary.json").read_text())
    assert summary["verified_with_router"] == min(12, summary["utterances"])
    description = json.loads((folder / "data/router/router.json").read_text())
    assert description["extractor"]["arm"] == "strong"
    listed = json.loads(call(folder, "cache", "ls", "--json"))
    assert 0 < listed["shared"] <= listed["dvc_cache"]
    assert listed["sum"] < listed["data"] + listed["dvc_cache"] + sum(
        kind["bytes"] for kind in listed["store"].values()
    )
