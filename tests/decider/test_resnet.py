"""The ResNet is the paper's: its sizes, its layer weights, and no score depends on padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from whisper_router.decider.network import NetworkDecider
from whisper_router.decider.options import ResnetOptions
from whisper_router.decider.resnet import LayerResnet, ResidualBlock, _LayerSum, _masked
from whisper_router.decider.training import pad

PAPER = ResnetOptions(kind="resnet", extractor="paper")
LITTLE = ResnetOptions(kind="resnet", extractor="toy", channels=8)
SMALL = {"layers": 13, "width": 768}
few = settings(max_examples=25)


@pytest.fixture(scope="module")
def paper() -> LayerResnet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LayerResnet(PAPER, **SMALL).eval()


@pytest.fixture(scope="module")
def lived() -> LayerResnet:
    """A little network whose batch norms have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = LayerResnet(LITTLE, 3, 5).train()
        for _ in range(20):
            network(2 + torch.randn(4, 40, 3, 5).half(), torch.tensor([40, 31, 7, 22]))
    return network.eval()


def test_on_small_it_has_the_parameters_of_the_paper(paper):
    assert NetworkDecider(paper, **SMALL).parameters == 1_905_422


def test_on_small_it_costs_what_the_paper_says_which_is_what_torch_counts(paper):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        paper(torch.zeros(1, 1500, 13, 768, dtype=torch.float16), torch.tensor([1500]))
    counted = counter.get_flop_counts()["Global"]
    # torch does not count the layer sum, a product of a vector and matrices
    assert paper.paper_macs(1500) == sum(counted.values()) / 2
    assert 0.885e9 <= paper.paper_macs(1500) <= 0.895e9


def test_all_products_are_those_of_the_paper_the_layer_sum_and_the_norms(paper):
    norms = 3 * 256 * (750 + 250 + 84)
    assert paper.macs(1500) == paper.paper_macs(1500) + 1500 * 13 * 768 + norms


def test_frames_are_those_of_the_paper(paper):
    frames, shapes = [1500], []
    hooks = [
        block.register_forward_hook(lambda *made: shapes.append(made[2].shape)) for block in paper.blocks
    ]
    with torch.no_grad():
        paper(torch.zeros(2, 1500, 13, 768, dtype=torch.float16), torch.tensor([1500, 1500]))
    for hook in hooks:
        hook.remove()
    for block in paper.blocks:
        frames.append(block.frames(frames[-1]))
    assert frames == [1500, 750, 250, 84]
    assert [tuple(shape) for shape in shapes] == [(2, 256, 750), (2, 256, 250), (2, 256, 84)]


@few
@given(frames=st.integers(1, 90), stride=st.integers(1, 4))
def test_a_block_foretells_its_frames(frames, stride):
    block = ResidualBlock(3, 4, stride).eval()
    assert block(torch.zeros(1, 3, frames), None).shape == (1, 4, block.frames(frames))


@pytest.mark.parametrize(("layers", "width"), [(5, 384), (7, 512), (13, 768)], ids=["tiny", "base", "small"])
def test_there_is_a_weight_for_each_hidden_state_of_the_arm(layers, width):
    network = LayerResnet(LITTLE, layers, width).eval()
    assert network.layer_weights.shape == (layers,)
    assert network(torch.zeros(1, 30, layers, width, dtype=torch.float16), torch.tensor([30])).shape == (1,)


def test_layer_weights_begin_between_0_and_1_and_differ_by_seed():
    weights = torch.cat([LayerResnet(LITTLE, 13, 4).layer_weights.detach() for _ in range(40)])
    assert ((weights >= 0) & (weights < 1)).all()
    assert weights.mean() == pytest.approx(0.5, abs=0.05)
    assert weights.std() == pytest.approx(12**-0.5, abs=0.05)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@few
@given(
    batch=st.integers(1, 3),
    frames=st.integers(1, 6),
    layers=st.integers(1, 5),
    width=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_the_layer_sum_and_its_gradient_are_those_of_a_plain_sum_without_softmax(
    batch, frames, layers, width, seed
):
    states = torch.randn(batch, frames, layers, width, generator=seeded(seed)).half()
    slope = torch.randn(batch, frames, width, generator=seeded(seed + 1))
    results = []
    for total in (
        lambda weights: _LayerSum.apply(weights, states),
        lambda weights: torch.einsum("l,btld->btd", weights, states.float()),
    ):
        weights = torch.rand(layers, generator=seeded(seed + 2)).requires_grad_()
        made = total(weights)
        (made * slope).sum().backward()
        results.append((made.detach(), weights.grad))
        torch.testing.assert_close(total(3 * weights.detach()), 3 * made.detach())
    for own, plain in zip(*results, strict=True):
        torch.testing.assert_close(own, plain, atol=1e-5, rtol=1e-4)


@few
@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_scores_of_a_ragged_batch_are_those_of_each_alone(lived, lengths, seed):
    random = np.random.default_rng(seed)
    features = [random.standard_normal((length, 3, 5)).astype(np.float16) for length in lengths]
    with torch.inference_mode():
        together = lived(*pad(features))
        alone = torch.cat([lived(*pad([feature])) for feature in features])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_a_short_utterance_is_not_what_it_is_with_zeros_at_its_end(lived):
    feature = np.ones((20, 3, 5), np.float16)
    longer = np.concatenate([feature, np.zeros((60, 3, 5), np.float16)])
    with torch.inference_mode():
        assert abs(float(lived(*pad([feature])) - lived(*pad([longer])))) > 1e-3


def norms(channels: int) -> tuple[nn.BatchNorm1d, nn.BatchNorm1d]:
    return nn.BatchNorm1d(channels).train(), nn.BatchNorm1d(channels).train()


@few
@given(batch=st.integers(2, 4), frames=st.integers(1, 9), seed=st.integers(0, 99))
def test_masked_batch_norm_is_the_plain_one_where_nothing_is_padded(batch, frames, seed):
    x = torch.randn(batch, 3, frames, generator=seeded(seed))
    plain, masked = norms(3)
    mask = torch.ones(batch, frames, dtype=torch.bool)
    torch.testing.assert_close(_masked(masked, x, mask), _masked(plain, x, None))
    torch.testing.assert_close(_masked(plain, x, None), nn.BatchNorm1d(3).train()(x))
    torch.testing.assert_close(masked.running_mean, nn.BatchNorm1d(3).running_mean + 0.1 * x.mean((0, 2)))


@few
@given(lengths=st.lists(st.integers(1, 9), min_size=2, max_size=4), seed=st.integers(0, 99))
def test_masked_batch_norm_knows_nothing_of_the_padding(lengths, seed):
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    x = torch.randn(len(lengths), 3, max(lengths), generator=seeded(seed))
    x = torch.where(mask[:, None], x, torch.tensor(1e6))
    plain, masked = norms(3)
    found = _masked(masked, x, mask).transpose(1, 2)
    torch.testing.assert_close(found[mask], plain(x.transpose(1, 2)[mask]))
    assert (found[~mask] == 0).all()
    torch.testing.assert_close(masked.running_var, plain.running_var)


def test_in_training_a_batch_of_equal_lengths_is_the_same_masked_or_not():
    states = torch.randn(4, 30, 3, 5, generator=seeded(0)).half()
    longer = torch.cat([states, torch.zeros(4, 50, 3, 5).half()], dim=1)
    lengths = torch.full((4,), 30)
    network = LayerResnet(LITTLE, 3, 5).train()
    torch.testing.assert_close(network(states, lengths), network(longer, lengths), atol=1e-5, rtol=1e-4)
