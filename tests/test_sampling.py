from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wgan_sweep.common import rng
from wgan_sweep.objectives import sampling

SCHEMES = [
    sampling.real_fake,
    sampling.within_source,
    sampling.mixed_pairs,
    sampling.mixture,
    sampling.fake,
    sampling.real,
    sampling.perturbed_real,
]
INTERPOLATING = SCHEMES[:3]


def batches(count: int, shape: tuple[int, ...] = (2, 3)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    real = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return real, torch.randn(count, *shape, generator=generator, dtype=torch.float64) + 10


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_scheme_returns_one_point_per_example_of_the_batch(scheme: sampling.Sampling, count: int) -> None:
    real, fake = batches(count)
    assert scheme(real, fake, rng.generator(0)).shape == real.shape


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_points_depend_on_the_seed_only(scheme: sampling.Sampling) -> None:
    real, fake = batches(8)
    points, same_seed, other_seed = (scheme(real, fake, rng.generator(seed, "points")) for seed in (0, 0, 1))
    assert torch.equal(points, same_seed)
    if scheme not in (sampling.real, sampling.fake):
        assert not torch.equal(points, other_seed)


def segments(point: Tensor, pool: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of examples between which a point lies, with one epsilon for all coordinates."""
    pairs = []
    for i in range(len(pool)):
        for j in range(len(pool)):
            if i != j:
                t = (point - pool[j]) / (pool[i] - pool[j])
                if t.max() - t.min() < 1e-9 and -1e-9 <= t.mean() <= 1 + 1e-9:
                    pairs.append((i, j))
    return pairs


@pytest.mark.integration
@given(seed=st.integers(0, 10**6), count=st.integers(2, 9))
def test_interpolations_lie_between_two_different_examples_of_the_right_sources(seed: int, count: int) -> None:
    real, fake = batches(count)
    pool = torch.cat([real, fake]).flatten(1)
    sources = {sampling.real_fake: {(True, False)}, sampling.within_source: {(True, True), (False, False)}}
    for scheme in INTERPOLATING:
        for index, point in enumerate(scheme(real, fake, rng.generator(seed)).flatten(1)):
            pairs = segments(point, pool)
            assert pairs, f"{scheme.__name__}: point {index} is on no segment"
            if scheme in sources:
                assert {(i < count, j < count) for i, j in pairs} & sources[scheme]
            if scheme is sampling.real_fake:
                assert (index, count + index) in pairs


@pytest.mark.parametrize("scheme", [sampling.within_source, sampling.mixed_pairs])
@pytest.mark.parametrize("count", [4, 6])
def test_every_example_of_the_sources_is_in_a_pair(scheme: sampling.Sampling, count: int) -> None:
    """As many points as half of the pool: it is divided into pairs."""
    real, fake = batches(count)
    pool = torch.cat([real, fake]).flatten(1)
    pairs = [segments(point, pool)[0] for point in scheme(real, fake, rng.generator(3)).flatten(1)]
    assert sorted(index for pair in pairs for index in pair) == list(range(2 * count))


@given(seed=st.integers(0, 10**6), count=st.integers(2, 9))
def test_within_source_takes_half_of_the_points_from_each_source(seed: int, count: int) -> None:
    real, fake = batches(count)
    near_fake = sampling.within_source(real, fake, rng.generator(seed)).flatten(1).mean(1) > 5
    assert int(near_fake.sum()) == count // 2


@given(seed=st.integers(0, 10**6), count=st.integers(1, 9))
def test_mixture_returns_distinct_examples_and_half_of_them_are_fake(seed: int, count: int) -> None:
    real, fake = batches(count)
    points = sampling.mixture(real, fake, rng.generator(seed))
    indices = (points[:, None] == torch.cat([real, fake])[None]).flatten(2).all(2).nonzero()[:, 1]
    assert len(set(indices.tolist())) == count
    assert int((indices >= count).sum()) == count // 2


@given(seed=st.integers(0, 10**6), count=st.integers(1, 9))
def test_the_halves_of_a_split_are_the_pool(seed: int, count: int) -> None:
    real, fake = batches(count)
    split = sampling.pool_splitter(partial(sampling.mixture))
    assert split is not None
    points, rest, indices = split(real, fake, rng.generator(seed))
    assert torch.equal(points, sampling.mixture(real, fake, rng.generator(seed)))
    assert torch.equal(torch.cat([points, rest])[indices], torch.cat([real, fake]))


def test_the_schemes_real_and_fake_return_the_batch() -> None:
    real, fake = batches(4)
    assert sampling.real(real, fake, rng.generator(0)) is real
    assert sampling.fake(real, fake, rng.generator(0)) is fake


def test_epsilon_is_uniform() -> None:
    real, fake = torch.ones(20000, 1), torch.zeros(20000, 1)
    epsilon = sampling.real_fake(real, fake, rng.generator(0)).flatten()
    counts = torch.histc(epsilon, 10, 0, 1)
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 27.9  # chi squared with 9 degrees, p = 0.001


def test_perturbed_points_lie_between_a_real_example_and_its_perturbation() -> None:
    real, fake = batches(500, (4,))
    offsets = (sampling.perturbed_real(real, fake, rng.generator(0)) - real) / (0.5 * real.std())
    assert float(offsets.min()) >= 0
    assert float(offsets.max()) <= 1
    assert float(offsets.mean()) == pytest.approx(0.25, abs=0.02)  # E[epsilon] E[u]
    epsilon = offsets.max(1).values  # one epsilon per example: its coordinates share it
    assert float(torch.corrcoef(offsets.T)[0, 1]) > 0.2
    assert float(epsilon.std()) > 0.1


def test_a_perturbation_has_the_same_scale_in_all_coordinates() -> None:
    """Its scale is the standard deviation of all values of the batch together."""
    real, fake = batches(500, (2,))
    real = real * torch.tensor([0.1, 10.0])
    offsets = (sampling.perturbed_real(real, fake, rng.generator(0)) - real) / (0.5 * real.std())
    assert offsets.mean(0).tolist() == pytest.approx([0.25, 0.25], abs=0.03)  # E[epsilon] E[u]
