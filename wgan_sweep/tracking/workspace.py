"""A W&B workspace for sweeps: curves by cell, the metric on k and p, its best by r(x), parameter importance."""

from collections.abc import Mapping
from typing import Any

from wgan_sweep.errors import InputError

NAME = "wgan-sweep"
PARALLEL = ("loss", "sampling", "k", "p", "seed")


def workspace(project: str, entity: str, metrics: Mapping[str, str]) -> Any:
    """Return the workspace. Nothing is sent before its ``save`` is called.

    Runs are grouped by cell, so seeds are shown as mean and spread.

    Args:
        project: The W&B project.
        entity: The user or team it belongs to.
        metrics: The titles of the metrics that get curves, by name; the first is the one by which runs are compared.

    Raises:
        InputError: if wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise InputError("a dashboard needs wandb-workspaces: pip install 'wgan-sweep[dashboard]'") from error

    metric, title = next(iter(metrics.items()))
    best = f"best_{metric}"

    def axis(name: str) -> Any:
        return panels.Config(f"axes.{name}")

    def curve(metric: str, title: str) -> Any:
        return panels.LinePlot(title=title, x="images_seen", y=[metric], groupby_rangefunc="stddev")

    def best_by(name: str, title: str) -> Any:
        return panels.BarPlot(
            title=title, metrics=[best], groupby=f"axes.{name}", groupby_aggfunc="mean", groupby_rangefunc="stddev"
        )

    score = panels.SummaryMetric(best)
    sections = [
        workspaces.Section(
            name="Scores",
            is_open=True,
            panels=[
                panels.ScatterPlot(title=f"{title} on k and p", x=axis("k"), y=axis("p"), z=score),
                best_by("sampling", f"best {title} by r(x)"),
                best_by("loss", f"best {title} by loss"),
                panels.ParallelCoordinatesPlot(
                    title=f"axes and {title}",
                    columns=[
                        *(panels.ParallelCoordinatesPlotColumn(axis(name)) for name in PARALLEL),
                        panels.ParallelCoordinatesPlotColumn(score),
                    ],
                ),
                panels.ParameterImportancePlot(with_respect_to=best),
            ],
        ),
        workspaces.Section(
            name="While training",
            is_open=True,
            panels=[
                *(curve(name, text) for name, text in metrics.items()),
                curve("wasserstein", "Wasserstein estimate"),
                curve("gradient_norm", "gradient norm on r(x)"),
                curve("gradient_term", "gradient term"),
                curve("critic_loss", "critic loss"),
                curve("generator_loss", "generator loss"),
            ],
        ),
        workspaces.Section(
            name="Samples", is_open=True, panels=[panels.MediaBrowser(media_keys=["samples"], num_columns=4)]
        ),
    ]
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        settings=workspaces.WorkspaceSettings(x_axis="images_seen"),
        runset_settings=workspaces.RunsetSettings(
            filters=workspaces.And(workspaces.Metric("JobType") != "sweep"), groupby=[workspaces.Config("cell")]
        ),
    )
