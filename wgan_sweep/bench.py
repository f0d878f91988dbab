"""What gradient terms and scores cost: both sides of each comparison interleaved in one process (``make bench``)."""

import argparse
import importlib.util
import json
import platform
import resource
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wgan_sweep import rng
from wgan_sweep.constraints import none as no_constraint
from wgan_sweep.data import ImageSet
from wgan_sweep.files import write
from wgan_sweep.gradient_terms import Form, double_backward, forward_over_reverse
from wgan_sweep.losses import wasserstein_divergence
from wgan_sweep.models import DCGAN, ResNet
from wgan_sweep.precision import precision
from wgan_sweep.sampling import real_fake
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import LAYERS, InceptionV3
from wgan_sweep.scoring.inception import extractor
from wgan_sweep.scoring.weights import TORCHSCRIPT, find
from wgan_sweep.stabilisers import none as no_stabiliser
from wgan_sweep.trainer import Trainer

BATCH, N_CRITIC = 64, 4
SCORED_AT_ONCE = 50
FORMS: dict[str, Form] = {"double backward": double_backward, "forward over reverse": forward_over_reverse}
Model = DCGAN | ResNet
SMALL: dict[str, tuple[Model, int]] = {
    "dcgan 32x32 dim 16": (DCGAN(16, 128, "batch", "none"), 32),
    "resnet 32x32 dim 8": (ResNet(8, 128, "batch", "layer"), 32),
}
FULL: dict[str, tuple[Model, int]] = {
    "dcgan 64x64 dim 64": (DCGAN(64, 128, "batch", "none"), 64),
    "resnet 64x64 dim 64": (ResNet(64, 128, "batch", "layer"), 64),
}


def _steps(model: Model, size: int, form: Form, arithmetic: str, device: torch.device) -> Iterator[object]:
    pixels = np.random.default_rng(0).integers(0, 256, (1024, size, size, 3), dtype=np.uint8)
    images = ImageSet(pixels)
    with rng.seeded(0, "bench"):
        generator, critic = model.generator(images.shape), model.critic(images.shape)
    optimizer = partial(torch.optim.Adam, lr=2e-4, betas=(0.0, 0.9))
    return Trainer(
        generator=generator.to(device).to(memory_format=torch.channels_last),
        critic=critic.to(device).to(memory_format=torch.channels_last),
        loss=wasserstein_divergence(2, 6, real_fake),
        constraint=no_constraint(),
        stabiliser=no_stabiliser(),
        generator_optimizer=optimizer,
        critic_optimizer=optimizer,
        batches=images.batches(BATCH, 0, device),
        latent_dim=model.latent_dim,
        n_critic=N_CRITIC,
        ema=0.999,
        seed=0,
        device=device,
        precision=precision(arithmetic, device),
        form=form,
    ).steps(sys.maxsize)


def _milliseconds(steps: Iterator[object], count: int, device: torch.device) -> float:
    began = time.perf_counter()
    for _ in range(count):
        next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) * 1000 / count


def measure(device: torch.device, arithmetics: list[str], repeats: int, count: int) -> Iterator[dict[str, object]]:
    """Yield medians for each network and precision; the two forms take turns."""
    for name, (model, size) in (FULL if device.type == "cuda" else SMALL).items():
        for arithmetic in arithmetics:
            running = {label: _steps(model, size, form, arithmetic, device) for label, form in FORMS.items()}
            for steps in running.values():
                _milliseconds(steps, 3, device)
            times: dict[str, list[float]] = {label: [] for label in FORMS}
            for _ in range(repeats):
                for label, steps in running.items():
                    times[label].append(_milliseconds(steps, count, device))
            medians = {label: statistics.median(values) for label, values in times.items()}
            spread = max((max(values) - min(values)) / medians[label] for label, values in times.items())
            ratio = medians["double backward"] / medians["forward over reverse"]
            yield {"network": name, "precision": arithmetic, **medians, "ratio": ratio, "spread": spread}


def _scoring_ways(device: torch.device) -> Iterator[tuple[str, Callable[[Tensor], object]]]:
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


def measure_scoring(device: torch.device, repeats: int, count: int, size: int = 32) -> dict[str, list[float]]:
    """Return images per second of each way, repeat by repeat; the ways take turns."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, size, size), dtype=np.uint8)
    images, ways = torch.from_numpy(pixels), dict(_scoring_ways(device))
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(-1, repeats):  # the first turn warms up
        for name, way in ways.items():
            began = time.perf_counter()
            for part in images.split(SCORED_AT_ONCE):
                way(part)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if repeat >= 0:
                found[name].append(count / (time.perf_counter() - began))
    return found


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measure_memory(device: torch.device, counts: list[int], layer: int) -> Iterator[tuple[int, float]]:
    """Yield the process's peak memory in MiB after the statistics of so many images, fewest first."""
    extract = InceptionV3(layer).extract(device)
    for count in (SCORED_AT_ONCE, *sorted(counts)):
        draw = np.random.default_rng(0)
        sizes = (min(SCORED_AT_ONCE, count - start) for start in range(0, count, SCORED_AT_ONCE))
        made = (torch.from_numpy(draw.integers(0, 256, (size, 3, 32, 32), dtype=np.uint8)) for size in sizes)
        collect(made, extract, features=False)
        yield count, _peak_mib()


def main() -> None:
    """Print tables of milliseconds per iteration and of images scored per second; ``--json FILE`` keeps the figures."""
    parser = argparse.ArgumentParser("python -m wgan_sweep.bench", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", nargs="+", help="default: fp32 on a CPU; fp32 tf32 bf16 on a GPU")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=5, help="iterations per repeat")
    parser.add_argument("--memory", nargs="+", type=int, metavar="N", help="only: peak memory of scoring N images")
    parser.add_argument("--feature", type=int, default=2048, choices=LAYERS, help="of --memory (default: 2048)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    arithmetics = options.precision or (["fp32", "tf32", "bf16"] if device.type == "cuda" else ["fp32"])
    chip = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    write_out = sys.stdout.write
    write_out(f"{chip}, torch {torch.__version__}\n")
    if options.memory:
        write_out(f"\nPeak memory of one process, InceptionV3 {options.feature} features.\n\n")
        write_out("| images | MiB |\n|---|---|\n")
        for count, peak in measure_memory(device, options.memory, options.feature):
            write_out(f"| {count} | {peak:.0f} |\n")
            sys.stdout.flush()
        return
    write_out(f"An iteration is {N_CRITIC} critic updates and 1 generator update, batch {BATCH}; medians in ms.\n\n")
    columns = ["network", "precision", *FORMS, "ratio", "spread"]
    write_out(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n")
    rows = []
    for row in measure(device, arithmetics, options.repeats, options.count):
        rows.append(row)
        figures = [f"{row[label]:.1f}" for label in FORMS] + [f"{row['ratio']:.2f}", f"{row['spread']:.0%}"]
        write_out(f"| {row['network']} | {row['precision']} | {' | '.join(figures)} |\n")
        sys.stdout.flush()
    write_out("\nImages per second to InceptionV3's 2048 features, fp32, 32 x 32 images in batches of 50; medians.\n\n")
    write_out("| | images/s | ratio to ours | spread |\n|---|---|---|---|\n")
    speeds = measure_scoring(device, options.repeats, 2000 if device.type == "cuda" else 50)
    ours = statistics.median(next(iter(speeds.values())))
    for name, values in speeds.items():
        median = statistics.median(values)
        write_out(f"| {name} | {median:.1f} | {median / ours:.2f} | {(max(values) - min(values)) / median:.0%} |\n")
        rows.append({"scoring": name, "images_per_second": median, "ratio": median / ours})
    if options.json:
        write(options.json, json.dumps({"device": chip, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
