"""Pictures of points and of what a critic makes of the plane."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS = 24
"""Level sets of the critic."""
ARROWS = 21
"""Arrows of its gradient field, along each axis."""


def panels(
    rows: int, columns: int, *, side: float = 3.6, wide: float = 1.2, share_y: bool = False
) -> tuple["Figure", list["Axes"]]:
    """Return a figure and its empty panels, row by row.

    Args:
        rows: How many rows.
        columns: How many panels each has.
        side: Height of a panel in inches.
        wide: Width of a panel over its height.
        share_y: Whether the panels have one vertical axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * side * wide, rows * side), dpi=100, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)


def to_png(figure: "Figure") -> bytes:
    """Return a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _field(critic: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the critic's scores ``[H, W]`` and gradients ``[H, W, 2]`` on the grid of two axes."""
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack([columns, rows], -1).reshape(-1, 2).requires_grad_()
    with torch.enable_grad():
        scores = critic(points)
        (gradient,) = torch.autograd.grad(scores.sum(), points)
    return scores.detach().reshape(len(y), len(x)), gradient.reshape(len(y), len(x), 2)


def draw_points(real: Tensor, made: Tensor, critic: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
    """Draw real and generated points: in the plane over the critic's level sets and gradients, else with its graph.

    Args:
        real: ``[N, D]``, D 1 or 2, on the CPU.
        made: The same.
        critic: ``[N, D]`` points on the CPU to ``[N]`` scores.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low, high = real.amin(0), real.amax(0)
    margin = 0.25 * float((high - low).max()) or 1.0
    spans = [torch.linspace(float(a) - margin, float(b) + margin, 101) for a, b in zip(low, high, strict=True)]
    if real.shape[1] == 1:
        (x,) = spans
        axes.hist([real[:, 0].numpy(), made[:, 0].numpy()], bins=60, density=True, label=["real", "generated"])
        twin = axes.twinx()
        with torch.no_grad():
            twin.plot(x.numpy(), critic(x[:, None]).numpy(), color="black", linewidth=1, label="critic")
        twin.set_ylabel("critic")
    else:
        x, y = spans
        scores, _ = _field(critic, x, y)
        axes.contourf(x.numpy(), y.numpy(), scores.numpy(), LEVELS, cmap="Greys", alpha=0.5)
        coarse = [torch.linspace(float(span[0]), float(span[-1]), ARROWS) for span in spans]
        _, gradient = _field(critic, *coarse)
        axes.quiver(coarse[0].numpy(), coarse[1].numpy(), *gradient.permute(2, 0, 1).numpy(), color="gray", width=0.002)
        axes.scatter(real[:, 0].numpy(), real[:, 1].numpy(), s=4, color="tab:blue", label="real")
        axes.scatter(made[:, 0].numpy(), made[:, 1].numpy(), s=4, color="tab:orange", label="generated")
        axes.set(xlim=(float(x[0]), float(x[-1])), ylim=(float(y[0]), float(y[-1])))
    axes.legend(loc="upper right")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
