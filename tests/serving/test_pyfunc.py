"""The MLflow model: parameters, bodies of its scoring server, rows that fail alone, code that is its own."""

import base64
import json
import shutil
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from starlette.testclient import TestClient

from whisper_router.registry import model_parts, requirements
from whisper_router.serving.formats import as_srt, as_vtt
from whisper_router.serving.signature import OUTPUTS


@pytest.fixture(scope="module")
def saved(routers, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    before = sys.path.copy()
    mlflow.pyfunc.save_model(str(folder), **model_parts(routers["confidence"]))
    sys.path[:] = before
    return folder


@pytest.fixture(scope="module")
def model(saved):
    before = sys.path.copy()
    yield mlflow.pyfunc.load_model(str(saved))
    sys.path[:] = before


@pytest.fixture(scope="module")
def server(model) -> TestClient:
    return TestClient(scoring_server.init(model), raise_server_exceptions=False)


@pytest.fixture
def table(waves) -> pd.DataFrame:
    return pd.DataFrame({"audio": waves})


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_row_has_what_the_router_says(model, router, table, waves):
    made = model.predict(table)
    assert list(made.columns) == list(OUTPUTS)
    for row, one in zip(made.itertuples(), router.transcribe(waves), strict=True):
        assert (row.text, row.model, row.score, row.threshold) == (
            one.text,
            one.model,
            one.score,
            one.threshold,
        )
        assert row.duration_s == one.duration_s
        (segment,) = json.loads(row.segments)
        assert segment["arm"] == one.arm
        assert (segment["start_s"], segment["end_s"], segment["text"]) == (0, one.duration_s, one.text)
        assert pd.isna(row.error)


@pytest.mark.parametrize("policy", ["weak", "strong", "never", "half"])
def test_policy(model, router, table, waves, policy):
    made = model.predict(table, params={"policy": policy})
    expected = router.transcribe(waves, policy=policy)
    assert made["text"].tolist() == [one.text for one in expected]
    assert made["model"].tolist() == [one.model for one in expected]
    forced = policy in ("weak", "strong")
    assert made["score"].isna().all() == made["threshold"].isna().all() == forced
    if policy != "half":
        assert made["model"].nunique() == 1


def test_threshold_and_decide_only(model, router, table, waves):
    scores = sorted(one.score for one in router.decide(waves))
    made = model.predict(table, params={"threshold": scores[1], "decide_only": True})
    assert made["text"].isna().all()
    assert made["threshold"].tolist() == [scores[1]] * len(waves)
    assert (made["model"] == router.description.strong.model).sum() == len(waves) - 1
    assert all("text" in segment for segment in map(json.loads, made["segments"]) for segment in segment)


@pytest.mark.parametrize("response_format", ["text", "json", "verbose_json", "srt", "vtt"])
def test_response_format(model, router, table, waves, response_format):
    made = model.predict(table.iloc[:1], params={"response_format": response_format, "language": "English"})
    (one,) = router.transcribe(waves[:1])
    (text,) = made["text"]
    if response_format == "text":
        assert text == one.text
    elif response_format in ("srt", "vtt"):
        assert text == (as_srt if response_format == "srt" else as_vtt)(one)
        assert one.text in text
        assert "00:00:00" in text
    else:
        told = json.loads(text)
        assert told["text"] == one.text
        assert (set(told) == {"text"}) == (response_format == "json")
        if response_format == "verbose_json":
            assert told["whisper_router"]["arm"] == one.arm
            assert [s["text"] for s in told["segments"]] == [one.text]


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"policy": "nobody"}, "policy 'nobody' is none of half, never, weak, strong"),
        ({"policy": "half", "threshold": 0.5}, "give one of them"),
        ({"threshold": float("nan")}, "threshold nan"),
        ({"language": "de"}, "language 'de': this router was trained and calibrated for 'en'"),
        ({"response_format": "html"}, "response_format 'html' is none of"),
    ],
)
def test_what_cannot_be_honoured_is_refused(model, server, table, params, reason):
    with pytest.raises(MlflowException, match=reason):
        model.predict(table, params=params)
    if params.get("threshold") != params.get("threshold"):
        return
    body = {"dataframe_records": [{"audio": text64(table["audio"][0])}], "params": params}
    answer = server.post("/invocations", json=body)
    assert answer.status_code == 400
    assert reason.split("'")[0] in answer.text


def test_dataframe_bodies(server, router, waves):
    rows = [text64(waves[0]), text64(b"not a sound"), text64(waves[1])]
    bodies = (
        {"dataframe_split": {"columns": ["audio"], "data": [[row] for row in rows]}},
        {"dataframe_records": [{"audio": row} for row in rows], "params": {"decide_only": False}},
    )
    expected = router.transcribe([waves[0], waves[1]])
    for body in bodies:
        answer = server.post("/invocations", json=body)
        assert answer.status_code == 200, answer.text
        first, bad, last = answer.json()["predictions"]
        assert [first["text"], last["text"]] == [one.text for one in expected]
        assert "not readable as audio" in bad["error"]
        assert bad["text"] is bad["score"] is bad["segments"] is None
        assert first["error"] is None


@pytest.mark.parametrize("key", ["inputs", "instances"])
def test_base64_that_mlflow_does_not_decode_is_answered_with_what_to_send(server, waves, key):
    coded = text64(waves[0])
    for value in ({"audio": [coded]}, [{"audio": coded}]):
        answer = server.post("/invocations", json={key: value})
        assert answer.status_code == 400, answer.text
        assert "dataframe_split" in answer.text
        assert "Traceback" not in answer.text


def test_base64_in_a_row_is_an_error_of_the_row(model, waves):
    rows = [waves[0], text64(waves[1]).encode(), text64(waves[1])]
    made = model.predict(pd.DataFrame({"audio": pd.Series(rows, dtype=object)}))
    assert made["error"].isna().tolist() == [True, False, False]
    assert made["error"].str.contains("dataframe_split").tolist()[1:] == [True, True]
    assert made["text"][0]


@pytest.mark.parametrize("value", ["%%%", "YWJj", 7, None])
def test_a_value_that_is_no_audio_is_an_error_of_the_row_or_the_request(server, value):
    answer = server.post("/invocations", json={"dataframe_split": {"columns": ["audio"], "data": [[value]]}})
    if answer.status_code == 200:
        (row,) = answer.json()["predictions"]
        assert row["error"]
    else:
        assert answer.status_code == 400
    assert server.get("/health").status_code == 200


CHECK = """
import sys
import mlflow
sys.path.insert(0, sys.argv[2])
import whisper_router
try:
    mlflow.pyfunc.load_model(sys.argv[1])
except Exception as error:
    print(f"{type(error).__name__}: {error}")
else:
    print("loaded")
"""


@pytest.mark.parametrize("differs", [True, False])
def test_another_whisper_router_that_is_imported_is_refused(saved, tmp_path, differs):
    shutil.copytree(saved / "code" / "whisper_router", tmp_path / "whisper_router")
    if differs:
        (tmp_path / "whisper_router" / "scoring.py").open("a").write("\nOTHER = 1\n")
    command = [sys.executable, "-P", "-c", CHECK, str(saved), str(tmp_path)]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    said = done.stdout.splitlines()[-1] if done.stdout else done.stderr
    if differs:
        assert f"has imported whisper_router from {tmp_path / 'whisper_router'}" in said
    else:
        assert said == "loaded"


def test_requirements_are_those_of_serving_and_of_the_engines(routers, package_router, tmp_path, plain):
    names = {line.split("==")[0] for line in requirements(routers["confidence"])}
    assert not names & {"prefect", "dvc", "great-expectations", "lhotse", "dask", "ctranslate2"}
    assert {"torch", "openai-whisper", "av", "mlflow"} <= names
    folder = tmp_path / "fast"
    folder.mkdir()
    described = json.loads((routers["confidence"] / "router.json").read_text())
    described["strong"]["decode"]["engine"] = "ctranslate2"
    (folder / "router.json").write_text(json.dumps(described))
    assert {line.split("==")[0] for line in requirements(folder)} == names | {"ctranslate2"}


ALONE = """
import json, sys
from importlib.util import find_spec
sys.path.insert(0, sys.argv[1])
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[2])
made = model.predict(pandas.DataFrame({"audio": [open(sys.argv[3], "rb").read(), b"no sound"]}))
import whisper_router
unneeded = ("prefect", "dvc", "great_expectations", "lhotse")
absent = [name for name in unneeded if find_spec(name) is None]
print(json.dumps({"rows": made.to_dict("records"), "absent": absent, "code": whisper_router.__file__}))
"""


def required(names: list[str]) -> dict[str, Distribution]:
    """Installed distributions that these need, by name."""
    found: dict[str, Distribution] = {}
    todo = list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in found:
            found[name] = distribution(name)
            needs = [Requirement(line) for line in found[name].requires or []]
            todo += [
                need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})
            ]
    return found


def test_an_environment_of_the_logged_requirements_alone_serves(saved, router, waves, tmp_path):
    lines = (saved / "requirements.txt").read_text().splitlines()
    site = tmp_path / "site"
    site.mkdir()
    for found in required([Requirement(line).name for line in lines]).values():
        for file in found.files or []:
            top = file.parts[0]
            if top not in ("..", "__pycache__") and not (site / top).exists():
                (site / top).symlink_to(found.locate_file(top))
    empty = tmp_path / "empty"
    empty.mkdir()
    sound = tmp_path / "sound.wav"
    sound.write_bytes(waves[0])
    command = [sys.executable, "-I", "-S", "-c", ALONE, str(site), str(saved), str(sound)]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    good, bad = told["rows"]
    (expected,) = router.transcribe(waves[:1])
    assert (good["text"], good["model"], good["error"]) == (expected.text, expected.model, None)
    assert "not readable as audio" in bad["error"]
    assert told["absent"] == ["prefect", "dvc", "great_expectations", "lhotse"]
    assert told["code"].startswith(str(saved / "code"))
    assert list(empty.iterdir()) == []
