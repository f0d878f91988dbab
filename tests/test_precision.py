import pytest
import torch

from wgan_sweep.errors import InputError
from wgan_sweep.training.precision import precision

CPU = torch.device("cpu")


def test_fp32_forbids_tf32_and_puts_back_what_was() -> None:
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
def test_what_cannot_be_had_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        precision(name, CPU)


def test_fp16_computes_in_float16_and_scales_objectives() -> None:
    found = precision("fp16", CPU)
    with found.forward():
        assert torch.nn.Linear(4, 4)(torch.zeros(1, 4)).dtype == torch.float16
    assert found.scale > 1


@pytest.mark.parametrize(("device", "picked"), [("cpu", "fp32"), ("cuda", "tf32")])
def test_auto_picks_by_device_and_says_why(device: str, picked: str) -> None:
    found = precision("auto", torch.device(device))
    assert found.name == picked
    assert "auto" in found.why
    assert precision("fp32", CPU).why == ""
