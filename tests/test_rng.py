import torch

from wgan_sweep.common import rng


def test_seeds_and_purposes_give_distinct_streams() -> None:
    seeds = {rng.derive(seed, *purpose) for seed in (0, 1, -1) for purpose in [("noise",), ("order", 0), ("order", 1)]}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeds_are_the_first_63_bits_of_a_hash() -> None:
    """By ``printf 0/order/1 | sha256sum``, 7c9b834547ac6879...: runs of other versions are continued with them."""
    assert rng.derive(0, "order", 1) == 0x7C9B834547AC6879 // 2
    assert rng.generator(0, "order", 1).initial_seed() == 4489457307835839548


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
