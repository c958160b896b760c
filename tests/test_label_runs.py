"""Labelling on real weights: growth, a changed arm, Dask, and ten kills at random moments."""

import os
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from clones import call, kill, make_clone, own_server, start

pytestmark = [pytest.mark.acceptance, pytest.mark.real]

FIRST, ALL, BATCH_SIZE, KILLS = 136, 150, 16, 10
FLOATS = (
    "avg_logprob",
    "compression_ratio",
    "no_speech_prob",
    "token_logprob",
    "token_entropy",
    "token_margin",
)


def corpus(utterances: int) -> str:
    demo = f"name: demo, kind: demo, path: demo/sentences.txt, utterances: {utterances}, seed: 7"
    return f"ingest.corpora=[{{{demo}}}]"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Prefect server for all runs of the module."""
    with own_server(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_clone(tmp_path_factory.mktemp("clone"))
    call(folder, "ingest", "-S", corpus(FIRST))
    return folder


def label(clone: Path, server: str, store: str) -> str:
    """Run the stage to its end; what it said."""
    process = start(clone, "label", PREFECT_API_URL=server, WHISPER_ROUTER_CACHE=str(clone / store))
    assert process.wait() == 0, (clone / "label.log").read_text()
    return (clone / "label.log").read_text()


def to_do(said: str) -> dict[str, tuple[int, int]]:
    """Utterances to do, and in the store, by arm."""
    found = re.findall(r"label: (\w+) arm: (\d+) utterances to do, (\d+) in the content store", said)
    return {arm: (int(missing), int(done)) for arm, missing, done in found}


def transcripts(clone: Path) -> pd.DataFrame:
    return pd.read_parquet(clone / "data/transcripts.parquet")


def assert_same(made: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Texts and counts equal, floats within 1e-3."""
    exact = [column for column in expected if column not in FLOATS]
    pd.testing.assert_frame_equal(made[exact], expected[exact])
    for column in FLOATS:
        for one, other in zip(made[column], expected[column], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-3, rtol=0, err_msg=column)


def entries(store: Path) -> int:
    return len(list((store / "decodes").glob("*/[!.]*.json")))


def test_a_tenth_more_audio_decodes_a_tenth_and_moves_no_row(clone: Path, server: str) -> None:
    assert to_do(label(clone, server, "grown")) == {"weak": (FIRST, 0), "strong": (FIRST, 0)}
    before = pd.read_parquet(clone / "data/manifest.parquet").set_index("id")
    call(clone, "ingest", "-S", corpus(ALL))
    after = pd.read_parquet(clone / "data/manifest.parquet").set_index("id")
    assert len(after) == ALL
    pd.testing.assert_frame_equal(after.loc[before.index], before)
    new = ALL - FIRST
    assert to_do(label(clone, server, "grown")) == {"weak": (new, FIRST), "strong": (new, FIRST)}


def test_two_dask_workers_say_what_one_process_says(clone: Path, server: str) -> None:
    expected = transcripts(clone)
    params = (clone / "params.yaml").read_text()
    call(clone, "ingest", "-S", "runtime.runner={kind: dask, workers: 2}")
    assert to_do(label(clone, server, "dask")) == {"weak": (ALL, 0), "strong": (ALL, 0)}
    (clone / "params.yaml").write_text(params)
    assert_same(transcripts(clone), expected)


def test_ten_kills_lose_at_most_the_batches_at_work(clone: Path, server: str) -> None:
    expected, store = transcripts(clone), clone / "killed"
    seed = int(os.environ.get("WHISPER_ROUTER_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"WHISPER_ROUTER_TEST_SEED={seed}")
    moments = random.Random(seed)
    kept = [0]
    for mark in sorted(moments.sample(range(2 * ALL - 4 * BATCH_SIZE), KILLS)):
        process = start(clone, "label", PREFECT_API_URL=server, WHISPER_ROUTER_CACHE=str(store))
        log = clone / "label.log"
        arms = 1 if kept[-1] < ALL else 2  # that have said what there is to do for them
        while len(to_do(log.read_text())) < arms or entries(store) < mark:
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        until = time.monotonic() + moments.uniform(0, 1.5)
        while time.monotonic() < until and entries(store) < 2 * ALL - 2 * BATCH_SIZE:
            time.sleep(0.005)
        assert process.poll() is None, f"seed {seed}: the run was over before it was killed"
        kill(process)
        found = sum(done for _, done in to_do(log.read_text()).values())
        assert found >= kept[-1], f"seed {seed}: {kept[-1]} entries were kept, {found} found"
        kept.append(entries(store))
    print(f"entries after each kill: {kept}")
    assert 0 < kept[-1] < 2 * ALL, seed
    counted = to_do(label(clone, server, "killed"))
    assert counted["weak"][1] + counted["strong"][1] == kept[-1]
    assert_same(transcripts(clone), expected)
    assert not list((clone / "data").glob(".*.parquet"))


def test_a_changed_strong_arm_is_decoded_anew_and_it_alone(clone: Path, server: str) -> None:
    call(clone, "ingest", "-S", "arms.strong.decode.margin_frames=200")
    assert to_do(label(clone, server, "grown")) == {"weak": (0, ALL), "strong": (ALL, 0)}
