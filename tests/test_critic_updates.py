"""The critic may have more updates in some steps."""

from dataclasses import asdict

import pytest

from wgan_sweep.errors import InputError
from wgan_sweep.runs.build import Checker, build, check
from wgan_sweep.runs.identity import run_id
from wgan_sweep.sweeps.launching import RequestedRun
from wgan_sweep.sweeps.plan import Action, Planner
from wgan_sweep.training.critic_updates import more_at_first, updates_in
from wgan_sweep.training.cuda_graphs import WARM_UP_ITERATIONS
from wgan_sweep.training.trainer import Trainer

from .test_graphs import SimulatedGraph, build_with_graph  # noqa: F401
from .test_trainer import LAZY, assert_bitwise_equal, run

MORE = ["critic_updates=more_at_first", "critic_updates.count=5", "critic_updates.first=2", "critic_updates.every=4"]
COUNTS = [5, 5, 2, 2, 5, 2, 2, 2, 5, 2]
"""Critic updates of each step with `MORE` and two updates in the other steps."""


@pytest.fixture
def trainer(make):
    return lambda *overrides: build(make(*overrides)).trainer


def every_third_has_three(step: int, n_critic: int) -> int:
    return 3 if step % 3 == 0 else n_critic


def none_from_step_two_on(step: int, n_critic: int) -> int:
    return n_critic if step < 2 else 0


def own() -> object:
    return every_third_has_three


def own_none() -> object:
    return none_from_step_two_on


def own_never() -> object:
    return lambda _step, _n_critic: 0


def optimizer_steps(trained: Trainer, player: str) -> set[int]:
    return {int(s["step"]) for s in trained.state_dict()[f"{player}_optimizer"]["state"].values()}


def test_more_at_first_is_the_rule_of_the_published_code() -> None:
    """The rule of main.py in martinarjovsky/WassersteinGAN: 100 in the first 25 steps and in each 500th."""
    updates = more_at_first(count=100, first=25, every=500)
    expected = [100 if step < 25 or step % 500 == 0 else 5 for step in range(1501)]
    assert [updates(step, 5) for step in range(1501)] == expected
    assert updates_in(updates, 5, range(1501)) == 28 * 100 + 1473 * 5
    only_first = more_at_first(count=7, first=3)
    assert [only_first(step, 1) for step in range(5)] == [7, 7, 7, 1, 1]
    assert more_at_first(count=7, first=0)(0, 1) == 1
    assert updates_in(None, 5, range(10**12)) == 5 * 10**12


def test_the_critic_has_more_updates_in_these_steps(trainer) -> None:
    trained = trainer(*MORE, "train.n_critic=2")
    updates = 0
    for step, count in enumerate(COUNTS, start=1):
        run(trained, step)
        updates += count
        assert optimizer_steps(trained, "critic") == {updates}
        assert optimizer_steps(trained, "generator") == {step}
        assert trained.images_seen == updates * 8
        assert trained.state_dict()["batches"]["drawn"] == updates


def test_as_many_updates_in_all_steps_are_those_of_n_critic(trainer) -> None:
    every_step = ["critic_updates=more_at_first", "critic_updates.count=2", "critic_updates.first=3"]
    first, second = trainer(*every_step, "train.n_critic=1"), trainer("train.n_critic=2")
    assert run(first, 3) == run(second, 3)
    assert_bitwise_equal(first.state_dict(), second.state_dict())


def test_a_lazy_term_counts_the_updates_of_all_steps(trainer) -> None:
    """A critic that starts again, in step 6, begins with the term."""
    trained = trainer(*MORE, *LAZY, "train.n_critic=2", "train.freeze_generator_at=6")
    evaluated: list[tuple[int, ...]] = []
    prepare = trained._objective.prepare
    trained._objective.prepare = lambda *arguments: evaluated.append(arguments[3]) or prepare(*arguments)
    run(trained, len(COUNTS))
    before, after = sum(COUNTS[:6]), sum(COUNTS[6:])
    expected = [tuple(t for t, n in ((0, 8), (1, 3)) if update % n == 0) for update in range(before)]
    assert evaluated == expected + expected[:after]
    assert after > 8


@pytest.mark.integration
@pytest.mark.parametrize("at", [1, 3, 7])
@pytest.mark.parametrize("overrides", [[], [*LAZY, "train.freeze_generator_at=2"]], ids=" ".join)
def test_training_resumes_bitwise(trainer, overrides: list[str], at: int) -> None:
    uninterrupted, interrupted, resumed = (trainer(*MORE, *overrides) for _ in range(3))
    metrics = run(uninterrupted, len(COUNTS))
    run(interrupted, at)
    resumed.load_state_dict(interrupted.state_dict())
    assert resumed.images_seen == interrupted.images_seen
    assert run(resumed, len(COUNTS)) == metrics[at:]
    assert_bitwise_equal(resumed.state_dict(), uninterrupted.state_dict())
    assert resumed.images_seen == uninterrupted.images_seen


@pytest.mark.integration
@pytest.mark.parametrize("overrides", [[], ["loss=hinge", "stabiliser=feature_matching"]], ids=" ".join)
def test_iterations_of_each_number_of_updates_have_a_graph(make, build_with_graph, overrides) -> None:  # noqa: F811
    """Their batches stay in the same memory, where a captured graph reads them."""
    graphed, graphs = build_with_graph(SimulatedGraph, *MORE, *overrides)
    eager = build(make(*MORE, *overrides)).trainer
    steps = 4 * (WARM_UP_ITERATIONS + 2)
    places = [[batch.data_ptr() for batch in graphed._raw_batches] for _ in graphed.steps(steps)]
    run(eager, steps)
    assert_bitwise_equal(graphed.state_dict(), eager.state_dict())
    assert len(graphs) == 2
    assert all(graph.replays > 0 for graph in graphs)
    assert {len(batches) for batches in places} == {5 + bool(overrides), 2 + bool(overrides)}
    assert all(batches == places[0][: len(batches)] for batches in places)


def test_the_number_of_updates_is_part_of_the_id(make) -> None:
    ids = {run_id(make(*overrides)) for overrides in ([], MORE, MORE[:3], [*MORE, "critic_updates.count=6"])}
    assert len(ids) == 4
    assert run_id(make("critic_updates=constant")) == run_id(make())


def test_images_are_counted_by_step(make) -> None:
    images_in = Checker().images_in
    config = make(*MORE, "train.n_critic=2", "train.batch_size=8")
    for start in range(len(COUNTS)):
        assert images_in(config, range(start, len(COUNTS))) == 8 * sum(COUNTS[start:])
    assert images_in(config, range(9, 4)) == 0
    assert images_in(make("train.n_critic=3", "train.batch_size=8"), range(2, 5)) == 72


def test_a_function_of_the_user_gives_the_number_of_updates(make) -> None:
    config = make(f"critic_updates._target_={__name__}.own", "train.n_critic=1")
    trained = build(config).trainer
    run(trained, 7)
    assert optimizer_steps(trained, "critic") == {3 + 1 + 1 + 3 + 1 + 1 + 3}
    assert asdict(config)["critic_updates"] == {"_target_": f"{__name__}.own"}


def test_a_step_without_critic_updates_is_refused(make) -> None:
    with pytest.raises(InputError, match=r"critic_updates .*step 0 has 0 critic updates.*correct"):
        check(make(f"critic_updates._target_={__name__}.own_never"))
    config = make(f"critic_updates._target_={__name__}.own_none")
    assert Planner()(RequestedRun(config, (), "", None)).action is Action.REFUSE
    trained = build(config).trainer
    with pytest.raises(ValueError, match="step 2 has 0 critic updates: it needs one or more"):
        run(trained, 3)
    assert trained.step == 2


@pytest.mark.parametrize(("key", "value"), [("count", 0), ("first", -1), ("every", 0), ("count", "many")])
def test_values_out_of_range_are_refused(make, key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"critic_updates\.{key}.*{value}"):
        check(make("critic_updates=more_at_first", f"critic_updates.{key}={value}"))
