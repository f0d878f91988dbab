import torch

from wgan_sweep.common import rng


def test_seeds_and_purposes_give_distinct_streams() -> None:
    seeds = {rng.derive(seed, *purpose) for seed in (0, 1, -1) for purpose in [("noise",), ("order", 0), ("order", 1)]}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_is_reproducible() -> None:
    first, second = (torch.rand(3, generator=rng.generator(0, "noise")) for _ in range(2))
    assert torch.equal(first, second)


def test_seeded_restores_the_global_generator() -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    with rng.seeded(0, "x"):
        first = torch.rand(3)
    assert torch.equal(torch.rand(4), expected)
    with rng.seeded(0, "x"):
        assert torch.equal(torch.rand(3), first)
