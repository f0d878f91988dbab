"""Budgets of training updates: kernels, memory traffic and layout copies, counted on a simulated GPU.

The budgets are in `kernel_budgets.csv`. A count above its budget fails, and so does one far below it: then lower the
budget. ``python -m tests.test_kernels`` writes the file from the current counts; read its difference before you commit.
"""

import csv
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch.torch_version import TorchVersion

from wgan_sweep.bench.implementations import gradient_penalty_loss, ours
from wgan_sweep.bench.iterations import _OperationCounter
from wgan_sweep.bench.kernels import H100, H200, Counts, FakeGpu, Launch, Model, UpdateCounts, count_update
from wgan_sweep.bench.workloads import N_CRITIC, Workload
from wgan_sweep.config import objects
from wgan_sweep.config.schema import conf_dir
from wgan_sweep.models import DCGAN, MLP, Gaussian, Location, ResNet
from wgan_sweep.models.group_norm import group_norm_in_dtype_of_input
from wgan_sweep.models.layers import NORMS
from wgan_sweep.objectives import constraints, fast_double_backward, losses, sampling
from wgan_sweep.training import gradient_rules, precision, schedules

BUDGETS = Path(__file__).parent / "kernel_budgets.csv"
SLACK_ABOVE, SLACK_BELOW = 0.02, 0.05
"""Accepted relative distances from a budget; none from a budget of layout copies."""
ALWAYS_ZERO = ("host_syncs", "device_mixes")
"""Counts that no budget allows."""

IMAGE_MODELS: dict[str, tuple[Callable[[str], Model], tuple[int, ...]]] = {
    "dcgan": (lambda norm: DCGAN(4, 8, norm, norm), (3, 16, 16)),
    "resnet": (lambda norm: ResNet(4, 8, norm, norm), (3, 32, 32)),
}
PUBLISHED = ("sngan_resnet32", "wgan_gp_resnet32", "wgan_gp_resnet64", "mimicry_sngan32", "mimicry_wgan_gp32")
"""Options that are counted narrow, and otherwise as they are."""
POINT_MODELS: dict[str, Model] = {
    "mlp": MLP(8, 2, 4),
    "location": Location([0.0, 1.0], [0.0, 0.0], 8, 2),
    "gaussian": Gaussian(2, 0.0, 1.0, 8, 2),
}
SAMPLING = {
    "real_fake": sampling.real_fake,
    "within_source": sampling.within_source,
    "mixed_pairs": sampling.mixed_pairs,
    "mixture": sampling.mixture,
    "fake": sampling.fake,
    "real": sampling.real,
    "perturbed_real": partial(sampling.perturbed_real, scale=0.5),
}
OTHER_OBJECTIVES = ("weight_clip", "spectral_norm")
PRECISIONS = ("fp32", "bf16", "fp16")
"""The precisions of the table; tf32 runs the operations of fp32."""
AUTHORS = "resnet 64x64 dim 64 batch 64"

pytestmark = pytest.mark.skipif(
    torch.version.cuda is None, reason="torch is built without cuDNN, which decides layouts"
)


@dataclass(frozen=True)
class Case:
    """An update to count."""

    model: str
    norm: str
    precision: str
    objective: str
    """r(x) of the divergence, or the constraint of a loss without gradient terms."""

    def __str__(self) -> str:
        return " ".join((self.model, self.norm, self.precision, self.objective))

    def count(self) -> UpdateCounts:
        if self.model == AUTHORS:
            model, shape, batch = ResNet(64, 128, "batch", "layer"), (3, 64, 64), 64
        elif self.model in PUBLISHED:
            node = yaml.safe_load((conf_dir() / "model" / f"{self.model}.yaml").read_text())
            model, batch = objects.make(node | {"dim": 4, "latent_dim": 8}, "model"), 4
            shape = (3, 64, 64) if self.model.endswith("64") else (3, 32, 32)
        elif self.model in POINT_MODELS:
            model, shape, batch = POINT_MODELS[self.model], (2,), 8
        else:
            make_model, shape = IMAGE_MODELS[self.model]
            model, batch = make_model(self.norm), 4
        count = partial(count_update, model, shape, batch, self.precision)
        if self.objective == "weight_clip":
            constraint = constraints.weight_clip(0.01)
            return count(loss=losses.wasserstein(), constraint=constraint, make_optimizer=torch.optim.RMSprop)
        if self.objective == "spectral_norm":
            return count(loss=losses.hinge(), constraint=constraints.spectral_norm(1))
        return count(loss=losses.wasserstein_divergence(2, 6, SAMPLING[self.objective]))


def all_cases() -> list[Case]:
    """Every model x norm x precision; every r(x) with all norms of the DCGAN, and with one of the slow ResNet.

    Published networks have the norms of the publication.
    """
    cases = [
        *(Case(model, norm, p, "real_fake") for model in IMAGE_MODELS for norm in NORMS for p in PRECISIONS),
        *(Case(model, "none", p, "real_fake") for model in POINT_MODELS for p in PRECISIONS),
        *(Case("dcgan", norm, "fp32", objective) for norm in NORMS for objective in SAMPLING),
        *(Case("dcgan", "layer", "bf16", objective) for objective in SAMPLING),
        *(Case("resnet", "layer", "fp32", objective) for objective in SAMPLING),
        *(Case(m, "none", p, objective) for m in POINT_MODELS for p in ("fp32", "bf16") for objective in SAMPLING),
        *(Case("dcgan", "layer", p, objective) for p in PRECISIONS for objective in OTHER_OBJECTIVES),
        *(Case(model, "published", p, "real_fake") for model in PUBLISHED for p in PRECISIONS),
        *(Case(model, "published", "fp32", "spectral_norm") for model in ("sngan_resnet32", "mimicry_sngan32")),
        Case(AUTHORS, "layer", "tf32", "real_fake"),
    ]
    return sorted(dict.fromkeys(cases), key=lambda case: (case.model, case.norm, case.precision))


Budget = dict[str, int]


def budget(counts: UpdateCounts) -> Budget:
    """Return what the table holds of an update's counts."""
    return {
        f"{player} {name}": count
        for player, totals in (("critic", counts.critic.totals()), ("generator", counts.generator.totals()))
        for name, count in totals.items()
        if name not in ALWAYS_ZERO
    }


def violations(counts: UpdateCounts, allowed: Budget) -> list[str]:
    """Return how the counts of an update differ from its budget."""
    found = []
    for name, count in budget(counts).items():
        slack = (
            (0, 0) if name.endswith("copies") else (1 + SLACK_ABOVE * allowed[name], 1 + SLACK_BELOW * allowed[name])
        )
        if count > allowed[name] + slack[0]:
            found.append(f"{count} {name} exceed the budget of {allowed[name]}")
        if count < allowed[name] - slack[1]:
            found.append(f"{count} {name} are far below the budget of {allowed[name]}: lower it")
    return found


def read_budgets() -> dict[Case, Budget]:
    columns = list(Case.__dataclass_fields__)
    with BUDGETS.open() as file:
        rows = list(csv.DictReader(file))
    return {
        Case(*(row[name] for name in columns)): {k: int(v) for k, v in row.items() if k not in columns} for row in rows
    }


def write_budgets() -> None:
    rows = [vars(case) | budget(case.count()) for case in all_cases()]
    with BUDGETS.open("w") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


GROUPS = list(dict.fromkeys((case.model, case.norm, case.precision) for case in all_cases()))


@pytest.mark.integration
@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_updates_stay_within_their_budgets(group: tuple[str, str, str]) -> None:
    if TorchVersion(torch.__version__) < "2.14" and (
        group[1] in ("layer", "instance") or group[0] == "wgan_gp_resnet64"
    ):
        pytest.skip("group norms of earlier versions of torch copy layouts")
    budgets, found = read_budgets(), []
    for case in all_cases():
        if (case.model, case.norm, case.precision) == group:
            counts = case.count()
            found += [f"{case}: {text}" for text in violations(counts, budgets[case])]
            for totals in (counts.critic.totals(), counts.generator.totals()):
                assert not any(totals[name] for name in ALWAYS_ZERO), case
    assert not found, "\n".join(found)


def test_the_table_covers_every_option() -> None:
    def options(group: str) -> set[str]:
        return {path.stem for path in (conf_dir() / group).glob("*.yaml")}

    assert options("model") == {*IMAGE_MODELS, *PUBLISHED, *POINT_MODELS}
    assert options("sampling") == set(SAMPLING)
    assert list(read_budgets()) == all_cases()


@pytest.mark.parametrize("model", ["dcgan", "mlp"])
def test_tf32_runs_the_operations_of_fp32(model: str) -> None:
    norm = "layer" if model in IMAGE_MODELS else "none"
    assert Case(model, norm, "tf32", "real_fake").count() == Case(model, norm, "fp32", "real_fake").count()


def test_the_simulated_gpu_computes_what_a_cpu_does() -> None:
    workload = Workload("tiny", DCGAN(2, 4, "batch", "layer"), 16, batch=4)
    steps = ours(workload, torch.device("cpu"), "fp32")
    next(steps)  # compares the rules of gradient terms
    with _OperationCounter() as counter:
        next(steps)
    counts = count_update(workload.model, workload.shape, workload.batch, "fp32", loss=gradient_penalty_loss())
    critic, generator = counts.critic.totals()["operations"], counts.generator.totals()["operations"]
    assert N_CRITIC * critic + generator == counter.total


@pytest.mark.parametrize(
    ("make_optimizer", "kernels"),
    [
        (torch.optim.Adam, 1),
        (torch.optim.AdamW, 1),
        (torch.optim.SGD, 1),
        # As on a GPU by default. The rate is negated, and divides the square roots.
        (partial(torch.optim.RMSprop, foreach=True), 3),
    ],
)
def test_a_learning_rate_that_changes_is_set_by_one_kernel_per_player(make_optimizer, kernels: int) -> None:
    """The host does not wait for the device."""
    count = partial(count_update, DCGAN(4, 8, "batch", "layer"), (3, 16, 16), 4, "fp32", loss=losses.wasserstein())
    made: list[torch.optim.Optimizer] = []

    def make_and_note(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        made.append(make_optimizer(parameters))
        return made[-1]

    constant = count(make_optimizer=make_and_note)
    changing = count(make_optimizer=make_and_note, make_scheduler=schedules.linear(8))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in made]
    assert [isinstance(rate, torch.Tensor) and rate.device.type == "cuda" for rate in rates] == [False] * 2 + [True] * 2
    for before, after in ((constant.critic, changing.critic), (constant.generator, changing.generator)):
        assert not any(after.totals()[name] for name in ALWAYS_ZERO)
        assert before.totals()["layout_copies"] == after.totals()["layout_copies"]
    total = [c.critic.totals()["kernels"] + c.generator.totals()["kernels"] for c in (constant, changing)]
    assert total[1] - total[0] == 2 * kernels


def plain_layer(function: Callable[..., object]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.delitem(fast_double_backward.REPLACEMENTS, function)


def plain_pass(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gradient_rules, "critic_pass", gradient_rules.plain_critic_pass)


def extra_casts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(precision.Precision, "apply", lambda self, network, batch: network(batch.double().float()))


def casts_of_each_weight(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(precision.Precision, "_converted_weights", lambda *_: nullcontext())


@pytest.mark.parametrize(
    ("sabotage", "case"),
    [
        (plain_layer(torch.conv2d), Case("dcgan", "layer", "fp32", "real_fake")),
        (plain_layer(torch.nn.functional.leaky_relu), Case("dcgan", "layer", "fp32", "real_fake")),
        (plain_layer(group_norm_in_dtype_of_input), Case("dcgan", "layer", "fp32", "real_fake")),
        (plain_layer(group_norm_in_dtype_of_input), Case("dcgan", "instance", "bf16", "real_fake")),
        (casts_of_each_weight, Case("resnet", "none", "bf16", "real_fake")),
        (plain_layer(torch.nn.functional.relu), Case("resnet", "none", "fp32", "real_fake")),
        (plain_pass, Case("mlp", "none", "fp32", "real_fake")),
        (extra_casts, Case("location", "none", "fp32", "fake")),
    ],
    ids=[
        "conv2d",
        "leaky_relu",
        "group_norm",
        "group_norm bf16",
        "casts of each weight",
        "relu",
        "plain double backward",
        "casts",
    ],
)
def test_a_slow_layer_exceeds_the_budget(
    sabotage: Callable[[pytest.MonkeyPatch], None], case: Case, monkeypatch
) -> None:
    sabotage(monkeypatch)
    found = violations(case.count(), read_budgets()[case])
    assert any("exceed" in text for text in found), found


def test_a_synchronisation_is_counted(monkeypatch) -> None:
    loss = losses._wasserstein_critic_loss
    monkeypatch.setattr(
        losses, "_wasserstein_critic_loss", lambda real, fake: loss(real, fake) * float(fake.detach().max())
    )
    assert Case("mlp", "none", "fp32", "real_fake").count().critic.totals()["host_syncs"] == 1


def record(function: Callable[[], object]) -> list[Launch]:
    with FakeGpu() as gpu:
        gpu.begin("all")
        function()
    return gpu.launches["all"]


def zeros(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="cuda")


def test_a_matrix_product_is_one_kernel_with_its_traffic_and_operations() -> None:
    (launch,) = record(lambda: zeros(2, 3) @ zeros(3, 5))
    assert (launch.read, launch.written, launch.operations) == (4 * (6 + 15), 4 * 10, 2 * 2 * 3 * 5)


def test_views_and_allocations_are_no_kernels() -> None:
    assert record(lambda: zeros(4, 3)[1:].t().unsqueeze(0).expand(7, 3, 3)) == []


def test_tensors_in_place_are_read_and_written_and_a_fill_only_writes() -> None:
    add, fill = record(lambda: zeros(8).add_(1).zero_())
    assert (add.read, add.written) == (32, 32)
    assert (fill.read, fill.written) == (0, 32)


def test_a_broadcast_tensor_is_read_once() -> None:
    (launch,) = record(lambda: zeros(5, 1).expand(5, 9) + zeros(5, 9))
    assert launch.read == 4 * (5 + 45)


def test_a_convolution_backward_is_one_kernel_per_gradient() -> None:
    def backward() -> None:
        x, weight = zeros(2, 3, 8, 8), zeros(4, 3, 3, 3).requires_grad_()
        torch.nn.functional.conv2d(x, weight).backward(zeros(2, 4, 6, 6))

    forward, gradient = record(backward)
    assert (forward.name, gradient.name) == ("convolution", "convolution_backward (weight)")
    assert forward.operations == gradient.operations == 2 * 2 * 4 * 36 * 27
    assert gradient.read == 4 * (2 * 3 * 64 + 2 * 4 * 36)


def test_only_a_copy_to_another_memory_format_is_a_layout_copy() -> None:
    def copy() -> None:
        x = zeros(2, 3, 4, 4)
        x.clone()
        x.to(torch.bfloat16)
        x.contiguous(memory_format=torch.channels_last)

    assert [launch.changes_layout for launch in record(copy)] == [False, False, True]


def test_layout_copies_inside_operations_are_counted() -> None:
    def convolve_and_normalise() -> None:
        x, weight = zeros(2, 3, 4, 4), zeros(5, 3, 3, 3).to(memory_format=torch.channels_last)
        y = torch.conv2d(x, weight)  # copies x to the layout of the weight
        torch.nn.functional.group_norm(y, 1)  # copies y to the contiguous layout

    copies = [launch for launch in record(convolve_and_normalise) if launch.changes_layout]
    assert [(copy.read, copy.written) for copy in copies] == [(4 * size, 4 * size) for size in (135, 96, 40)]


def test_transfers_and_values_for_python_synchronise() -> None:
    def use_values() -> None:
        x = zeros(3)
        x.sum().item()
        x.cpu()
        torch.empty(3).to("cuda")
        torch.empty(3).to("cuda", non_blocking=True)

    launches = record(use_values)
    assert [launch.synchronises for launch in launches] == [False, True, True, True, False]
    assert [launch.is_kernel for launch in launches] == [True, False, True, True, True]


def test_indices_on_the_cpu_mix_devices_and_a_scalar_does_not() -> None:
    def mix() -> None:
        zeros(9)[torch.zeros(2, dtype=torch.int64)]
        zeros(9) * torch.tensor(2.0)

    mixed = [launch.mixes_devices for launch in record(mix) if launch.is_kernel]
    assert mixed == [True, False]


def test_a_kernel_needs_its_traffic_or_its_operations() -> None:
    counts = Counts((Launch("a", read=2 * 10**12, written=10**12), Launch("b", operations=10**15)))
    assert counts.roofline_seconds(H200, "tf32") == pytest.approx(3 / 4.8 + 1000 / 494.7)
    assert counts.roofline_seconds(H100, "bf16") == pytest.approx(3 / 3.35 + 1000 / 989.4)


if __name__ == "__main__":
    write_budgets()
    sys.stdout.write(f"{BUDGETS}\n")
