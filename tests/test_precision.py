import pytest
import torch

from wgan_sweep.errors import InputError
from wgan_sweep.training.precision import precision

CPU = torch.device("cpu")


def test_fp32_disables_tf32_and_restores_the_previous_settings() -> None:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [b.allow_tf32 for b in backends]
    backends[1].allow_tf32 = True
    with precision("fp32", CPU).step():
        assert [b.allow_tf32 for b in backends] == [False, False]
    assert backends[1].allow_tf32 is True
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


def test_bf16_computes_in_bf16() -> None:
    layer = torch.nn.Linear(4, 4)
    with precision("bf16", CPU).forward():
        assert layer(torch.zeros(1, 4)).dtype == torch.bfloat16
    assert layer(torch.zeros(1, 4)).dtype == torch.float32


@pytest.mark.parametrize("name", ["fp64", "tf32"])
def test_an_unknown_or_unsupported_precision_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        precision(name, CPU)


def test_fp16_computes_in_float16_and_scales_the_loss() -> None:
    fp16 = precision("fp16", CPU)
    with fp16.forward():
        assert torch.nn.Linear(4, 4)(torch.zeros(1, 4)).dtype == torch.float16
    assert fp16.scale > 1


@pytest.mark.parametrize(("device", "chosen"), [("cpu", "fp32"), ("cuda", "tf32")])
def test_auto_chooses_by_device_and_gives_the_reason(device: str, chosen: str) -> None:
    auto = precision("auto", torch.device(device))
    assert auto.name == chosen
    assert "auto" in auto.reason
    assert precision("fp32", CPU).reason == ""


def test_outputs_are_at_least_float32() -> None:
    layer = torch.nn.Linear(4, 4)
    assert precision("bf16", CPU).apply(layer, torch.zeros(1, 4)).dtype == torch.float32
    assert precision("fp32", CPU).apply(layer.double(), torch.zeros(1, 4).double()).dtype == torch.float64
