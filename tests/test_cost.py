"""Multiply-accumulates are those of the paper, of Whisper's modules and of the attempts made."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from whisper.model import AudioEncoder, ModelDimensions, Whisper

from whisper_router.asr.attention import StepDecoder
from whisper_router.asr.load import cost_dims
from whisper_router.cost import (
    Dims,
    arm_macs,
    cross_macs,
    decoder_macs,
    encoder_macs,
    paper_encoder_macs,
    paper_macs,
)
from whisper_router.decider.logistic import LogisticDecider
from whisper_router.decider.mlp import PooledMlp
from whisper_router.decider.options import LogisticOptions, MlpOptions

PROMPT, TOKENS = 4, 14
WHISPER = {
    "tiny": Dims(80, 384, 4, 4, 51865, PROMPT),
    "base": Dims(80, 512, 6, 6, 51865, PROMPT),
    "small": Dims(80, 768, 12, 12, 51865, PROMPT),
}
SMALL = ModelDimensions(
    n_mels=80,
    n_audio_ctx=120,
    n_audio_state=64,
    n_audio_head=4,
    n_audio_layer=3,
    n_vocab=503,
    n_text_ctx=32,
    n_text_state=64,
    n_text_head=4,
    n_text_layer=2,
)
SMALL_DIMS = Dims(80, 64, 3, 2, 503, PROMPT)


@pytest.fixture(scope="module")
def model() -> Whisper:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Whisper(SMALL).eval()
        torch.nn.init.normal_(model.decoder.positional_embedding)
    return model


def counted_macs(run: Callable[[], object]) -> float:
    """Half the FLOPs that torch counts; fused attention has no entry in its table, so it is taken apart."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


def giga(macs: float) -> float:
    return macs / 1e9


@pytest.mark.parametrize(("name", "macs"), [("tiny", 235), ("base", 625), ("small", 2809)])
def test_the_paper_s_accounting_gives_the_paper_s_figures(name, macs):
    assert giga(paper_macs(WHISPER[name], TOKENS)) == pytest.approx(macs, abs=0.5)


@pytest.mark.parametrize(
    ("name", "encoder", "cross", "greedy"),
    [("tiny", 18.5, 1.8, 20.8), ("base", 43.7, 4.7, 49.4), ("small", 172.1, 21.2, 196.3)],
)
def test_the_cached_accounting_gives_the_published_figures(name, encoder, cross, greedy):
    dims = WHISPER[name]
    assert giga(encoder_macs(dims, 1500)) == pytest.approx(encoder, abs=0.05)
    assert giga(cross_macs(dims, 1500)) == pytest.approx(cross, abs=0.05)
    assert giga(arm_macs(dims, [(1500, PROMPT + TOKENS)])) == pytest.approx(greedy, abs=0.05)


@pytest.mark.parametrize("frames", [1, 60, 120])
def test_the_encoder_s_formula_is_what_torch_counts(frames):
    encoder = AudioEncoder(SMALL.n_mels, frames, SMALL.n_audio_state, SMALL.n_audio_head, SMALL.n_audio_layer)
    mel = torch.randn(1, SMALL.n_mels, 2 * frames)
    assert counted_macs(lambda: encoder(mel)) == encoder_macs(SMALL_DIMS, frames)


def test_the_encoder_without_attention_is_short_of_its_two_products_alone(model):
    frames = 120
    products = 2 * frames * frames * SMALL_DIMS.width * SMALL_DIMS.audio_layers
    assert encoder_macs(SMALL_DIMS, frames) - encoder_macs(SMALL_DIMS, frames, attention=False) == products
    assert paper_encoder_macs(SMALL_DIMS) == encoder_macs(SMALL_DIMS, 1500, attention=False)


@pytest.mark.parametrize("tokens", [1, 2, 9, 32])
@pytest.mark.parametrize("frames", [1, 75])
def test_the_decoder_s_formula_is_what_torch_counts_token_by_token(model, frames, tokens):
    encoded = torch.randn(1, frames, SMALL.n_text_state)

    def run() -> None:
        decoder = StepDecoder(model, encoded, tokens)
        for token in range(tokens):
            decoder.logits(decoder.step(torch.tensor([[token]]))[:, -1])

    assert counted_macs(run) == decoder_macs(SMALL_DIMS, frames, tokens)


def test_the_decoder_s_formula_is_within_1_percent_of_a_prompt_run_at_once(model):
    """The prompt's step makes two rows of logits, not one a token, and attends beyond the causal triangle."""
    dims, frames = SMALL_DIMS, 75
    encoded = torch.randn(1, frames, SMALL.n_text_state)

    def run() -> None:
        decoder = StepDecoder(model, encoded, PROMPT + TOKENS)
        states = decoder.step(torch.arange(PROMPT)[None])
        decoder.logits(states[:, 0])
        decoder.logits(states[:, -1])
        for token in range(TOKENS):
            decoder.logits(decoder.step(torch.tensor([[token]]))[:, -1])

    whole = encoder_macs(dims, frames)
    counted = whole + counted_macs(run)
    assert counted == pytest.approx(arm_macs(dims, [(frames, PROMPT + TOKENS)]), rel=0.01)


@pytest.mark.parametrize("floor", [50, 200, 1500])
def test_an_arm_s_formula_is_within_1_percent_of_what_it_runs_at_any_context(make_arm, plain, clips, floor):
    arm = make_arm("english", plain.model_copy(update={"floor_frames": floor}))
    mel = arm.encode_audio(clips[:1]).mel  # the spectrogram is no part of the formula
    (made,) = arm.decode(arm.encode(mel), clips[:1])
    ((context, tokens),) = [(attempt.context, attempt.tokens) for attempt in made.attempts]
    assert context == max(floor, plain.context(clips[0].size))
    counted = counted_macs(lambda: arm.decode(arm.encode(mel), clips[:1]))
    dims = Dims(**cost_dims(arm))
    last = dims.vocabulary * dims.width  # a text that is cut off has no logits after its last token
    whole = arm_macs(dims, [(context, tokens)])
    assert whole - last <= counted + 0.01 * whole
    assert counted <= 1.01 * whole


@pytest.mark.parametrize("frames", [1, 7, 60])
def test_the_pooled_mlp_s_formula_is_what_torch_counts_and_sees_the_pooling_besides(frames):
    layers, width = 5, 64
    network = PooledMlp(MlpOptions(kind="mlp", extractor="x"), layers, width).eval()
    states = torch.randn(1, frames, layers, width)
    counted = counted_macs(lambda: network(states, torch.tensor([frames])))
    assert network.paper_macs(frames) <= counted <= network.macs(frames)


def test_the_logistic_decider_s_formula_is_one_product_a_feature():
    decider = LogisticDecider(np.ones(14), 0.0, LogisticOptions(kind="logistic", extractor="x"))
    linear = torch.nn.Linear(14, 1)
    assert decider.paper_macs(1) == counted_macs(lambda: linear(torch.ones(1, 14)))


def test_a_retry_at_another_context_pays_the_encoder_again_and_at_the_same_not():
    dims = WHISPER["tiny"]
    first = encoder_macs(dims, 500) + decoder_macs(dims, 500, 18)
    again = decoder_macs(dims, 1500, 30)
    assert arm_macs(dims, [(500, 18)]) == first
    assert arm_macs(dims, [(500, 18), (500, 18)]) == first + decoder_macs(dims, 500, 18)
    assert arm_macs(dims, [(500, 18), (1500, 30)]) == first + encoder_macs(dims, 1500) + again
    assert arm_macs(dims, [(500, 18), (1500, 30), (1500, 30)]) == (
        first + encoder_macs(dims, 1500) + 2 * again
    )
    assert arm_macs(dims, []) == 0


@settings(max_examples=60)
@given(name=st.sampled_from(sorted(WHISPER)), frames=st.integers(1, 1499), tokens=st.integers(1, 222))
def test_more_audio_and_more_tokens_cost_more(name, frames, tokens):
    dims = WHISPER[name]
    cost = arm_macs(dims, [(frames, tokens)])
    assert cost < arm_macs(dims, [(frames + 1, tokens)])
    assert cost < arm_macs(dims, [(frames, tokens + 1)])
    assert cost < arm_macs(dims, [(frames, tokens), (frames, tokens)])
    assert paper_macs(dims, tokens) < paper_macs(dims, tokens + 1)


@settings(max_examples=30)
@given(frames=st.integers(1, 1500), tokens=st.integers(0, 222))
def test_a_larger_whisper_costs_more(frames, tokens):
    order = [WHISPER[name] for name in ("tiny", "base", "small")]
    for count in (
        lambda dims: arm_macs(dims, [(frames, tokens)]),
        lambda dims: paper_macs(dims, tokens),
    ):
        costs = [count(dims) for dims in order]
        assert costs == sorted(set(costs))
