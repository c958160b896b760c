"""The benchmark of engines: the same utterances each time, a run on the clock, no texts in the report."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from whisper_router.asr.options import DTYPES
from whisper_router.errors import UserError

ROOT = Path(__file__).parents[1]
WORDS = ("one", "three or four", "twelve")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The modules of benchmarks/, which is no package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import engines
        import engines_report
        import sample

        yield {"engines": engines, "report": engines_report, "sample": sample}


@pytest.fixture
def table(tmp_path, clips, wav) -> Path:
    lines = []
    for i, clip in enumerate(clips):
        (tmp_path / f"{i}.wav").write_bytes(wav(clip))
        corpus = "far" if i % 2 else "near"
        lines.append(
            {"id": f"u{i}", "audio": f"{i}.wav", "text": WORDS[i % 3], "corpus": corpus, "speaker": "s"}
        )
    lines.append({"id": "dots", "audio": "0.wav", "text": "...", "corpus": "far", "speaker": "s"})
    (tmp_path / "table.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "table.jsonl"


def test_as_many_utterances_of_each_corpus_and_the_same_ones_each_time(scripts, table, clips):
    draw = scripts["sample"].draw
    made = draw(table, 4, 0)
    assert Counter(clip.corpus for clip in made) == {"far": 2, "near": 2}
    assert [clip.id for clip in made] == [clip.id for clip in draw(table, 4, 0)]
    assert {clip.id for clip in draw(table, 2, 0)} < {clip.id for clip in made}
    for clip in made:
        np.testing.assert_array_equal(clip.audio, clips[int(clip.id[1:])])


def test_too_few_utterances_are_told_with_the_corpus(scripts, table):
    with pytest.raises(UserError, match="far has 3 usable utterances, not 4"):
        scripts["sample"].draw(table, 8, 0)


def test_a_run_keeps_its_figures_and_the_report_holds_no_text(
    scripts, table, tmp_path, checkpoints, plain, make_arm
):
    clips = scripts["sample"].draw(table, 4, 0)
    np.savez(tmp_path / "audio.npz", **{f"{i:06d}": clip.audio for i, clip in enumerate(clips)})
    np.save(tmp_path / "first.npy", clips[0].audio)
    model = str(checkpoints["english"])
    run = {"contestant": "arm", "model": model, "name": "ours", "options": plain.model_dump(mode="json")}
    scripts["engines"].measure(run, tmp_path, tmp_path / "run.json")
    made = json.loads((tmp_path / "run.json").read_text())
    arm = make_arm("english")
    expected = [arm.decode(arm.encode_audio([clip.audio]), [clip.audio])[0].text for clip in clips]
    assert made["texts"] == expected
    assert 0 < made["seconds"] < made["cold_start_s"] + 60
    assert made["peak_bytes"] > 50e6

    slow = {**made, "seconds": 4 * made["seconds"]}
    other = {"contestant": "openai-whisper", "model": model, "name": "theirs"}
    scripts["report"].write_report(tmp_path / "page.md", clips, [(other, [slow]), (run, [made])])
    page, figures = (tmp_path / "page.md").read_text(), (tmp_path / "page.json").read_text()
    rows = json.loads(figures)["contestants"]
    assert rows[1]["rtfx"] == pytest.approx(4 * rows[0]["rtfx"], rel=0.02)
    assert set(rows[0]["wer"]) == {"far", "near"}
    assert "| ours |" in page
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    for text in {text for text in (*expected, *WORDS) if len(text) > 4}:
        assert text not in page
        assert text not in figures


def test_every_engine_and_format_for_whisper_is_a_contestant(scripts):
    names = [scripts["engines"].arm_name(options) for options in scripts["engines"].arm_options()]
    assert len(names) == len(set(names))
    for engine, dtypes in DTYPES.items():
        for dtype in dtypes:
            assert (f"whisper-router {engine} {dtype}" in names) == (engine != "hf")
    assert "whisper-router ctranslate2 int8, torch bfloat16 encoder" in names
