"""params.yaml, typed and strict: an unknown key or a value out of range is refused by name."""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from whisper_router.asr.options import DecodeOptions
from whisper_router.checks.options import Severities
from whisper_router.corpus.options import IngestOptions
from whisper_router.decider.options import DeciderOptions
from whisper_router.errors import UserError
from whisper_router.features.kinds import FRAMED, AnyExtractor, blocks_of, encoder_of, parts_of
from whisper_router.features.options import EncoderExtractor
from whisper_router.policy.options import MEASURED, PolicyOptions, VerdictOptions
from whisper_router.retrain_options import GateOptions, RetrainOptions

PARAMS = Path("params.yaml")
YAML_BYTES = 2**20  # of a file; dvc.lock, the longest, has 70 kB
YAML_SIZE = 2**18  # nodes and characters once every alias stands for what it names
YAML_DEPTH = 64  # lists and tables in one another; params.yaml has 8
POOLED = ("logistic", "gbt")  # deciders that read a vector of any extractor
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]  # names a file


class ParamsError(UserError):
    """A YAML file, params.yaml above all, does not say what it must."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArmOptions(_Strict):
    """A Whisper checkpoint, by name or path, and how it decodes."""

    model: str
    decode: DecodeOptions = DecodeOptions()


class Arms(_Strict):
    """The pair, ordered by cost."""

    weak: ArmOptions = ArmOptions(model="tiny")
    strong: ArmOptions = ArmOptions(model="small")


class InProcessRunner(_Strict):
    """Shards one after another, each on all cores of this machine."""

    kind: Literal["in_process"] = "in_process"


class DaskRunner(_Strict):
    """Shards on the workers of a Dask cluster: a local one of processes, or one that is running."""

    kind: Literal["dask"]
    workers: int | None = Field(None, ge=1, description="processes of a local cluster; null: one a core")
    address: str | None = Field(None, pattern=r"^\w+://", description="scheduler, such as tcp://head:8786")

    @model_validator(mode="after")
    def _one_cluster(self) -> "DaskRunner":
        if self.workers is not None and self.address is not None:
            raise ValueError("workers are those of a local cluster; leave them out beside an address")
        return self


Runner = Annotated[InProcessRunner | DaskRunner, Field(discriminator="kind")]


class Runtime(_Strict):
    """How work is cut up: batch shapes move the last bits of a result, the runner does not."""

    batch_size: int = Field(16, ge=1, le=256)
    runner: Runner = InProcessRunner()


class CrossValidation(_Strict):
    """What a corpus too small for splits gets instead of them."""

    below: int = Field(400, ge=0, description="with fewer utterances that have no official split; 0: never")
    folds: int = Field(5, ge=3, le=20, description="by speaker")


class RouterOptions(_Strict):
    """Which policy is packaged, with its decider and extractor."""

    policy: str


class EvaluateOptions(_Strict):
    """How the test split is judged."""

    bootstrap: int = Field(1000, ge=100, description="speaker resamples for an interval")
    seed: int = Field(0, ge=0)
    verify: int = Field(12, ge=1, description="test utterances that the packaged Router transcribes itself")


class Params(_Strict):
    """All of params.yaml."""

    ingest: IngestOptions
    cross_validation: CrossValidation = CrossValidation()
    checks: Severities = Severities()
    arms: Arms = Arms()
    runtime: Runtime = Runtime()
    extractors: dict[Name, AnyExtractor] = Field(min_length=1)
    deciders: dict[Name, DeciderOptions] = Field(min_length=1)
    policies: dict[Name, PolicyOptions] = Field(min_length=1)
    router: RouterOptions
    cost_table: str | None = Field(
        None, pattern=r"^[\w.-]+$", description="NAME of costs/NAME.json: adds seconds and joules"
    )
    evaluate: EvaluateOptions = EvaluateOptions()
    verdict: VerdictOptions = VerdictOptions()
    gate: GateOptions = GateOptions()
    retrain: RetrainOptions = RetrainOptions()

    @property
    def stored_extractors(self) -> dict[str, EncoderExtractor]:
        """Encoders whose states label computes, by the first extractor that reads them."""
        found: dict[str, EncoderExtractor] = {}
        for name, extractor in self.extractors.items():
            encoder = encoder_of(extractor)
            if encoder and encoder.is_stored:
                known = [one.identity() for one in found.values()]
                if encoder.whole.identity() not in known:
                    found[name] = encoder.whole
        return found

    @model_validator(mode="after")
    def _names_exist(self) -> "Params":
        for name, extractor in self.extractors.items():
            self._arms_have(f"extractors.{name}", extractor)
        for name, decider in self.deciders.items():
            _known(f"deciders.{name}.extractor", decider.extractor, self.extractors)
            kind = self.extractors[decider.extractor].kind
            if decider.kind not in POOLED and kind not in FRAMED:
                raise ValueError(
                    f"deciders.{name}: kind {decider.kind} looks along frames, and extractor "
                    f"{decider.extractor} of kind {kind} has none; give it one of kind {', '.join(FRAMED)}, "
                    f"or make it one of {', '.join(POOLED)}"
                )
        for name, policy in self.policies.items():
            _known(f"policies.{name}.decider", policy.decider, self.deciders)
            if policy.kind == "guarantee" and self.deciders[policy.decider].calibration == "isotonic":
                raise ValueError(
                    f"policies.{name}: a guarantee takes scores whose order the calibration labels cannot "
                    f"change; set deciders.{policy.decider}.calibration to temperature or none"
                )
            currency = getattr(policy, "currency", None)
            extractor = self.extractors[self.deciders[policy.decider].extractor]
            if currency in MEASURED and blocks_of(extractor) is not None:
                raise ValueError(
                    f"policies.{name}.currency: {currency} of an encoder's first blocks is not measured; "
                    "take macs, or an extractor without blocks"
                )
            if currency in MEASURED and self.cost_table is None:
                raise ValueError(
                    f"policies.{name}.currency: {currency} takes a measured table; run "
                    "`whisper-router cost --measure` and name its file in cost_table"
                )
        _known("router.policy", self.router.policy, self.policies)
        if self.verdict.currency in MEASURED and self.cost_table is None:
            raise ValueError(
                f"verdict.currency: {self.verdict.currency} takes a measured table; run "
                "`whisper-router cost --measure` and name its file in cost_table"
            )
        return self

    def _arms_have(self, where: str, extractor: AnyExtractor) -> None:
        """Whether the arms' engines give what an extractor reads."""
        encoder = encoder_of(extractor)
        if encoder is not None:
            decode = getattr(self.arms, encoder.arm).decode
            if decode.engine == "ctranslate2" and not decode.encoder_dtype:
                raise ValueError(
                    f"{where}: engine ctranslate2 of arms.{encoder.arm}.decode gives only the "
                    "last layer; set its encoder_dtype to bfloat16 or float32, or its engine to torch"
                )
            if encoder.blocks is not None and decode.engine == "hf":
                raise ValueError(
                    f"{where}: engine hf of arms.strong.decode runs its encoder as a whole; leave out "
                    "blocks, or set its engine to torch"
                )
        mel = any(part.kind == "logmel" for part in parts_of(extractor))
        if mel and self.arms.weak.decode.engine == "hf":
            raise ValueError(
                f"{where}: engine hf of arms.weak.decode reads samples, not the log-mel of kind logmel"
            )


def _known(where: str, name: str, names: dict[str, Any]) -> None:
    if name not in names:
        raise ValueError(f"{where}: {name!r} is none of {', '.join(names)}")


def _validated(values: Any, path: Path) -> Params:
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"]) or "(top level)"
            given = "" if problem["type"] in ("missing", "value_error") else f" (value: {problem['input']!r})"
            lines.append(f"  {where}: {problem['msg'].removeprefix('Value error, ')}{given}")
        raise ParamsError(f"{path} is refused:\n" + "\n".join(lines)) from None  # its text shows values


def _yaml_text(source: Path | str | bytes, what: str) -> str:
    """The text of a file, or the text itself, of at most ``YAML_BYTES``."""
    if isinstance(source, Path):
        if not source.is_file():
            raise ParamsError(f"{source.absolute()}: no such file; run from the project's folder")
        try:
            with source.open("rb") as file:
                data = file.read(YAML_BYTES + 1)
        except OSError as error:
            raise ParamsError(f"{what}: not readable ({error.strerror})") from error
    else:
        data = source.encode(errors="surrogatepass") if isinstance(source, str) else source
    if len(data) > YAML_BYTES:
        raise ParamsError(
            f"{what}: over {YAML_BYTES / 2**20:g} MiB, which no such file needs; name the right file, or "
            "move what is long into a table"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ParamsError(f"{what} is not YAML: {error}; save it as UTF-8") from error


def _check_events(events: Iterator[Any], what: str) -> None:
    """Refuse what would be deep or large once constructed, in the time that reading its text takes."""
    size = 0
    anchored: dict[str, int] = {}  # what an alias of it adds to the size
    open_: list[tuple[str | None, int]] = []  # anchor, and the size before it
    for event in events:
        if isinstance(event, AliasEvent):
            if event.anchor not in anchored:
                raise ParamsError(
                    f"{what}: the alias *{event.anchor}, line {event.start_mark.line + 1}, stands for no "
                    "value that ends before it; write the value out"
                )
            size += anchored[event.anchor]
        elif isinstance(event, ScalarEvent):
            size += 1 + len(event.value)
            if event.anchor:
                anchored[event.anchor] = 1 + len(event.value)
        elif isinstance(event, CollectionStartEvent):
            open_.append((event.anchor, size))
            size += 1
            if len(open_) > YAML_DEPTH:
                raise ParamsError(
                    f"{what}: more than {YAML_DEPTH} lists and tables in one another, line "
                    f"{event.start_mark.line + 1}; write it flatter"
                )
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor:
                anchored[anchor] = size - before
        if size > YAML_SIZE:
            raise ParamsError(
                f"{what}: over {YAML_SIZE} values and characters once its aliases are written out; "
                "leave out what refers to itself many times"
            )


def load_yaml(source: Path | str | bytes, what: str, reader: YAML | None = None) -> Any:
    """Read YAML whose length, depth and expansion by aliases are bounded before anything is made of it.

    Parameters
    ----------
    source : Path, str or bytes
        A file, or the text itself.
    what : str
        How messages call it: the file, or the option.
    reader : YAML, optional
        What constructs the values; plain ones by default.

    Raises
    ------
    ParamsError
        No such file, not YAML, or beyond ``YAML_BYTES``, ``YAML_DEPTH`` or ``YAML_SIZE``.
    """
    text = _yaml_text(source, what)
    try:
        _check_events(YAML(typ="safe").parse(text), what)
        return (reader or YAML(typ="safe")).load(text)
    except (YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ParamsError(f"{what} is not YAML: {error}") from error  # or a value unfit for its tag


def load_params(path: Path = PARAMS) -> Params:
    """Read and validate.

    Raises
    ------
    ParamsError
        No such file, not YAML, an unknown key, a value out of range, a name that nothing defines.
    """
    return _validated(load_yaml(path, str(path)), path)


def presets() -> list[str]:
    """Names of the presets."""
    folder = files("whisper_router").joinpath("presets")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """A preset: a part of params.yaml.

    Raises
    ------
    ParamsError
        There is none of that name.
    """
    if name not in presets():
        raise ParamsError(f"preset {name!r} is none of {', '.join(presets())}")
    text = files("whisper_router").joinpath("presets", f"{name}.yaml").read_text()
    preset: dict[str, Any] = load_yaml(text, f"preset {name}")
    return preset


def _merge(node: Any, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(node.get(key), dict):
            _merge(node[key], value)
        else:
            node[key] = value


def _quoted(value: Any) -> Any:
    """The same with text in quotes where it holds more than a name: in braces a colon is not plain YAML."""
    if isinstance(value, dict):
        return {key: _quoted(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_quoted(item) for item in value]
    plain = not isinstance(value, str) or re.fullmatch(r"[\w./-]+", value)
    return value if plain else DoubleQuotedScalarString(value)


def _assign(document: Any, assignment: str) -> None:
    key, separator, text = assignment.partition("=")
    if not separator:
        raise ParamsError(f"--set {assignment}: write key.path=value")
    *parents, last = key.strip().split(".")
    node = document
    for parent in parents:
        if not isinstance(node, dict):
            raise ParamsError(f"--set {assignment}: {parent!r} lies below a value, not a table")
        node = node.setdefault(parent, {})
    if not isinstance(node, dict):
        raise ParamsError(f"--set {assignment}: {key!r} lies below a value, not a table")
    node[last] = _quoted(load_yaml(text, f"--set {assignment[:200]}"))


def folder_corpus(folder: Path) -> list[str]:
    """Assignments of a corpus that is a folder of audio without texts.

    Raises
    ------
    ParamsError
        There is no such folder.
    """
    if not folder.is_dir():
        raise ParamsError(f"--audio {folder}: not a folder; name one that holds audio files")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip(".-")[:100] or "audio"
    corpus = {"name": name, "kind": "folder", "path": "."}
    return [f"ingest.root={json.dumps(str(folder))}", f"ingest.corpora={json.dumps([corpus])}"]


def edit_params(preset: str | None = None, assignments: Sequence[str] = (), path: Path = PARAMS) -> None:
    """Merge a preset, then ``key.path=value`` (value in YAML), into params.yaml, whole or not at all.

    Raises
    ------
    ParamsError
        No such preset, an assignment without ``=``, or a result that is not valid; the file stays as it was.
    """
    from whisper_router.files import write_text  # imports pandas, which reading does not need

    document_yaml = YAML()
    document_yaml.representer.add_representer(
        type(None), lambda made, _: made.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document_yaml.width = 4096  # no line that nobody set is broken
    document_yaml.preserve_quotes = True
    document_yaml.indent(mapping=2, sequence=4, offset=2)
    document = load_yaml(path, str(path), document_yaml)
    if not isinstance(document, dict):
        raise ParamsError(f"{path}: holds {document!r}, not a table of keys")
    if preset is not None:
        _merge(document, read_preset(preset))
    for assignment in assignments:
        _assign(document, assignment)
    buffer = io.StringIO()
    document_yaml.dump(document, buffer)
    _validated(load_yaml(buffer.getvalue(), str(path)), path)
    write_text(path, buffer.getvalue())
