"""Images per second to InceptionV3's features, and what scoring many takes in memory."""

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from wgan_sweep.bench.alone import peak_mib
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import InceptionV3
from wgan_sweep.scoring.inception import extractor
from wgan_sweep.scoring.weights import TORCHSCRIPT, find

AT_ONCE = 50


def _ways(device: torch.device) -> Iterator[tuple[str, Callable[[Tensor], object]]]:
    """Yield ways from uint8 ``[N, 3, H, W]`` to InceptionV3's 2048 features, all with the same weights."""
    ours = InceptionV3(2048).extract(device)
    yield "wgan-sweep", ours
    plain = extractor(find(), ["2048"]).to(device)

    def theirs(images: Tensor) -> object:
        with torch.no_grad():
            return plain(images.to(device))

    yield "torch-fidelity's extractor", theirs
    if importlib.util.find_spec("cleanfid") and find().file is TORCHSCRIPT:
        from cleanfid.resize import build_resizer

        resize = build_resizer("clean")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch announces the end of torch.jit.load
            scripted = torch.jit.load(find().path, map_location=device).net.layers

        def clean(images: Tensor) -> object:
            resized = np.stack([resize(image) for image in images.permute(0, 2, 3, 1).numpy()])
            with torch.no_grad():
                return scripted((torch.from_numpy(resized).permute(0, 3, 1, 2).to(device) - 128) / 128)

        yield "clean-fid's resize and TorchScript", clean


def measure(device: torch.device, repeats: int, count: int, size: int = 32) -> dict[str, list[float]]:
    """Return images per second of each way, repeat by repeat; the ways take turns."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    images, ways = torch.from_numpy(pixels), dict(_ways(device))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-1, repeats):  # the first turn warms up
        for name, way in ways.items():
            began = time.perf_counter()
            for part in images.split(AT_ONCE):
                way(part)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat >= 0:
                found[name].append(count / (time.perf_counter() - began))
    return found


def measure_memory(device: torch.device, counts: list[int], layer: int) -> Iterator[tuple[int, float]]:
    """Yield the process's peak memory in MiB after the statistics of so many images, fewest first."""
    extract = InceptionV3(layer).extract(device)
    for count in (AT_ONCE, *sorted(counts)):
        draw = np.random.default_rng(0)
        sizes = (min(AT_ONCE, count - start) for start in range(0, count, AT_ONCE))
        made = (torch.from_numpy(draw.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8)) for size in sizes)
        collect(made, extract, features=False)
        yield count, peak_mib()
