"""The subcommands ``wgan-runs sample`` and ``wgan-runs export``: what a run's generator makes, and the generator."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wgan_sweep.commands.options import add_trust_options, allowed_names, user_path
from wgan_sweep.commands.runs_options import Subparsers, add_command, check_folder, opened_runs
from wgan_sweep.common.files import check_output
from wgan_sweep.errors import InputError
from wgan_sweep.runs.selection import by_id

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from wgan_sweep.config.schema import Config
    from wgan_sweep.runs.directory import RunDir
    from wgan_sweep.runs.networks import TrainedNetworks


def _add_networks(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that choose a run and its networks."""
    parser.add_argument("id", help="the run's id, or its first characters")
    parser.add_argument("--best", action="store_true", help="the step with the lowest metric, not the latest one")
    parser.add_argument("--live", action="store_true", help="the generator that was trained, not its moving average")
    add_trust_options(parser)


def add_sample(subparsers: Subparsers) -> None:
    """Add ``sample``: generate images of a run, into a file, a folder, a grid or a picture of interpolations."""
    parser = add_command(subparsers, "sample", "Generate images of a run: the same for the same seed.", _sample)
    _add_networks(parser)
    parser.add_argument("-n", "--number", type=int, default=64, metavar="N", help="number of images (default: 64)")
    parser.add_argument(
        "--to",
        type=user_path,
        metavar="FILE.npz|FOLDER",
        help="an npz file (array `images`, uint8 [N, H, W, C]; of points, `points`, float32 [N, D]), or a new folder "
        "of pictures 00000.png, ...",
    )
    parser.add_argument(
        "--grid", type=user_path, metavar="FILE.png", help="a picture of the first samples, as training shows them"
    )
    parser.add_argument(
        "--interpolation",
        type=user_path,
        metavar="FILE.png",
        help="rows of images between two z, interpolated spherically",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of z (default: 0)")
    parser.add_argument("--batch-size", type=int, default=50, help="images per forward pass (default: 50)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if there is one)")


def add_export(subparsers: Subparsers) -> None:
    """Add ``export``: write the generator of a run to a file."""
    parser = add_command(
        subparsers, "export", "Write a run's generator to a file that wgan_sweep.load_generator reads.", _export
    )
    _add_networks(parser)
    parser.add_argument("--to", type=user_path, required=True, metavar="FILE.pt", help="the file")


def _find(options: argparse.Namespace) -> "RunDir":
    """Return the directory of the run that the options name.

    Raises:
        InputError: if there is no such run, or the beginning of an id is that of several.
    """
    check_folder(options)
    with opened_runs(options) as (_, runs, _):
        return by_id(options.id, runs).directory


def _load(options: argparse.Namespace, device: "torch.device") -> "tuple[RunDir, Config, TrainedNetworks]":
    from wgan_sweep.runs.networks import load_networks, read_config

    allowed = allowed_names(options)
    directory = _find(options)
    config = read_config(directory, allowed)
    return directory, config, load_networks(directory, config, device, best=options.best, live=options.live)


def _sample(options: argparse.Namespace) -> bool:
    """Generate what the options request."""
    if options.to is None and options.grid is None and options.interpolation is None:
        raise InputError(
            "nothing to write: give --to FILE.npz or --to FOLDER, --grid FILE.png, --interpolation FILE.png"
        )
    for path, key in ((options.grid, "--grid"), (options.interpolation, "--interpolation")):
        if path is not None:
            check_output(path, key)
    import torch

    from wgan_sweep.common.devices import find_device
    from wgan_sweep.common.files import write
    from wgan_sweep.common.images import grid
    from wgan_sweep.common.pictures import png
    from wgan_sweep.common.progress import show_progress
    from wgan_sweep.common.ranges import Count, check_value
    from wgan_sweep.data.writing import check_destination, write_samples
    from wgan_sweep.runs.samples import INTERPOLATION_STEPS, interpolations, sample_batches

    check_value(options.number, Count, "--number")
    check_value(options.batch_size, Count, "--batch-size")
    if options.to is not None:
        check_destination(options.to, "--to")
    directory, _, networks = _load(options, find_device(options.device, "--device"))
    is_image = len(networks.real.shape) == 3
    if options.interpolation is not None and not is_image:
        raise InputError(f"--interpolation shows images, and the run {directory.path} generates points: leave it out")
    source = f"the {networks.weights} of run {directory.path.name} at step {networks.step}"
    if options.to is not None or options.grid is not None:
        pictured: list[Tensor] = []
        count = options.number if options.to is not None else min(options.number, networks.real.num_pictured)
        batches = sample_batches(networks.sampler, count, options.seed, options.batch_size)
        kept = _keeping(
            show_progress(batches, count, "samples", verbosity=options.verbosity), networks.real.num_pictured, pictured
        )
        if options.to is not None:
            write_samples(options.to, kept, count)
            sys.stdout.write(f"{options.to}: {count} samples by {source}\n")
        if options.grid is not None:
            for _ in kept:  # those that were not written
                pass
            first = torch.cat(pictured)
            write(options.grid, png(networks.real.draw_samples(first, networks.critic_outputs)))
            sys.stdout.write(f"{options.grid}: {len(first)} samples by {source}\n")
    if options.interpolation is not None:
        write(options.interpolation, png(grid(interpolations(networks.sampler, options.seed), INTERPOLATION_STEPS)))
        sys.stdout.write(f"{options.interpolation}: interpolations by {source}\n")
    return True


def _keeping(batches: "Iterator[Tensor]", count: int, kept: "list[Tensor]") -> "Iterator[Tensor]":
    """Yield batches, and keep the first `count` samples in a list."""
    for batch in batches:
        if (missing := count - sum(map(len, kept))) > 0:
            kept.append(batch[:missing])
        yield batch


def _export(options: argparse.Namespace) -> bool:
    """Write the generator that the options name."""
    import torch

    from wgan_sweep.runs.export import export_generator

    directory, config, networks = _load(options, torch.device("cpu"))
    export_generator(options.to, config, directory.require_record().run_id, networks, "--to")
    sys.stdout.write(f"{options.to}: the {networks.weights} of run {directory.path.name} at step {networks.step}\n")
    return True
