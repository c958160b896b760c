"""Both arms over the manifest: the content store is filled, then read into transcripts and labels."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from whisper_router.asr.arm import Arm, arm_key, plan_batches
from whisper_router.asr.decoding import Attempt, Hypothesis
from whisper_router.asr.options import DecodeOptions
from whisper_router.audio import SAMPLE_RATE, Audio, AudioError, audio_sha256, cut
from whisper_router.cost import Dims
from whisper_router.decode import load_audio
from whisper_router.environment import cores
from whisper_router.errors import UserError
from whisper_router.features.extractors import extractor_key, feature_frames, pool_states
from whisper_router.features.options import EncoderExtractor
from whisper_router.progress import bar
from whisper_router.reference import told
from whisper_router.scoring import has_words, word_errors
from whisper_router.store import ContentStore

WORKERS = cores()  # batches at once, each on one torch thread

ROUNDS = 3  # a damaged entry of the content store is found when it is read, and made in the next round

NO_REFERENCE = "it has no transcript, and the strong arm hears no words in it"

TRANSCRIPT_COLUMNS = (
    "id",
    "arm",
    "hypothesis",
    "substitutions",
    "deletions",
    "insertions",
    "reference_words",
    "wer",
    "avg_logprob",
    "compression_ratio",
    "no_speech_prob",
    "temperature",
    "tokens",
    "token_logprob",
    "token_entropy",
    "token_margin",
    "attempt_contexts",
    "attempt_tokens",
    "no_speech",
    "error",
)


@dataclass(frozen=True)
class Utterance:
    """What labelling needs of a manifest row."""

    id: str
    audio: str
    offset_s: float
    duration_s: float
    sha256: str

    def load(self, store: ContentStore) -> Audio | str:
        """The samples that the manifest speaks of, or why they are not to be had.

        A segment of a longer recording comes from the content store, and goes back there where it was lost.
        """
        kept = store.read_segment(self.sha256)
        if kept is not None:
            return kept
        try:
            recording = load_audio(self.audio)
        except AudioError as error:
            return str(error)
        audio = cut(recording, self.offset_s, self.duration_s)
        if audio_sha256(audio) != self.sha256:
            return f"{self.audio}: not the audio that ingest saw; run ingest again"
        if audio.size < recording.size:
            store.write_segment(self.sha256, audio)
        return audio

    def load_or_raise(self, store: ContentStore) -> Audio:
        """The samples.

        Raises
        ------
        UserError
            They are not to be had; the message names the utterance.
        """
        audio = self.load(store)
        if isinstance(audio, str):
            raise UserError(f"{self.id}: {audio}")
        return audio


def utterances(manifest: pd.DataFrame) -> list[Utterance]:
    """The manifest's rows."""
    return [
        Utterance(row.id, row.audio, row.offset_s, row.duration_s, row.sha256)
        for row in manifest.itertuples()
    ]


@dataclass(frozen=True)
class Work:
    """What is to be computed of one arm: hypotheses, and encodings for extractors."""

    sha256: str  # of the arm's weights
    options: DecodeOptions
    decode: bool
    extractors: tuple[EncoderExtractor, ...]

    def hypothesis_path(self, store: ContentStore, audio_sha256: str) -> Path:
        """Where an utterance's hypothesis lies."""
        return store.hypothesis_path(audio_sha256, arm_key(self.sha256, self.options))

    def encoding_path(self, store: ContentStore, audio_sha256: str, extractor: EncoderExtractor) -> Path:
        """Where an utterance's encoding lies."""
        return store.encoding_path(audio_sha256, arm_key(self.sha256, self.options), extractor_key(extractor))

    def decodes(self, store: ContentStore, utterance: Utterance) -> bool:
        """Whether the hypothesis is still to be made."""
        return self.decode and not self.hypothesis_path(store, utterance.sha256).is_file()

    def encodes(self, store: ContentStore, utterance: Utterance) -> list[EncoderExtractor]:
        """The extractors whose encoding is still to be made."""
        return [e for e in self.extractors if not self.encoding_path(store, utterance.sha256, e).is_file()]

    def lacks(self, store: ContentStore, utterance: Utterance) -> bool:
        """Whether anything is left to compute for an utterance."""
        return self.decodes(store, utterance) or bool(self.encodes(store, utterance))

    def parts(self) -> list["Work"]:
        """This work, one value of an utterance at a time."""
        alone = [replace(self, extractors=())] if self.decode else []
        return [*alone, *(replace(self, decode=False, extractors=(e,)) for e in self.extractors)]

    def batch_of(self, store: ContentStore, audio_sha256: str) -> tuple[str, ...]:
        """The audio hashes of the batch in which a part's value was computed; empty where none is known."""
        if self.decode:
            return store.hypothesis_batch(self.hypothesis_path(store, audio_sha256))
        (extractor,) = self.extractors
        return store.encoding_batch(self.encoding_path(store, audio_sha256, extractor))

    def batches(self, rows: Sequence[Utterance], batch_size: int) -> list[list[Utterance]]:
        """Utterances in batches of one context."""
        samples = [round(row.duration_s * SAMPLE_RATE) for row in rows]
        contexts = [self.options.context(count) for count in samples]
        return [[rows[i] for i in batch] for batch in plan_batches(contexts, samples, batch_size)]


@dataclass(frozen=True)
class Batch:
    """Utterances that are computed together, and what of them is to be stored where the store lacks it.

    The last bits of a value depend on the batch, so every entry of the store names the batch it was made in.
    """

    rows: tuple[Utterance, ...]
    decode: bool
    extractors: tuple[EncoderExtractor, ...]


def feature_counts(
    rows: Sequence[Utterance], options: DecodeOptions, extractor: EncoderExtractor
) -> list[int]:
    """Frames of each utterance's feature."""
    samples = [round(row.duration_s * SAMPLE_RATE) for row in rows]
    return [feature_frames(extractor, count, options.context(count)) for count in samples]


def encoding_bytes(
    rows: Sequence[Utterance], options: DecodeOptions, extractor: EncoderExtractor, dims: Dims
) -> int:
    """Bytes of the states of utterances, float16."""
    return 2 * sum(feature_counts(rows, options, extractor)) * (dims.audio_layers + 1) * dims.width


def plan_work(rows: Sequence[Utterance], work: Work, store: ContentStore, batch_size: int) -> list[Batch]:
    """Batches of what the store lacks.

    What was lost is computed in the batch in which it was made, which its batch-mates name, so that it gets
    the same bytes. What was never made is batched by the plan of the whole corpus, whatever is done already:
    where nothing of a batch is left, the plan of the same corpus is the same again.
    """
    planned = work.batches(rows, batch_size)
    found: dict[tuple[Utterance, ...], list[Work]] = {}
    for part in work.parts():
        recorded = _recorded_batches(rows, part, store)
        for batch in planned:
            lacking = [row for row in batch if part.lacks(store, row)]
            new = tuple(row for row in lacking if row.sha256 not in recorded)
            old = (recorded[row.sha256] for row in lacking if row.sha256 in recorded)
            for members in dict.fromkeys([*old, *([new] if new else [])]):
                parts = found.setdefault(members, [])
                if part not in parts:
                    parts.append(part)
    return [
        Batch(
            members, any(part.decode for part in parts), tuple(e for part in parts for e in part.extractors)
        )
        for members, parts in found.items()
    ]


def _recorded_batches(
    rows: Sequence[Utterance], part: Work, store: ContentStore
) -> dict[str, tuple[Utterance, ...]]:
    """The batch in which each lost value was made, by audio hash; only batches that are still whole."""
    lost = {row.sha256 for row in rows if part.lacks(store, row)}
    known = {row.sha256: row for row in rows}
    if not lost or len(lost) == len(known):
        return {}
    batches = {part.batch_of(store, sha256) for sha256 in known if sha256 not in lost}
    return {
        sha256: tuple(known[member] for member in members)
        for members in sorted(batches)
        if all(member in known for member in members)
        for sha256 in members
    }


def compute(
    arm: Arm,
    batches: Sequence[Batch],
    work: Work,
    store: ContentStore,
    title: str,
    threads: int = WORKERS,
    quiet: bool = False,
) -> dict[str, str]:
    """Encode and decode batch by batch into the store; a batch that is done is never lost.

    Returns
    -------
    dict
        Reasons by id, for utterances whose audio could not be read.
    """
    errors: dict[str, str] = {}
    pool = ThreadPoolExecutor(threads)
    wait = True
    try:
        with bar(sum(len(batch.rows) for batch in batches), title, quiet=quiet) as shown:
            for done in as_completed(
                [pool.submit(_compute_batch, arm, batch, work, store) for batch in batches]
            ):
                size, failed = done.result()
                errors |= failed
                shown.update(size)
    except KeyboardInterrupt:
        wait = False  # whoever stops a run does not want to see its batches through
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)
    return errors


def _compute_batch(arm: Arm, batch: Batch, work: Work, store: ContentStore) -> tuple[int, dict[str, str]]:
    """Compute a whole batch again where the store lacks anything of it, and store what lacks.

    Rows without speech are encoded with the others, so that the batch is the same whatever of it is lacking.
    """
    part = replace(work, decode=batch.decode, extractors=batch.extractors)
    lacking = {row.id for row in batch.rows if part.lacks(store, row)}
    if not lacking:
        return len(batch.rows), {}
    loaded = [(row, row.load(store)) for row in batch.rows]
    errors = {row.id: audio for row, audio in loaded if isinstance(audio, str) and row.id in lacking}
    good = [(row, audio) for row, audio in loaded if not isinstance(audio, str)]
    if any(row.id in lacking for row, _ in good):
        audios = [audio for _, audio in good]
        members = tuple(row.sha256 for row, _ in good)
        encoding = arm.encode_audio(audios)
        for i, (row, audio) in enumerate(good):
            for extractor in part.encodes(store, row):
                states = pool_states(encoding.states, i, audio.size, extractor)
                store.write_encoding(part.encoding_path(store, row.sha256, extractor), states, members)
        if any(part.decodes(store, row) for row, _ in good):
            for (row, _), hypothesis in zip(good, arm.transcribe(encoding, audios), strict=True):
                if part.decodes(store, row):
                    path = part.hypothesis_path(store, row.sha256)
                    store.write_hypothesis(path, hypothesis, members)
    return len(batch.rows), errors


def announce_encodings(
    extractors: Mapping[str, EncoderExtractor],
    arms: Mapping[str, tuple[Dims, Work]],
    rows: Sequence[Utterance],
    store: ContentStore,
    beside: bool,
) -> None:
    """Say what the states of stored extractors will take, before any is written.

    Parameters
    ----------
    beside : bool
        Whether featurize will write them once more, outside the store.

    Raises
    ------
    UserError
        The disk or the store's limit cannot hold them.
    """
    minutes = max(sum(row.duration_s for row in rows), 1) / 60
    needed = total = 0
    for name, extractor in extractors.items():
        dims, work = arms[extractor.arm]
        size = encoding_bytes(rows, work.options, extractor, dims)
        print(
            f"extractor {name}: {size / minutes / 1e6:.2f} MB a minute of audio, {size / 1e9:.2f} GB in all"
        )
        lacking = [row for row in rows if extractor in work.encodes(store, row)]
        needed += encoding_bytes(lacking, work.options, extractor, dims)
        total += size
    copies = 2 if beside else 0  # in data/ and in DVC's cache, until they are linked
    store.require_space(needed, copies * total, list(extractors))


def transcribe_all(
    work: Work,
    rows: Sequence[Utterance],
    batch_size: int,
    title: str,
    run: Callable[[Sequence[Batch]], dict[str, str]],
) -> tuple[list[Hypothesis | None], dict[str, str]]:
    """Every utterance's hypothesis; what the content store lacks, or holds damaged, is computed.

    Parameters
    ----------
    run : callable
        Computes batches into the content store; returns reasons by id, as ``compute`` does.

    Returns
    -------
    tuple
        Hypotheses in the order of the rows, and reasons by id for those that have none.
    """
    store = ContentStore()
    errors: dict[str, str] = {}
    found: list[Hypothesis | None] = []
    for _ in range(ROUNDS):
        batches = plan_work(rows, work, store, batch_size)
        missing = sum(work.lacks(store, row) for row in rows)
        print(f"{title}: {missing} utterances to do, {len(rows) - missing} in the content store")
        errors |= run(batches)
        found = [store.read_hypothesis(work.hypothesis_path(store, row.sha256)) for row in rows]
        if all(made or row.id in errors for row, made in zip(rows, found, strict=True)):
            break
    lost = [row.id for row, made in zip(rows, found, strict=True) if made is None and row.id not in errors]
    reason = f"the content store {store.root} lost its hypothesis {ROUNDS} times; check the disk"
    return found, errors | dict.fromkeys(lost, reason)


def transcripts_table(
    manifest: pd.DataFrame,
    hypotheses: Mapping[str, Sequence[Hypothesis | None]],
    errors: Mapping[str, str],
) -> pd.DataFrame:
    """A row an utterance and arm; rows without a hypothesis carry the error.

    Words are counted against the text of a row, or against the strong arm's where the row has none. Where the
    strong arm hears no words either, both arms' rows carry ``NO_REFERENCE``.
    """
    rows: list[dict[str, Any]] = []
    strong = hypotheses.get("strong", [None] * len(manifest))
    references = [
        text if known else said.text if said else ""
        for text, known, said in zip(manifest["text"], told(manifest), strong, strict=True)
    ]
    scored = [has_words(text) for text in references]
    for arm, found in hypotheses.items():
        known = [i for i, hypothesis in enumerate(found) if hypothesis is not None and scored[i]]
        texts = [found[i].text for i in known]  # type: ignore[union-attr]
        counts = dict(zip(known, word_errors([references[i] for i in known], texts), strict=True))
        for i, (id_, hypothesis) in enumerate(zip(manifest["id"], found, strict=True)):
            if hypothesis is None or not scored[i]:
                error = errors[id_] if hypothesis is None else errors.get(id_, NO_REFERENCE)
                rows.append({"id": id_, "arm": arm, "error": error})
                continue
            rows.append(
                {
                    "id": id_,
                    "arm": arm,
                    "hypothesis": hypothesis.text,
                    "substitutions": counts[i].substitutions,
                    "deletions": counts[i].deletions,
                    "insertions": counts[i].insertions,
                    "reference_words": counts[i].reference_words,
                    "wer": round(counts[i].wer, 6),
                    "avg_logprob": hypothesis.avg_logprob,
                    "compression_ratio": hypothesis.compression_ratio,
                    "no_speech_prob": hypothesis.no_speech_prob,
                    "temperature": hypothesis.temperature,
                    "tokens": hypothesis.tokens,
                    "token_logprob": list(hypothesis.token_logprob),
                    "token_entropy": list(hypothesis.token_entropy),
                    "token_margin": list(hypothesis.token_margin),
                    "attempt_contexts": [attempt.context for attempt in hypothesis.attempts],
                    "attempt_tokens": [attempt.tokens for attempt in hypothesis.attempts],
                    "no_speech": hypothesis.no_speech,
                    "error": None,
                }
            )
    table = pd.DataFrame(rows, columns=list(TRANSCRIPT_COLUMNS))
    counts_columns = ["substitutions", "deletions", "insertions", "reference_words", "tokens"]
    return table.astype({**dict.fromkeys(counts_columns, "Int64"), "no_speech": "string", "error": "string"})


def hypothesis_of(row: Any) -> Hypothesis:
    """The hypothesis that a row of the transcripts holds."""
    return Hypothesis(
        text=row.hypothesis,
        avg_logprob=row.avg_logprob,
        compression_ratio=row.compression_ratio,
        no_speech_prob=row.no_speech_prob,
        temperature=row.temperature,
        token_logprob=tuple(row.token_logprob),
        token_entropy=tuple(row.token_entropy),
        token_margin=tuple(row.token_margin),
        attempts=tuple(Attempt(*pair) for pair in zip(row.attempt_contexts, row.attempt_tokens, strict=True)),
        no_speech=None if pd.isna(row.no_speech) else row.no_speech,
    )


def reference_texts(manifest: pd.DataFrame, transcripts: pd.DataFrame) -> dict[str, str]:
    """What each utterance's words are counted against, by id: its text, or the strong arm's."""
    strong = transcripts[transcripts["arm"] == "strong"].set_index("id")["hypothesis"]
    texts = manifest["text"].where(told(manifest), manifest["id"].map(strong))
    return dict(zip(manifest["id"], texts, strict=True))


def labels_table(manifest: pd.DataFrame, transcripts: pd.DataFrame) -> pd.DataFrame:
    """Label 1 if WER_weak > WER_strong, else 0: a tie is 0. Utterances that an arm could not read have none.

    Where the strong arm's text is the reference, the label says that the weak arm's differs from it.
    """
    good = transcripts[transcripts["error"].isna()]
    parts = {arm: good[good["arm"] == arm].set_index("id") for arm in ("weak", "strong")}
    both = [id_ for id_ in manifest["id"] if all(id_ in part.index for part in parts.values())]
    table = manifest.set_index("id").loc[both, ["corpus", "speaker", "split", "duration_s"]].reset_index()
    table.insert(4, "reference", np.where(told(manifest.set_index("id")).loc[table["id"]], "text", "strong"))
    table["words"] = parts["weak"].loc[both, "reference_words"].astype("int64").to_numpy()
    for arm, part in parts.items():
        counts = part.loc[both, ["substitutions", "deletions", "insertions"]].astype("int64")
        table[f"errors_{arm}"] = counts.sum(axis=1).to_numpy()
        table[f"wer_{arm}"] = part.loc[both, "wer"].astype(float).to_numpy()
    table["label"] = (table["errors_weak"] > table["errors_strong"]).astype("int64")
    return table
