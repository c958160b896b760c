"""The router: one encoding an arm and utterance, the right route, parts that belong together."""

import io
import json
import shutil

import numpy as np
import pytest
import soundfile

from whisper_router.audio import SAMPLE_RATE
from whisper_router.errors import UserError
from whisper_router.files import read_json, write_json
from whisper_router.router import Router, RouterMismatchError, write_files

KINDS = ("encoder", "confidence", "strong_encoder")
ALWAYS_STRONG, NEVER_STRONG = 0.0, 1.1


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def fresh(routers, kind) -> Router:
    """A router that has not loaded an arm yet."""
    return Router.load(routers[kind])


@pytest.fixture(scope="module")
def loaded(routers) -> dict[str, Router]:
    return {kind: Router.load(folder) for kind, folder in routers.items()}


@pytest.fixture
def router(loaded, kind) -> Router:
    return loaded[kind]


@pytest.fixture
def copy(routers, kind, tmp_path):
    """A router's folder that a test may spoil."""
    return shutil.copytree(routers[kind], tmp_path / "router")


@pytest.fixture
def waves(clips, wav) -> list[bytes]:
    return [wav(clip) for clip in clips]


def named(router: Router, counts) -> dict[str, int]:
    names = {router.description.weak.sha256: "weak", router.description.strong.sha256: "strong"}
    return {names[key]: count for key, count in counts.items()}


@pytest.mark.parametrize(
    ("kind", "threshold", "encoded", "decoded"),
    [
        ("encoder", NEVER_STRONG, {"weak": 6}, {"weak": 6}),
        ("encoder", ALWAYS_STRONG, {"weak": 6, "strong": 6}, {"strong": 6}),
        ("encoder", None, {"weak": 6, "strong": 3}, {"weak": 3, "strong": 3}),
        ("strong_encoder", NEVER_STRONG, {"weak": 6, "strong": 6}, {"weak": 6}),
        ("strong_encoder", ALWAYS_STRONG, {"strong": 6}, {"strong": 6}),
        ("strong_encoder", None, {"weak": 3, "strong": 6}, {"weak": 3, "strong": 3}),
        ("confidence", NEVER_STRONG, {"weak": 6}, {"weak": 6}),
        ("confidence", ALWAYS_STRONG, {"weak": 6, "strong": 6}, {"weak": 6, "strong": 6}),
        ("confidence", None, {"weak": 6, "strong": 3}, {"weak": 6, "strong": 3}),
    ],
    indirect=["kind"],
)
def test_encoder_and_decoder_calls_of_each_route(fresh, waves, calls, threshold, encoded, decoded):
    router = fresh
    made = router.transcribe(waves, threshold)
    assert [row.error for row in made] == [None] * 6
    assert named(router, calls.encoded) == encoded
    assert named(router, calls.decoded) == decoded
    assert calls.mels == len(waves)
    assert set(calls.loaded) == set(calls.encoded)
    assert len(calls.loaded) == len(calls.encoded)


def test_one_utterance_by_each_route(router, waves, calls):
    reads = router.description.extractor.arm
    for threshold, other in ((NEVER_STRONG, reads == "strong"), (ALWAYS_STRONG, reads == "weak")):
        calls.encoded.clear()
        calls.mels = 0
        router.transcribe(waves[:1], threshold)
        assert sorted(calls.encoded.values()) == [1] * (1 + other)
        assert calls.encoded[getattr(router.description, reads).sha256] == 1
        assert calls.mels == 1


def test_arms_with_contexts_of_their_own_each_make_a_mel(package_router, plain, tmp_path, waves, calls, kind):
    longer = plain.model_copy(update={"floor_frames": 120})
    router = Router.load(package_router(tmp_path / "router", kind, strong=longer))
    calls.mels = 0
    reads = router.description.extractor.arm
    made = router.transcribe(waves, ALWAYS_STRONG if reads == "weak" else NEVER_STRONG)
    assert calls.mels == 2 * len(waves)
    assert {row.arm for row in made} == {"strong" if reads == "weak" else "weak"}


def test_texts_are_those_of_the_chosen_arm_alone(router, make_arm, clips, waves):
    alone = {
        arm: [made.text for clip in clips for made in model.decode(model.encode_audio([clip]), [clip])]
        for arm, model in (("weak", make_arm("english")), ("strong", make_arm("multilingual")))
    }
    made = router.transcribe(waves)
    assert {row.arm for row in made} == {"weak", "strong"}
    for i, row in enumerate(made):
        assert row.text == alone[row.arm][i] != alone["weak" if row.arm == "strong" else "strong"][i]
        assert row.model == getattr(router.description, row.arm).model
        assert row.arm == ("strong" if row.score >= row.threshold else "weak")
        assert row.threshold == router.policy.threshold
        assert row.duration_s == clips[i].size / SAMPLE_RATE


def test_a_row_does_not_depend_on_its_batch_mates(router, waves):
    together = router.transcribe(waves)
    for wave, row in list(zip(waves, together, strict=True))[:3]:
        (alone,) = router.transcribe([wave])
        assert (alone.text, alone.arm) == (row.text, row.arm)
        assert alone.score == pytest.approx(row.score, abs=1e-3)


def test_deciding_is_what_transcribing_does_and_spares_the_other_arm(fresh, kind, waves, calls):
    router = fresh
    decided = router.decide(waves)
    reads = router.description.extractor.arm
    assert calls.loaded == [getattr(router.description, reads).sha256]
    assert named(router, calls.encoded) == {reads: len(waves)}
    assert named(router, calls.decoded) == ({"weak": len(waves)} if kind == "confidence" else {})
    assert not hasattr(decided[0], "text")
    made = router.transcribe(waves)
    assert [(row.score, row.arm, row.model) for row in decided] == [
        (row.score, row.arm, row.model) for row in made
    ]
    assert {row.arm for row in decided} == {"weak", "strong"}


def test_threshold_override(router, waves):
    waves = waves[:3]
    scores = [row.score for row in router.decide(waves)]
    assert len(set(scores)) == len(scores)
    highest = max(scores)
    for threshold, strong in (
        (NEVER_STRONG, []),
        (highest, [scores.index(highest)]),
        (np.nextafter(highest, 2), []),
        (ALWAYS_STRONG, list(range(len(scores)))),
    ):
        rows = router.decide(waves, threshold)
        assert [i for i, row in enumerate(rows) if row.arm == "strong"] == strong
        assert {row.threshold for row in rows} == {threshold}
        assert [row.score for row in rows] == scores
    rows = router.transcribe(waves, highest)
    assert [i for i, row in enumerate(rows) if row.arm == "strong"] == [scores.index(highest)]
    assert {row.threshold for row in rows} == {highest}


def test_one_bad_file_fails_its_own_row(router, waves, tmp_path):
    good = tmp_path / "good.wav"
    good.write_bytes(waves[0])
    (tmp_path / "empty.wav").write_bytes(b"")
    sources = [
        good,
        tmp_path / "missing.wav",
        waves[1],
        b"not a sound",
        tmp_path / "empty.wav",
        tmp_path,
        waves[2],
    ]
    expected = router.transcribe([waves[0], waves[1], waves[2]])
    for rows in (router.transcribe(sources), router.decide(sources)):
        failed = {i: row.error for i, row in enumerate(rows) if row.error}
        assert set(failed) == {1, 3, 4, 5}
        assert failed[1] == f"{tmp_path / 'missing.wav'}: no such file"
        assert failed[3].startswith("audio bytes: not readable as audio")
        assert failed[4] == f"{tmp_path / 'empty.wav'}: empty"
        for i in failed:
            assert (rows[i].score, rows[i].arm, rows[i].model, rows[i].segments) == (None, None, None, ())
            assert rows[i].threshold == router.policy.threshold
        assert [rows[i].score for i in (0, 2, 6)] == [row.score for row in expected]
    transcribed = router.transcribe(sources)
    assert [transcribed[i].text for i in (0, 2, 6)] == [row.text for row in expected]
    assert transcribed[1].text is None


def test_only_bad_files(router, calls):
    (made,) = router.transcribe([b"not a sound"])
    assert made.error
    assert not calls.encoded


def test_bytes_a_path_and_a_string_give_the_same(router, waves, tmp_path):
    path = tmp_path / "sound.wav"
    path.write_bytes(waves[3])
    first, *others = router.transcribe([waves[3], path, str(path)])
    assert first.text
    assert others == [first, first]


def test_long_audio_is_cut_into_segments_that_tile_it(router, speech, wav):
    parts = [speech(2.5, seed) for seed in range(24)]
    long = np.concatenate([np.concatenate([part, np.zeros(1600, np.float32)]) for part in parts])
    assert long.size > 2 * 30 * SAMPLE_RATE
    short = speech(1.0, 5)
    made, brief = router.transcribe([wav(long), wav(short)])
    (decided,) = router.decide([wav(long)])
    ends = [0.0, *(segment.end_s for segment in made.segments)]
    assert len(made.segments) >= 3
    assert [segment.start_s for segment in made.segments] == ends[:-1]
    assert ends[-1] == made.duration_s == long.size / SAMPLE_RATE
    assert all(0 < segment.end_s - segment.start_s <= 30 for segment in made.segments)
    assert made.text == " ".join(segment.text for segment in made.segments if segment.text)
    assert all(segment.text for segment in made.segments)
    assert made.score == max(segment.score for segment in made.segments)
    assert made.arm == ("strong" if made.score >= made.threshold else "weak")
    assert [s.score for s in decided.segments] == pytest.approx([s.score for s in made.segments], abs=1e-3)
    assert len(brief.segments) == 1
    for segment in made.segments[1:]:
        samples = long[round(segment.start_s * SAMPLE_RATE) : round(segment.end_s * SAMPLE_RATE)]
        (alone,) = router.transcribe([wav(samples)])
        assert (alone.text, alone.arm) == (segment.text, segment.arm)


def test_segments_of_both_arms_name_both_models(router, speech, wav):
    long = np.concatenate([speech(2.5, seed) for seed in range(14)])
    scores = sorted({segment.score for segment in router.decide([wav(long)])[0].segments})
    assert len(scores) > 1
    (made,) = router.transcribe([wav(long)], scores[-1])
    assert {segment.arm for segment in made.segments} == {"weak", "strong"}
    assert made.arm == "strong"
    assert set(made.model.split("+")) == {router.description.weak.model, router.description.strong.model}


def test_empty_list(router):
    assert router.transcribe([]) == []
    assert router.decide([]) == []


def test_a_swapped_decider_is_refused(copy, package_router, kind, tmp_path):
    other = package_router(tmp_path / "other", kind, c=0.01)
    shutil.rmtree(copy / "decider")
    shutil.copytree(other / "decider", copy / "decider")
    with pytest.raises(RouterMismatchError, match="'half' was calibrated for another decider;"):
        Router.load(copy)


@pytest.mark.parametrize("arm", ["weak", "strong"])
@pytest.mark.parametrize(
    "change",
    [{"decode": {"floor_frames": 300}}, {"decode": {"language": "de"}}, {"sha256": "0" * 64}],
    ids=["context", "language", "weights"],
)
def test_edited_arms_are_refused(copy, arm, change):
    description = read_json(copy / "router.json")
    read = description["extractor"].get("arm", "weak") == arm
    parts = f"{arm}_arm, extractor" if read else f"{arm}_arm"
    for key, value in change.items():
        if isinstance(value, dict):
            description[arm][key] |= value
        else:
            description[arm][key] = value
    write_json(copy / "router.json", description)
    with pytest.raises(RouterMismatchError, match=f"calibrated for another {parts};"):
        Router.load(copy)


@pytest.mark.parametrize("kind", ["encoder", "strong_encoder"], indirect=True)
def test_an_edited_extractor_is_refused(copy):
    description = read_json(copy / "router.json")
    description["extractor"]["pool"] = 8
    write_json(copy / "router.json", description)
    with pytest.raises(RouterMismatchError, match="calibrated for another extractor;"):
        Router.load(copy)


def test_another_normaliser_is_refused(copy, monkeypatch):
    monkeypatch.setattr("whisper_router.router.NORMALISER", "whisper.EnglishTextNormalizer/20990101")
    with pytest.raises(RouterMismatchError, match="calibrated for another normaliser;"):
        Router.load(copy)


def test_a_policy_of_another_router_is_refused_with_all_that_differs(routers, copy, kind):
    other = KINDS[KINDS.index(kind) - 1]
    shutil.copy(routers[other] / "policies/half.json", copy / "policies/half.json")
    with pytest.raises(RouterMismatchError, match="calibrated for another extractor, decider;"):
        Router.load(copy)


def test_weights_that_differ_are_refused_by_name(package_router, checkpoints, tmp_path, waves, kind):
    mine = tmp_path / "mine.pt"
    shutil.copy(checkpoints["english"], mine)
    folder = package_router(tmp_path / "router", kind, weak_weights=mine)
    assert Router.load(folder).transcribe(waves[:1])[0].error is None
    shutil.copy(checkpoints["multilingual"], mine)
    with pytest.raises(UserError, match=f"{mine}: holds weights .* not the .* put the right {mine} there"):
        Router.load(folder).transcribe(waves[:1])


def test_missing_weights_are_named(package_router, checkpoints, tmp_path, waves):
    mine = tmp_path / "mine.pt"
    shutil.copy(checkpoints["multilingual"], mine)
    folder = package_router(tmp_path / "router", "encoder", strong_weights=mine)
    assert Router.load(folder).transcribe(waves[:1], ALWAYS_STRONG)[0].text
    mine.unlink()
    with pytest.raises(UserError, match=r"mine\.pt is not a file"):
        Router.load(folder)


def test_an_unknown_key_is_refused(copy):
    description = read_json(copy / "router.json") | {"surprise": 1}
    (copy / "router.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="surprise"):
        Router.load(copy)


def test_no_router_there(tmp_path):
    with pytest.raises(UserError, match=r"nowhere holds no router\.json.*run"):
        Router.load(tmp_path / "nowhere")


def test_a_threshold_that_compares_with_nothing_is_refused(router, waves):
    for threshold in (float("nan"), float("inf")):
        with pytest.raises(UserError, match="threshold"):
            router.decide(waves[:1], threshold)


@pytest.mark.parametrize("policy", ["weak", "strong"])
def test_an_arm_asked_for_by_name_runs_alone_and_unscored(fresh, waves, calls, policy):
    made = fresh.transcribe(waves, policy=policy)
    assert named(fresh, calls.encoded) == named(fresh, calls.decoded) == {policy: len(waves)}
    assert calls.loaded == [getattr(fresh.description, policy).sha256]
    assert {(row.arm, row.score, row.threshold, row.policy) for row in made} == {(policy, None, None, policy)}
    limit = NEVER_STRONG if policy == "weak" else ALWAYS_STRONG
    assert [row.text for row in made] == [row.text for row in fresh.transcribe(waves, limit)]
    (decided,) = fresh.decide(waves[:1], policy=policy)
    assert (decided.arm, decided.score) == (policy, None)


def test_every_packaged_policy_is_to_be_had_by_name(router, waves):
    assert set(router.policies) == {"half", "never"}
    assert {row.arm for row in router.decide(waves, policy="never")} == {"weak"}
    half = router.decide(waves, policy="half")
    assert half == router.decide(waves)
    assert {(row.policy, row.threshold) for row in half} == {("half", router.policy.threshold)}
    assert {row.policy for row in router.decide(waves, 0.3)} == {None}


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"policy": "nobody"}, "'nobody' is none of half, never, weak, strong"),
        ({"policy": "half", "threshold": 0.5}, "give one of them"),
    ],
)
def test_a_route_that_is_not_to_be_had_is_refused(router, waves, asked, reason):
    with pytest.raises(UserError, match=reason):
        router.transcribe(waves[:1], **asked)


def test_each_row_may_have_a_route_of_its_own(router, waves, calls):
    asked = [("weak", None), ("strong", None), (None, None), ("never", None), (None, 0.0), ("strong", None)]
    routes = [router.route(policy, threshold) for policy, threshold in asked]
    together = router.process(waves, routes)
    for wave, row, (policy, threshold) in zip(waves, together, asked, strict=True):
        (alone,) = router.transcribe([wave], threshold, policy)
        assert (row.text, row.arm, row.policy) == (alone.text, alone.arm, alone.policy)


def test_what_each_arm_did_is_told(router, waves):
    cascade = router.description.extractor.kind == "confidence"
    reads = router.description.extractor.arm
    for row in router.transcribe(waves):
        ((segment,), arms) = row.segments, [work.arm for work in row.segments[0].spent]
        decoded = [work.arm for work in segment.spent if work.tokens is not None]
        assert set(arms) == {reads, row.arm}
        assert set(decoded) == ({"weak", row.arm} if cascade else {row.arm})
        assert all(work.frames >= 50 for work in segment.spent)
        assert segment.avg_logprob < 0
    (decided,) = router.decide(waves[:1])
    assert {work.arm for work in decided.segments[0].spent} == {reads}


def test_a_missing_default_policy_is_named(copy):
    (copy / "policies" / "half.json").unlink()
    with pytest.raises(UserError, match=r"policies/half\.json is missing; package it again"):
        Router.load(copy)


def test_arms_that_are_the_same_are_shared(routers, package_router, plain, tmp_path, waves):
    first = Router.load(routers["encoder"])
    first.transcribe(waves[:1], policy="weak")
    other = plain.model_copy(update={"floor_frames": 120})
    second = Router.load(package_router(tmp_path / "router", "confidence", strong=other))
    first.transcribe(waves[:1], policy="strong")
    second.share_arms(first)
    assert second.weak is first.weak
    assert second.strong is not first.strong


def test_many_windows_are_held_few_at_a_time(package_router, tmp_path, waves, speech, wav, monkeypatch):
    router = Router.load(package_router(tmp_path / "router", "encoder", batch_size=1))
    expected = router.transcribe(waves)
    sizes = []
    hear = Router.hear

    def counted(self, windows, routes, transcribe):
        sizes.append(len(windows))
        return hear(self, windows, routes, transcribe)

    monkeypatch.setattr(Router, "hear", counted)
    long = np.concatenate([speech(2.5, seed) for seed in range(60)])
    flac = io.BytesIO()
    soundfile.write(flac, long, SAMPLE_RATE, format="FLAC")
    truncated = flac.getvalue()[: len(flac.getvalue()) * 2 // 3]
    made = router.transcribe([*waves[:3], truncated, wav(long), *waves[3:]])
    assert max(sizes) == 4
    assert made[3].error
    assert made[3].segments == ()
    assert made[4].segments[-1].end_s == long.size / SAMPLE_RATE
    assert [row.text for row in made[:3] + made[5:]] == [row.text for row in expected]


@pytest.mark.parametrize("threshold", [NEVER_STRONG, None, ALWAYS_STRONG])
@pytest.mark.parametrize(("seconds", "reason"), [(0.05, "duration"), (5.0, "level")])
def test_silence_has_no_words_no_score_and_costs_nothing(
    router, waves, wav, calls, threshold, seconds, reason
):
    silence = wav(np.zeros(round(seconds * SAMPLE_RATE), np.float32))
    beside, quiet = router.transcribe([waves[0], silence], threshold)
    (segment,) = quiet.segments
    assert (quiet.text, quiet.arm, quiet.score, quiet.error) == ("", "weak", None, None)
    assert (segment.no_speech, segment.no_speech_prob, segment.spent) == (reason, 1.0, ())
    assert beside.text
    assert beside.segments[0].no_speech is None
    assert max(calls.encoded.values()) == 1
    (decided,) = router.decide([silence], threshold)
    assert (decided.arm, decided.score, decided.segments[0].no_speech) == ("weak", None, reason)
    assert decided.segments[0].text is None


def test_what_the_decoder_hears_no_speech_in_is_the_weak_arms(
    package_router, plain, tmp_path, waves, calls, kind
):
    """Whisper's rule, after one decoding; before the decision it is known to a cascade alone."""
    deaf = plain.model_copy(update={"no_speech_threshold": 0.0, "logprob_threshold": -1e-6})
    router = Router.load(package_router(tmp_path / "router", kind, weak=deaf, strong=deaf))
    made = router.transcribe(waves, ALWAYS_STRONG if kind == "confidence" else NEVER_STRONG)
    for row in made:
        assert (row.text, row.arm, row.segments[0].no_speech) == ("", "weak", "decoder")
        assert (row.score is None) == (kind == "confidence")
        assert len([work for work in row.segments[0].spent if work.tokens]) == 1


def test_two_sentences_keep_their_times_around_a_long_silence(router, speech, wav):
    pause, sentence = np.zeros(40 * SAMPLE_RATE, np.float32), speech(4)
    (made,) = router.transcribe([wav(np.concatenate([sentence, pause, sentence]))])
    spoken = [(s.start_s, s.end_s) for s in made.segments if s.no_speech is None]
    assert [round(start) for start, _ in spoken] == [0, 44]
    assert made.duration_s == pytest.approx(48)
    assert all(s.no_speech == "level" and s.text == "" and not s.spent for s in made.segments[1:-1])


@pytest.mark.parametrize("file", ["router.json", "policies/half.json", "decider/decider.json"])
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b"\xff\xfe{}",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b"[]",
        b"{}",
        b" " * (5 * 2**20),
        b"9" * 5000,
    ],
    ids=["deep", "not_utf_8", "nan", "infinite", "list", "keys", "large", "digits"],
)
def test_damaged_json_is_refused_by_name(copy, file, content):
    (copy / file).write_bytes(content)
    with pytest.raises(UserError, match=file.rpartition("/")[2]):
        Router.load(copy)


def test_hashes_are_compared_before_weights_are_parsed(copy, monkeypatch):
    monkeypatch.setattr("whisper_router.decider.logistic.load", lambda content: pytest.fail("parsed"))
    (copy / "decider" / "weights.safetensors").write_bytes(b"hostile")
    with pytest.raises(RouterMismatchError, match="another decider"):
        Router.load(copy)


@pytest.mark.parametrize("file", ["router.json", "decider/curve.json", "decider/weights.safetensors"])
def test_a_file_that_is_not_as_packaged_is_refused_by_name(copy, file):
    write_files(copy)
    assert Router.load(copy).policies
    (copy / file).write_bytes((copy / file).read_bytes() + b" ")
    with pytest.raises(RouterMismatchError, match=f"{file}: not as files.json has it"):
        Router.load(copy)


def test_embedded_weights_are_compared_before_they_are_parsed(copy, checkpoints, monkeypatch):
    (copy / "weights").mkdir()
    shutil.copy(checkpoints["english"], copy / "weights" / "weak.pt")
    write_files(copy / "weights")
    assert Router.load(copy).policies
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("parsed"))
    (copy / "weights" / "weak.pt").write_bytes(b"hostile")
    with pytest.raises(RouterMismatchError, match=r"weak\.pt"):
        Router.load(copy)
