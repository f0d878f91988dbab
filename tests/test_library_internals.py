"""Names outside the public interface of submitit, torch, torchmetrics and W&B that modules here use.

A failure means that the installed version has moved or removed such a name, and says which modules have to change.
"""

import importlib

import pytest
import torch

from wgan_sweep.scoring.metrics import FID

INTERNALS = [
    ("submitit", "SlurmExecutor._make_submission_command", "sweeps/slurm.py"),
    ("torch", "_C._are_functorch_transforms_active", "objectives/fast_double_backward.py"),
    ("torch", "_C._cuda_clearCublasWorkspaces", "common/gpu_memory.py"),
    ("torch", "_C._cuda_endAllocateToPool", "training/cuda_graphs.py"),
    ("torch", "_C._cuda_releasePool", "training/cuda_graphs.py"),
    ("torch", "Generator.clone_state", "training/cuda_graphs.py"),
    ("torch", "Generator.graphsafe_set_state", "training/cuda_graphs.py"),
    ("torch", "_amp_foreach_non_finite_check_and_unscale_", "training/loss_scaling.py"),
    ("torch", "_amp_update_scale_", "training/loss_scaling.py"),
    ("torch", "_foreach_clamp_max_", "objectives/constraints.py"),
    ("torch", "_foreach_clamp_min_", "objectives/constraints.py"),
    ("torch", "_foreach_copy_", "training/averaging.py, training/replicas.py"),
    ("torch", "_foreach_lerp_", "objectives/stabilisers.py, training/averaging.py"),
    ("torch._inductor.runtime.cache_dir_utils", "default_cache_dir", "training/compilation.py"),
    ("torch._subclasses.fake_tensor", "FakeTensorMode", "bench/kernels.py"),
    ("torch.cuda", "CUDAGraph.register_generator_state", "training/cuda_graphs.py"),
    ("torch.cuda", "amp.common.amp_definitely_not_available", "bench/kernels.py"),
    ("torch.distributed", "ProcessGroup.abort", "training/followers.py"),
    ("torch.distributed", "ProcessGroup.set_timeout", "training/followers.py"),
    ("torch.fx.experimental.proxy_tensor", "make_fx", "training/compilation.py"),
    ("torch.ops", "prim.device.default", "bench/kernels.py"),
    ("torch.utils.flop_counter", "flop_registry", "bench/iterations.py, bench/kernels.py"),
    ("torch.nn.modules.batchnorm", "_BatchNorm", "objectives/gradient_terms.py"),
    ("wandb.sdk.lib", "wbauth.read_netrc_auth", "tracking/wandb.py"),
    ("wandb", "Settings.update_from_env_vars", "tracking/wandb.py"),
    ("wandb", "Settings.update_from_system_settings", "tracking/wandb.py"),
]


@pytest.mark.parametrize(("module", "name", "users"), INTERNALS, ids=[f"{row[0]}.{row[1]}" for row in INTERNALS])
def test_a_name_that_modules_use_exists(module: str, name: str, users: str) -> None:
    try:
        value = importlib.import_module(module)
        for part in name.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"the installed version has no {module}.{name} ({error}): it is used in {users}")


@pytest.mark.parametrize("name", ["_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"])
def test_optimizers_have_the_attributes_that_hold_hooks(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    if not hasattr(optimizer, name):
        pytest.fail(f"the installed version has no torch.optim.Optimizer.{name}: it is used in training/optimizers.py")


def test_the_states_of_a_metric_have_defaults() -> None:
    if set(getattr(FID(), "_defaults", ())) != {"real_moments", "generated_moments"}:
        pytest.fail(
            "the installed version has no torchmetrics.Metric._defaults: it is used in scoring/metrics/two_sided.py"
        )
