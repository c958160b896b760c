"""Engine ctranslate2: that of faster-whisper (extra ``fast``), int8 among others.

Greedy decoding returns the logits of every step, so that confidences are the same numbers as torch's.
Sampling cannot be seeded a row there: the rare retries above temperature 0 are torch's.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from whisper.tokenizer import Tokenizer

from whisper_router.asr.ctranslate2_format import from_openai, write_arrays
from whisper_router.asr.decoding import Attempt, Hypothesis, hypothesis, suppressed_tokens, token_facts
from whisper_router.asr.engine import Decoder, Encoding, engine_package
from whisper_router.asr.options import TEXT_CONTEXT, Dtype
from whisper_router.environment import cores
from whisper_router.errors import UserError

LOGITS_BYTES = 256 << 20  # most that the logits of one call take; longer texts are decoded in smaller batches

Piece = TypeVar("Piece")


def load_model(dims: dict[str, int], state: dict[str, Tensor], tokenizer: Tokenizer, dtype: Dtype) -> Any:
    """Hand openai-whisper's weights to a `ctranslate2.models.Whisper`, through memory.

    Each worker has one thread: batches run side by side, as many as there are cores.

    Raises
    ------
    UserError
        CTranslate2 is not installed, or has no such type on this CPU.
    """
    ctranslate2 = engine_package("ctranslate2")
    supported = ctranslate2.get_supported_compute_types("cpu")
    if dtype not in supported:
        raise UserError(
            f"decode.dtype {dtype}: CTranslate2 has {', '.join(sorted(supported))} here; choose one of them"
        )
    encoding = tokenizer.encoding
    words = [encoding.decode_single_token_bytes(token).decode("latin-1") for token in range(encoding.n_vocab)]
    config = {"suppress_ids_begin": [*tokenizer.encode(" "), tokenizer.eot]}
    files = {
        "model.bin": write_arrays(from_openai(dims, state)),
        "vocabulary.json": json.dumps(words).encode(),
        "config.json": json.dumps(config).encode(),
    }
    workers = cores()
    return ctranslate2.models.Whisper(
        "whisper", files=files, compute_type=dtype, inter_threads=workers, intra_threads=1
    )


def _view(x: Tensor) -> Any:
    """The same memory as a `ctranslate2.StorageView`."""
    return engine_package("ctranslate2").StorageView.from_array(np.ascontiguousarray(x.numpy()))


def _side_by_side(run: Callable[[Tensor, int], Piece], x: Tensor, at_most: int) -> list[tuple[int, Piece]]:
    """Run pieces of a batch on as many workers as torch has threads; (first row, result) of each."""
    size = min(at_most, -(-len(x) // torch.get_num_threads()))
    starts = range(0, len(x), size)
    if len(starts) == 1:
        return [(0, run(x, 0))]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(
            zip(starts, pool.map(lambda start: run(x[start : start + size], start), starts), strict=True)
        )


class CTranslate2Encoder:
    """CTranslate2's encoder at any context: the last layer only."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, mel: Tensor) -> Encoding:
        """Encode a batch, shape (batch, mels, 2 * frames)."""

        def run(rows: Tensor, start: int) -> Tensor:
            return torch.from_numpy(np.array(self._model.encode(_view(rows), to_cpu=True)))

        return Encoding(mel, torch.cat([part for _, part in _side_by_side(run, mel, len(mel))]), None)


class CTranslate2Decoder:
    """CTranslate2's decoder: greedy, or by beam search.

    Confidences are computed from the logits of all steps: of the greedy search itself, or, after a beam
    search, of a second pass that is given the text which was found.

    Parameters
    ----------
    beam_size : int
        1 is greedy.
    sampler : callable
        Loads the decoder of retries above temperature 0.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, beam_size: int, sampler: Callable[[], Decoder]
    ) -> None:
        self._model, self.tokenizer, self._beam_size = model, tokenizer, beam_size
        self._load_sampler = sampler
        self._prompt = list(tokenizer.sot_sequence_including_notimestamps)
        self._suppressed = suppressed_tokens(tokenizer)

    @cached_property
    def _sampler(self) -> Decoder:
        return self._load_sampler()

    def __call__(
        self,
        encoded: Tensor,
        limits: Sequence[int],
        temperature: float = 0.0,
        generators: Sequence[torch.Generator] = (),
    ) -> list[Hypothesis]:
        """Decode a batch, shape (batch, frames, width), to at most ``limits`` tokens a row."""
        if temperature > 0:
            return self._sampler(encoded, limits, temperature, generators)
        vocabulary = self.tokenizer.encoding.n_vocab
        at_most = max(1, LOGITS_BYTES // (max(limits) * vocabulary * 4))

        def run(rows: Tensor, start: int) -> list[Hypothesis]:
            return self._decode(rows, limits[start : start + len(rows)])

        return [made for _, piece in _side_by_side(run, encoded, at_most) for made in piece]

    def _decode(self, encoded: Tensor, limits: Sequence[int]) -> list[Hypothesis]:
        prompts = [self._prompt] * len(encoded)
        if self._beam_size == 1:
            found = passed = self._generate(encoded, prompts, max(limits), return_logits_vocab=True)
        else:  # what a row finds depends on the limit, which must not be that of its batch-mates
            found = self._generate(encoded, prompts, TEXT_CONTEXT // 2, beam_size=self._beam_size)
            given = [
                [*self._prompt, *result.sequences_ids[0][:limit]]
                for result, limit in zip(found, limits, strict=True)
            ]
            longest = max(map(len, given)) - len(self._prompt) + 1
            passed = self._generate(encoded, given, longest, return_logits_vocab=True, suppress_blank=False)
        made = []
        end, context = self.tokenizer.eot, encoded.shape[1]
        for result, logits, limit in zip(found, (result.logits[0] for result in passed), limits, strict=True):
            tokens = [*result.sequences_ids[0], end][:limit]
            steps = np.stack([np.asarray(step) for step in logits[: len(tokens)]])
            facts = token_facts(torch.from_numpy(steps), torch.tensor(tokens)).tolist()
            text = [token for token in tokens if token != end]
            one = hypothesis(self.tokenizer, text, facts, result.no_speech_prob, 0.0, context, limit)
            if self._beam_size > 1:
                run = len(self._prompt) + (self._beam_size + 1) * len(text)
                one = replace(one, attempts=(Attempt(context, run),))
            made.append(one)
        return made

    def _generate(
        self,
        encoded: Tensor,
        prompts: Sequence[Sequence[int]],
        limit: int,
        beam_size: int = 1,
        **options: bool,
    ) -> list[Any]:
        """Results of at most ``limit`` tokens, those of the text that a prompt holds included."""
        made: list[Any] = self._model.generate(
            _view(encoded),
            prompts,
            beam_size=beam_size,
            max_length=max(2 * limit, limit + len(self._prompt) - 1),  # it decodes half of this
            suppress_tokens=self._suppressed,
            return_no_speech_prob=True,
            **options,
        )
        return made
