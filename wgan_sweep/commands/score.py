"""The command ``wgan-score REAL FAKE``: metrics between two sets of images, and the settings they depend on."""

import argparse
import sys
from collections.abc import Sequence

from wgan_sweep.commands.completion import add_completion_option
from wgan_sweep.commands.options import (
    RemovedOption,
    add_common_options,
    add_trust_options,
    ending_with_its_reader,
    user_path,
)
from wgan_sweep.common.verbosity import announce, logging_to_stderr
from wgan_sweep.config.catalogue import options as config_options
from wgan_sweep.errors import InputError


def _layer(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "wgan-score",
        description="Measure generated images against real ones: metrics of FAKE against REAL.",
    )
    metrics, spaces = config_options()["metric"], config_options()["features"]
    parser.add_argument(
        "real",
        type=user_path,
        metavar="REAL",
        help="real images: an npz file (an array `images`, uint8 [N, H, W, C]; or statistics that --save wrote), a "
        "folder of pictures, or the directory of a run",
    )
    parser.add_argument(
        "fake",
        type=user_path,
        metavar="FAKE",
        help="generated images, likewise; the moving-average generator of a run makes them",
    )
    parser.add_argument("--metrics", default="fid", help=f"a list of {','.join(metrics)} (default: fid)")
    parser.add_argument(
        "--features", default="inception", choices=spaces, help="the feature space (default: inception)"
    )
    parser.add_argument("--layer", type=_layer, help="its layer, as features.layer (inception: 64, 192, 768 or 2048)")
    parser.add_argument(
        "--feature", action=RemovedOption, remedy="--layer 64 chooses a layer, --features NAME the network"
    )
    parser.add_argument("--weights", help="the network's file; by default it is found or downloaded")
    parser.add_argument("--num-samples", type=int, default=50000, help="images that a run generates (default: 50000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise that a run generates from (default: 0)")
    parser.add_argument("--kid-subset-size", type=int, help="images per subset of KID (default: 1000)")
    parser.add_argument("--batch-size", type=int, default=50, help="images per forward pass (default: 50)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto, a GPU if there is one)")
    parser.add_argument(
        "--save", type=user_path, metavar="NPZ", help="save REAL's statistics, which can be REAL next time"
    )
    parser.add_argument(
        "--neighbours", type=user_path, metavar="PNG", help="draw generated images beside the nearest real ones"
    )
    add_trust_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_common_options(parser)
    add_completion_option(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``wgan-score``."""
    options = _parser().parse_args(arguments)
    announce("wgan-score: loading PyTorch", options.verbosity)
    from wgan_sweep.commands.scores import score

    try:
        with ending_with_its_reader(), logging_to_stderr("wgan-score", options.verbosity):
            score(options)
    except InputError as error:
        sys.exit(f"wgan-score: {error}")
    except OSError as error:
        sys.exit(f"wgan-score: {error}: nothing more was written")


if __name__ == "__main__":
    main()
