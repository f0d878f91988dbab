"""Speed of InceptionV3 feature extraction, and peak memory of scoring many images."""

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.bench.processes import peak_mib
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import InceptionV3
from wgan_sweep.scoring.inception import extractor
from wgan_sweep.scoring.weights import TORCHSCRIPT, find

BATCH = 50


def _extractors(device: torch.device) -> Iterator[tuple[str, Callable[[Tensor], object]]]:
    """Yield named functions from uint8 ``[N, 3, H, W]`` to InceptionV3's 2048 features, all with the same weights."""
    ours = InceptionV3(2048).extract(device)
    yield "wgan-sweep", ours
    torch_fidelity = extractor(find(), ["2048"]).to(device)

    def with_torch_fidelity(images: Tensor) -> object:
        with torch.no_grad():
            return torch_fidelity(images.to(device))

    yield "torch-fidelity's extractor", with_torch_fidelity
    if importlib.util.find_spec("cleanfid") and find().file is TORCHSCRIPT:
        from cleanfid.resize import build_resizer

        resize = build_resizer("clean")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch.jit.load is deprecated
            scripted = torch.jit.load(find().path, map_location=device).net.layers

        def with_clean_fid(images: Tensor) -> object:
            resized = np.stack([resize(image) for image in images.permute(0, 2, 3, 1).numpy()])
            with torch.no_grad():
                return scripted((torch.from_numpy(resized).permute(0, 3, 1, 2).to(device) - 128) / 128)

        yield "clean-fid's resize and TorchScript", with_clean_fid


def measure_speeds(device: torch.device, repeats: int, count: int, size: int = 32) -> dict[str, list[float]]:
    """Return the images per second of each extractor, one value per repeat.

    The extractors are measured alternately: each repeat measures all of them once.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    images, extractors = torch.from_numpy(pixels), dict(_extractors(device))
    speeds: dict[str, list[float]] = {name: [] for name in extractors}
    for repeat in range(-1, repeats):  # repeat -1 is a warm-up
        for name, extract in extractors.items():
            start = time.perf_counter()
            for batch in images.split(BATCH):
                extract(batch)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat >= 0:
                speeds[name].append(count / (time.perf_counter() - start))
    return speeds


def measure_memory(device: torch.device, counts: list[int], layer: int) -> Iterator[tuple[int, float]]:
    """Yield the number of images and the process's peak memory (MiB) after computing their statistics, in rising order.

    Args:
        device: Where features are extracted.
        counts: Numbers of images; one batch of 50 is measured before them.
        layer: Number of features, which names InceptionV3's layer.
    """
    extract = InceptionV3(layer).extract(device)
    for count in (BATCH, *sorted(counts)):
        draw = np.random.default_rng(0)
        sizes = (min(BATCH, count - start) for start in range(0, count, BATCH))
        batches = (torch.from_numpy(draw.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8)) for size in sizes)
        collect(batches, extract, features=False)
        yield count, peak_mib()
