"""The report: charts and sound with the same bytes each time, nothing from outside, what was most wrong."""

import base64
import io
import re
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from whisper_router.decode import load_audio
from whisper_router.evaluation import Pair
from whisper_router.report import charts
from whisper_router.report.style import DARK, LIGHT, png, write_chart
from whisper_router.report.words import parts, percent
from whisper_router.report.wrong import most_wrong, sound

TOLD = {"a": (np.linspace(0, 1, 80), (np.arange(80) % 3 == 0).astype(int))}


def test_a_chart_has_the_same_bytes_each_time_and_other_colours_in_the_dark(tmp_path):
    draw = charts.reliability(TOLD)
    write_chart(tmp_path / "c.png", draw, 4)
    assert (tmp_path / "c.png").read_bytes() == png(draw, 4, LIGHT) == png(draw, 4, LIGHT)
    for theme, light in ((LIGHT, True), (DARK, False)):
        corner = Image.open(io.BytesIO(png(draw, 4, theme))).convert("L").getpixel((0, 0))
        assert (corner > 128) == light


def test_nothing_of_a_chart_touches_its_edge():
    image = np.array(
        Image.open(io.BytesIO(png(charts.roc(TOLD, {"a": 0.5}, ("a", 0.5)), 5, LIGHT))).convert("L")
    )
    border = np.concatenate(
        [image[:8].ravel(), image[-8:].ravel(), image[:, :8].ravel(), image[:, -8:].ravel()]
    )
    assert (border == 255).all()


def test_sound_is_small_the_same_each_time_and_still_speech(speech):
    audio = speech(4.0)
    uri = sound(audio)
    assert uri == sound(audio)
    assert len(uri) < 60_000
    heard = load_audio(base64.b64decode(uri.partition("base64,")[2]))
    assert heard.size == pytest.approx(audio.size, abs=4000)


def test_the_most_wrong_are_those_where_the_other_arm_saves_most_words(speech):
    weak, strong = np.array([5, 0, 1, 2, 0]), np.array([1, 3, 1, 1, 0])
    scores = np.array([0.1, 0.9, 0.9, 0.9, 0.1])
    zeros = np.zeros(5)
    pair = Pair(
        np.arange(5), np.full(5, 6), weak, strong, (weak > strong).astype(int), zeros, zeros, {}, {}, {}, {}
    )
    labels = pd.DataFrame({"id": list("abcde")})
    texts = {(id_, arm): f"{id_} by {arm}" for id_ in "abcde" for arm in ("weak", "strong")}
    found = most_wrong(
        labels, pair, scores, 0.5, {id_: id_ for id_ in "abcde"}, texts, lambda id_: speech(0.5)
    )
    assert [(row.id, row.arm, row.lost) for row in found] == [("a", "weak", 4), ("b", "strong", 3)]
    assert found[0].strong == "a by strong"


def test_a_figure_is_written_with_its_interval_or_why_it_has_none():
    assert percent({"value": 0.123, "interval": [0.1, 0.2]}) == "12.3% (10.0% to 20.0%)"
    assert percent({"value": 0.123, "interval": "too few"}) == "12.3%"
    assert percent({"value": 1.0, "interval": [1.0, 1.0]}) == "100.0%"
    assert percent({"value": None, "reason": "no weak"}) == "none: no weak"
    assert parts({"value": None}) == ("none", "not defined")


def test_the_page_asks_for_nothing_from_outside():
    source = files("whisper_router").joinpath("report", "page.html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link", source)
