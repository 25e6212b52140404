"""TGNet follows the equations of its paper, at the paper's price in weights."""

from __future__ import annotations

import pytest
import torch

from bundles import random_network
from PartialSegLib.networks import CondNO, EncoderDecoderParameters, TGNet, TGNetParameters
from PartialSegLib.networks.contract import weight_count
from PartialSegLib.networks.tgnet import GuidedBlock, GuidedSkip
from PartialSegLib.structures import LabelSpace

MOTS = LabelSpace.named("mots")
SMALL = {"channels": (8, 8, 16, 16, 16), "blocks": (1, 2, 1, 2, 1), "groups": 4}


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def task_code(*tasks: int) -> torch.Tensor:
    return torch.eye(len(MOTS.tasks))[list(tasks)]


def gate_of(linear: torch.nn.Linear, hidden: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
    """Return sigmoid(1x1x1 convolution of (GAP(hidden) || code)), with the convolution written as one."""
    pooled = torch.nn.functional.adaptive_avg_pool3d(hidden, 1)
    told = torch.cat([pooled, code[:, :, None, None, None]], 1)
    return torch.nn.functional.conv3d(told, linear.weight[:, :, None, None, None], linear.bias).sigmoid()


def test_the_modules_add_the_share_of_weights_that_the_paper_states() -> None:
    with torch.device("meta"):
        plain = weight_count(CondNO(EncoderDecoderParameters(), MOTS))
        guided = weight_count(TGNet(TGNetParameters(), MOTS))
        without_blocks = weight_count(TGNet(TGNetParameters(guided_blocks=False), MOTS))
    assert guided - plain == 250_304
    assert round(100 * (guided - plain) / plain, 2) == 1.45
    # TGNet-A: for each skip connection of C channels a norm and a C x (C + 7) convolution with bias.
    assert without_blocks - plain == sum(2 * c + c * (c + 7) + c for c in (256, 128, 64, 32))


def test_the_residual_block_is_the_equation() -> None:
    torch.manual_seed(0)
    block = GuidedBlock(8, 8, tasks=7, groups=4)
    x, code = noise(1, 2, 8, 4, 6, 6), task_code(0, 3)
    with torch.inference_mode():
        f = block.conv1(block.gn1(x).relu())
        wanted = x * gate_of(block.gate.linear, f, code) + block.conv2(block.gn2(f).relu())
        torch.testing.assert_close(block(x, code), wanted)


def test_the_skip_connection_is_the_equation() -> None:
    torch.manual_seed(0)
    skip = GuidedSkip(16, 8, 7, 4)
    x, g, code = noise(1, 2, 8, 8, 8, 8), noise(2, 2, 16, 4, 4, 4), task_code(6, 1)
    with torch.inference_mode():
        wanted = x * gate_of(skip.gate.linear, skip.norm(g).relu(), code)
        torch.testing.assert_close(skip(x, g, code), wanted)


def test_blocks_that_change_the_shape_stay_as_they_are_in_dodnet() -> None:
    network = random_network("TGNet", SMALL)
    guided = [name for name, module in network.named_modules() if isinstance(module, GuidedBlock)]
    assert guided == ["layer0.0", "layer1.1", "layer3.1"]


@pytest.mark.parametrize("guided_blocks", [True, False])
def test_with_open_gates_it_is_the_plain_encoder_decoder(guided_blocks: bool) -> None:
    network = random_network("TGNet", {**SMALL, "guided_blocks": guided_blocks})
    plain = random_network("CondNO", SMALL)
    plain.load_state_dict({name: network.state_dict()[name] for name in plain.state_dict()})
    gates = [module.gate.linear for module in network.modules() if isinstance(module, GuidedBlock | GuidedSkip)]
    assert len(gates) == 4 + 3 * guided_blocks
    with torch.no_grad():
        for linear in gates:
            linear.weight.zero_()
            linear.bias.fill_(100.0)
    image, task = noise(3, 1, 1, 16, 32, 16), torch.tensor([2])
    with torch.inference_mode():
        torch.testing.assert_close(network(image, task), plain(image, task))


def test_the_task_reaches_encoder_and_skip_connections() -> None:
    network = random_network("TGNet", SMALL)
    assert isinstance(network, TGNet)
    image = noise(4, 1, 1, 16, 32, 32)
    with torch.inference_mode():
        first, second = (network.encode(image, task_code(task)) for task in (0, 1))
        assert all(not torch.allclose(a, b, atol=1e-3) for a, b in zip(first, second, strict=True))
        skip = network.skips[0]
        assert not torch.allclose(skip(first[3], first[4], task_code(0)), skip(first[3], first[4], task_code(1)))


def test_features_without_a_task_are_refused() -> None:
    with pytest.raises(ValueError, match="depend on the task"):
        random_network("TGNet", SMALL).features(noise(5, 1, 1, 16, 16, 16))
