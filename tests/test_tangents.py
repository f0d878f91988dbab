import pytest
import torch
from torch import nn

from wgan_sweep.models.layers import MeanPool
from wgan_sweep.tangents import derivative_along

LAYERS = {
    "conv": nn.Conv2d(4, 3, 3, padding=1),
    "strided conv without bias": nn.Conv2d(4, 3, 4, 2, 1, bias=False),
    "relu": nn.ReLU(),
    "relu in place": nn.ReLU(inplace=True),
    "leaky relu": nn.LeakyReLU(0.2),
    "layer norm": nn.GroupNorm(1, 4),
    "instance norm": nn.GroupNorm(4, 4),
    "group norm": nn.GroupNorm(2, 4),
    "group norm without gain": nn.GroupNorm(1, 4, affine=False),
    "average pool": nn.AvgPool2d(2),
    "mean pool": MeanPool(),
    "tanh, which has torch's rule": nn.Tanh(),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_rule_gives_torchs_derivative_and_its_derivatives_in_the_parameters(name: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 1), LAYERS[name], nn.Flatten(), nn.LazyLinear(1), nn.Flatten(0)).double()
    points, direction = torch.randn(3, 2, 6, 6).double(), torch.randn(3, 2, 6, 6).double()
    network(points)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter))
    parameters = [p for p in network.parameters() if p.requires_grad]

    found = derivative_along(network, points, direction)
    at = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(at).sum(), at, create_graph=True)
    wanted = (gradient * direction).flatten(1).sum(1)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    for one, other in zip(
        *(torch.autograd.grad(v.sum(), parameters, allow_unused=True) for v in (found, wanted)), strict=True
    ):
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero if one is None else one.sum(),
            zero if other is None else other.sum(),
            rtol=1e-9,
            atol=1e-9,
            check_dtype=False,
        )


def test_a_network_that_ignores_its_input_has_derivative_zero() -> None:
    bias = nn.Parameter(torch.ones(3))
    assert derivative_along(lambda x: bias * 2, torch.zeros(3, 2), torch.ones(3, 2)).tolist() == [0, 0, 0]
