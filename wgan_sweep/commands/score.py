"""The command ``wgan-score REAL FAKE``: metrics between two sets of images, and the settings they depend on."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch

from wgan_sweep.common.devices import find_device
from wgan_sweep.common.files import check_output, write
from wgan_sweep.common.images import png
from wgan_sweep.common.ranges import LARGEST_INT, Count, Range, check_value
from wgan_sweep.config import folders
from wgan_sweep.errors import InputError
from wgan_sweep.report.text import markdown
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.samples import run_source
from wgan_sweep.scoring.compare import Comparison, check_counts, compare, space_identity
from wgan_sweep.scoring.features import LAYERS, FeatureSpace, InceptionV3, TorchFidelity
from wgan_sweep.scoring.metrics import KID, METRICS, Metric, SubsetSize
from wgan_sweep.scoring.nearest_images import draw_nearest_images
from wgan_sweep.scoring.sources import Source, open_source

SPACES: dict[str, tuple[str, str]] = {
    "vgg16": ("vgg16", "fc2_relu"),
    "clip": ("clip-vit-b-32", "clip"),
    "dinov2": ("dinov2-vit-b-14", "dinov2"),
}
"""Feature spaces other than InceptionV3: torch-fidelity's names of the extractor and the layer."""


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "wgan-score",
        description="Metrics of FAKE against REAL. Each is an npz file (an array `images` of uint8 [N, H, W, C], or "
        "statistics), a folder of pictures, or a run's directory (its moving-average generator makes the images).",
    )
    parser.add_argument("real", type=_path)
    parser.add_argument("fake", type=_path)
    parser.add_argument("--metrics", default="fid", help=f"a list of {','.join(METRICS)} (default: fid)")
    parser.add_argument("--features", default="inception", choices=["inception", *SPACES], help="the feature space")
    parser.add_argument("--feature", type=int, default=2048, choices=LAYERS, help="InceptionV3's layer (default: 2048)")
    parser.add_argument("--weights", help="the network's file; by default it is found or downloaded")
    parser.add_argument("--num-samples", type=int, default=50000, help="images that a run generates (default: 50000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise that a run generates from (default: 0)")
    parser.add_argument("--kid-subset-size", type=int, help="images per subset of KID (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=50, help="images per forward pass (default: 50)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if there is one)")
    parser.add_argument("--save", type=_path, metavar="NPZ", help="save REAL's statistics, which can be REAL next time")
    parser.add_argument(
        "--neighbours", type=_path, metavar="PNG", help="draw generated images beside the nearest real ones"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="MODULE", help="run a module's code that a run's config names"
    )
    parser.add_argument(
        folders.FLAG,
        action="append",
        default=[],
        metavar="FOLDER",
        dest="folders",
        help="use the modules in a folder, and run their code that a run's config names",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(arguments)


def _make_metrics(options: argparse.Namespace) -> dict[str, Metric]:
    names = [name.strip() for name in options.metrics.split(",") if name.strip()]
    # One metric computes both precision and recall; users may name either.
    names = list(dict.fromkeys("precision_recall" if name in ("precision", "recall") else name for name in names))
    if unknown := [name for name in names if name not in METRICS]:
        raise InputError(f"unknown metric {', '.join(unknown)}: choose from {', '.join(METRICS)}")
    if not names:
        raise InputError(f"--metrics names none: choose from {', '.join(METRICS)}")
    metrics = {name: METRICS[name]() for name in names}
    if options.kid_subset_size is not None and "kid" in metrics:
        check_value(options.kid_subset_size, SubsetSize, "--kid-subset-size")
        metrics["kid"] = KID(subset_size=options.kid_subset_size)
    return metrics


def _open_source(path: Path, options: argparse.Namespace, device: torch.device) -> Source:
    if RunDir(path).record.is_file():
        allowed = [*options.allow, *folders.modules()]
        return run_source(path, num_samples=options.num_samples, seed=options.seed, device=device, allowed=allowed)
    return open_source(path)


def _run(options: argparse.Namespace) -> None:
    """Check everything that can be checked without the network, score, print, and write the files asked for."""
    for folder in options.folders:
        folders.use(folder)
    check_value(options.batch_size, Count, "--batch-size")
    check_value(options.num_samples, Annotated[int, Range(2, LARGEST_INT)], "--num-samples")
    device = find_device(options.device, "--device")
    for path, key in ((options.save, "--save"), (options.neighbours, "--neighbours")):
        if path is not None:
            check_output(path, key)
    metrics = _make_metrics(options)
    if options.neighbours is not None:
        metrics.setdefault("memorisation", METRICS["memorisation"]())
    real, fake = (_open_source(path, options, device) for path in (options.real, options.fake))
    check_counts(real, fake, metrics)
    space: FeatureSpace = (
        InceptionV3(options.feature, options.weights)
        if options.features == "inception"
        else TorchFidelity(*SPACES[options.features], options.weights)
    )
    comparison = compare(real, fake, metrics, space, device, options.batch_size)
    sys.stdout.write(_to_text(_result(real, fake, comparison, space), as_json=options.json))
    sys.stdout.flush()  # a file that cannot be written loses no scores
    if options.save is not None:
        replace(comparison.real.statistics, space=space_identity(space)).save(options.save)
    if options.neighbours is not None:
        picture = draw_nearest_images(real, fake, comparison.real, comparison.fake, options.batch_size)
        write(options.neighbours, png(picture))


def _result(real: Source, fake: Source, comparison: Comparison, space: FeatureSpace) -> dict[str, Any]:
    """Return the scores and what they depend on."""
    return {
        "scores": comparison.scores,
        "real": real.name,
        "fake": fake.name,
        "real_count": real.count,
        "fake_count": fake.count,
        "features": space.name,
        "dimensions": comparison.real.statistics.mean.numel(),
        "network": space.network,
        "resize": space.resize,
        "notes": [f"{source.name}: {note}" for source in (real, fake) for note in source.notes()],
    }


def _to_text(result: Mapping[str, Any], *, as_json: bool) -> str:
    if as_json:
        return json.dumps(result, indent=2) + "\n"
    notes = [f"{key}: {result[key]}" for key in ("real", "fake", "features", "resize")]
    notes += [f"network: sha256 {result['network']}...", *result["notes"]]
    rows = [[name, f"{value:.6g}"] for name, value in result["scores"].items()]
    return markdown(["metric", "value"], rows, notes)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``wgan-score``."""
    options = _parse_arguments(arguments)
    try:
        _run(options)
    except InputError as error:
        sys.exit(f"wgan-score: {error}")
    except OSError as error:
        sys.exit(f"wgan-score: {error}: nothing more was written")


if __name__ == "__main__":
    main()
