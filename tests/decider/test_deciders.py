"""Every decider learns what can be learnt, is the same after a reload, and judges each utterance alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.metrics import log_loss, roc_auc_score

from whisper_router.decider.curve import draw_curve
from whisper_router.decider.options import (
    DeciderOptions,
    GbtOptions,
    LogisticOptions,
    MlpOptions,
    ResnetOptions,
    TransformerOptions,
)
from whisper_router.decider.registry import (
    DESCRIPTION,
    KINDS,
    Decider,
    decider_sha256,
    fit_decider,
    load_decider,
    save_decider,
)
from whisper_router.decider.scores import score_all
from whisper_router.decider.training import Examples, best_point
from whisper_router.errors import UserError
from whisper_router.files import read_json

LAYERS, WIDTH = 3, 6
OPTIONS: dict[str, DeciderOptions] = {
    "logistic": LogisticOptions(kind="logistic", extractor="toy"),
    "gbt": GbtOptions(kind="gbt", extractor="toy", trees=60, learning_rate=0.1, min_in_leaf=5),
    "mlp": MlpOptions(kind="mlp", extractor="toy", epochs=15, hidden=16, learning_rate=0.01),
    "transformer": TransformerOptions(
        kind="transformer", extractor="toy", width=8, heads=2, blocks=1, epochs=12, learning_rate=0.01
    ),
    "resnet": ResnetOptions(
        kind="resnet",
        extractor="toy",
        channels=12,
        strides=(1, 2),
        epochs=8,
        batch_size=32,
        learning_rate=0.003,
    ),
}
IDENTITY: dict[str, object] = {"options": {"kind": "encoder"}}
STORED = {"resnet": 3 * 2 * (2 * 12 + 1)}  # means, variances and counts of the norms
Data = tuple[list[np.ndarray], np.ndarray]


def problem(size: int, seed: int, noise: float = 1.0) -> Data:
    """Utterances of different lengths whose label shows in the mean of one number of one layer."""
    random = np.random.default_rng(seed)
    labels = np.arange(size) % 2
    features = []
    for label in labels:
        feature = random.standard_normal((random.integers(5, 20), LAYERS, WIDTH)) * noise
        feature[:, 1, 2] += 2.0 * label - 1.0
        features.append(feature.astype(np.float16))
    return features, labels


@dataclass(frozen=True)
class Trained:
    options: DeciderOptions
    decider: Decider
    curve: list[dict[str, float]]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def written(examples, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Examples]:
    return lambda data: examples(tmp_path_factory.mktemp("features") / "f", *data)


@pytest.fixture(scope="module")
def data(written) -> dict[str, Examples]:
    sizes = {"train": 160, "dev": 60}
    return {name: written(problem(size, seed)) for seed, (name, size) in enumerate(sizes.items())}


@pytest.fixture(scope="module", params=list(OPTIONS))
def trained(request: pytest.FixtureRequest, data: dict[str, Examples]) -> Trained:
    options = OPTIONS[request.param]
    return Trained(options, *fit_decider(options, data["train"], data["dev"], "toy"))


def saved(trained: Trained, folder: Path) -> Path:
    save_decider(folder, trained.decider, trained.options, IDENTITY)
    return folder


def test_every_kind_of_options_has_its_decider():
    assert set(KINDS) == set(OPTIONS)


def test_a_separable_problem_is_learnt(trained):
    features, labels = problem(200, seed=7)
    scores = trained.decider.score(features)
    assert roc_auc_score(labels, scores) > 0.9
    assert scores.shape == (200,)
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_array_equal(scores, np.round(scores, 6))


def test_what_cannot_be_learnt_is_not(data, trained):
    features, _ = problem(200, seed=8)
    labels = np.random.default_rng(0).integers(0, 2, 200)
    assert 0.3 < roc_auc_score(labels, trained.decider.score(features)) < 0.7


def test_a_reloaded_decider_gives_equal_scores(trained, tmp_path):
    features, _ = problem(40, seed=9)
    folder = saved(trained, tmp_path / "decider")
    loaded, description = load_decider(folder)
    assert type(loaded) is type(trained.decider)
    np.testing.assert_array_equal(loaded.score(features), trained.decider.score(features))
    assert loaded.macs(11) == trained.decider.macs(11)
    assert description == {
        "options": trained.options.model_dump(mode="json"),
        "extractor": IDENTITY,
        "parameters": trained.decider.parameters,
    }
    assert sorted(path.name for path in folder.iterdir()) == sorted([DESCRIPTION, trained.decider.FILE])


def test_a_score_does_not_depend_on_batch_mates_or_their_order(trained):
    features, _ = problem(30, seed=10)
    features.append(np.full((400, LAYERS, WIDTH), 60_000, np.float16))
    together = trained.decider.score(features)
    alone = np.array([trained.decider.score([feature])[0] for feature in features])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(trained.decider.score(features[::-1]), together[::-1])


def test_two_fits_with_the_same_seed_give_equal_weights(trained, data, tmp_path, monkeypatch):
    monkeypatch.setenv("WHISPER_ROUTER_CACHE", str(tmp_path / "cache"))
    again = KINDS[trained.options.kind].fit(trained.options, data["train"], data["dev"], "again")
    first = saved(trained, tmp_path / "first")
    second = saved(Trained(trained.options, *again), tmp_path / "second")
    assert again[1] == trained.curve
    assert decider_sha256(first) == decider_sha256(second)
    assert (first / trained.decider.FILE).read_bytes() == (second / trained.decider.FILE).read_bytes()


def test_a_decider_is_always_written_as_the_same_bytes(trained, tmp_path):
    hashes = {decider_sha256(saved(trained, tmp_path / str(i))) for i in range(10)}
    assert len(hashes) == 1


@pytest.mark.parametrize("kind", ["mlp", "resnet"])
def test_another_seed_gives_other_weights(kind, data, tmp_path):
    for seed in (0, 1):
        options = OPTIONS[kind].model_copy(update={"seed": seed, "epochs": 1})
        decider, _ = KINDS[kind].fit(options, data["train"], data["dev"], "seed")
        save_decider(tmp_path / str(seed), decider, options, IDENTITY)
    assert decider_sha256(tmp_path / "0") != decider_sha256(tmp_path / "1")


def test_the_first_best_point_of_the_curve_is_kept(trained, data):
    dev = data["dev"]
    scores = trained.decider.score(dev.reader.batch(dev.ids))
    figures = [point[f"dev_{trained.options.monitor}"] for point in trained.curve]
    kept = trained.curve[best_point(trained.curve, trained.options.monitor)]
    assert kept is trained.curve[figures.index(min(figures))]
    assert log_loss(dev.labels, scores) == pytest.approx(kept["dev_loss"], abs=1e-5)
    if "dev_error" in kept:
        assert ((scores > 0.5) != dev.labels).mean() == pytest.approx(kept["dev_error"], abs=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        OPTIONS["mlp"].model_copy(update={"learning_rate": 0.05, "dropout": 0.0, "epochs": 25}),
        OPTIONS["resnet"].model_copy(update={"learning_rate": 0.03, "epochs": 25, "monitor": "loss"}),
        OPTIONS["logistic"].model_copy(update={"c": (0.001, 0.01, 0.1, 10.0)}),
    ],
    ids=["mlp", "resnet", "logistic"],
)
def test_the_best_point_is_kept_when_later_ones_only_learn_the_training_set_by_heart(options, written):
    train, dev = written(problem(24, seed=1, noise=4.0)), problem(40, seed=2, noise=4.0)
    decider, curve = KINDS[options.kind].fit(options, train, written(dev), "by heart")
    losses = [point["dev_loss"] for point in curve]
    assert curve[-1]["train_loss"] < curve[losses.index(min(losses))]["train_loss"]
    assert losses[-1] > min(losses) + 0.1
    assert log_loss(dev[1], decider.score(dev[0])) == pytest.approx(min(losses), abs=1e-3)


def test_the_curve_says_what_was_tried(trained):
    if trained.options.kind == "logistic":
        assert [point["c"] for point in trained.curve] == list(trained.options.c)
    elif trained.options.kind == "gbt":
        assert [point["trees"] for point in trained.curve] == list(range(10, trained.options.trees + 1, 10))
    else:
        assert [point["epoch"] for point in trained.curve] == list(range(1, len(trained.curve) + 1))
        assert len(trained.curve) <= trained.options.epochs
        assert all("dev_error" in point for point in trained.curve)
    assert all(set(point) >= {"train_loss", "dev_loss"} for point in trained.curve)


def test_the_curve_is_drawn_alike_each_time(trained, tmp_path):
    for name in ("a.png", "b.png"):
        draw_curve(tmp_path / name, "A decider", trained.curve, trained.options.monitor)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_parameters_are_the_numbers_that_are_stored(trained, tmp_path):
    file = saved(trained, tmp_path / "d") / trained.decider.FILE
    if trained.options.kind == "gbt":
        leaves = [int(line[11:]) for line in file.read_text().splitlines() if line.startswith("num_leaves=")]
        stored = sum(2 * count - 1 for count in leaves)
    else:
        stored = sum(array.size for array in load_file(file).values())
    assert trained.decider.parameters == stored - STORED.get(trained.options.kind, 0)


def test_longer_utterances_cost_more(trained):
    costs = [trained.decider.macs(frames) for frames in (1, 10, 100)]
    assert 0 < costs[0] < costs[1] < costs[2]


def test_the_paper_counts_no_more_products_than_there_are(trained):
    for frames in (1, 10, 100):
        assert 0 < trained.decider.paper_macs(frames) < trained.decider.macs(frames)


def test_scores_of_a_split_are_those_of_its_features_with_what_they_cost(trained, data):
    dev = data["dev"]
    ids = [*reversed(dev.ids), *data["dev"].ids[:20]]
    made = score_all(trained.decider, dev.reader, ids)
    features = dev.reader.batch(ids)
    np.testing.assert_array_equal(made.scores, trained.decider.score(features))
    assert made.macs["macs"].tolist() == [trained.decider.macs(len(feature)) for feature in features]
    assert made.macs["macs_paper"].tolist() == [
        trained.decider.paper_macs(len(feature)) for feature in features
    ]
    assert made.extractor == dev.reader.extractor
    assert score_all(trained.decider, dev.reader, []).scores.shape == (0,)


def test_the_decider_s_hash_sees_weights_and_description(trained, tmp_path):
    folder = saved(trained, tmp_path / "d")
    before = decider_sha256(folder)
    (folder / DESCRIPTION).write_text((folder / DESCRIPTION).read_text() + " ")
    described = decider_sha256(folder)
    file = folder / trained.decider.FILE
    file.write_bytes(file.read_bytes()[:-1] + b"\x07")
    assert len({before, described, decider_sha256(folder)}) == 3


def test_a_broken_description_is_refused_by_name(trained, tmp_path):
    folder = saved(trained, tmp_path / "d")
    (folder / DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match=DESCRIPTION):
        load_decider(folder)


def test_weights_hold_no_pickle(trained, tmp_path):
    folder = saved(trained, tmp_path / "d")
    content = (folder / trained.decider.FILE).read_bytes()
    assert content.startswith(b"tree\n") if trained.options.kind == "gbt" else content[8:9] == b"{"
    assert read_json(folder / DESCRIPTION)["options"]["kind"] == trained.options.kind


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("kind", list(OPTIONS))
def test_features_that_are_not_finite_are_refused(kind, written):
    features, labels = problem(20, seed=3)
    broken = written(([np.full_like(feature, np.nan) for feature in features], labels))
    with pytest.raises((UserError, ValueError)):
        KINDS[kind].fit(OPTIONS[kind].model_copy(update={"epochs": 1}), broken, broken, "broken")


@pytest.mark.parametrize("kind", list(OPTIONS))
@pytest.mark.parametrize("empty", ["train", "dev"])
def test_an_empty_split_is_refused_by_name(kind, empty, data):
    parts = {**data, empty: replace(data[empty], ids=[], labels=data[empty].labels[:0])}
    with pytest.raises(UserError, match=f"^train: name: the {empty} split has no utterance"):
        fit_decider(OPTIONS[kind], parts["train"], parts["dev"], "train: name")


@pytest.mark.parametrize("kind", list(OPTIONS))
@pytest.mark.parametrize("label", [0, 1])
def test_a_train_split_of_one_class_is_refused_by_name(kind, label, data):
    train = replace(data["train"], labels=np.full(160, label))
    with pytest.raises(UserError, match=r"^train: name: the train split holds one class only \(160 utt"):
        fit_decider(OPTIONS[kind], train, data["dev"], "train: name")


@pytest.mark.parametrize("kind", list(OPTIONS))
def test_a_dev_split_of_one_class_is_enough(kind, data):
    options = OPTIONS[kind].model_copy(update={"epochs": 1})
    dev = replace(data["dev"], labels=np.zeros(60, int))
    _, curve = fit_decider(options, data["train"], dev, "toy")
    assert np.isfinite([point["dev_loss"] for point in curve]).all()


@pytest.mark.parametrize("figure", ["loss", "error"])
def test_the_best_point_is_the_first_with_the_least_figure(figure):
    curve = [{f"dev_{figure}": value, "dev_other": -i} for i, value in enumerate([0.5, 0.2, 0.3, 0.2])]
    assert best_point(curve, figure) == 1
    assert best_point(curve[:1], figure) == 0


@pytest.mark.parametrize("fault", ["cut", "other_options", "not_finite", "names"])
def test_damaged_weights_are_refused_by_name(trained, tmp_path, fault):
    if trained.options.kind == "gbt":
        pytest.skip("test_gbt_text.py")
    folder = saved(trained, tmp_path / "d")
    file = folder / trained.decider.FILE
    arrays, content = load_file(file), file.read_bytes()
    size = int.from_bytes(content[:8], "little")
    if fault == "cut":
        content = content[:-3]
    elif fault == "not_finite":
        content = content[:-8] + b"\xff" * 8
    elif fault == "names":
        content = content.replace(
            f'"{next(iter(arrays))}"'.encode(), f'"{"x" * len(next(iter(arrays)))}"'.encode()
        )
    else:
        header = content[8 : 8 + size].replace(b"F64", b"I64").replace(b"[3, 6]", b"[3, 7]")
        content = content[:8] + header + content[8 + size :]
    assert content != file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{trained.decider.FILE} is damaged"):
        load_decider(folder)
