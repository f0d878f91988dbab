"""The command ``wgan-score REAL FAKE``: two sets of images, and all that a number between them depends on."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wgan_sweep.common.files import write
from wgan_sweep.common.images import png
from wgan_sweep.common.progress import show_progress
from wgan_sweep.errors import InputError
from wgan_sweep.report.text import markdown
from wgan_sweep.runs.sources import Source, open_source
from wgan_sweep.scoring.collect import collect
from wgan_sweep.scoring.features import LAYERS, FeatureSpace, InceptionV3, TorchFidelity
from wgan_sweep.scoring.metrics import KID, METRICS, Metric, Side
from wgan_sweep.scoring.nearest_images import draw_nearest_images

SPACES: dict[str, tuple[str, str]] = {
    "vgg16": ("vgg16", "fc2_relu"),
    "clip": ("clip-vit-b-32", "clip"),
    "dinov2": ("dinov2-vit-b-14", "dinov2"),
}
"""Spaces beside InceptionV3: torch-fidelity's name and layer."""


def _identity(space: FeatureSpace) -> str:
    return f"{space.name}, network {space.network}"


def score(
    real: Source,
    fake: Source,
    metrics: Mapping[str, Metric],
    space: FeatureSpace,
    device: torch.device,
    batch_size: int,
) -> tuple[dict[str, float], Side, Side]:
    """Return scores, and both sides.

    Raises:
        InputError: if a metric cannot be computed from what there is.
    """
    features = any(metric.needs_features for metric in metrics.values())
    logits = any(metric.needs_logits for metric in metrics.values())
    space.check(logits=logits)
    for metric in metrics.values():
        if None not in (real.count, fake.count):
            metric.check(fake.count or 0, real.count or 0)
    for name, source in (("REAL", real), ("FAKE", fake)):
        if source.batches is None and (features or (logits and source is fake)):
            raise InputError(f"{name} is {source.name}: that is enough for fid only, give the images for the others")
        if source.statistics is not None and source.statistics.space not in ("", _identity(space)):
            raise InputError(
                f"{name} is {source.name}, made in {source.statistics.space}, and this is {_identity(space)}: scores "
                "compare within one feature space"
            )
        if source.batches is not None and source.count is not None and source.count < 2:
            raise InputError(f"{name} is {source.name}: two images or more are needed")
    sides = [
        Side(source.statistics)
        if source.statistics is not None
        else collect(
            show_progress((source.batches or (lambda _: iter(())))(batch_size), source.count, label),
            space.extract(device, logits=logits and source is fake),
            features=features,
            logits=logits and source is fake,
        )
        for label, source in (("real", real), ("fake", fake))
    ]
    try:
        found = {name: value for metric in metrics.values() for name, value in metric(*sides).items()}
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{error}: both sides must be of one feature space, {space.name} here") from error
    return found, sides[0], sides[1]


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "wgan-score",
        description="Scores of FAKE against REAL. Each is an npz file (an array `images` of uint8 [N, H, W, C], or "
        "statistics), a folder of pictures, or a run's directory (whose moving-average generator makes images).",
    )
    parser.add_argument("real", type=Path)
    parser.add_argument("fake", type=Path)
    parser.add_argument("--metrics", default="fid", help=f"a list of {','.join(METRICS)} (default: fid)")
    parser.add_argument("--features", default="inception", choices=["inception", *SPACES], help="the feature space")
    parser.add_argument("--feature", type=int, default=2048, choices=LAYERS, help="InceptionV3's layer (default: 2048)")
    parser.add_argument("--weights", help="the network's file; by default it is found or fetched")
    parser.add_argument("--num-samples", type=int, default=50000, help="images that a run generates (default: 50000)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise that a run generates from")
    parser.add_argument("--kid-subset-size", type=int, help="images per subset of KID (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--save", type=Path, metavar="NPZ", help="keep REAL's statistics, to be given as REAL next time"
    )
    parser.add_argument(
        "--neighbours", type=Path, metavar="PNG", help="draw generated images beside the nearest real ones"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _metrics(options: argparse.Namespace) -> dict[str, Metric]:
    names = [name.strip() for name in options.metrics.split(",") if name.strip()]
    # The names that people type for what comes in pairs.
    names = list(dict.fromkeys("precision_recall" if name in ("precision", "recall") else name for name in names))
    if unknown := [name for name in names if name not in METRICS]:
        raise InputError(f"unknown metric {', '.join(unknown)}: choose of {', '.join(METRICS)}")
    if not names:
        raise InputError(f"--metrics names none: choose of {', '.join(METRICS)}")
    made = {name: METRICS[name]() for name in names}
    if options.kid_subset_size is not None and "kid" in made:
        made["kid"] = KID(subset_size=options.kid_subset_size)
    return made


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.batch_size < 1 or options.num_samples < 2:
        raise InputError(
            f"--batch-size must be 1 or more and --num-samples 2 or more, got {options.batch_size} and "
            f"{options.num_samples}"
        )
    device = torch.device(options.device)
    metrics = _metrics(options)
    space: FeatureSpace = (
        InceptionV3(options.feature, options.weights)
        if options.features == "inception"
        else TorchFidelity(*SPACES[options.features], options.weights)
    )
    real, fake = (
        open_source(path, num_samples=options.num_samples, seed=options.seed, device=device)
        for path in (options.real, options.fake)
    )
    if options.neighbours is not None:
        metrics.setdefault("memorisation", METRICS["memorisation"]())
    scores, real_side, fake_side = score(real, fake, metrics, space, device, options.batch_size)
    if options.save is not None:
        replace(real_side.statistics, space=_identity(space)).save(options.save)
    if options.neighbours is not None:
        write(options.neighbours, png(draw_nearest_images(real, fake, real_side, fake_side, options.batch_size)))
    return {
        "scores": scores,
        "real": real.name,
        "fake": fake.name,
        "real_count": real.count,
        "fake_count": fake.count,
        "features": space.name,
        "dimensions": real_side.statistics.mean.numel(),
        "network": space.network,
        "resize": space.resize,
    }


def _table(found: Mapping[str, Any]) -> str:
    notes = [f"{key}: {found[key]}" for key in ("real", "fake", "features", "resize")]
    notes.append(f"network: sha256 {found['network']}...")
    return markdown(["metric", "value"], [[name, f"{value:.6g}"] for name, value in found["scores"].items()], notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``wgan-score``."""
    options = _arguments(arguments)
    try:
        found = _run(options)
    except InputError as error:
        sys.exit(f"wgan-score: {error}")
    sys.stdout.write(json.dumps(found, indent=2) + "\n" if options.json else _table(found))


if __name__ == "__main__":
    main()
