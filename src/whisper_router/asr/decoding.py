"""Batched decoding on openai-whisper's modules, with the token-level confidence that deciders read."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer

from whisper_router.asr.attention import StepDecoder
from whisper_router.asr.speech import NoSpeech

LOGPROB_DECIMALS = 4  # stored confidences are rounded: batch shapes move the last bits
LOOP_TOKENS = 20  # a text whose last tokens, this many, repeat those before is stopped


@dataclass(frozen=True)
class Attempt:
    """One decoding of an utterance: what it cost."""

    context: int  # encoder frames
    tokens: int  # tokens run through the decoder, prompt included


@dataclass(frozen=True)
class Hypothesis:
    """What an arm makes of an utterance; floats rounded to 4 decimals."""

    text: str
    avg_logprob: float  # mean over the tokens and the end of text
    compression_ratio: float  # of a text stopped in a loop: as if it had run on to its limit
    no_speech_prob: float
    temperature: float
    token_logprob: tuple[float, ...]
    token_entropy: tuple[float, ...]  # nats
    token_margin: tuple[float, ...]  # log-probability of the first minus the second choice
    attempts: tuple[Attempt, ...]  # none where it was not decoded
    no_speech: NoSpeech | None = None  # what says that there is none; the text is empty then

    @classmethod
    def silent(cls, reason: NoSpeech) -> "Hypothesis":
        """Of a window that is not decoded, since it holds no speech."""
        return cls("", 0.0, 0.0, 1.0, 0.0, (), (), (), (), reason)

    def silenced(self) -> "Hypothesis":
        """The same without its text and the confidence in it: the decoder says that it heard no speech."""
        return replace(
            self, text="", token_logprob=(), token_entropy=(), token_margin=(), no_speech="decoder"
        )

    @property
    def tokens(self) -> int:
        """Text tokens of the final attempt."""
        return len(self.token_logprob)


def compression_ratio(text: str) -> float:
    """Length over zlib's length: above 2.4 the text repeats itself (Whisper's measure)."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def loop_period(tokens: Sequence[int]) -> int:
    """Length of what the end of a text repeats, at least twice and over ``LOOP_TOKENS``; 0 if nothing."""
    for period in range(1, len(tokens) // 3 + 1):
        repeated = max(LOOP_TOKENS, 2 * period)
        if tokens[-1] == tokens[-1 - period] and repeated + period <= len(tokens):
            tail = tokens[-repeated - period :]
            if tail[period:] == tail[:-period]:
                return period
    return 0


def suppressed_tokens(tokenizer: Tokenizer) -> list[int]:
    """What is never emitted: non-speech symbols, and all special tokens but the end of text.

    Languages, tasks and times are among the special ones: Whisper's decoder may emit a language in mid-text.
    """
    special = range(tokenizer.eot + 1, tokenizer.encoding.n_vocab)
    return sorted({*tokenizer.non_speech_tokens, *special})


def token_facts(logits: Tensor, chosen: Tensor) -> Tensor:
    """Log-probability, entropy and margin of chosen tokens.

    Parameters
    ----------
    logits : Tensor
        Shape (tokens, vocabulary).
    chosen : Tensor
        Shape (tokens,).

    Returns
    -------
    Tensor
        Shape (tokens, 3).
    """
    logprobs = logits.log_softmax(dim=-1)
    top = logprobs.topk(2, dim=-1).values
    entropy = torch.special.entr(logprobs.exp()).sum(dim=-1)
    picked = logprobs.gather(1, chosen[:, None])[:, 0]
    return torch.stack([picked, entropy, top[:, 0] - top[:, 1]], dim=1)


@torch.inference_mode()
def decode(
    model: Whisper,
    tokenizer: Tokenizer,
    encoded: Tensor,
    limits: Sequence[int],
    temperature: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> list[Hypothesis]:
    """Decode a batch token by token, without timestamps; rows that are finished or loop leave the batch.

    Parameters
    ----------
    encoded : Tensor
        The encoder's output, shape (batch, frames, width).
    limits : sequence of int
        Most text tokens of each row.
    temperature : float
        0 is greedy; above, each row is sampled with its own generator.
    """
    prompt = list(tokenizer.sot_sequence_including_notimestamps)
    always = torch.tensor(suppressed_tokens(tokenizer))
    at_begin = torch.tensor([*tokenizer.encode(" "), tokenizer.eot])
    rows = list(range(encoded.shape[0]))  # batch row -> utterance
    emitted: list[list[int]] = [[] for _ in rows]
    facts: list[list[list[float]]] = [[] for _ in rows]
    decoder = StepDecoder(model, encoded, len(prompt) + max(limits))
    states = decoder.step(torch.tensor([prompt] * len(rows)))
    at_start = decoder.logits(states[:, prompt.index(tokenizer.sot)]).softmax(dim=-1)
    no_speech = at_start[:, tokenizer.no_speech].tolist()
    while True:
        logits = decoder.logits(states[:, -1])  # (rows, vocabulary)
        logits[:, always] = -torch.inf
        if not any(emitted):
            logits[:, at_begin] = -torch.inf
        if temperature == 0:
            chosen = logits.argmax(dim=-1)
        else:
            weights = (logits / temperature).softmax(dim=-1)
            drawn = [
                torch.multinomial(weights[i], 1, generator=generators[row]) for i, row in enumerate(rows)
            ]
            chosen = torch.cat(drawn)
        columns = token_facts(logits, chosen).tolist()
        live = []
        for i, (row, token) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            facts[row].append(columns[i])
            if token != tokenizer.eot:
                emitted[row].append(token)
                if len(emitted[row]) < limits[row] and not loop_period(emitted[row]):
                    live.append(i)
        if not live:
            break
        if len(live) < len(rows):
            index = torch.tensor(live)
            rows, chosen = [rows[i] for i in live], chosen[index]
            decoder.keep(index)
        states = decoder.step(chosen[:, None])
    context = encoded.shape[1]
    return [
        hypothesis(tokenizer, emitted[i], facts[i], no_speech[i], temperature, context, limit)
        for i, limit in enumerate(limits)
    ]


def hypothesis(
    tokenizer: Tokenizer,
    tokens: list[int],
    facts: list[list[float]],
    no_speech: float,
    temperature: float,
    context: int,
    limit: int,
) -> Hypothesis:
    """What was decoded, up to where it loops, rounded.

    Parameters
    ----------
    tokens : list of int
        Of the text.
    facts : list of list of float
        `token_facts` of the tokens, and of the end of text if it was reached.
    limit : int
        Most text tokens.
    """
    loops = [end for end in range(LOOP_TOKENS, len(tokens) + 1) if loop_period(tokens[:end])]
    run_on = tokens
    if loops:
        tokens, facts = tokens[: loops[0]], facts[: loops[0]]
        repeated = tokens[-loop_period(tokens) :]
        run_on = (tokens + repeated * limit)[:limit]
    text = tokenizer.decode(tokens).strip()
    prompt = len(tokenizer.sot_sequence_including_notimestamps)
    columns = [tuple(round(fact[k], LOGPROB_DECIMALS) for fact in facts[: len(tokens)]) for k in range(3)]
    return Hypothesis(
        text=text,
        avg_logprob=round(sum(fact[0] for fact in facts) / (len(tokens) + 1), LOGPROB_DECIMALS),
        compression_ratio=round(compression_ratio(tokenizer.decode(run_on).strip()), LOGPROB_DECIMALS),
        no_speech_prob=round(no_speech, LOGPROB_DECIMALS),
        temperature=temperature,
        token_logprob=columns[0],
        token_entropy=columns[1],
        token_margin=columns[2],
        attempts=(Attempt(context, prompt + len(tokens)),),
    )
