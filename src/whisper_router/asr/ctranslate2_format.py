"""Read Whisper weights out of CTranslate2's model.bin (binary version 6)."""

import re
import struct
from typing import Any

import numpy as np
import torch
import whisper.model
from numpy.typing import NDArray

Array = NDArray[Any]

BINARY_VERSION = 6
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
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
    if spec != "WhisperSpec":
        raise FormatError(f"holds a {spec!r}, expected 'WhisperSpec'")
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

    def block(self, side: str, index: int) -> dict[str, Array]:
        source, target = f"{side}/layer_{index}", f"{side}.blocks.{index}"
        own = f"{target}.attn"
        state = {
            **self.layer_norm(f"{source}/self_attention/layer_norm", f"{target}.attn_ln"),
            **self.linear(f"{source}/self_attention/linear_0", f"{own}.query", f"{own}.key", f"{own}.value"),
            **self.linear(f"{source}/self_attention/linear_1", f"{own}.out"),
            **self.layer_norm(f"{source}/ffn/layer_norm", f"{target}.mlp_ln"),
            **self.linear(f"{source}/ffn/linear_0", f"{target}.mlp.0"),
            **self.linear(f"{source}/ffn/linear_1", f"{target}.mlp.2"),
        }
        if side == "decoder":
            cross = f"{target}.cross_attn"
            state |= {
                **self.layer_norm(f"{source}/attention/layer_norm", f"{target}.cross_attn_ln"),
                **self.linear(f"{source}/attention/linear_0", f"{cross}.query"),
                **self.linear(f"{source}/attention/linear_1", f"{cross}.key", f"{cross}.value"),
                **self.linear(f"{source}/attention/linear_2", f"{cross}.out"),
            }
        return state

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
    state = {
        "encoder.positional_embedding": positions,
        **weights.linear("encoder/conv1", "encoder.conv1"),
        **weights.linear("encoder/conv2", "encoder.conv2"),
        **weights.layer_norm("encoder/layer_norm", "encoder.ln_post"),
        "decoder.positional_embedding": weights.take("decoder/position_encodings/encodings"),
        "decoder.token_embedding.weight": weights.take("decoder/embeddings/weight"),
        **weights.layer_norm("decoder/layer_norm", "decoder.ln"),
    }
    n_layer = {side: _layers(arrays, side) for side in ("encoder", "decoder")}
    for side, count in n_layer.items():
        for index in range(count):
            state |= weights.block(side, index)
    weights.assert_empty()
    n_audio_ctx, n_audio_state = state["encoder.positional_embedding"].shape
    n_text_ctx, n_text_state = state["decoder.positional_embedding"].shape
    dims = {
        "n_mels": state["encoder.conv1.weight"].shape[1],
        "n_audio_ctx": n_audio_ctx,
        "n_audio_state": n_audio_state,
        "n_audio_head": _heads(arrays, "encoder", n_audio_state),
        "n_audio_layer": n_layer["encoder"],
        "n_vocab": state["decoder.token_embedding.weight"].shape[0],
        "n_text_ctx": n_text_ctx,
        "n_text_state": n_text_state,
        "n_text_head": _heads(arrays, "decoder", n_text_state),
        "n_text_layer": n_layer["decoder"],
    }
    return dims, {name: torch.from_numpy(array.copy()) for name, array in state.items()}
