"""Engine hf: a CTC model of Hugging Face's transformers (extra ``hf``), such as Wav2Vec2, HuBERT or WavLM.

It reads samples instead of a log-mel, gives a token a frame at once and takes the most probable, so it needs
neither retries nor a token limit.
"""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from whisper_router.asr.decoding import LOGPROB_DECIMALS, Attempt, Hypothesis, compression_ratio, token_facts
from whisper_router.asr.engine import Encoding, engine_package
from whisper_router.asr.options import SAMPLES_PER_FRAME, Dtype
from whisper_router.errors import UserError


def load_model(folder: Path) -> tuple[Any, Any, bool]:
    """The model in float32, its tokenizer, and whether it wants its samples normalised.

    Raises
    ------
    UserError
        transformers is not installed, or the folder holds no CTC model with frames of 20 ms.
    """
    transformers = engine_package("hf")
    local = {"local_files_only": True}
    try:
        model = transformers.AutoModelForCTC.from_pretrained(folder, use_safetensors=True, **local)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        reader = transformers.AutoFeatureExtractor.from_pretrained(folder, **local)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: holds no CTC model in safetensors with its tokenizer and feature extractor: {error}"
        ) from error
    if math.prod(model.config.conv_stride) != SAMPLES_PER_FRAME:
        raise UserError(f"{folder}: frames of {math.prod(model.config.conv_stride)} samples, 320 are needed")
    return model.eval(), tokenizer, bool(reader.do_normalize)


def frame_macs(model: Any) -> int:
    """Multiply-accumulates a frame of 20 ms, all but attention's products."""
    strides = model.config.conv_stride
    total = 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            layer = name.partition("feature_extractor.conv_layers.")[2].split(".")[0]
            total += module.weight.numel() * (math.prod(strides[int(layer) + 1 :]) if layer else 1)
    return total


class HfEncoder:
    """All but the head of a CTC model.

    Frames that hold padding alone are zero, so that the decoder can pass over them.
    """

    def __init__(self, model: Any, normalise: bool, dtype: Dtype) -> None:
        self._dtype, self._normalise = getattr(torch, dtype), normalise
        self._model = model.base_model.to(self._dtype)
        self._masked = model.config.feat_extract_norm == "layer"  # the others were trained without a mask
        width = 1  # samples that a frame sees
        for kernel, stride in zip(
            reversed(model.config.conv_kernel), reversed(model.config.conv_stride), strict=True
        ):
            width = (width - 1) * stride + kernel
        self._overlap = width - SAMPLES_PER_FRAME

    @torch.inference_mode()
    def __call__(self, mel: Tensor) -> Encoding:
        """Encode a batch of samples, shape (batch, 320 * frames); zeros at the end are padding."""
        places = torch.arange(mel.shape[1])
        lengths = ((mel != 0) * (places + 1)).amax(dim=1, keepdim=True).clamp(min=1)
        given = places < lengths  # (batch, samples)
        x = mel
        if self._normalise:
            x = x - x.sum(dim=1, keepdim=True) / lengths
            x = x * given
            x = x / (x.square().sum(dim=1, keepdim=True) / lengths + 1e-7).sqrt()
        x = F.pad(x, (0, self._overlap)).to(self._dtype)
        mask = F.pad(given, (0, self._overlap)).long() if self._masked else None
        made = self._model(x, attention_mask=mask, output_hidden_states=True)
        frames = torch.arange(made.last_hidden_state.shape[1])
        audible = (frames * SAMPLES_PER_FRAME < lengths)[..., None]  # (batch, frames, 1)
        return Encoding(mel, made.last_hidden_state.float() * audible, list(made.hidden_states[:-1]))


class HfDecoder:
    """The head of a CTC model: the most probable token of each frame, repeats and blanks dropped."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._head, self._tokenizer = model.lm_head, tokenizer

    @torch.inference_mode()
    def __call__(
        self,
        encoded: Tensor,
        limits: Sequence[int],
        temperature: float = 0.0,
        generators: Sequence[torch.Generator] = (),
    ) -> list[Hypothesis]:
        """Decode a batch, shape (batch, frames, width); limits and temperature have no meaning here."""
        return [self._decode(row) for row in encoded]

    def _decode(self, encoded: Tensor) -> Hypothesis:
        logits = self._head(encoded[encoded.any(dim=1)])  # (frames of audio, vocabulary)
        path = logits.argmax(dim=1)
        facts = token_facts(logits, path).tolist()
        blank = self._tokenizer.pad_token_id
        tokens, columns = [], []
        for token, run in groupby(zip(path.tolist(), facts, strict=True), key=lambda pair: pair[0]):
            if token != blank:
                tokens.append(token)
                columns.append(max(fact for _, fact in run))  # where it is the most probable
        text = self._tokenizer.decode(tokens, group_tokens=False).strip()

        def column(k: int) -> tuple[float, ...]:
            return tuple(round(fact[k], LOGPROB_DECIMALS) for fact in columns)

        return Hypothesis(
            text=text,
            avg_logprob=round(sum(fact[0] for fact in facts) / len(facts), LOGPROB_DECIMALS),
            compression_ratio=round(compression_ratio(text), LOGPROB_DECIMALS),
            no_speech_prob=round(float(logits.softmax(dim=1)[:, blank].min()), LOGPROB_DECIMALS),
            temperature=0.0,
            token_logprob=column(0),
            token_entropy=column(1),
            token_margin=column(2),
            attempts=(Attempt(encoded.shape[0], 0),),
        )
