"""The work of ``wgan-score``: it needs torch, which takes seconds to import."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from omegaconf import OmegaConf

from wgan_sweep.commands.options import allowed_names
from wgan_sweep.common.devices import find_device
from wgan_sweep.common.files import check_output, write
from wgan_sweep.common.pictures import png
from wgan_sweep.common.ranges import LARGEST_INT, Count, Range, check_value
from wgan_sweep.config import objects
from wgan_sweep.config.catalogue import option_values
from wgan_sweep.config.catalogue import options as config_options
from wgan_sweep.errors import InputError
from wgan_sweep.report.text import markdown
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.samples import run_source
from wgan_sweep.scoring.compare import Comparison, check_counts, compare, space_identity
from wgan_sweep.scoring.features import FeatureSpace
from wgan_sweep.scoring.metric_updates import Metrics
from wgan_sweep.scoring.metrics.kid import SubsetSize
from wgan_sweep.scoring.nearest_images import draw_nearest_images
from wgan_sweep.scoring.sources import Source, open_source


def _make_metrics(options: argparse.Namespace, space: Mapping[str, Any]) -> Metrics:
    """Make the options of the config group ``metric`` that were named.

    Args:
        options: The arguments.
        space: The config node of the feature space, to which metrics may refer.
    """
    names = [name.strip() for name in options.metrics.split(",") if name.strip()]
    # One metric computes both precision and recall; users may name either.
    names = list(dict.fromkeys("precision_recall" if name in ("precision", "recall") else name for name in names))
    known = config_options()["metric"]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"unknown metric {', '.join(unknown)}: choose from {', '.join(known)}")
    if not names:
        raise InputError(f"--metrics names none: choose from {', '.join(known)}")
    if options.neighbours is not None and "memorisation" not in names:
        names.append("memorisation")
    nodes = {name: option_values("metric", name) for name in names}
    if options.kid_subset_size is not None and "kid" in nodes:
        check_value(options.kid_subset_size, SubsetSize, "--kid-subset-size")
        nodes["kid"]["subset_size"] = options.kid_subset_size
    resolved = OmegaConf.to_container(OmegaConf.create({"features": space, "metrics": nodes}), resolve=True)
    made = cast("dict[str, Any]", resolved)["metrics"]
    return {name: objects.make(node, f"metric {name}") for name, node in made.items()}


def _space_node(options: argparse.Namespace) -> dict[str, Any]:
    """Return the node of the option of the config group ``features`` that was chosen."""
    given = {"layer": options.layer, "weights": options.weights}
    return option_values("features", options.features) | {k: value for k, value in given.items() if value is not None}


def _feature_space(options: argparse.Namespace) -> FeatureSpace:
    """Make the feature space that was chosen."""
    return cast("FeatureSpace", objects.make(_space_node(options), "features"))


def _open_source(path: Path, options: argparse.Namespace, allowed: Sequence[str], device: torch.device) -> Source:
    if RunDir(path).record.is_file():
        return run_source(path, num_samples=options.num_samples, seed=options.seed, device=device, allowed=allowed)
    return open_source(path)


def score(options: argparse.Namespace) -> None:
    """Check everything that can be checked without the network, score, print, and write the requested files."""
    allowed = allowed_names(options)
    check_value(options.batch_size, Count, "--batch-size")
    check_value(options.num_samples, Annotated[int, Range(2, LARGEST_INT)], "--num-samples")
    device = find_device(options.device, "--device")
    for path, key in ((options.save, "--save"), (options.neighbours, "--neighbours")):
        if path is not None:
            check_output(path, key)
    metrics = _make_metrics(options, _space_node(options))
    real, fake = (_open_source(path, options, allowed, device) for path in (options.real, options.fake))
    check_counts(real, fake, metrics)
    space = _feature_space(options)
    comparison = compare(real, fake, metrics, space, device, options.batch_size, options.verbosity)
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
