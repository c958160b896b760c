"""Whisper weights in CTranslate2's model.bin (binary version 6): read and written without CTranslate2."""

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import whisper.model
from numpy.typing import NDArray

Array = NDArray[Any]

BINARY_VERSION = 6
_SPEC, _SPEC_REVISION = "WhisperSpec", 3
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
_ALIASES = {"decoder/projection/weight": "decoder/embeddings/weight"}
_GELU = 3
_FLOAT16_STEP = 2.0**-11  # spacing of float16 just below 1, the largest value of a sinusoid


class FormatError(ValueError):
    """The bytes are not a Whisper model in CTranslate2's binary version 6."""


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, count: int) -> memoryview:
        if self._at + count > len(self._data):
            raise FormatError(f"ends at byte {len(self._data)}, {self._at + count} are needed")
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, code: str) -> int:
        layout = struct.Struct("<" + code)
        return int(layout.unpack(self.take(layout.size))[0])

    def string(self) -> str:
        return str(self.take(self.number("H")), "utf-8", "replace").rstrip("\0")

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)


def is_model(path: Path) -> bool:
    """Whether a file begins as a model.bin of this version does."""
    with path.open("rb") as file:
        return file.read(4) == struct.pack("<I", BINARY_VERSION)


def read_arrays(data: bytes) -> dict[str, Array]:
    """Return the named arrays of a model.bin, aliases left out.

    Raises
    ------
    FormatError
        If the bytes are of another version or model, or are incomplete.
    """
    cursor = _Cursor(data)
    version = cursor.number("I")
    if version != BINARY_VERSION:
        raise FormatError(f"binary version {version}, expected {BINARY_VERSION}")
    spec = cursor.string()
    if spec != _SPEC:
        raise FormatError(f"holds a {spec!r}, expected {_SPEC!r}")
    cursor.number("I")  # revision of the specification
    arrays: dict[str, Array] = {}
    for _ in range(cursor.number("I")):
        name = cursor.string()
        shape = tuple(cursor.number("I") for _ in range(cursor.number("B")))
        dtype_id = cursor.number("B")
        content = cursor.take(cursor.number("I"))
        if dtype_id not in _DTYPES:
            raise FormatError(f"{name} has the unknown data type {dtype_id}")
        try:
            arrays[name] = np.frombuffer(content, dtype=_DTYPES[dtype_id]).reshape(shape)
        except ValueError as error:
            raise FormatError(f"{name}: {error}") from error
    for _ in range(cursor.number("I")):
        cursor.string(), cursor.string()
    if not cursor.at_end:
        raise FormatError("has bytes after its end")
    return arrays


def write_arrays(arrays: Mapping[str, Array]) -> bytes:
    """The model.bin that holds the named arrays, and the aliases of a Whisper."""

    def string(text: str) -> bytes:
        data = text.encode() + b"\0"
        return struct.pack("<H", len(data)) + data

    dtypes = {np.dtype(code): number for number, code in _DTYPES.items()}
    parts = [
        struct.pack("<I", BINARY_VERSION),
        string(_SPEC),
        struct.pack("<II", _SPEC_REVISION, len(arrays)),
    ]
    for name, array in sorted(arrays.items()):
        head = struct.pack(f"<B{array.ndim}IBI", array.ndim, *array.shape, dtypes[array.dtype], array.nbytes)
        parts += [string(name), head, array.tobytes()]
    parts.append(struct.pack("<I", len(_ALIASES)))
    parts += [string(name) + string(of) for name, of in _ALIASES.items()]
    return b"".join(parts)


def _blocks(layers: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
    """Side, and the names of each of its blocks in CTranslate2 and in openai-whisper."""
    for side, count in layers.items():
        for index in range(count):
            yield side, f"{side}/layer_{index}", f"{side}.blocks.{index}"


def _linears(layers: Mapping[str, int]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Linear layers and convolutions of CTranslate2, and the equal parts of each in openai-whisper."""
    yield "encoder/conv1", ("encoder.conv1",)
    yield "encoder/conv2", ("encoder.conv2",)
    for side, source, target in _blocks(layers):
        own, cross = f"{target}.attn", f"{target}.cross_attn"
        yield f"{source}/self_attention/linear_0", (f"{own}.query", f"{own}.key", f"{own}.value")
        yield f"{source}/self_attention/linear_1", (f"{own}.out",)
        yield f"{source}/ffn/linear_0", (f"{target}.mlp.0",)
        yield f"{source}/ffn/linear_1", (f"{target}.mlp.2",)
        if side == "decoder":
            yield f"{source}/attention/linear_0", (f"{cross}.query",)
            yield f"{source}/attention/linear_1", (f"{cross}.key", f"{cross}.value")
            yield f"{source}/attention/linear_2", (f"{cross}.out",)


def _norms(layers: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Layer norms of CTranslate2 and of openai-whisper."""
    yield "encoder/layer_norm", "encoder.ln_post"
    yield "decoder/layer_norm", "decoder.ln"
    for side, source, target in _blocks(layers):
        yield f"{source}/self_attention/layer_norm", f"{target}.attn_ln"
        yield f"{source}/ffn/layer_norm", f"{target}.mlp_ln"
        if side == "decoder":
            yield f"{source}/attention/layer_norm", f"{target}.cross_attn_ln"


_PLAIN = {
    "encoder/position_encodings/encodings": "encoder.positional_embedding",
    "decoder/position_encodings/encodings": "decoder.positional_embedding",
    "decoder/embeddings/weight": "decoder.token_embedding.weight",
}


class _Weights:
    """The arrays of one model, taken one by one so that what is left over can be reported."""

    def __init__(self, arrays: dict[str, Array]) -> None:
        self._left = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}

    def take(self, name: str) -> Array:
        try:
            return self._left.pop(name)
        except KeyError:
            raise FormatError(f"lacks {name}") from None

    def linear(self, source: str, *targets: str) -> dict[str, Array]:
        """Split a fused linear layer into its equal parts, named as openai-whisper names them."""
        weights = np.split(self.take(f"{source}/weight"), len(targets))
        biases = np.split(self.take(f"{source}/bias"), len(targets))
        state = {}
        for target, weight, bias in zip(targets, weights, biases, strict=True):
            state[f"{target}.weight"] = weight
            if not target.endswith(".key"):
                state[f"{target}.bias"] = bias
            elif np.any(bias):
                raise FormatError(f"{source} has a key bias, for which openai-whisper has no place")
        return state

    def layer_norm(self, source: str, target: str) -> dict[str, Array]:
        return {
            f"{target}.weight": self.take(f"{source}/gamma"),
            f"{target}.bias": self.take(f"{source}/beta"),
        }

    def assert_empty(self) -> None:
        if self._left:
            names = ", ".join(sorted(self._left))
            raise FormatError(f"has arrays that openai-whisper has no place for: {names}")


def _layers(arrays: dict[str, Array], side: str) -> int:
    found = (re.match(rf"{side}/layer_(\d+)/", name) for name in arrays)
    return len({match[1] for match in found if match})


def _heads(arrays: dict[str, Array], side: str, width: int) -> int:
    stated = arrays.get(f"{side}/num_heads")
    return width // 64 if stated is None else int(stated)


def to_openai(arrays: dict[str, Array]) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """Return the dimensions and the state dict that openai-whisper expects.

    Raises
    ------
    FormatError
        If an array is missing, left over, or cannot be mapped without loss.
    """
    weights = _Weights(arrays)
    # The encoder's positions are constant sinusoids. OpenAI's files store them as float16, and these arrays
    # came from there by way of other formats: up to 2 % of the values are one float16 step away from the
    # sinusoids that torch computes here, so the file's are kept. Whether they equal those of OpenAI's own .pt
    # to the last bit cannot be known without that file.
    positions = weights.take("encoder/position_encodings/encodings")
    sinusoids = whisper.model.sinusoids(*positions.shape).numpy()
    if np.abs(positions.astype(np.float32) - sinusoids).max() > _FLOAT16_STEP:
        raise FormatError("the encoder's position encodings are not Whisper's sinusoids")
    layers = {side: _layers(arrays, side) for side in ("encoder", "decoder")}
    state = {"encoder.positional_embedding": positions}
    state |= {target: weights.take(source) for source, target in _PLAIN.items() if target not in state}
    for source, targets in _linears(layers):
        state |= weights.linear(source, *targets)
    for source, target in _norms(layers):
        state |= weights.layer_norm(source, target)
    weights.assert_empty()
    n_audio_ctx, n_audio_state = state["encoder.positional_embedding"].shape
    n_text_ctx, n_text_state = state["decoder.positional_embedding"].shape
    dims = {
        "n_mels": state["encoder.conv1.weight"].shape[1],
        "n_audio_ctx": n_audio_ctx,
        "n_audio_state": n_audio_state,
        "n_audio_head": _heads(arrays, "encoder", n_audio_state),
        "n_audio_layer": layers["encoder"],
        "n_vocab": state["decoder.token_embedding.weight"].shape[0],
        "n_text_ctx": n_text_ctx,
        "n_text_state": n_text_state,
        "n_text_head": _heads(arrays, "decoder", n_text_state),
        "n_text_layer": layers["decoder"],
    }
    return dims, {name: torch.from_numpy(array.copy()) for name, array in state.items()}


def from_openai(dims: Mapping[str, int], state: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """The arrays of a model.bin, from openai-whisper's dimensions and state dict."""

    def array(name: str) -> Array:
        tensor = state[name] if state[name].dtype == torch.float16 else state[name].float()
        return tensor.contiguous().numpy()

    def bias(name: str) -> Array:
        if f"{name}.bias" in state:
            return array(f"{name}.bias")
        weight = array(f"{name}.weight")
        return np.zeros(len(weight), weight.dtype)

    layers = {"encoder": dims["n_audio_layer"], "decoder": dims["n_text_layer"]}
    arrays: dict[str, Array] = {source: array(target) for source, target in _PLAIN.items()}
    for source, targets in _linears(layers):
        arrays[f"{source}/weight"] = np.concatenate([array(f"{target}.weight") for target in targets])
        arrays[f"{source}/bias"] = np.concatenate([bias(target) for target in targets])
    for source, target in _norms(layers):
        arrays[f"{source}/gamma"], arrays[f"{source}/beta"] = (
            array(f"{target}.weight"),
            array(f"{target}.bias"),
        )
    heads = {"encoder": dims["n_audio_head"], "decoder": dims["n_text_head"]}
    for side, count in heads.items():
        arrays[f"{side}/num_heads"] = np.array(count, np.int16)
    arrays["decoder/activation"] = np.array(_GELU, np.int8)
    arrays["decoder/pre_norm"] = np.array(1, np.int8)
    arrays["decoder/scale_embeddings"] = np.array(0, np.int8)
    return arrays
