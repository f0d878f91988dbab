import torch

from wgan_sweep.common import rng


def test_seed_zero_is_a_seed_and_purposes_are_apart() -> None:
    seeds = {rng.derive(seed, *purpose) for seed in (0, 1, -1) for purpose in [("noise",), ("order", 0), ("order", 1)]}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_stream_is_the_same_every_time() -> None:
    one, other = (torch.rand(3, generator=rng.generator(0, "noise")) for _ in range(2))
    assert torch.equal(one, other)


def test_seeded_gives_the_global_generator_back() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(4)
    torch.manual_seed(5)
    with rng.seeded(0, "x"):
        first = torch.rand(3)
    assert torch.equal(torch.rand(4), wanted)
    with rng.seeded(0, "x"):
        assert torch.equal(torch.rand(3), first)
