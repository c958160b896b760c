"""An arm: encoding at the length of the audio, decoding in batches with Whisper's fallback, on any engine."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import whisper
from torch import Tensor

from whisper_router.asr.decoding import Hypothesis
from whisper_router.asr.engine import Decoder, Encoder, Encoding, engine_versions
from whisper_router.asr.options import ENCODER_FRAMES, SAMPLES_PER_FRAME, TEXT_CONTEXT, DecodeOptions
from whisper_router.asr.speech import no_speech
from whisper_router.audio import Audio
from whisper_router.hashing import code_hash, digest


def plan_batches(contexts: Sequence[int], samples: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group utterances into batches of one context, shortest first."""
    order = sorted(range(len(contexts)), key=lambda i: (contexts[i], samples[i], i))
    batches: list[list[int]] = []
    for i in order:
        if batches and len(batches[-1]) < batch_size and contexts[batches[-1][0]] == contexts[i]:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def log_mel(audios: Sequence[Audio], context: int, n_mels: int) -> Tensor:
    """Whisper's log-mel of audio padded to ``context`` frames, shape (batch, mels, 2 * context).

    For ``n_mels`` 0, of models that read samples: those, shape (batch, 320 * context).
    """
    size = context * SAMPLES_PER_FRAME
    padded = [np.pad(audio[:size], (0, max(0, size - audio.size))) for audio in audios]
    if n_mels == 0:
        return torch.from_numpy(np.stack(padded))
    return torch.stack([whisper.log_mel_spectrogram(audio, n_mels) for audio in padded])


def arm_spec(sha256: str, options: DecodeOptions) -> dict[str, object]:
    """Weights, and decode options with their engine: what a policy is bound to."""
    return {"weights": sha256, "options": options.model_dump(mode="json")}


def arm_key(sha256: str, options: DecodeOptions) -> str:
    """Hash of all that shapes an arm's encodings and hypotheses, but for the audio."""
    engines = sorted({"torch", options.engine})  # torch's may encode or retry for another
    code = code_hash("whisper_router.asr.arm", *(f"whisper_router.asr.{name}_engine" for name in engines))
    threads, versions = torch.get_num_threads(), engine_versions(options.engine)
    return digest({**arm_spec(sha256, options), "versions": versions, "threads": threads, "code": code})


class Arm:
    """An ASR model with its decode options.

    Parameters
    ----------
    encoder, decoder : Encoder, Decoder
        The engine's.
    n_mels : int
        Mel bands that the encoder reads: arms that agree can share a log-mel; 0: it reads samples.
    sizes : mapping
        What the arm's cost depends on, the fields of `cost.Dims`.
    sha256 : str
        Hash of the weights.
    options : DecodeOptions
        Engine, language, context, fallback.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: Decoder,
        n_mels: int,
        sizes: Mapping[str, int],
        sha256: str,
        options: DecodeOptions,
    ) -> None:
        self.encoder, self.decoder, self.n_mels, self.sizes = encoder, decoder, n_mels, sizes
        self.sha256, self.options = sha256, options

    def encode(self, mel: Tensor) -> Encoding:
        """Run the encoder on a batch, shape (batch, mels, 2 * frames), at any context up to 1500 frames."""
        return self.encoder(mel)

    def encode_audio(self, audios: Sequence[Audio]) -> Encoding:
        """Log-mel and encoding of utterances that share a context."""
        (context,) = {self.options.context(audio.size) for audio in audios}
        return self.encode(log_mel(audios, context, self.n_mels))

    def shares_mel(self, other: "Arm") -> bool:
        """Whether both arms read the same log-mel of any utterance."""
        ours, theirs = self.options, other.options
        same = all(
            getattr(ours, name) == getattr(theirs, name)
            for name in ("floor_frames", "margin_frames", "step_frames")
        )
        return self.n_mels == other.n_mels and same

    def transcribe(self, encoding: Encoding, audios: Sequence[Audio]) -> list[Hypothesis]:
        """Hypotheses from an encoding; what holds no speech is not decoded."""
        reasons = [no_speech(audio, self.options) for audio in audios]
        heard = [i for i, reason in enumerate(reasons) if reason is None]
        decoded = iter(self.decode(encoding.rows(heard), [audios[i] for i in heard]) if heard else ())
        return [Hypothesis.silent(reason) if reason else next(decoded) for reason in reasons]

    def decode(self, encoding: Encoding, audios: Sequence[Audio]) -> list[Hypothesis]:
        """Hypotheses from an encoding, with Whisper's fallback and its rule of no speech."""
        limits = [self.options.token_limit(audio.size, TEXT_CONTEXT) for audio in audios]
        encoded = encoding.last
        context = encoded.shape[1]
        result = self.decoder(encoded, limits)
        failed: list[int] = []
        if self.options.engine != "hf":
            result = [self._unless_silent(hypothesis) for hypothesis in result]
            failed = self._failed(result)
        if failed and context < ENCODER_FRAMES:
            mel = log_mel([audios[i] for i in failed], ENCODER_FRAMES, self.n_mels)
            full = self.encode(mel).last
            self._retry(result, failed, self.decoder(full, [limits[i] for i in failed]))
        elif failed:
            full = encoded[torch.tensor(failed)]
        before = failed
        for temperature in self.options.temperatures[1:]:
            failed = [i for i in failed if i in self._failed(result)]
            if not failed:
                break
            full = full[torch.tensor([before.index(i) for i in failed])]
            before = failed
            generators = [_generator(audios[i], temperature) for i in failed]
            again = self.decoder(full, [limits[i] for i in failed], temperature, generators)
            self._retry(result, failed, again)
        return result

    def _failed(self, hypotheses: Sequence[Hypothesis]) -> list[int]:
        return [
            i
            for i, hypothesis in enumerate(hypotheses)
            if hypothesis.no_speech is None
            and (
                hypothesis.compression_ratio > self.options.compression_ratio_threshold
                or hypothesis.avg_logprob < self.options.logprob_threshold
            )
        ]

    def _unless_silent(self, hypothesis: Hypothesis) -> Hypothesis:
        """Whisper's rule: no speech is likely, and the text is not; of all attempts alike."""
        most = self.options.no_speech_threshold
        silent = most is not None and hypothesis.no_speech_prob > most
        if silent and hypothesis.avg_logprob <= self.options.logprob_threshold:
            return hypothesis.silenced()
        return hypothesis

    def _retry(self, result: list[Hypothesis], rows: Sequence[int], again: Sequence[Hypothesis]) -> None:
        for i, hypothesis in zip(rows, again, strict=True):
            made = replace(hypothesis, attempts=result[i].attempts + hypothesis.attempts)
            result[i] = self._unless_silent(made)

    def batches(self, audios: Sequence[Audio], batch_size: int) -> Iterator[list[int]]:
        """Rows of ``audios`` in batches of one context."""
        contexts = [self.options.context(audio.size) for audio in audios]
        yield from plan_batches(contexts, [audio.size for audio in audios], batch_size)


def _generator(audio: Audio, temperature: float) -> torch.Generator:
    """Sampling seeded by the audio: a retry does not depend on its batch-mates."""
    seed = hashlib.sha256(np.ascontiguousarray(audio).tobytes() + str(temperature).encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(seed) >> 1)
