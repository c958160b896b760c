"""Training goes on where it was killed, stops where it should, and says when it cannot go on."""

import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from whisper_router.decider.network import NetworkDecider
from whisper_router.decider.options import MlpOptions, ResnetOptions, TrainingOptions
from whisper_router.decider.training import (
    CYCLE_FLOOR,
    Examples,
    best_point,
    class_weight,
    fit_network,
    learning_rate,
    pad,
    training_key,
)
from whisper_router.errors import UserError
from whisper_router.features.store import FeatureReader
from whisper_router.store import ContentStore

LAYERS, WIDTH = 3, 4
MLP = MlpOptions(kind="mlp", extractor="toy", hidden=8, epochs=5, batch_size=8, learning_rate=0.01)
RESNET = ResnetOptions(
    kind="resnet", extractor="toy", channels=6, epochs=4, batch_size=8, learning_rate=0.01, monitor="loss"
)
BOTH = pytest.mark.parametrize("options", [MLP, RESNET], ids=["mlp", "resnet"])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def parts(examples, tmp_path) -> tuple[Examples, Examples]:
    """42 utterances to train on and 17 to judge by, of unlike lengths, whose label shows a little."""
    random = np.random.default_rng(0)
    made = []
    for name, size in (("train", 42), ("dev", 17)):
        labels = np.arange(size) % 2
        features = [
            (random.standard_normal((random.integers(4, 30), LAYERS, WIDTH)) + 0.2 * label).astype(np.float16)
            for label in labels
        ]
        made.append(examples(tmp_path / name, features, labels))
    return made[0], made[1]


class KilledError(Exception):
    pass


class Counted:
    """A reader that counts its batches, and fails after so many."""

    def __init__(self, reader: FeatureReader, until: float = math.inf) -> None:
        self.reader, self.until, self.batches = reader, until, 0

    @property
    def extractor(self) -> dict[str, object]:
        return self.reader.extractor

    def sha256(self, utterance: str) -> str:
        return self.reader.sha256(utterance)

    def batch(self, ids: Sequence[str]) -> list[np.ndarray]:
        if self.batches >= self.until:
            raise KilledError
        self.batches += 1
        return self.reader.batch(ids)


def counted(examples: Examples, until: float = math.inf) -> Examples:
    return replace(examples, reader=Counted(examples.reader, until))


def equal_weights(one: NetworkDecider, other: NetworkDecider) -> bool:
    first, second = one.network.state_dict(), other.network.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def read(path: Path) -> dict:
    return torch.load(io.BytesIO(ContentStore.read_training(path)), weights_only=True)


def states(cache: Path) -> list[Path]:
    return sorted(cache.glob("trainings/*/*"))


@BOTH
@pytest.mark.parametrize("after", [9, 16])
def test_a_training_that_was_killed_goes_on_to_equal_weights_and_an_equal_curve(
    options, after, parts, cache, tmp_path, monkeypatch
):
    train, dev = parts
    with monkeypatch.context() as other:
        other.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "other"))
        wanted, curve = NetworkDecider.fit(options, train, dev, "whole")
    with pytest.raises(KilledError):
        NetworkDecider.fit(options, counted(train, after), dev, "killed")
    assert len(states(cache)) == 1
    torch.manual_seed(12345)
    rest = counted(train)
    found, again = NetworkDecider.fit(options, rest, dev, "resumed")
    assert again == curve
    assert equal_weights(found, wanted)
    epochs = (after - 1) // 6  # six batches an epoch, after one that tells the features' shape
    assert rest.reader.batches == 1 + 6 * (options.epochs - epochs)
    assert len(states(cache)) == 1


@BOTH
def test_a_training_that_was_killed_while_it_judged_goes_on(options, parts, tmp_path, monkeypatch):
    train, dev = parts
    with pytest.raises(KilledError):
        NetworkDecider.fit(options, train, counted(dev, 4), "killed")
    found = NetworkDecider.fit(options, train, dev, "resumed")
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "other"))
    wanted = NetworkDecider.fit(options, train, dev, "whole")
    assert found[1] == wanted[1]
    assert equal_weights(found[0], wanted[0])


@BOTH
def test_a_finished_training_is_not_repeated(options, parts):
    train, dev = parts
    first, curve = NetworkDecider.fit(options, train, dev, "first")
    train, dev = counted(train), counted(dev)
    second, again = NetworkDecider.fit(options, train, dev, "second")
    assert (train.reader.batches, dev.reader.batches) == (1, 0)  # one tells the features' shape
    assert again == curve
    assert equal_weights(first, second)


def test_the_state_is_another_s_where_anything_differs(parts):
    train, dev = parts
    fewer = replace(train, ids=train.ids[:-1], labels=train.labels[:-1])
    keys = [
        training_key(MLP, train, dev),
        training_key(MLP.model_copy(update={"seed": 1}), train, dev),
        training_key(MLP.model_copy(update={"epochs": 6}), train, dev),
        training_key(RESNET, train, dev),
        training_key(MLP, dev, train),
        training_key(MLP, fewer, dev),
        training_key(MLP, replace(train, labels=1 - train.labels), dev),
        training_key(MLP, replace(train, ids=train.ids[::-1]), dev),
    ]
    other = Counted(train.reader)
    other.reader.extractor = {"made": "otherwise"}
    keys.append(training_key(MLP, replace(train, reader=other), dev))
    assert len(set(keys)) == len(keys)


def test_a_damaged_state_begins_anew_with_a_message(parts, cache, capsys):
    train, dev = parts
    wanted, curve = NetworkDecider.fit(MLP, train, dev, "first")
    (path,) = states(cache)
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[whole.index(b"dev_loss")] ^= 1
    for damaged in (b"", b"no zip", whole[: len(whole) // 2], bytes(middle)):
        path.write_bytes(damaged)
        found, again = NetworkDecider.fit(MLP, train, dev, "again")
        assert f"content store: {path} was damaged" in capsys.readouterr().err
        assert again == curve
        assert equal_weights(found, wanted)


def test_a_state_with_any_changed_byte_is_deleted_and_the_training_begun_anew(parts, cache, capsys):
    train, dev = parts
    options = MLP.model_copy(update={"epochs": 2})
    wanted, curve = NetworkDecider.fit(options, train, dev, "first")
    (path,) = states(cache)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for place in (0, 31, 32, len(whole) - 1, *random.integers(0, len(whole), 20)):
        changed = bytearray(whole)
        changed[place] ^= random.integers(1, 256)
        path.write_bytes(changed)
        rest = counted(train)
        found, again = NetworkDecider.fit(options, rest, dev, "again")
        assert capsys.readouterr().err.count(f"content store: {path} was damaged; it is deleted") == 1
        assert rest.reader.batches == 1 + 6 * options.epochs
        assert again == curve
        assert equal_weights(found, wanted)


def test_features_that_changed_under_the_same_ids_and_labels_are_trained_on_again(
    parts, examples, cache, tmp_path
):
    train, dev = parts
    _, curve = NetworkDecider.fit(MLP, train, dev, "first")
    shifted = [feature + np.float16(1) for feature in train.reader.batch(train.ids)]
    again = examples(tmp_path / "train", shifted, train.labels)
    assert (list(again.ids), again.reader.extractor) == (list(train.ids), train.reader.extractor)
    assert training_key(MLP, again, dev) != training_key(MLP, train, dev)
    rest = counted(again)
    _, other = NetworkDecider.fit(MLP, rest, dev, "second")
    assert rest.reader.batches == 1 + 6 * MLP.epochs
    assert other != curve
    assert len(states(cache)) == 2
    elsewhere = examples(tmp_path / "elsewhere", train.reader.batch(train.ids), train.labels)
    assert training_key(MLP, elsewhere, dev) == training_key(MLP, train, dev)


class Scripted(torch.nn.Module):
    """Logits of a given size and sign, another for each epoch: dev figures that the test has written."""

    def __init__(self, epochs: Sequence[tuple[float, int]]) -> None:
        super().__init__()
        self.output = torch.nn.Linear(1, 1)
        self.epochs, self.epoch = epochs, 0

    def train(self, mode: bool = True) -> "Scripted":
        self.epoch += mode
        return super().train(mode)

    def forward(self, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if self.training:
            return self.output(torch.zeros(len(states), 1))[:, 0]
        size, wrong = self.epochs[self.epoch - 1]
        logits = size * (2 * states[:, 0, 0, 0].float() - 1)
        logits[:wrong] *= -1
        return logits


def scripted(examples, folder: Path, options: TrainingOptions, epochs: Sequence[tuple[float, int]]) -> list:
    labels = np.arange(8) % 2
    made = examples(folder / "shown", [np.full((1, 1, 1), label, np.float16) for label in labels], labels)
    options = options.model_copy(update={"epochs": len(epochs), "batch_size": 8})
    return fit_network(Scripted(epochs), options, made, made, folder / "state.pt", "scripted")


@pytest.mark.parametrize(
    ("patience", "run"), [(1, 3), (2, 7), (3, 8), (None, 8)], ids=["one", "two", "three", "none"]
)
def test_training_stops_after_so_many_epochs_without_a_better_one(examples, tmp_path, patience, run):
    sizes = [1.0, 2.0, 1.5, 3.0, 4.0, 3.5, 3.9, 3.8]
    options = MLP.model_copy(update={"patience": patience})
    curve = scripted(examples, tmp_path, options, [(size, 0) for size in sizes])
    assert [point["epoch"] for point in curve] == list(range(1, run + 1))


@pytest.mark.parametrize(("monitor", "best"), [("error", 2), ("loss", 4)])
def test_the_first_best_epoch_is_kept(examples, tmp_path, monitor, best):
    options = MLP.model_copy(update={"patience": 2, "monitor": monitor})
    curve = scripted(
        examples, tmp_path, options, [(1.0, 2), (1.0, 1), (0.9, 1), (2.0, 1), (1.2, 2), (1.1, 2)]
    )
    assert [point["dev_error"] for point in curve[:4]] == [0.25, 0.125, 0.125, 0.125]
    assert len(curve) == best + 2
    assert curve[best_point(curve, monitor)]["epoch"] == best


def test_the_network_has_the_weights_of_the_epoch_that_is_kept(parts):
    train, dev = parts
    options = MLP.model_copy(
        update={"monitor": "error", "epochs": 12, "learning_rate": 0.05, "patience": None}
    )
    decider, curve = NetworkDecider.fit(options, train, dev, "kept")
    errors = [point["dev_error"] for point in curve]
    wrong = (decider.score(dev.reader.batch(dev.ids)) > 0.5) != (dev.labels == 1)
    assert errors[-1] > min(errors)
    assert wrong.mean() == pytest.approx(min(errors), abs=1e-6)


def options_of(**change: object) -> TrainingOptions:
    return MLP.model_copy(update=change)


@settings(max_examples=40)
@given(epochs=st.integers(1, 12), batches=st.integers(1, 9), rate=st.floats(1e-6, 1))
def test_cosine_is_torch_s_by_epoch(epochs, batches, rate):
    options = options_of(schedule="cosine", epochs=epochs, learning_rate=rate)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
    for epoch in range(epochs):
        wanted = optimiser.param_groups[0]["lr"]
        for batch in range(batches):
            step = epoch * batches + batch
            assert learning_rate(options, step, epochs * batches) == pytest.approx(
                wanted, rel=1e-6, abs=1e-12
            )
        optimiser.step()
        schedule.step()


@settings(max_examples=40)
@given(steps=st.integers(2, 300), rate=st.floats(1e-6, 1))
def test_cyclic_is_the_rising_half_of_torch_s(steps, rate):
    options = options_of(schedule="cyclic", learning_rate=rate)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = torch.optim.lr_scheduler.CyclicLR(optimiser, CYCLE_FLOOR, rate, steps, cycle_momentum=False)
    rates = []
    for step in range(steps):
        rates.append(learning_rate(options, step, steps))
        assert rates[-1] == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-6, abs=1e-12)
        optimiser.step()
        schedule.step()
    assert rates[0] == CYCLE_FLOOR
    assert rates == sorted(rates)
    assert rate * (1 - 1.01 / steps) <= rates[-1] < rate


def test_constant_is_constant():
    assert {learning_rate(options_of(schedule="constant"), step, 50) for step in range(50)} == {0.01}


def test_the_optimiser_follows_the_schedule(parts):
    train, dev = parts
    for schedule in ("cosine", "cyclic", "constant"):
        options = options_of(schedule=schedule, patience=None)
        _, curve = NetworkDecider.fit(options, train, dev, schedule)
        steps = options.epochs * 6
        assert [point["learning_rate"] for point in curve] == [
            learning_rate(options, 6 * epoch, steps) for epoch in range(options.epochs)
        ]


def test_a_learning_rate_of_almost_nothing_moves_no_weight(parts):
    """Adam moves a weight by the learning rate at most, and ``cyclic`` begins at 1e-8."""
    train, dev = parts
    one = replace(train, ids=train.ids[:8], labels=train.labels[:8])
    for options in (MLP, RESNET):
        options = options.model_copy(update={"schedule": "cyclic", "epochs": 1, "weight_decay": 0.0})
        decider, _ = NetworkDecider.fit(options, one, dev, "one step")
        torch.manual_seed(options.seed)
        fresh = type(decider.network)(options, LAYERS, WIDTH)
        for after, before in zip(decider.network.parameters(), fresh.parameters(), strict=True):
            torch.testing.assert_close(after, before, atol=1e-7, rtol=0)


@settings(max_examples=60)
@given(positive=st.integers(0, 40), negative=st.integers(0, 40), below=st.floats(0, 0.5))
def test_classes_are_weighted_only_where_the_rarer_has_a_smaller_share(positive, negative, below):
    if positive + negative == 0:
        return
    weight = class_weight(options_of(class_weight_below=below), np.repeat([1, 0], [positive, negative]))
    rarer = min(positive, negative) / (positive + negative)
    if 0 < rarer < below:
        assert weight == pytest.approx(negative / positive)
    else:
        assert weight == 1


@pytest.mark.parametrize("below", [0.2, 0.0], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("options", [MLP, RESNET], ids=["mlp", "resnet"])
def test_scores_of_skewed_classes_stay_near_the_base_rate(options, below, examples, tmp_path):
    random = np.random.default_rng(5)
    parts = []
    for name, size in (("train", 240), ("dev", 120)):
        labels = (np.arange(size) % 10 == 0).astype(int)
        features = [random.standard_normal((12, LAYERS, WIDTH)).astype(np.float16) for _ in labels]
        parts.append(examples(tmp_path / f"skewed-{name}", features, labels))
    train, dev = parts
    options = options.model_copy(update={"class_weight_below": below, "epochs": 6, "batch_size": 32})
    decider, curve = NetworkDecider.fit(options, train, dev, "skewed")
    scores = decider.score(dev.reader.batch(dev.ids))
    assert scores.mean() == pytest.approx(0.1, abs=0.06)
    base = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert min(point["dev_loss"] for point in curve) < base + 0.1


def test_class_weights_do_not_change_what_the_loss_of_the_curve_measures(examples, tmp_path):
    """With weights that stand still the train loss is that of the dev split, if they are the same split."""
    random = np.random.default_rng(6)
    labels = (np.arange(50) % 10 == 0).astype(int)
    features = [random.standard_normal((5, LAYERS, WIDTH)).astype(np.float16) for _ in labels]
    same = examples(tmp_path / "same", features, labels)
    still = {"learning_rate": 1e-12, "dropout": 0.0, "epochs": 1, "weight_decay": 0.0}
    options = MLP.model_copy(update={**still, "class_weight_below": 0.2})
    assert class_weight(options, labels) == pytest.approx(9)
    decider, (point,) = NetworkDecider.fit(options, same, same, "still")
    assert point["train_loss"] == pytest.approx(point["dev_loss"], abs=2e-6)
    assert point["train_loss"] == pytest.approx(log_loss(labels, decider.score(features)), abs=1e-5)


@BOTH
def test_bfloat16_trains_to_much_the_same(options, parts):
    train, dev = parts
    losses = []
    for precision in ("float32", "bfloat16"):
        update = {"precision": precision, "patience": None}
        decider, curve = NetworkDecider.fit(options.model_copy(update=update), train, dev, precision)
        losses.append([point["train_loss"] for point in curve])
        assert all(weight.dtype == torch.float32 for weight in decider.network.parameters())
        assert np.isfinite(decider.score(dev.reader.batch(dev.ids))).all()
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.1)
    assert losses[0] != losses[1]


@BOTH
@pytest.mark.parametrize("broken", ["train", "dev"])
def test_features_that_are_not_finite_are_refused_by_name(options, broken, parts, examples, tmp_path):
    train, dev = parts
    labels = np.arange(9) % 2
    nan = examples(tmp_path / "nan", [np.full((40, LAYERS, WIDTH), np.nan, np.float16)] * 9, labels)
    with pytest.raises(UserError, match="train: name: epoch 1: the loss is not finite"):
        NetworkDecider.fit(options, *((nan, dev) if broken == "train" else (train, nan)), "train: name")


@BOTH
def test_the_last_batch_may_be_a_single_short_utterance(options, examples, tmp_path):
    features = [np.ones((1, LAYERS, WIDTH), np.float16)] * 9
    made = examples(tmp_path / "short", features, np.arange(9) % 2)
    decider, curve = NetworkDecider.fit(options, made, made, "short")
    assert np.isfinite(decider.score(features)).all()
    assert len(curve) > 0


@settings(max_examples=30)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_padding_puts_zeros_at_the_end(lengths):
    features = [np.full((length, 2, 3), i + 1, np.float16) for i, length in enumerate(lengths)]
    states, found = pad(features)
    assert found.tolist() == lengths
    assert states.shape == (len(lengths), max(lengths), 2, 3)
    assert states.dtype == torch.float16
    for i, length in enumerate(lengths):
        assert (states[i, :length] == i + 1).all()
        assert (states[i, length:] == 0).all()


def test_the_state_lies_in_the_content_store(parts, cache):
    train, dev = parts
    NetworkDecider.fit(MLP, train, dev, "any")
    path = ContentStore().training_path(training_key(MLP, train, dev))
    assert states(cache) == [path]
    state = read(path)
    assert set(state) == {"network", "optimiser", "shuffle_rng", "torch_rng", "curve", "best"}
    assert len(state["curve"]) == MLP.epochs
