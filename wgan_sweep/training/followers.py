"""The other processes of a run that several processes train: they are started, joined, watched and ended here.

The process of rank 0 leads; it starts one follower for each other rank. The mathematics of sharing a batch is in
`replicas`.
"""

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import torch
import torch.distributed as dist

from wgan_sweep.common import gpu_memory
from wgan_sweep.common.processes import ChildProcess
from wgan_sweep.training.replicas import Replicas

HOST = "127.0.0.1"
COLLECTIVE_TIMEOUT = timedelta(days=2)
"""How long a process waits for the others in an exchange; long, because the leader may be scoring alone."""
JOIN_TIMEOUT = timedelta(minutes=5)
"""How long the leader waits for the process group to form, once all followers have said that they are ready."""
EXIT_PATIENCE_SECONDS = 10.0
"""How long a process that should end by itself is waited for."""
READY = "ready"

Check = Callable[[], None]
"""Raises RuntimeError if a follower has died."""
Work = Callable[..., None]
"""What followers do: a function of a module, called with their `Replicas` and the arguments given."""


@contextmanager
def with_followers(size: int, device: torch.device, work: Work, *arguments: Any) -> Iterator[Check]:
    """Run `work` in `size` - 1 other processes, the followers, and lead them from this one.

    CPU threads are divided among all processes. The followers end with this context, and when this process dies.

    Args:
        size: Number of processes, including this one; 1 starts none.
        device: Device of this process; its type decides how processes exchange tensors.
        work: What the followers do.
        *arguments: Arguments of `work` after its `Replicas`; picklable.

    Yields:
        A check that raises RuntimeError if a follower has died, after which shared results must not be used.

    Raises:
        RuntimeError: If a follower fails or dies, with its traceback. If it dies while it joins the process group, this
            takes `JOIN_TIMEOUT`.
    """
    if size == 1:
        yield lambda: None
        return
    threads = torch.get_num_threads()
    threads_each = max(1, threads // size)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        HOST, 0, size, is_master=True, wait_for_workers=False
    )
    followers: list[_Follower] = []
    has_finished = False
    has_lost_follower = threading.Event()
    watch: threading.Thread | None = None

    def check() -> None:
        if has_lost_follower.is_set():
            raise RuntimeError("a process that trains this run with others has died")

    try:
        followers.extend(
            _Follower(rank, size, store.port, device.type, threads_each, work, arguments) for rank in range(1, size)
        )
        torch.set_num_threads(threads_each)
        for follower in followers:
            follower.wait_until_ready()
        _use_own_gpu(0, device.type)
        _join_group(store, 0, size, device.type)
        watch = threading.Thread(target=_watch, args=(followers, dist.group.WORLD, has_lost_follower), daemon=True)
        watch.start()
        yield check
        has_finished = True
    except RuntimeError as error:
        failures = [text for follower in followers if (text := follower.failure()) and text not in str(error)]
        if not failures:
            raise
        raise RuntimeError("\n".join(failures)) from error
    finally:
        torch.set_num_threads(threads)
        for follower in followers:
            follower.stop(EXIT_PATIENCE_SECONDS if has_finished else 0.0)
        if watch is not None:  # it uses the group that is destroyed next
            watch.join()
        if dist.is_initialized():
            dist.destroy_process_group()


def _watch(followers: Sequence["_Follower"], group: Any, has_lost_follower: threading.Event) -> None:
    """Abort the process group when a follower dies: NCCL, unlike Gloo, would wait for it."""
    running = {follower.sentinel: follower for follower in followers}
    while running:
        for sentinel in wait(list(running)):
            if running.pop(cast("int", sentinel)).has_failed():
                has_lost_follower.set()
                group.abort()
                return


def _use_own_gpu(rank: int, device_type: str) -> None:
    if device_type == "cuda":
        torch.cuda.set_device(rank)


def _join_group(store: Any, rank: int, size: int, device_type: str) -> None:
    backend = "nccl" if device_type == "cuda" else "gloo"
    # While the group forms, the leader does not notice the death of a follower, so it waits for a short time only. A
    # follower may wait longer: it ends when the leader does.
    timeout = JOIN_TIMEOUT if rank == 0 else COLLECTIVE_TIMEOUT
    try:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    except BaseException:
        if not dist.is_initialized():
            _reset_group_names()
        raise
    cast("dist.ProcessGroup", dist.group.WORLD).set_timeout(COLLECTIVE_TIMEOUT)


def _reset_group_names() -> None:
    """Let the next process group of this process have the name that its new followers expect.

    torch numbers the groups of a process, and starts again when one is destroyed; one that has failed to form counts.
    """
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    dist.destroy_process_group()


class _Follower:
    """A follower, from the point of view of the leader."""

    def __init__(
        self, rank: int, size: int, port: int, device_type: str, threads: int, work: Work, arguments: tuple[Any, ...]
    ) -> None:
        self._name = f"process {rank} of {size}"
        self._child = ChildProcess(
            _serve, rank, size, port, device_type, threads, gpu_memory.processes_per_gpu(), work, arguments, daemon=True
        )
        self.sentinel = self._child.process.sentinel
        """Ready, for `multiprocessing.connection.wait`, when the process has ended."""

    def wait_until_ready(self) -> None:
        """Wait until it is about to join the process group.

        Raises:
            RuntimeError: If it dies before.
        """
        wait([self._child.connection, self.sentinel])
        message = self._receive() if self._child.connection.poll() else ""
        if message != READY:
            self._child.wait(EXIT_PATIENCE_SECONDS)
            raise RuntimeError(self._describe_end(message))

    def has_failed(self) -> bool:
        """Return whether it has ended with an error, after waiting some seconds for it to end."""
        return bool(self._child.wait(EXIT_PATIENCE_SECONDS))

    def failure(self) -> str | None:
        """Return how it failed, with its traceback, or None if it has not."""
        return self._describe_end(self._receive()) if self.has_failed() else None

    def stop(self, patience_seconds: float) -> None:
        """End the process: kill it if it has not ended by itself within some seconds."""
        self._child.stop(patience_seconds)

    def _receive(self) -> str:
        """Return the next message, or an empty one if the process ended without sending any."""
        with suppress(EOFError, OSError):
            return cast("str", self._child.connection.recv())
        return ""

    def _describe_end(self, message: str) -> str:
        return f"{self._name} ended with {self._child.how_it_ended()}\n{message}".rstrip()


def _serve(
    connection: Connection,
    rank: int,
    size: int,
    port: int,
    device_type: str,
    threads: int,
    processes_per_gpu: int,
    work: Work,
    arguments: tuple[Any, ...],
) -> None:
    """Run `work` in a follower."""

    def end_with_the_leader() -> None:
        connection.poll(None)  # returns when the leader closes its end, or dies
        os._exit(1)

    threading.Thread(target=end_with_the_leader, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        _use_own_gpu(rank, device_type)
        gpu_memory.limit_to_share(processes_per_gpu)
        connection.send(READY)
        store = dist.TCPStore(HOST, port, size, is_master=False)  # type: ignore[attr-defined]
        _join_group(store, rank, size, device_type)
        work(Replicas(rank, size), *arguments)
    except Exception:
        connection.send(traceback.format_exc())
        raise
    dist.destroy_process_group()
