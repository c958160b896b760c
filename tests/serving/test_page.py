"""The page at / in headless Chromium: a file goes in, coloured text and figures come out."""

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from serving_process import server
from websockets.sync.client import ClientConnection, connect

from whisper_router.router import Router

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS, SCHEMES = (1280, 400), ("light", "dark")
pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
]


class Tab:
    """A page, driven by Chromium's own protocol."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket, self._ids = socket, count(1)
        self.told: list[str] = []

    def call(self, method: str, **params: object) -> dict:
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.told.append(json.dumps(message["params"]))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def value(self, script: str) -> object:
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not self.value(f"!!({script})"):
            assert time.monotonic() < deadline, (script, self.value("document.body.innerText"), self.told)
            time.sleep(0.1)


@pytest.fixture
def tab(tmp_path) -> Iterator[Tab]:
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    options += ["--remote-debugging-port=0"]
    options += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    profile = tmp_path / "profile"
    process = subprocess.Popen(
        [BROWSER, *options, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 60
        told = profile / "DevToolsActivePort"
        while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        port = told.read_text().splitlines()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as answer:
            (target, *_) = (one for one in json.load(answer) if one["type"] == "page")
        with connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            made = Tab(socket)
            for domain in ("Page", "DOM", "Runtime", "Log"):
                made.call(f"{domain}.enable")
            yield made
    finally:
        process.terminate()
        process.wait(120)


def test_the_page_in_a_browser(routers, tab, speech, wav, tmp_path):
    long = wav(np.concatenate([speech(2.5, seed) for seed in range(28)]))
    scores = sorted(one.score for one in Router.load(routers["confidence"]).decide([long])[0].segments)
    folder = shutil.copytree(routers["confidence"], tmp_path / "router")
    policy = folder / "policies" / "half.json"
    threshold = {"threshold": round(scores[1] + 1e-3, 4)}
    policy.write_text(json.dumps(json.loads(policy.read_text()) | threshold))
    (expected,) = Router.load(folder).transcribe([long])
    sound, text = tmp_path / "a call.wav", tmp_path / "notes.txt"
    sound.write_bytes(long)
    text.write_text("no sound")
    shots = Path(os.environ.get("WHISPER_ROUTER_SHOTS", tmp_path))
    with server(str(folder)) as started:
        tab.call("Page.navigate", url=started.url)
        tab.wait("document.querySelectorAll('#model option').length === 5")
        assert tab.value("document.getElementById('key').offsetParent === null")
        node = tab.call("DOM.getDocument")["root"]["nodeId"]
        file = tab.call("DOM.querySelector", nodeId=node, selector="#file")["nodeId"]
        tab.call("DOM.setFileInputFiles", nodeId=file, files=[str(sound), str(text)])
        tab.wait("document.querySelector('.text.bad') && document.querySelector('article dl')")
        spans = tab.value(
            "[...document.querySelectorAll('.text span')].map(s => [s.className, s.textContent])"
        )
        assert spans == [[segment.arm, segment.text] for segment in expected.segments]
        assert {arm for arm, _ in spans} == {"weak", "strong"}
        shown = str(tab.value("document.querySelector('article dl').innerText"))
        assert f"{expected.duration_s:.1f} s" in shown
        assert "saved" in shown or "more" in shown
        assert "not readable as audio" in str(tab.value("document.querySelector('.text.bad').textContent"))
        colours = {
            str(tab.value(f"getComputedStyle(document.querySelector('.text .{arm}')).color"))
            for arm in ("weak", "strong")
        }
        assert len(colours) == 2
        for width in WIDTHS:
            for scheme in SCHEMES:
                media = [{"name": "prefers-color-scheme", "value": scheme}]
                tab.call("Emulation.setEmulatedMedia", features=media)
                size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500}
                tab.call("Emulation.setDeviceMetricsOverride", **size)
                assert tab.value("document.documentElement.scrollWidth <= innerWidth")
                picture = tab.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
                (shots / f"page-{width}-{scheme}.png").write_bytes(base64.b64decode(picture))
        before = tab.value("document.querySelectorAll('article').length")
        tab.call("Runtime.evaluate", expression="document.getElementById('record').click()", userGesture=True)
        tab.wait("document.getElementById('record').classList.contains('on')")
        time.sleep(1.5)
        tab.value("document.getElementById('record').click()")
        tab.wait(f"document.querySelectorAll('article').length > {before}")
        tab.wait("document.querySelector('article dl, article .bad')")
        assert tab.value("document.querySelector('article').innerText.includes('recording')")
        assert not tab.value("document.querySelector('article .bad')")
    told = [line for line in tab.told if '"level": "verbose"' not in line and "400" not in line]
    assert not told
