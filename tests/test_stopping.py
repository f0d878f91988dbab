"""A request to stop does not wait for long work that is not training: see `wgan_sweep.common.stopping`."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from wgan_sweep.common.cache import cached, is_being_made, lock_while_computing
from wgan_sweep.common.progress import log_progress
from wgan_sweep.common.stopping import leave_if_asked, stopping_if
from wgan_sweep.data import ImageSet
from wgan_sweep.data.store import cached_images
from wgan_sweep.runs.record import Status
from wgan_sweep.scoring import collect
from wgan_sweep.scoring.features import Extracted
from wgan_sweep.sweeps.state import separate_state

from .helpers import PlannedScorer, directory_of, run

CPU = torch.device("cpu")
IMAGES = np.arange(12 * 4, dtype=np.uint8).reshape(12, 2, 2, 1)


class AskedAfter:
    """Asks to stop from the question `answers` + 1 on."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.questions = 0

    def __call__(self) -> bool:
        self.questions += 1
        return self.questions > self.answers


class Pixels:
    """A feature space whose features are pixels."""

    name, network, resize = "pixels", "none", "none"
    batches = 0

    def extract(self, _: torch.device, **__: bool):
        def pixels(images: torch.Tensor) -> Extracted:
            self.batches += 1
            return Extracted(images.flatten(1).double())

        return pixels


def statistics(space: Pixels):
    return collect.real_features(ImageSet(IMAGES), len(IMAGES), space, CPU, 3, features=True)


def test_work_is_left_only_in_its_context() -> None:
    leave_if_asked()
    with stopping_if(lambda: True):
        with pytest.raises(KeyboardInterrupt):
            leave_if_asked()
        with stopping_if(lambda: False):
            leave_if_asked()
        with pytest.raises(KeyboardInterrupt):
            leave_if_asked()
    leave_if_asked()


def test_statistics_of_real_images_are_left_between_batches_and_computed_later(cache: Path) -> None:
    """Nothing is cached, and no lock is held. A request after the last batch comes too late: its work is kept."""
    for answers in range(4):
        space = Pixels()
        with stopping_if(AskedAfter(answers)), pytest.raises(KeyboardInterrupt):
            statistics(space)
        assert space.batches == answers
        assert [path.suffix for path in (cache / "statistics").iterdir()] == [".lock"]
        assert not is_being_made(next((cache / "statistics").iterdir()))
    with stopping_if(AskedAfter(4)):
        computed = statistics(Pixels())
    assert computed.statistics.count == 12
    again = Pixels()
    with stopping_if(lambda: True):
        assert torch.equal(statistics(again).statistics.mean, computed.statistics.mean)
    assert again.batches == 0


def test_decoding_images_is_left_between_images_and_done_later(cache: Path) -> None:
    with stopping_if(AskedAfter(5)), pytest.raises(KeyboardInterrupt):
        cached_images("key", lambda: list(IMAGES), iter, list)
    assert [path.suffix for path in (cache / "images").iterdir()] == [".lock"]
    assert np.array_equal(cached_images("key", lambda: list(IMAGES), iter, list).array, IMAGES)


def test_a_process_that_waits_for_another_one_leaves(cache: Path) -> None:
    """The other one goes on, and keeps the lock."""
    path = cache / "content.npz"
    is_held, may_end = threading.Event(), threading.Event()

    def hold() -> None:
        with lock_while_computing(path, "the content"):
            is_held.set()
            may_end.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(30)
    began = time.monotonic()
    with stopping_if(AskedAfter(1)), pytest.raises(KeyboardInterrupt):
        cached(path, "the content", lambda: None, lambda: pytest.fail("made by both"))
    assert time.monotonic() - began < 10
    assert is_being_made(path)
    may_end.set()
    holder.join(30)
    with stopping_if(lambda: True):
        assert cached(path, "the content", lambda: None, lambda: "made") == "made"


def test_a_run_that_prepares_to_score_ends_at_a_request(make, planned_fids, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is trained by the next command."""
    planned_fids(3.0)
    prepared = []

    def prepare(_: PlannedScorer) -> None:
        prepared.extend(log_progress([[1], [2], [3]], 3, str))

    monkeypatch.setattr(PlannedScorer, "prepare", prepare)
    config = make()
    with pytest.raises(KeyboardInterrupt):
        run(config, stop=AskedAfter(2))
    assert prepared == [[1], [2]]
    record = directory_of(config).read_record()
    assert record is not None
    assert (record.status, record.step) == (Status.RUNNING, 0)
    assert run(config).status == Status.DONE
    assert prepared == [[1], [2], [1], [2], [3]]


def test_a_call_from_python_stops_at_an_interrupt() -> None:
    def batches() -> Iterator[list[int]]:
        yield [1]
        state.request_stop(2)
        yield [2]

    with separate_state(verbosity=0) as state:  # type: ignore[arg-type]
        shown = log_progress(batches(), 2, str)
        assert next(shown) == [1]
        with pytest.raises(KeyboardInterrupt):
            next(shown)
    assert list(log_progress([[1]], 1, str)) == [[1]]
