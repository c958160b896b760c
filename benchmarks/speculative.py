"""Speculative decoding, measured: the weak arm's text as a draft for the strong arm's greedy decoding.

    python benchmarks/speculative.py [--table data/manifest.parquet] [--utterances 40] [--repeats 3]
                                     [--models tiny.en base]

The strong decoder runs a whole draft at once and keeps it as far as it would have said the same; then it says
its own token, the draft is taken up again after that, and so on. The result is the strong arm's own greedy
text. The draft is free in a cascade, which has decoded with the weak arm before; elsewhere its time counts.
One utterance at a time, torch, float32, all cores, at the arms' own contexts, no fallback; beside it the
strong arm's batches, in which a step serves many utterances. Writes docs/speculative.md and .json.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sample import Clip, draw
from torch import Tensor
from tqdm import tqdm
from whisper.model import Whisper
from whisper.tokenizer import Tokenizer, get_tokenizer

from whisper_router.asr.arm import Arm
from whisper_router.asr.attention import StepDecoder
from whisper_router.asr.decoding import suppressed_tokens
from whisper_router.asr.load import load_arm
from whisper_router.asr.options import DecodeOptions
from whisper_router.asr.weights import find_checkpoint, load_whisper
from whisper_router.machine import describe_machine

DOCUMENT = Path("docs/speculative.md")
BATCH_SIZE = 16
LOOK_AHEAD = 4  # draft tokens among which the strong arm's own is looked for


class BlockDecoder(StepDecoder):
    """A StepDecoder that runs several tokens at any place, and can step back."""

    def block(self, tokens: Tensor) -> Tensor:
        """Run tokens of shape (1, n) after those before; return states of shape (1, n, width)."""
        start, end = self._position, self._position + tokens.shape[1]
        decoder = self._decoder
        mask = torch.ones(end - start, end, dtype=torch.bool).tril(start)
        x = decoder.token_embedding(tokens) + decoder.positional_embedding[start:end]
        for block, (own_k, own_v), (cross_k, cross_v) in zip(
            decoder.blocks, self._own, self._cross, strict=True
        ):
            h = block.attn_ln(x)
            own_k[:, :, start:end] = self._split(block.attn.key(h))
            own_v[:, :, start:end] = self._split(block.attn.value(h))
            q, k, v = self._split(block.attn.query(h)), own_k[:, :, :end], own_v[:, :, :end]
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            x = x + block.attn.out(mixed.transpose(1, 2).flatten(2))
            q = block.cross_attn.query(block.cross_attn_ln(x))
            x = x + self._attend(block.cross_attn, q, cross_k, cross_v, causal=False)
            x = x + block.mlp(block.mlp_ln(x))
        self._position = end
        normed: Tensor = decoder.ln(x)
        return normed

    def back(self, count: int) -> None:
        """Forget the last ``count`` tokens."""
        self._position -= count


class Speculative:
    """Greedy decoding of one utterance, with or without a draft.

    Parameters
    ----------
    model : Whisper
        The strong one.
    """

    def __init__(self, model: Whisper, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer
        self._prompt = list(tokenizer.sot_sequence_including_notimestamps)
        self._always = torch.tensor(suppressed_tokens(tokenizer))
        self._at_begin = torch.tensor([*tokenizer.encode(" "), tokenizer.eot])

    @torch.inference_mode()
    def __call__(self, encoded: Tensor, draft: Sequence[int], limit: int) -> tuple[list[int], int]:
        """Text tokens, and how often the decoder ran.

        Parameters
        ----------
        encoded : Tensor
            The encoder's output, shape (1, frames, width).
        draft : sequence of int
            Tokens that the text may consist of; none: plain greedy decoding.
        """
        decoder = BlockDecoder(self.model, encoded, len(self._prompt) + limit + len(draft) + 1)
        said: list[int] = []
        rest, fresh, runs = list(draft), self._prompt, 0
        while True:
            states = decoder.block(torch.tensor([fresh + rest]))[0, len(fresh) - 1 :]
            runs += 1
            logits = decoder.logits(states)  # (len(rest) + 1, vocabulary)
            logits[:, self._always] = -torch.inf
            if not said:
                logits[0, self._at_begin] = -torch.inf
            own = logits.argmax(dim=-1).tolist()
            agreed = next((i for i, token in enumerate(rest) if token != own[i]), len(rest))
            decoder.back(len(rest) - agreed)
            for token in (*rest[:agreed], own[agreed]):
                if token == self.tokenizer.eot:
                    return said, runs
                said.append(token)
                if len(said) == limit:
                    return said, runs
            fresh, rest = [own[agreed]], rest[agreed:]
            if rest:
                ahead = rest[:LOOK_AHEAD]
                rest = rest[ahead.index(own[agreed]) + 1 if own[agreed] in ahead else 1 :]


def batched(arm: Arm, clips: Sequence[Clip]) -> tuple[float, float]:
    """Seconds of encoding and of decoding in batches."""
    audios = [clip.audio for clip in clips]
    encode = decode = 0.0
    for rows in arm.batches(audios, BATCH_SIZE):
        chosen = [audios[i] for i in rows]
        started = time.perf_counter()
        encoding = arm.encode_audio(chosen)
        encoded = time.perf_counter()
        arm.decode(encoding, chosen)
        encode += encoded - started
        decode += time.perf_counter() - encoded
    return encode, decode


def benchmark(clips: Sequence[Clip], models: Sequence[str], repeats: int) -> dict[str, Any]:
    """Seconds of all utterances: medians of interleaved repeats."""
    options = DecodeOptions(
        temperatures=(0.0,), compression_ratio_threshold=1e9, logprob_threshold=-1e9
    )  # no fallback
    checkpoints = [find_checkpoint(model) for model in models]
    weak, strong = (load_arm(checkpoint, options) for checkpoint in checkpoints)
    model = load_whisper(checkpoints[1])
    tokenizer = get_tokenizer(
        model.is_multilingual, num_languages=model.num_languages, language=options.language, task="transcribe"
    )
    speculative = Speculative(model, tokenizer)
    made: list[dict[str, Any]] = []
    for clip in tqdm(clips, "speculative", unit="utt"):
        audio = [clip.audio]
        limit = options.token_limit(clip.audio.size, int(model.dims.n_text_ctx))
        times: dict[str, list[float]] = {key: [] for key in ("encode", "greedy", "drafted", "weak")}
        for _ in range(repeats):
            marks = [time.perf_counter()]
            encoded = strong.encode_audio(audio).states[-1]
            marks.append(time.perf_counter())
            plain, steps = speculative(encoded, (), limit)
            marks.append(time.perf_counter())
            (hypothesis,) = weak.decode(weak.encode_audio(audio), audio)
            draft = tokenizer.encode(" " + hypothesis.text)
            marks.append(time.perf_counter())
            text, runs = speculative(encoded, draft, limit)
            marks.append(time.perf_counter())
            for key, start, end in (("encode", 0, 1), ("greedy", 1, 2), ("weak", 2, 3), ("drafted", 3, 4)):
                times[key].append(marks[end] - marks[start])
        made.append(
            {
                **{key: statistics.median(values) for key, values in times.items()},
                "steps": steps,
                "runs": runs,
                "same": text == plain,
            }
        )
    in_batches = [batched(strong, clips) for _ in range(repeats)]
    total = {key: sum(row[key] for row in made) for key in ("encode", "greedy", "drafted", "weak")}
    return {
        "seconds": {key: round(value, 3) for key, value in total.items()},
        "seconds_batched": {
            "encode": round(statistics.median(pair[0] for pair in in_batches), 3),
            "decode": round(statistics.median(pair[1] for pair in in_batches), 3),
        },
        "decoder_runs": {"greedy": sum(r["steps"] for r in made), "drafted": sum(r["runs"] for r in made)},
        "same_text": sum(row["same"] for row in made),
        "utterances": len(made),
    }


def markdown(found: dict[str, Any], facts: dict[str, Any]) -> str:
    """The page, with the verdict that the figures give."""
    s, b, runs = found["seconds"], found["seconds_batched"], found["decoder_runs"]
    greedy = s["encode"] + s["greedy"]
    cascade = s["encode"] + s["drafted"]
    alone = cascade + s["weak"]
    batch = b["encode"] + b["decode"]
    weak, strong = facts["models"]
    most = b["decode"] / batch
    worth = (
        "worth building into a service that gets one utterance at a time and runs a cascade"
        if (cascade < 0.9 * greedy)
        else "not worth its code"
    )
    machine = facts["machine"]
    lines = [
        "# Speculative decoding: a measured verdict",
        "",
        f"{weak} drafts for {strong}: {found['utterances']} utterances ({facts['audio_s']:.0f} s), torch "
        f"{machine['libraries']['torch']}, float32, greedy, medians of {facts['repeats']} repeats on "
        f"{machine['cpu']}, {machine['cores']} cores. Made by `python benchmarks/speculative.py`.",
        "",
        "| seconds for all utterances | encoder | decoder | both | of greedy |",
        "|---|---:|---:|---:|---:|",
        f"| one at a time, greedy | {s['encode']:.2f} | {s['greedy']:.2f} | {greedy:.2f} | 100 % |",
        f"| one at a time, drafted, the draft for free (a cascade) | {s['encode']:.2f} | {s['drafted']:.2f} "
        f"| {cascade:.2f} | {cascade / greedy:.0%} |",
        f"| one at a time, drafted, the draft paid | {s['encode'] + s['weak']:.2f} | {s['drafted']:.2f} "
        f"| {alone:.2f} | {alone / greedy:.0%} |",
        f"| batches of {BATCH_SIZE}, greedy | {b['encode']:.2f} | {b['decode']:.2f} | {batch:.2f} "
        f"| {batch / greedy:.0%} |",
        "",
        f"- The text is that of greedy decoding on {found['same_text']} of {found['utterances']} utterances.",
        f"- The strong decoder runs {runs['drafted']} times instead of {runs['greedy']}.",
        f"- Where the draft must be paid, the whole takes {alone / greedy:.0%} of greedy decoding.",
        f"- In batches the decoder is {most:.0%} of the time: no draft can save more there, and the drafts",
        "  of a batch agree over different lengths, so that it would save less.",
        "",
        f"**Verdict**: {worth}. Labelling and evaluation run in batches and do without.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", type=Path, default=Path("data/manifest.parquet"))
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--models", nargs=2, default=["tiny.en", "base"])
    arguments = parser.parse_args()
    clips = draw(arguments.table, arguments.utterances, 0)
    found = benchmark(clips, arguments.models, arguments.repeats)
    facts = {
        "machine": describe_machine(),
        "audio_s": round(sum(clip.audio.size for clip in clips) / 16_000, 1),
        "repeats": arguments.repeats,
        "models": arguments.models,
    }
    DOCUMENT.parent.mkdir(exist_ok=True)
    DOCUMENT.with_suffix(".json").write_text(json.dumps({**facts, **found}, indent=2) + "\n")
    DOCUMENT.write_text(markdown(found, facts))
    print(markdown(found, facts))


if __name__ == "__main__":
    main()
