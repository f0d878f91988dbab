"""Names that are not part of a library's public interface, and the modules here that use them.

A failure means that the installed version has moved or removed such a name, and says which module has to change.
"""

import importlib

import pytest

INTERNALS = [
    ("torch", "_foreach_copy_", "training/replicas.py, training/averaging.py"),
    ("torch", "_foreach_div_", "training/trainer.py"),
    ("torch", "_foreach_lerp_", "training/averaging.py, objectives/stabilisers.py"),
    ("torch.nn.modules.batchnorm", "_BatchNorm", "objectives/gradient_terms.py"),
    ("torch.cuda", "CUDAGraph.register_generator_state", "training/cuda_graphs.py"),
    ("torch.fx.experimental.proxy_tensor", "make_fx", "training/compilation.py"),
    ("torch._inductor.runtime.cache_dir_utils", "default_cache_dir", "training/compilation.py"),
    ("torch.optim", "Optimizer.profile_hook_step", "training/optimizers.py"),
]


@pytest.mark.parametrize(("module_name", "name", "users"), INTERNALS, ids=lambda value: str(value))
def test_the_library_has_the_name(module_name: str, name: str, users: str) -> None:
    try:
        target = importlib.import_module(module_name)
        for part in name.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError):
        pytest.fail(f"{module_name} has no {name} in the installed version; used by wgan_sweep/{users}")
