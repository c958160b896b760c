"""The HTTP service over a router of tiny random Whispers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from whisper_router.audio import SAMPLE_RATE
from whisper_router.router import Router
from whisper_router.serving.app import create_app
from whisper_router.serving.settings import Settings


@pytest.fixture(scope="module")
def router(routers: dict[str, Path]) -> Router:
    return Router.load(routers["confidence"])


@pytest.fixture(scope="session")
def waves(clips: list[np.ndarray], wav: Callable[..., bytes]) -> list[bytes]:
    return [wav(clip) for clip in clips]


@pytest.fixture(scope="session")
def serving(routers: dict[str, Path]) -> Callable[..., AbstractContextManager[TestClient]]:
    """Starts the application on a router, with settings of one's own."""

    @contextmanager
    def start(kind: str = "confidence", **settings: object) -> Iterator[TestClient]:
        chosen = Settings(**{"router": str(routers[kind]), "workers": 2, "reload_s": 0} | settings)
        with TestClient(create_app(chosen), "http://127.0.0.1", raise_server_exceptions=False) as client:
            yield client

    return start


@pytest.fixture(scope="session")
def client(serving: Callable[..., AbstractContextManager[TestClient]]) -> Iterator[TestClient]:
    with serving() as made:
        yield made


@pytest.fixture
def gate(monkeypatch) -> Iterator[threading.Event]:
    """Holds the workers back until it is set; the batches that ran, as seconds of their windows."""
    hear, opened, batches = Router.hear, threading.Event(), []

    def held(self, windows, routes, transcribe):
        opened.wait(120)
        batches.append([round(audio.size / SAMPLE_RATE, 1) for _, audio in windows])
        return hear(self, windows, routes, transcribe)

    monkeypatch.setattr(Router, "hear", held)
    opened.batches = batches
    yield opened
    opened.set()
