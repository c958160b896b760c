"""The HTTP API as its clients use it: forms, formats, names of models, errors, limits, metrics, log."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import openai
import pandas as pd
import pytest
from waiting import wait_until

from whisper_router.router import Router
from whisper_router.serving.formats import as_srt, as_vtt

TRANSCRIBE = "/v1/audio/transcriptions"


@pytest.fixture
def sdk(client) -> openai.OpenAI:
    return openai.OpenAI(base_url="http://127.0.0.1/v1", api_key="unused", http_client=client, max_retries=0)


def post(client, audio: bytes, path: str = TRANSCRIBE, **fields: str):
    return client.post(path, files={"file": ("sound.wav", audio)}, data=fields)


def test_texts_and_routes_are_those_of_the_router(client, router, waves):
    for audio, expected in zip(waves, router.transcribe(waves), strict=True):
        answer = post(client, audio)
        assert answer.json() == {"text": expected.text}
        told = {key.removeprefix("x-whisper-router-"): value for key, value in answer.headers.items()}
        assert told["arm"] == expected.arm
        assert told["model"] == expected.model
        assert float(told["score"]) == pytest.approx(expected.score, abs=1e-3)
        assert float(told["threshold"]) == expected.threshold
        assert told["policy"] == "half"
        assert float(told["duration-s"]) == expected.duration_s


def test_concurrent_requests_are_batched_and_each_gets_its_own(client, router, waves, gate):
    gate.set()
    expected = [one.text for one in router.transcribe(waves)] * 4
    gate.clear()
    gate.batches.clear()
    with ThreadPoolExecutor(len(expected)) as pool:
        made = pool.map(lambda audio: post(client, audio).json()["text"], waves * 4)
        while client.app.state.service.batcher.waiting < len(expected) - 2 * 4:  # two workers, batches of 4
            time.sleep(0.01)
        gate.set()
    assert list(made) == expected
    assert max(map(len, gate.batches)) > 1


def metrics(client) -> str:
    return client.get("/metrics").text


@pytest.mark.parametrize("model", ["whisper-1", "routed", "weak", "strong", "routed-0.42", "routed-never"])
def test_the_openai_client_by_model(sdk, router, waves, model):
    made = sdk.audio.transcriptions.create(model=model, file=("a.wav", waves[0]))
    policy = {"weak": "weak", "strong": "strong", "routed-never": "never"}.get(model)
    threshold = 0.42 if model == "routed-0.42" else None
    (expected,) = router.transcribe(waves[:1], threshold, policy)
    assert made.text == expected.text


def test_the_openai_client_in_the_five_formats(sdk, router, waves):
    (expected,) = router.transcribe(waves[:1])

    def ask(response_format: str, **more: object):
        return sdk.audio.transcriptions.create(
            model="routed", file=("a.wav", waves[0]), response_format=response_format, **more
        )

    assert ask("json").text == expected.text
    assert ask("text") == expected.text
    assert ask("srt") == as_srt(expected)
    assert ask("vtt") == as_vtt(expected)
    more = {"language": "en", "temperature": 0.0, "prompt": "", "timestamp_granularities": ["segment"]}
    verbose = ask("verbose_json", **more)
    assert (verbose.text, verbose.duration, verbose.language) == (
        expected.text,
        expected.duration_s,
        "english",
    )
    (segment,) = verbose.segments
    assert (segment.start, segment.end, segment.text) == (0, expected.duration_s, expected.text)
    assert segment.avg_logprob == pytest.approx(expected.segments[0].avg_logprob, abs=1e-3)
    told = verbose.model_extra["whisper_router"]
    assert (told["arm"], told["model"], told["policy"]) == (expected.arm, expected.model, "half")
    assert told["cost"]["currency"] == "macs"
    assert told["cost"]["routed"] > 0
    assert [route["arm"] for route in told["segments"]] == [expected.arm]


def test_cost_of_each_route(client, router, waves):
    costs = {
        model: post(client, waves[0], model=model, response_format="verbose_json").json()["whisper_router"][
            "cost"
        ]
        for model in ("weak", "strong", "routed-0", "routed-never")
    }
    assert costs["strong"]["saved"] == 0
    assert not costs["strong"]["estimated"]
    assert costs["weak"]["estimated"]
    assert costs["routed-0"]["routed"] == costs["strong"]["routed"] + costs["weak"]["routed"]
    assert costs["routed-never"]["routed"] == costs["weak"]["routed"]
    assert costs["routed-0"]["always_strong"] == costs["strong"]["routed"]


def test_models(sdk):
    names = [model.id for model in sdk.models.list()]
    assert names == ["routed", "weak", "strong", "routed-half", "routed-never"]
    assert sdk.models.retrieve("routed-never").model_extra["whisper_router"]["threshold"] == 1.1
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-4o-transcribe")


def test_decide_gives_the_route_and_no_text(client, router, waves):
    for audio, expected in zip(waves[:3], router.decide(waves[:3]), strict=True):
        told = post(client, audio, "/v1/decide").json()
        assert (told["arm"], told["model"], told["duration"]) == (
            expected.arm,
            expected.model,
            expected.duration_s,
        )
        assert told["score"] == pytest.approx(expected.score, abs=1e-3)
        assert "text" not in str(told)


def test_long_audio_is_routed_window_by_window(client, router, speech, wav):
    long = wav(np.concatenate([speech(2.5, seed) for seed in range(28)]))
    scores = sorted(segment.score for segment in router.decide([long])[0].segments)
    threshold = round(scores[1] + 1e-3, 4)
    (expected,) = router.transcribe([long], threshold)
    made = post(client, long, model=f"routed-{threshold}", response_format="verbose_json").json()
    assert made["text"] == expected.text
    assert len(made["segments"]) == len(expected.segments) >= 3
    assert [s["start"] for s in made["segments"]] == [0, *(s["end"] for s in made["segments"][:-1])]
    routes = [route["arm"] for route in made["whisper_router"]["segments"]]
    assert routes == [segment.arm for segment in expected.segments]
    assert set(routes) == {"weak", "strong"}


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"model": "gpt-4o"}, 404, "model 'gpt-4o'"),
        ({"model": "routed-nobody"}, 404, "the router's policies are half, never"),
        ({"model": "routed-1.5"}, 400, "from 0 to 1"),
        ({"model": "routed-nan"}, 400, "from 0 to 1"),
        ({"language": "de"}, 400, "calibrated for 'en'"),
        ({"language": "xx"}, 400, "calibrated for 'en'"),
        ({"prompt": "Names: Ada"}, 400, "prompt"),
        ({"temperature": "0.7"}, 400, "temperature"),
        ({"temperature": "hot"}, 400, "temperature"),
        ({"stream": "true"}, 400, "stream"),
        ({"response_format": "html"}, 400, "response_format"),
        ({"timestamp_granularities[]": "word"}, 400, "segment"),
        ({"include[]": "logprobs"}, 400, "include"),
        ({"url": "http://127.0.0.1/"}, 400, "unknown field 'url'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client, waves, fields, status, said):
    answer = post(client, waves[0], **fields)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", TRANSCRIBE, 405),
        ("POST", TRANSCRIBE, 415),
        ("GET", "/../etc/passwd", 404),
    ],
)
def test_other_paths_and_methods_are_errors_in_the_same_shape(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_fault_of_the_server_is_told_without_a_trace(serving, waves, monkeypatch):
    def broken(*arguments: object) -> None:
        raise RuntimeError("secret detail")

    with serving() as client:
        monkeypatch.setattr(Router, "hear", broken)
        answer = post(client, waves[0])
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal_error"
        assert "secret" not in answer.text
        monkeypatch.undo()
        assert post(client, waves[0]).status_code == 200


def test_health_ready_and_metrics(client, waves):
    assert client.get("/health").json() == {"status": "ok"}
    ready = client.get("/ready").json()
    assert ready["status"] == "ready"
    assert ready["policy"] == "half"
    for model in ("weak", "strong"):
        post(client, waves[0], model=model)
    post(client, b"not a sound")
    told = metrics(client)
    for line in (
        f'whisper_router_requests_total{{endpoint="{TRANSCRIBE}",status="200"}}',
        'whisper_router_errors_total{code="invalid_audio"}',
        'whisper_router_segments_total{arm="strong"}',
        'whisper_router_audio_seconds_total{arm="weak"}',
        'whisper_router_latency_seconds_count{arm="weak"}',
        "whisper_router_queue_windows 0.0",
        f'whisper_router_served{{policy="half",version="{ready["version"]}"}} 1.0',
    ):
        assert line in told


def test_api_key(serving, waves):
    with serving(api_key="s3cret") as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
            answer = client.post(TRANSCRIBE, files={"file": waves[0]}, headers=headers)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        good = {"authorization": "Bearer s3cret"}
        assert client.post(TRANSCRIBE, files={"file": waves[0]}, headers=good).status_code == 200
        for path in ("/health", "/ready", "/metrics", "/"):
            assert client.get(path).status_code == 200


def test_only_names_of_the_loopback_interface_are_answered_by_default(serving):
    with serving() as client:
        for path in ("/", "/health", "/ready", "/metrics", "/v1/models"):
            assert client.get(path, headers={"host": "localhost:8000"}).status_code == 200
            answer = client.get(path, headers={"host": "evil.example"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (421, "unknown_host")
            assert "WHISPER_ROUTER_SERVE_ALLOWED_HOSTS" in answer.json()["error"]["message"]
    with serving(allowed_hosts="asr.example.org") as client:
        assert client.get("/health", headers={"host": "asr.example.org"}).status_code == 200
        assert client.get("/health").status_code == 421


def test_a_slash_too_many_is_not_redirected_to_the_host_that_a_client_names(serving):
    with serving(allowed_hosts="*") as client:
        for path in ("/v1/models/", "/health/", "/v1/decide/", f"{TRANSCRIBE}/", "//evil.example/"):
            for method in ("GET", "POST"):
                answer = client.request(
                    method,
                    f"{client.base_url}{path}",
                    headers={"host": "evil.example"},
                    follow_redirects=False,
                )
                assert answer.status_code in (404, 405), (method, path)
                assert "location" not in answer.headers


@pytest.mark.parametrize("more", ["; charset=utf-7", "; charset=idna", "; charset=nonsense"])
def test_a_form_in_another_charset_than_utf_8_is_refused(client, more):
    body = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nrouted\r\n--x--\r\n'
    kind = {"content-type": f"multipart/form-data; boundary=x{more}"}
    answer = client.post(TRANSCRIBE, content=body, headers=kind)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_form")
    assert "UTF-8" in answer.json()["error"]["message"]
    declared = post(client, b"sound", _charset_="utf-7")
    assert (declared.status_code, declared.json()["error"]["code"]) == (400, "unknown_parameter")


def test_limits(serving, waves, speech, wav):
    with serving(max_bytes=100_000, max_seconds=2) as client:
        assert post(client, waves[0]).status_code == 200
        body = post(client, b"0" * 300_000)
        assert (body.status_code, body.json()["error"]["code"]) == (413, "file_too_large")
        long = post(client, wav(speech(2.5)))
        assert (long.status_code, long.json()["error"]["code"]) == (413, "audio_too_long")
        assert "limit of 2 s" in long.json()["error"]["message"]

        def parts():
            yield b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n"
            for _ in range(300):
                yield b"0" * 1000

        kind = {"content-type": "multipart/form-data; boundary=x"}
        streamed = client.post(TRANSCRIBE, content=parts(), headers=kind)
        assert (streamed.status_code, streamed.json()["error"]["code"]) == (413, "file_too_large")


def refused(client, sounds, gate) -> list[httpx.Response]:
    """Answers to requests at once, of which the workers begin none until four are refused."""
    with ThreadPoolExecutor(len(sounds)) as pool:
        asked = [pool.submit(post, client, audio) for audio in sounds]
        wait_until(lambda: sum(one.done() for one in asked) >= 4)
        gate.set()
        return [one.result() for one in asked]


def test_a_full_queue_is_answered_429_with_when_to_come_again(serving, waves, gate):
    with serving(max_requests=2, workers=1) as client:
        answers = refused(client, waves, gate)
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [429] * 4
    for answer in answers:
        if answer.status_code == 429:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["type"] == "rate_limit_error"


def test_more_waiting_sound_than_may_is_answered_429(serving, speech, wav, gate):
    sounds = [wav(speech(2, seed)) for seed in range(6)]
    with serving(max_queue_s=3, workers=1) as client:
        answers = refused(client, sounds, gate)
    assert {answer.status_code for answer in answers} == {200, 429}


def test_what_takes_too_long_is_answered_503_and_the_next_is_served(serving, waves, gate):
    with serving(request_s=0.3, workers=1) as client:
        late = post(client, waves[0])
        assert (late.status_code, late.json()["error"]["code"]) == (503, "timeout")
        assert "retry-after" in late.headers
        gate.set()
        service = client.app.state.service
        service.settings = service.settings.model_copy(update={"request_s": 60})
        assert post(client, waves[0]).status_code == 200


@pytest.mark.parametrize("text", [False, True])
def test_prediction_log(serving, waves, router, tmp_path, text):
    with serving(log=tmp_path / "log", log_rows=4, log_text=text) as client:
        for audio in waves[:5]:
            assert post(client, audio).status_code == 200
        wait_until(lambda: any((tmp_path / "log").glob("predictions-*")))
        post(client, waves[0], "/v1/decide", model="strong")
        post(client, b"not a sound")
    files = sorted((tmp_path / "log").iterdir())
    assert all(
        re.fullmatch(r"predictions-\d{8}T\d{6}-[0-9a-f]{32}-\d{6}\.parquet", path.name) for path in files
    )
    assert len(files) >= 2
    rows = pd.concat(map(pd.read_parquet, files), ignore_index=True)
    expected = router.transcribe(waves[:5])
    assert len(rows) == 6
    assert rows["route"].tolist() == [*(one.arm for one in expected), "strong"]
    assert rows["duration_s"].tolist()[:5] == [one.duration_s for one in expected]
    assert rows["score"].tolist()[:5] == pytest.approx([one.score for one in expected], abs=1e-3)
    assert rows["avg_logprob"].tolist()[:5] == pytest.approx(
        [one.segments[0].avg_logprob for one in expected], abs=1e-3
    )
    assert rows["policy"].tolist() == ["half"] * 5 + ["strong"]
    assert (rows["latency_s"] >= rows["queue_s"]).all()
    assert rows["time"].dt.tz is not None
    assert rows["text"].notna().tolist() == ([text] * 5 + [False])
    assert rows["request"].nunique() == 6


def test_the_page_is_one_file_that_loads_nothing_else(client):
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", answer.text)


def test_a_missing_router_is_told(tmp_path):
    from typer.testing import CliRunner

    from whisper_router.cli import app

    done = CliRunner().invoke(app, ["serve", "--router", str(tmp_path / "nowhere"), "--port", "0"])
    assert done.exit_code == 1, done.output
    assert "nowhere: no such folder" in done.stderr
    done = CliRunner().invoke(app, ["serve", "--port", "70000"])
    assert done.exit_code == 1
    assert "port (or WHISPER_ROUTER_SERVE_PORT)" in done.stderr
    assert "70000" in done.stderr


def test_swap(serving, routers, waves, tmp_path):
    import shutil

    folder = tmp_path / "router"
    shutil.copytree(routers["confidence"], folder)
    with serving(router=str(folder)) as client:
        service = client.app.state.service
        before = service.champion.current
        assert post(client, waves[0], model="routed-never").status_code == 200
        other = tmp_path / "other"
        shutil.copytree(routers["encoder"], other)
        (folder / "gone").mkdir()
        shutil.rmtree(folder)
        other.rename(folder)
        service.champion.wake()
        wait_until(lambda: service.champion.current is not before)
        after = service.champion.current
        assert after.version != before.version
        assert after.router.weak is before.router.weak
        assert after.router.description.extractor.kind == "encoder"
        assert post(client, waves[0]).headers["x-whisper-router-version"] == after.version
        (Path(folder) / "router.json").write_text("{}")
        service.champion.wake()
        wait_until(lambda: 'result="failed"' in metrics(client))
        assert 'whisper_router_reloads_total{result="failed"} 1.0' in metrics(client)
        assert 'whisper_router_reloads_total{result="swapped"} 1.0' in metrics(client)
        assert service.champion.current is after
        assert post(client, waves[0]).status_code == 200
