"""Which classes the generated images show: entropy, missing classes, and the divergence from the real classes."""

import torch
from torch import Tensor
from torchmetrics import Metric

from wgan_sweep.errors import InputError
from wgan_sweep.scoring.classifier import Classifier, Labelled, as_input, classifier_of
from wgan_sweep.scoring.metrics.two_sided import as_values

MOST_SHARES = 20
"""Classes up to which the share of each is among the values."""


class Classes(Metric):
    """The histogram of the classes that a classifier sees in generated images.

    The classifier is trained at its first use, and cached. With `per_channel`, it is applied to each channel: the class
    of an image is the combination of its channels' classes (Stacked MNIST, Metz et al. 2017), and the real classes are
    those of independent channels.

    Args:
        labelled: Data with labels, of the size of the generated images.
        per_channel: Whether the channels show one class each.
    """

    full_state_update = False
    is_differentiable = False
    consumes = "images"
    counts: Tensor

    def __init__(self, labelled: Labelled, per_channel: bool) -> None:
        super().__init__()
        self._labelled = labelled
        self._per_channel = per_channel
        self._classifier: Classifier | None = None
        self._shares: Tensor | None = None
        self.names = ("classes", "missing_classes", "class_entropy", "class_kl", "classifier_accuracy")
        """The names of the values; the shares of few classes are added."""
        self.add_state("counts", torch.zeros(0, dtype=torch.float64), dist_reduce_fx="sum")

    def _prepared(self) -> tuple[Classifier, Tensor]:
        """Return the classifier, and the shares of the real classes ``[classes]``."""
        if self._classifier is None or self._shares is None:
            self._classifier = classifier = classifier_of(self._labelled)
            classifier.network.to(self.device)
            self._shares = shares = classifier.shares
            if self._per_channel:
                self._shares = torch.einsum("i,j,k->ijk", shares, shares, shares).flatten()
        return self._classifier, self._shares

    def update(self, images: Tensor) -> None:
        """Add generated images, uint8 ``[N, 3, H, W]``; without `per_channel`, grey ones are expanded to 3 channels.

        Raises:
            InputError: if they have another size than the images that the classifier was trained on.
        """
        classifier, shares = self._prepared()
        channels = next(classifier.network.parameters()).shape[1]
        try:
            if self._per_channel:
                logits = classifier.network(as_input(images).flatten(0, 1)[:, None])
                digits = logits.argmax(1).view(-1, 3)
                base = logits.shape[1]
                classes = (digits[:, 0] * base + digits[:, 1]) * base + digits[:, 2]
            else:
                classes = classifier.network(as_input(images[:, :channels])).argmax(1)
        except RuntimeError as error:
            raise InputError(
                f"images {list(images.shape[1:])} cannot be classified ({error}): metric=classes needs labelled images "
                "of the same size"
            ) from error
        counts = torch.bincount(classes, minlength=len(shares)).double()
        self.counts = self.counts + counts if len(self.counts) else counts

    def compute(self) -> dict[str, Tensor]:
        """Return the values.

        - ``classes``, ``missing_classes``: real classes that are among the generated images, and that are not.
        - ``class_entropy``: entropy of the generated classes, in nats.
        - ``class_kl``: KL(generated classes || real classes), in nats.
        - ``classifier_accuracy``: of the classifier, on labelled images that it was not trained on.
        - ``class_share_0`` ...: shares of the generated images, for few classes.
        """
        classifier, shares = self._prepared()
        if not len(self.counts):
            raise ValueError("there are no images")
        generated = self.counts.cpu() / self.counts.sum().cpu()
        seen = generated > 0
        real = shares > 0
        entropy = -float((generated[seen] * generated[seen].log()).sum())
        divergence = float((generated[seen] * (generated[seen] / shares[seen]).log()).sum())
        values = {
            "classes": float((seen & real).sum()),
            "missing_classes": float((real & ~seen).sum()),
            "class_entropy": entropy,
            "class_kl": divergence,
            "classifier_accuracy": classifier.accuracy,
        }
        if len(shares) <= MOST_SHARES:
            values |= {f"class_share_{index}": float(share) for index, share in enumerate(generated)}
        return as_values(**values)
