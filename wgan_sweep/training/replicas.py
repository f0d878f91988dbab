"""Data parallelism: several processes that compute together what one would with the whole batch.

All that is random is drawn for the whole batch, the same in each process; of the examples each takes its share through
the networks. Losses see the scores of all, BatchNorm the statistics of all, and a player's gradient is the sum over the
processes, taken once per update. So the batch size is that of the whole, and a run's name does not depend on how many
processes train it.
"""

import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from wgan_sweep.common import gpu_memory
from wgan_sweep.common.processes import ending, start
from wgan_sweep.objectives.gradient_terms import TermValue

HOST = "127.0.0.1"
LONGEST_PAUSE = timedelta(days=2)
"""For how long a process may wait for another, which may be scoring."""
SECONDS_TO_LEAVE = 10.0
READY = "ready"

Check = Callable[[], None]


class _Sum(torch.autograd.Function):
    """The sum over all processes, differentiable as often as wanted."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:  # noqa: ARG004
        total = value.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        return cast("Tensor", _Sum.apply(gradient))


class Replicas:
    """The processes that train one run, as one of them sees them; a single one by default.

    Args:
        rank: Which of them this is; the first leads: it alone scores, saves and logs.
        size: How many they are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._sharing = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @contextmanager
    def sharded(self) -> Iterator[None]:
        """Share what is computed in here, which all processes must reach; outside of it each is alone."""
        self._sharing = self.size > 1
        try:
            yield
        finally:
            self._sharing = False

    def device(self, device: torch.device) -> torch.device:
        """Return where this process computes: on a GPU of its own."""
        return torch.device("cuda", self.rank) if self.size > 1 and device.type == "cuda" else device

    def local_shard(self, batch: Tensor) -> Tensor:
        """Return this process's share of a batch ``[N, ...]``, N a multiple of `size`."""
        return batch.chunk(self.size)[self.rank] if self._sharing else batch

    def all_gather(self, shard: Tensor) -> Tensor:
        """Return the batch that all processes have a share of; gradients flow into this one's only."""
        if not self._sharing:
            return shard
        shards = [torch.empty_like(shard, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(shards, shard.detach().contiguous())
        shards[self.rank] = shard
        return torch.cat(shards)

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes, through which gradients flow to each."""
        return cast("Tensor", _Sum.apply(value)) / self.size if self._sharing else value

    def per_replica(self, value: Tensor) -> Tensor:
        """Return this process's part of an objective that each of them has computed wholly."""
        return value / self.size if self._sharing else value

    def reduce_term(self, found: TermValue) -> TermValue:
        """Return a gradient term at all points from that at this process's share of them."""
        return TermValue(
            self.per_replica(found.objective), self.all_reduce_mean(found.value), self.all_gather(found.norms)
        )

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sums over all processes, in one exchange."""
        if not self._sharing:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        parts = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view_as(g) for p, g in zip(parts, gradients, strict=True)])

    def use_global_batch_norm(self, network: nn.Module) -> nn.Module:
        """Let a network's BatchNorm layers see the whole batch; it is changed in place."""
        for name, layer in list(network.named_modules()) if self.size > 1 else []:
            if isinstance(layer, nn.BatchNorm2d):
                parent, _, own = name.rpartition(".")
                setattr(network.get_submodule(parent), own, _GlobalBatchNorm(layer, self))
        return network


def sharding_obstacle(network: nn.Module) -> str | None:
    """Return why a network cannot see a batch in shards, or None where it can."""
    for name, module in network.named_modules():
        if getattr(module, "couples_examples", False):
            return f"{type(module).__name__} ({name}) compares each example with the whole batch"
    return None


class _GlobalBatchNorm(nn.BatchNorm2d):
    """BatchNorm by the statistics of the whole batch (torch's SyncBatchNorm is for GPUs only)."""

    def __init__(self, like: nn.BatchNorm2d, replicas: Replicas) -> None:
        super().__init__(like.num_features, like.eps, like.momentum)
        self.weight, self.bias = like.weight, like.bias
        self.running_mean, self.running_var = like.running_mean, like.running_var
        self.num_batches_tracked = like.num_batches_tracked
        self._replicas = replicas

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, C, H, W]`` normalised; in training mode the running statistics follow."""
        if not (self.training and self._replicas._sharing):
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = self._replicas.all_reduce_mean(wide.mean((0, 2, 3), keepdim=True))
        centred = wide - mean
        variance = self._replicas.all_reduce_mean(centred.square().mean((0, 2, 3), keepdim=True))
        count = self._replicas.size * x.numel() // x.shape[1]
        self._follow(mean.detach().flatten(), variance.detach().flatten(), count)
        normal = centred * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), normal, self.weight.view(1, -1, 1, 1)).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        momentum = self.momentum or 0.0
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance * count / (count - 1), momentum)


Work = Callable[..., None]
"""What the others do: called with their `Replicas` and the arguments given."""


@contextmanager
def with_followers(size: int, device: torch.device, work: Work, *arguments: Any) -> Iterator[Check]:
    """Have `size` - 1 other processes at work beside this one, which leads them; cores are divided among all.

    They end with this context, and with this process, however it ends.

    Yields:
        A check, which raises RuntimeError once one of them is gone: what was computed together is then worth nothing.

    Args:
        size: How many processes, with this one; 1 starts none.
        device: Where this one computes: decides how they exchange tensors.
        work: What the others do, a function of a module.
        *arguments: For `work`, after its `Replicas`.

    Raises:
        RuntimeError: if one of them fails or dies, with what it said.
    """
    if size == 1:
        yield lambda: None
        return
    threads = torch.get_num_threads()
    each = max(1, threads // size)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        HOST, 0, size, is_master=True, wait_for_workers=False
    )
    followers = [_Follower(rank, size, store.port, device.type, each, work, arguments) for rank in range(1, size)]
    start(*(follower.process for follower in followers))
    for follower in followers:
        follower.theirs.close()
    torch.set_num_threads(each)
    finished = False
    lost = threading.Event()
    watch: threading.Thread | None = None

    def check() -> None:
        if lost.is_set():
            raise RuntimeError("a process that trains along is gone")

    try:
        for follower in followers:
            follower.wait_until_ready()
        _use_own_gpu(0, device.type)
        _join(store, 0, size, device.type)
        watch = threading.Thread(target=_watch, args=(followers, dist.group.WORLD, lost), daemon=True)
        watch.start()
        yield check
        finished = True
    except RuntimeError as error:
        said = [problem for follower in followers if (problem := follower.problem()) and problem not in str(error)]
        if not said:
            raise
        raise RuntimeError("\n".join(said)) from error
    finally:
        torch.set_num_threads(threads)
        for follower in followers:
            follower.end(SECONDS_TO_LEAVE if finished else 0.0)
        if watch is not None:  # which has hold of what is destroyed now
            watch.join()
        if dist.is_initialized():
            dist.destroy_process_group()


def _watch(followers: list["_Follower"], group: Any, lost: threading.Event) -> None:
    """Give up what is exchanged once a process has died: NCCL, unlike Gloo, would wait for it."""
    left = {follower.process.sentinel: follower.process for follower in followers}
    while left:
        for over in wait(list(left)):
            if left.pop(cast("int", over)).exitcode:
                lost.set()
                group.abort()
                return


def _use_own_gpu(rank: int, kind: str) -> None:
    if kind == "cuda":
        torch.cuda.set_device(rank)


def _join(store: Any, rank: int, size: int, kind: str) -> None:
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo", store=store, rank=rank, world_size=size, timeout=LONGEST_PAUSE
    )


class _Follower:
    """A process beside the leading one, as that one sees it."""

    def __init__(
        self, rank: int, size: int, port: int, kind: str, threads: int, work: Work, arguments: tuple[Any, ...]
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._rank, self._size = rank, size
        self._connection, self.theirs = context.Pipe()
        given = (self.theirs, rank, size, port, kind, threads, gpu_memory.sharing(), work, arguments)
        self.process = context.Process(target=_serve, args=given, daemon=True)

    def wait_until_ready(self) -> None:
        """Wait until it is about to meet the others.

        Raises:
            RuntimeError: if it dies before.
        """
        wait([self._connection, self.process.sentinel])
        try:
            said = self._connection.recv() if self._connection.poll() else ""
        except EOFError:
            said = ""
        if said != READY:
            self.process.join(SECONDS_TO_LEAVE)
            raise RuntimeError(
                f"process {self._rank} of {self._size} ended with {ending(self.process)}\n{said}".rstrip()
            )

    def problem(self) -> str | None:
        """Return why it is gone before its time, or None while it is not."""
        self.process.join(SECONDS_TO_LEAVE)
        if not self.process.exitcode:
            return None
        said = ""
        with suppress(EOFError):  # it had no time for a word
            said = self._connection.recv()
        return f"process {self._rank} of {self._size} ended with {ending(self.process)}\n{said}".rstrip()

    def end(self, patience: float) -> None:
        """End it, after so many seconds in which it may end by itself."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        self._connection.close()


def _serve(
    connection: Connection,
    rank: int,
    size: int,
    port: int,
    kind: str,
    threads: int,
    sharing: int,
    work: Work,
    arguments: tuple[Any, ...],
) -> None:
    def end_with_the_leader() -> None:
        connection.poll(None)
        os._exit(1)

    threading.Thread(target=end_with_the_leader, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _use_own_gpu(rank, kind)
        gpu_memory.divide(sharing)
        connection.send(READY)
        store = dist.TCPStore(HOST, port, size, is_master=False)  # type: ignore[attr-defined]
        _join(store, rank, size, kind)
        work(Replicas(rank, size), *arguments)
    except Exception:
        connection.send(traceback.format_exc())
        raise
    dist.destroy_process_group()
