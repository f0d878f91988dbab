"""Dynamic loss scaling: gradients in float16 neither overflow nor underflow, and updates that overflow are skipped.

The rule is that of ``torch.amp.GradScaler`` (Micikevicius et al. 2018, Mixed Precision Training, section 3.2), with the
same operations: an update whose gradient is not finite is skipped and halves the scale, and a number of updates in a
row without overflow doubles it. Unlike GradScaler, the decision can stay on the device, for any optimizer, so that
iterations can be captured in a CUDA graph. Scales are powers of two, so scaling does not round.

The gradient of a gradient term overflows first: that of k n^p grows as n^(p-1). The backward pass to the critic's
input, which gives the norm n, has no scale: with one, no gradient was more accurate, for n from 0.001 to 20.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

INITIAL_SCALE = 2.0**16
GROWTH_INTERVAL = 2000
"""Number of updates without overflow after which the scale is doubled."""
MIN_SCALE = 2.0**-16
"""Smallest useful scale: if it overflows, a gradient is above 65504 / MIN_SCALE, and training has diverged."""
MAX_SCALE = 2.0**24
"""Largest scale: that of losses whose gradient is almost 0 would grow without end."""


class LossScale:
    """The loss scale of one player. Its state consists of tensors on the device, which are changed in place.

    Args:
        device: Device of the player's parameters.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.full((), INITIAL_SCALE, dtype=torch.float32, device=device)
        """Scalar: factor of the loss in the backward pass. Below `MIN_SCALE`, training has diverged."""
        self.skipped_updates = torch.zeros((), dtype=torch.int64, device=device)
        """Scalar: number of updates that were skipped so far."""
        self.overflow = torch.zeros((), dtype=torch.float32, device=device)
        """Scalar: 1 if the gradient that was unscaled last is not finite, else 0."""
        self._good_updates = torch.zeros((), dtype=torch.int32, device=device)

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss to differentiate."""
        return loss * self.value

    @torch.no_grad()
    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide gradients by the scale, in place, and set `overflow`.

        With several processes, these are the sums over all of them: if one process overflows, the sum is not finite,
        and all processes take the same decision.
        """
        self.overflow.zero_()
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for gradient in gradients:
            by_dtype.setdefault(gradient.dtype, []).append(gradient)
        for group in by_dtype.values():
            torch._amp_foreach_non_finite_check_and_unscale_(group, self.overflow, self.value.reciprocal())

    @torch.no_grad()
    def update(self) -> None:
        """Adapt the scale after an update that was taken, or skipped because of `overflow`."""
        self.skipped_updates += self.overflow.to(torch.int64)
        torch._amp_update_scale_(self.value, self._good_updates, self.overflow, 2.0, 0.5, GROWTH_INTERVAL)
        self.value.clamp_(MIN_SCALE / 2, MAX_SCALE)

    def gradient(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
        """Return the gradient of a loss, and change nothing. Waits for the device.

        It is computed at the current scale or, if that overflows, at the largest smaller one that does not.
        """
        scale = float(self.value)
        while True:
            scaled = torch.autograd.grad(loss * scale, parameters, retain_graph=True)
            if scale < MIN_SCALE or all(bool(gradient.isfinite().all()) for gradient in scaled):
                return [gradient / scale for gradient in scaled]
            scale /= 2

    @property
    def state(self) -> list[Tensor]:
        """All tensors that an update changes and a later one reads."""
        return [self.value, self._good_updates, self.skipped_updates]

    def state_dict(self) -> dict[str, Any]:
        """Return the scale, the number of updates since it changed, and the number of skipped updates."""
        return {
            "value": self.value,
            "good_updates": self._good_updates,
            "skipped_updates": self.skipped_updates,
        }

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.value.copy_(state["value"])
        self._good_updates.copy_(state["good_updates"])
        self.skipped_updates.copy_(state["skipped_updates"])
