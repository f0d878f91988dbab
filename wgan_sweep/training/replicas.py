"""Data parallelism: several processes compute together what one process would compute with the whole batch.

All random numbers are drawn for the whole batch, identically in each process; each process applies the networks to its
shard of the examples. Losses see the critic outputs of all shards and BatchNorm uses the statistics of all shards. A
player's gradient is the sum over the processes, reduced once per update. The configured batch size is that of the whole
batch, so the number of processes is not part of a run's identity.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wgan_sweep.objectives.gradient_terms import TermValue


class _AllReduceSum(torch.autograd.Function):
    """The sum over all processes, differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return cast("Tensor", _AllReduceSum.apply(gradient))


class Replicas:
    """The processes that train one run, from the point of view of one of them.

    Args:
        rank: Rank of this process. Rank 0, the leader, alone saves and logs.
        size: Number of processes.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._is_sharding = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @contextmanager
    def sharded(self) -> Iterator[None]:
        """Shard batches inside this context, which all processes must enter; outside, each process works alone."""
        self._is_sharding = self.size > 1
        try:
            yield
        finally:
            self._is_sharding = False

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let each process work alone inside this context, also inside `sharded`."""
        was_sharding, self._is_sharding = self._is_sharding, False
        try:
            yield
        finally:
            self._is_sharding = was_sharding

    @property
    def is_sharding(self) -> bool:
        """Whether batches are sharded now."""
        return self._is_sharding

    def device(self, device: torch.device) -> torch.device:
        """Return the device of this process: if there are several on CUDA, each has its own GPU."""
        return torch.device("cuda", self.rank) if self.size > 1 and device.type == "cuda" else device

    def local_shard(self, batch: Tensor) -> Tensor:
        """Return this process's shard ``[N / size, ...]`` of a batch ``[N, ...]``; N is a multiple of `size`."""
        return batch.chunk(self.size)[self.rank] if self._is_sharding else batch

    def all_gather(self, shard: Tensor) -> Tensor:
        """Return the whole batch from its shards; gradients flow into this process's shard only."""
        if not self._is_sharding:
            return shard
        shards = [torch.empty_like(shard, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(shards, shard.detach().contiguous())
        shards[self.rank] = shard
        return torch.cat(shards)

    def from_leader(self, value: Any = None) -> Any:
        """Return the leader's value, for which all processes must ask together.

        Args:
            value: The value, in the leader; picklable.
        """
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes; gradients flow to all of them."""
        return cast("Tensor", _AllReduceSum.apply(value)) / self.size if self._is_sharding else value

    def any(self, value: bool, device: torch.device) -> bool:
        """Return whether `value` is true in any process; `device` is that of this process."""
        if not self._is_sharding:
            return value
        count = torch.tensor(int(value), device=device)
        dist.all_reduce(count)
        return bool(count)

    def per_replica(self, loss: Tensor) -> Tensor:
        """Return this process's part of a loss that each process computes in full."""
        return loss / self.size if self._is_sharding else loss

    def reduce_term(self, term: TermValue) -> TermValue:
        """Return a gradient term at all points, from its value at this process's points."""
        return TermValue(self.per_replica(term.loss), self.all_reduce_mean(term.value), self.all_gather(term.norms))

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over all processes, in one exchange."""
        if not self._is_sharding:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])

    def use_global_batch_norm(self, network: nn.Module) -> nn.Module:
        """Make a network's BatchNorm layers use the statistics of the whole batch, in place, and return the network."""
        for name, layer in list(network.named_modules()) if self.size > 1 else []:
            if isinstance(layer, nn.BatchNorm2d):
                parent, _, attribute = name.rpartition(".")
                setattr(network.get_submodule(parent), attribute, _GlobalBatchNorm(layer, self))
        return network


def sharding_obstacle(network: nn.Module) -> str | None:
    """Return why a network cannot be applied to shards of a batch, or None if it can."""
    for name, module in network.named_modules():
        if getattr(module, "couples_examples", False):
            return f"{type(module).__name__} ({name}) compares each example with the whole batch"
    return None


class _GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm with the statistics of the whole batch (torch's SyncBatchNorm supports only GPUs).

    Args:
        batch_norm: The layer to replace, whose parameters and buffers it shares.
        replicas: The processes that share each batch.
    """

    def __init__(self, batch_norm: nn.BatchNorm2d, replicas: Replicas) -> None:
        super().__init__(batch_norm.num_features, batch_norm.eps, batch_norm.momentum)
        self.weight, self.bias = batch_norm.weight, batch_norm.bias
        self.running_mean, self.running_var = batch_norm.running_mean, batch_norm.running_var
        self.num_batches_tracked = batch_norm.num_batches_tracked
        self._replicas = replicas

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, C, H, W]`` normalised; in training mode, also update the running statistics."""
        if not (self.training and self._replicas.is_sharding):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = self._replicas.all_reduce_mean(wide.mean((0, 2, 3), keepdim=True))
        centred = wide - mean
        variance = self._replicas.all_reduce_mean(centred.square().mean((0, 2, 3), keepdim=True))
        count = self._replicas.size * x.numel() // x.shape[1]
        self._update_running_statistics(mean.detach().flatten(), variance.detach().flatten(), count)
        normalised = centred * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), normalised, self.weight.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = self.momentum or 0.0
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)
