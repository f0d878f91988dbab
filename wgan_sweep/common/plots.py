"""Figures with panels, and pictures of points with the critic's level sets and gradients."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

LEVELS = 24
"""Number of the critic's level sets."""
ARROWS = 21
"""Number of arrows of the critic's gradient field along each axis."""
BINS = 60
"""Number of bins of the histograms of points in one dimension."""
PANEL_OF_LINE = (0.10, 0.06, 0.75, 0.89)
"""Left, bottom, width and height of the panel in one dimension; a layout engine takes as long as all drawing."""
PANEL_OF_PLANE = (0.08, 0.06, 0.90, 0.92)
"""The same in two dimensions."""


def panels(
    rows: int, columns: int, *, side: float = 3.6, wide: float = 1.2, share_y: bool = False
) -> tuple["Figure", list["Axes"]]:
    """Return a figure and its empty panels, row by row.

    Args:
        rows: Number of rows.
        columns: Panels per row.
        side: Height of a panel in inches.
        wide: Ratio of a panel's width to its height.
        share_y: Whether all panels share the vertical axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(columns * side * wide, rows * side), dpi=100, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=share_y).flat)


def fill_first_row(figure: "Figure", count: int) -> None:
    """Widen the first panels of a figure so that they fill its first row; the others of that row should be hidden.

    Args:
        figure: As returned by `panels`.
        count: Number of panels to widen, at most those of a row.
    """
    grid = cast("GridSpec", figure.axes[0].get_gridspec())
    for index, ax in enumerate(figure.axes[:count]):
        ax.set_subplotspec(grid[0, index * grid.ncols // count : (index + 1) * grid.ncols // count])


def to_png(figure: "Figure") -> bytes:
    """Encode a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _field(critic: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the critic's outputs ``[H, W]`` and gradients ``[H, W, 2]`` on the grid with coordinates `x` and `y`."""
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    points = torch.stack([columns, rows], -1).reshape(-1, 2).requires_grad_()
    with torch.enable_grad():
        outputs = critic(points)
        (gradient,) = torch.autograd.grad(outputs.sum(), points)
    return outputs.detach().reshape(len(y), len(x)), gradient.reshape(len(y), len(x), 2)


def _on_plane(critic: Callable[[Tensor], Tensor], dim: int) -> Callable[[Tensor], Tensor]:
    """Return a critic of points ``[N, dim]`` as a function of the first two coordinates; the others are 0."""
    return lambda points: critic(torch.nn.functional.pad(points, (0, dim - 2)))


def draw_points(real: Tensor, generated: Tensor, critic: Callable[[Tensor], Tensor]) -> NDArray[np.uint8]:
    """Draw real and generated points with the critic.

    In two dimensions the background shows the critic's level sets and gradients; in one dimension the points are
    histograms, and the critic is a curve. Of more dimensions, the first two are shown: the points are projected, and
    the critic is that on the plane in which all other coordinates are 0.

    Args:
        real: Points ``[N, D]``, on the CPU.
        generated: Points ``[N, D]``, on the CPU.
        critic: Maps points ``[N, D]`` on the CPU to outputs ``[N]``.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if real.shape[1] > 2:
        critic = _on_plane(critic, real.shape[1])
        real, generated = real[:, :2], generated[:, :2]
    figure = Figure(figsize=(5, 5), dpi=100)
    canvas = FigureCanvasAgg(figure)
    is_line = real.shape[1] == 1
    axes = figure.add_axes(PANEL_OF_LINE if is_line else PANEL_OF_PLANE)
    low, high = real.amin(0), real.amax(0)
    margin = 0.25 * float((high - low).max()) or 1.0
    spans = [torch.linspace(float(a) - margin, float(b) + margin, 101) for a, b in zip(low, high, strict=True)]
    if is_line:
        (x,) = spans
        edges = np.histogram_bin_edges(torch.cat([real, generated]).numpy(), BINS)
        for points, label in ((real, "real"), (generated, "generated")):
            density, _ = np.histogram(points.numpy(), edges, density=True)
            axes.stairs(density, edges, fill=True, alpha=0.6, label=label)
        critic_axes = axes.twinx()
        with torch.no_grad():
            critic_axes.plot(x.numpy(), critic(x[:, None]).numpy(), color="black", linewidth=1, label="critic")
        critic_axes.set_ylabel("critic")
        critic_axes.ticklabel_format(scilimits=(-3, 4))  # the label has room for short numbers
    else:
        x, y = spans
        outputs, _ = _field(critic, x, y)
        axes.contourf(x.numpy(), y.numpy(), outputs.numpy(), LEVELS, cmap="Greys", alpha=0.5)
        arrow_axes = [torch.linspace(float(span[0]), float(span[-1]), ARROWS) for span in spans]
        _, gradient = _field(critic, *arrow_axes)
        if gradient.any():  # matplotlib divides by the mean length
            axes.quiver(
                *(axis.numpy() for axis in arrow_axes), *gradient.permute(2, 0, 1).numpy(), color="gray", width=0.002
            )
        axes.scatter(real[:, 0].numpy(), real[:, 1].numpy(), s=4, color="tab:blue", label="real")
        axes.scatter(generated[:, 0].numpy(), generated[:, 1].numpy(), s=4, color="tab:orange", label="generated")
        axes.set(xlim=(float(x[0]), float(x[-1])), ylim=(float(y[0]), float(y[-1])))
    axes.legend(loc="upper right")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
