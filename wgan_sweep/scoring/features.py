"""Feature spaces in which images are compared. Metric values are comparable within one feature space only."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from wgan_sweep.common import rng
from wgan_sweep.common.tf32 import tf32
from wgan_sweep.errors import InputError
from wgan_sweep.scoring.weights import Weights, as_stream, find

LAYERS = (64, 192, 768, 2048)
"""Feature layers of InceptionV3, by their dimensions: from the first block to the last pool."""
LOGITS = "logits_unbiased"
"""torch-fidelity's name for the logits without bias, from which TensorFlow 1 computes the Inception Score."""


class Extracted(NamedTuple):
    """Features of a batch of images."""

    features: Tensor
    """``[N, D]``, float32."""
    logits: Tensor | None = None
    """``[N, classes]``, if requested."""


Extract = Callable[[Tensor], Extracted]


class FeatureSpace(Protocol):
    """A network that maps uint8 images ``[N, 1 or 3, H, W]`` to features.

    It may also have `dimensions`, the number of dimensions of the features. Too few images for a metric are then
    refused before work starts.
    """

    @property
    def name(self) -> str:
        """Name of the features, printed with every score."""

    @property
    def network(self) -> str:
        """First 12 hex digits of the SHA-256 of the weights."""

    @property
    def resize(self) -> str:
        """How images are resized to the network's input size."""

    def check(self, *, logits: bool) -> None:
        """Check that the network is available.

        Args:
            logits: Whether logits are needed.

        Raises:
            InputError: if weights are missing, or logits are needed and the network has none.
        """

    def extract(self, device: torch.device, *, logits: bool = False) -> Extract:
        """Return the function from images to features, and logits if requested."""


@dataclass(frozen=True)
class InceptionV3:
    """The feature network of FID (Heusel et al. 2017): InceptionV3 of 2015-12-05, as implemented by torch-fidelity.

    Args:
        layer: Feature dimensions: 2048 (standard FID), 768, 192 or 64 (cheaper; FID values are on other scales).
        weights: The weights file; null to find or download it (see `scoring.weights`).

    Raises:
        InputError: for another layer, or if the weights are unavailable.
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
    def dimensions(self) -> int:
        """Number of dimensions of the features."""
        return self.layer

    @property
    def name(self) -> str:
        """The network and its layer."""
        return f"InceptionV3 {self.layer}"

    @property
    def network(self) -> str:
        """First 12 hex digits of the SHA-256 of the weights file."""
        return self._file.sha256[:12]

    @property
    def resize(self) -> str:
        """The resize rule of TensorFlow 1."""
        return "bilinear to 299 as TensorFlow 1, no antialias"

    def check(self, *, logits: bool) -> None:
        """Check that the weights include the last layer if logits are needed.

        Raises:
            InputError: if they do not.
        """
        if logits and not self._file.file.has_logits:
            raise InputError(
                f"the Inception Score needs logits, and {self._file.path.name} has no last layer: set features.weights "
                "to torch-fidelity's release (weights-inception-2015-12-05-6726825d.pth), or leave that metric out"
            )

    def extract(self, device: torch.device, *, logits: bool = False) -> Extract:
        """Return the function from images to features, and logits if requested."""
        from wgan_sweep.scoring.inception import inception  # slow to import: it needs torchvision

        self.check(logits=logits)
        layers = (str(self.layer), LOGITS) if logits else (str(self.layer),)
        network = inception(self._file, layers, device)
        return lambda images: Extracted(*network(images))


WEIGHTS_READERS: dict[str, Callable[[Path], object]] = {
    "vgg16": lambda path: as_stream(torch.load(path, map_location="cpu", weights_only=True)),
    "clip": str,  # torch-fidelity reads the TorchScript file itself
}
"""How a weights file is passed to torch-fidelity's extractors, by the first part of the extractor's name."""


@dataclass(frozen=True)
class TorchFidelity:
    """Another feature extractor of torch-fidelity: vgg16, clip-vit-b-32, dinov2-vit-b-14 and their variants.

    Args:
        extractor: torch-fidelity's name of the extractor.
        layer: torch-fidelity's name of the layer.
        weights: The weights file (vgg16: torchvision's state dict, clip: OpenAI's TorchScript file); null lets
            torch-fidelity download it.

    Raises:
        InputError: for an unknown name or layer, or a missing file.
    """

    extractor: str
    layer: str
    weights: str | None = None

    def __post_init__(self) -> None:
        registry = _torch_fidelity_extractors()
        extractors = sorted(name for name in registry if not name.startswith("inception"))
        if self.extractor not in extractors:
            raise InputError(f"features.extractor={self.extractor}: choose one of {', '.join(extractors)}")
        layers = registry[self.extractor].get_provided_features_list()
        if self.layer not in layers:
            raise InputError(f"features.layer={self.layer}: {self.extractor} has {', '.join(layers)}")
        if self.weights is not None:
            if self.extractor.split("-")[0] not in WEIGHTS_READERS:
                raise InputError(
                    f"features.weights={self.weights}: torch-fidelity reads {self.extractor} from its publisher only; "
                    "set it to null, and give this machine network access or fill torch's hub cache"
                )
            if not Path(self.weights).expanduser().is_file():
                raise InputError(f"there is no file {self.weights}: set features.weights to the weights, or to null")

    @property
    def name(self) -> str:
        """The extractor and its layer."""
        return f"{self.extractor} {self.layer}"

    @cached_property
    def network(self) -> str:
        """First 12 hex digits of a SHA-256: of the given file, else of the weights that torch-fidelity downloaded."""
        if self.weights is not None:
            with Path(self.weights).expanduser().open("rb") as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()[:12]
        hasher = hashlib.sha256()
        for value in _torch_fidelity_network(self, torch.device("cpu")).state_dict().values():
            hasher.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return hasher.hexdigest()[:12]

    @property
    def resize(self) -> str:
        """The resize rule that torch-fidelity applies for every network."""
        return "bilinear to the network's size as TensorFlow 1, no antialias"

    def check(self, *, logits: bool) -> None:
        """Refuse logits, and build the network, so that missing weights are reported before work starts.

        Raises:
            InputError: if logits are needed, or the weights are unavailable.
        """
        if logits:
            raise InputError(f"the Inception Score is defined on InceptionV3 only, not on {self.name}")
        _torch_fidelity_network(self, torch.device("cpu"))

    def extract(self, device: torch.device, *, logits: bool = False) -> Extract:
        """Return the function from images to features, and logits if requested."""
        self.check(logits=logits)
        network = _torch_fidelity_network(self, device)

        @torch.no_grad()
        def extract(images: Tensor) -> Extracted:
            with tf32(allowed=False), torch.autocast(device.type, enabled=False):
                return Extracted(network(images.to(device).expand(-1, 3, -1, -1))[0])

        return extract


def _torch_fidelity_extractors() -> dict[str, Any]:
    """Return torch-fidelity's classes of feature extractors by name."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY  # slow to import: it needs torchvision

    return cast("dict[str, Any]", FEATURE_EXTRACTORS_REGISTRY)


@lru_cache(maxsize=2)
def _torch_fidelity_network(space: TorchFidelity, device: torch.device) -> nn.Module:
    extractor_class = _torch_fidelity_extractors()[space.extractor]
    try:
        file = None
        if space.weights is not None:
            file = WEIGHTS_READERS[space.extractor.split("-")[0]](Path(space.weights).expanduser())
        with rng.seeded(0, "overwritten"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings of torch.hub and torch.jit
            network: nn.Module = extractor_class(
                space.extractor, [space.layer], feature_extractor_weights_path=file, verbose=False
            )
    except Exception as error:  # whatever a download or an unpickler raises
        raise InputError(
            f"the weights of {space.extractor} are unavailable ({type(error).__name__}: {error}): set "
            "features.weights to their file if torch-fidelity accepts one, or give this machine access to their "
            "publisher, or use features=inception"
        ) from error
    return network.to(device)
