"""Feature spaces: where images are compared. What a score means depends on the space, so each can say what it is."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from wgan_sweep.common import rng
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.inception import inception
from wgan_sweep.scoring.weights import Weights, as_stream, find
from wgan_sweep.training.precision import precision

LAYERS = (64, 192, 768, 2048)
"""Of InceptionV3, from the first block to the last pool."""
LOGITS = "logits_unbiased"
"""torch-fidelity's name for the logits without bias, which TensorFlow 1's Inception Score is computed from."""


class Extracted(NamedTuple):
    """What a batch of images is in a feature space."""

    features: Tensor
    """``[N, D]``, float32."""
    logits: Tensor | None = None
    """``[N, classes]``, where they were asked for."""


Extract = Callable[[Tensor], Extracted]


class FeatureSpace(Protocol):
    """A network that maps uint8 images ``[N, 1 or 3, H, W]`` to features."""

    @property
    def name(self) -> str:
        """What the features are called where a score is printed."""

    @property
    def network(self) -> str:
        """The first digits of the SHA-256 of the weights."""

    @property
    def resize(self) -> str:
        """How images come to the network's size."""

    def check(self, *, logits: bool) -> None:
        """Refuse what cannot be had."""

    def extract(self, device: torch.device, *, logits: bool = False) -> Extract:
        """Return the map; with logits where asked for."""


@dataclass(frozen=True)
class InceptionV3:
    """The network of FID (Heusel et al. 2017): InceptionV3 of 2015-12-05, as torch-fidelity runs it.

    Args:
        layer: Which features: 2048 (the FID of the literature), 768, 192 or 64 (cheaper, on other scales).
        weights: The network's file; null to find it (see `scoring.weights`).

    Raises:
        InputError: for another layer, or if the network cannot be had.
    """

    layer: int
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.layer not in LAYERS:
            raise InputError(f"features.layer={self.layer}: choose one of {', '.join(map(str, LAYERS))}")
        _ = self._file

    @cached_property
    def _file(self) -> Weights:
        return find(self.weights)

    @property
    def name(self) -> str:
        """The network and its layer."""
        return f"InceptionV3 {self.layer}"

    @property
    def network(self) -> str:
        """The first digits of the file's SHA-256."""
        return self._file.sha256[:12]

    @property
    def resize(self) -> str:
        """TensorFlow 1's."""
        return "bilinear to 299 as TensorFlow 1, no antialias"

    def check(self, *, logits: bool) -> None:
        """Refuse logits where the weights have none.

        Raises:
            InputError: for the file without the last layer.
        """
        if logits and not self._file.file.has_logits:
            raise InputError(
                f"the Inception Score needs logits, and {self._file.path.name} has no last layer: set features.weights "
                "to torch-fidelity's release (weights-inception-2015-12-05-6726825d.pth), or leave that metric out"
            )

    def extract(self, device: torch.device, *, logits: bool = False) -> Extract:
        """Return the map from images to features."""
        self.check(logits=logits)
        layers = (str(self.layer), LOGITS) if logits else (str(self.layer),)
        network = inception(self._file, layers, device)
        return lambda images: Extracted(*network(images))


WITH_FILE: dict[str, Callable[[Path], object]] = {
    "vgg16": lambda path: as_stream(torch.load(path, map_location="cpu", weights_only=True)),
    "clip": str,  # a TorchScript file, read as such
}
"""How torch-fidelity's extractors take a file of weights, by the first part of their name."""


@dataclass(frozen=True)
class TorchFidelity:
    """Another of torch-fidelity's feature extractors: vgg16, clip-vit-b-32, dinov2-vit-b-14 and their kin.

    Args:
        extractor: torch-fidelity's name for it.
        layer: The layer, as torch-fidelity calls it.
        weights: The network's file (vgg16: torchvision's state dict, clip: OpenAI's TorchScript file); null lets
            torch-fidelity fetch it.

    Raises:
        InputError: for an unknown name or layer, or a missing file.
    """

    extractor: str
    layer: str
    weights: str | None = None

    def __post_init__(self) -> None:
        known = sorted(name for name in FEATURE_EXTRACTORS_REGISTRY if not name.startswith("inception"))
        if self.extractor not in known:
            raise InputError(f"features.extractor={self.extractor}: choose one of {', '.join(known)}")
        layers = FEATURE_EXTRACTORS_REGISTRY[self.extractor].get_provided_features_list()
        if self.layer not in layers:
            raise InputError(f"features.layer={self.layer}: {self.extractor} has {', '.join(layers)}")
        if self.weights is not None:
            if self.extractor.split("-")[0] not in WITH_FILE:
                raise InputError(
                    f"features.weights={self.weights}: torch-fidelity reads {self.extractor} from its publisher only; "
                    "set it to null, and let this machine reach the network or fill torch's hub cache"
                )
            if not Path(self.weights).expanduser().is_file():
                raise InputError(f"there is no file {self.weights}: set features.weights to the weights, or to null")

    @property
    def name(self) -> str:
        """The extractor and its layer."""
        return f"{self.extractor} {self.layer}"

    @cached_property
    def network(self) -> str:
        """The first digits of a SHA-256: of the given file, else of the weights that torch-fidelity fetched."""
        if self.weights is not None:
            with Path(self.weights).expanduser().open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
        hasher = hashlib.sha256()
        for value in _torch_fidelitys(self, torch.device("cpu")).state_dict().values():
            hasher.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return hasher.hexdigest()[:12]

    @property
    def resize(self) -> str:
        """What torch-fidelity does before every network."""
        return "bilinear to the network's size as TensorFlow 1, no antialias"

    def check(self, *, logits: bool) -> None:
        """Refuse logits; build the network, so that what is missing shows before work starts.

        Raises:
            InputError: for logits, or where the weights cannot be had.
        """
        if logits:
            raise InputError(f"the Inception Score is defined on InceptionV3 only, not on {self.name}")
        _torch_fidelitys(self, torch.device("cpu"))

    def extract(self, device: torch.device, *, logits: bool = False) -> Extract:
        """Return the map from images to features."""
        self.check(logits=logits)
        network, exact = _torch_fidelitys(self, device), precision("fp32", device)

        @torch.no_grad()
        def extract(images: Tensor) -> Extracted:
            with exact.step(), torch.autocast(device.type, enabled=False):
                return Extracted(network(images.to(device).expand(-1, 3, -1, -1))[0])

        return extract


@lru_cache(maxsize=2)
def _torch_fidelitys(space: TorchFidelity, device: torch.device) -> nn.Module:
    made = FEATURE_EXTRACTORS_REGISTRY[space.extractor]
    try:
        file = None
        if space.weights is not None:
            file = WITH_FILE[space.extractor.split("-")[0]](Path(space.weights).expanduser())
        with rng.seeded(0, "overwritten"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.hub and torch.jit, about themselves
            network: nn.Module = made(
                space.extractor, [space.layer], feature_extractor_weights_path=file, verbose=False
            )
    except Exception as error:  # whatever a download or an unpickler raises
        raise InputError(
            f"the weights of {space.extractor} cannot be had ({type(error).__name__}: {error}): set "
            "features.weights to their file where torch-fidelity takes one, let this machine reach their publisher, or "
            "use features=inception"
        ) from error
    return network.to(device)
