"""A player of the game: a network with its optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from wgan_sweep.objectives.stabilisers import HistoricalAverage
from wgan_sweep.training.aliases import Network
from wgan_sweep.training.loss_scaling import LossScale
from wgan_sweep.training.optimizers import configure_for_device, reads_rates_from_tensors, set_learning_rates
from wgan_sweep.training.schedules import LearningRate, MakeScheduler

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]

FUSED_OPTIMIZERS = torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad
"""Optimizers whose fused implementation can skip an update on the device."""


class Player:
    """The critic or the generator under training.

    Args:
        network: The network, on its device.
        forward: Its forward pass for training: the network itself, or compiled.
        make_optimizer: Returns an optimizer of the given parameters.
        make_scheduler: Returns the scheduler of an optimizer's learning rate; None: the rate is constant.
        keeps_history: Whether to keep the historical average of the parameters, for a stabiliser.
        capturable: Whether a CUDA graph may record the optimizer's steps.
        loss_scale: The scale of the player's loss; None if its precision needs none.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        forward: Network,
        make_optimizer: MakeOptimizer,
        make_scheduler: MakeScheduler | None = None,
        keeps_history: bool,
        capturable: bool,
        loss_scale: LossScale | None = None,
    ) -> None:
        self.network, self.forward = network, forward
        self._make_optimizer, self._capturable = make_optimizer, capturable
        self._keeps_history, self.loss_scale = keeps_history, loss_scale
        self._make_scheduler = make_scheduler
        self.learning_rate: LearningRate | None = None
        """The learning rate of the current step; None if it is constant."""
        self.restart()

    def restart(self) -> None:
        """Start with a new optimizer, and a history that begins with the current parameters.

        The learning rate continues.
        """
        optimizer = self._make_optimizer(self.network.parameters())
        self.optimizer = configure_for_device(optimizer, capturable=self._capturable)
        if self._make_scheduler is not None and self.learning_rate is None:
            self.learning_rate = LearningRate(self.optimizer, self._make_scheduler)
        self._set_learning_rates()
        self.history = HistoricalAverage(self.network.parameters()) if self._keeps_history else None
        self.has_optimizer_state = bool(self.optimizer.state)
        """Whether the optimizer has allocated its state, which it does in its first step."""

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimizer updates."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def backward(self, loss: Tensor) -> None:
        """Set the gradient of the parameters, times the loss scale if there is one."""
        self.optimizer.zero_grad()
        (self.loss_scale.scale(loss) if self.loss_scale else loss).backward()

    def unscale_gradient(self) -> None:
        """Divide the gradient by the loss scale, if there is one, and find out whether it has overflowed."""
        if self.loss_scale:
            self.loss_scale.unscale([p.grad for p in self.parameters if p.grad is not None])

    def gradient_norm(self) -> Tensor:
        """Return the norm of the gradient of all parameters (scalar). With a loss scale, an overflow is infinite."""
        gradient = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradient)))
        return norm.nan_to_num(nan=torch.inf, posinf=torch.inf) if self.loss_scale else norm

    def update(self, *, may_wait: bool = True) -> None:
        """Update the parameters along their gradient, and the history with them.

        If the gradient has overflowed, the update is skipped: parameters, optimizer and history stay as they are.

        Args:
            may_wait: Whether a player with a loss scale waits for the device to know whether the gradient has
                overflowed. If not, a skipped update is computed and undone on the device, as a CUDA graph needs it.
        """
        if self.loss_scale is None:
            self._step()
            return
        if not may_wait and self.has_optimizer_state:
            self._step_unless(self.loss_scale.overflow > 0)
        elif not self.loss_scale.overflow.item():
            self._step()
        self.loss_scale.update()

    def _step(self) -> None:
        self.optimizer.step()
        self.has_optimizer_state = True
        if self.history is not None:
            self.history.update()

    @torch.no_grad()
    def _step_unless(self, is_skipped: Tensor) -> None:
        """Take a step of the optimizer, and undo it on the device if `is_skipped` (scalar, bool) is true."""
        if self._skips_by_itself:
            self.optimizer.found_inf = is_skipped.float()  # type: ignore[attr-defined]
            try:
                self.optimizer.step()
            finally:
                del self.optimizer.found_inf  # type: ignore[attr-defined]
            return
        before = {key: tensor.clone() for key, tensor in self._updated_tensors().items()}
        self.optimizer.step()
        for key, tensor in self._updated_tensors().items():
            if key in before:
                torch.where(is_skipped, before[key], tensor, out=tensor)

    @property
    def _skips_by_itself(self) -> bool:
        """Whether the optimizer's kernels do nothing if its attribute `found_inf` is 1, as GradScaler uses them."""
        return type(self.optimizer) in FUSED_OPTIMIZERS and all(g.get("fused") for g in self.optimizer.param_groups)

    def _updated_tensors(self) -> dict[object, Tensor]:
        """Return the parameters and the tensors of the optimizer's state, by keys that stay the same."""
        tensors: dict[object, Tensor] = dict(enumerate(self.parameters))
        for index, parameter in enumerate(self.parameters):
            for name, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    tensors[index, name] = value
        return tensors

    @property
    def can_skip_on_device(self) -> bool:
        """Whether an update can be undone on the device: the optimizer's state consists of tensors there."""
        device = self.parameters[0].device
        values = [value for state in self.optimizer.state.values() for value in state.values() if value is not None]
        return self.history is None and all(isinstance(v, Tensor) and v.device == device for v in values)

    def _set_learning_rates(self) -> None:
        if self.learning_rate is not None:
            set_learning_rates(self.optimizer, self.learning_rate.values, capturable=self._capturable)

    def advance_learning_rate(self) -> None:
        """Go on to the learning rate of the next step."""
        if self.learning_rate is not None:
            self.learning_rate.advance()
            self._set_learning_rates()

    def learning_rate_on(self, device: torch.device) -> Tensor | None:
        """Return a copy of the learning rate of the current step (scalar on a device); None if it is constant."""
        if self.learning_rate is None:
            return None
        return torch.full((), self.learning_rate.values[0], device=device)

    @property
    def has_stale_rate_in_graph(self) -> bool:
        """Whether a CUDA graph would repeat the learning rate of the step that it recorded."""
        return self.learning_rate is not None and not reads_rates_from_tensors(self.optimizer)

    def load_optimizer(self, state: dict[str, object], learning_rate: dict[str, Any] | None = None) -> None:
        """Load the optimizer's state, which may come from another device, and the state of a changing learning rate."""
        self.optimizer.load_state_dict(state)
        self.has_optimizer_state = bool(self.optimizer.state)
        configure_for_device(self.optimizer, capturable=self._capturable)
        if self.learning_rate is not None and learning_rate is not None:
            self.learning_rate.load_state_dict(learning_rate)
        self._set_learning_rates()
