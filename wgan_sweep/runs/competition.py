"""The runs of a sweep that compete with each other under a pruner, as their directories tell.

Every process that trains a run decides about it alone, when the run has reached a rung. It has written the run's own
value by then, and reads what the others have. So it does not matter which processes and machines train the runs.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wgan_sweep.config.keys import Role, without_roles
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.runs import pruning
from wgan_sweep.runs.directory import FINAL, RunDir
from wgan_sweep.runs.identity import Identity
from wgan_sweep.runs.pruning import MetricCurve
from wgan_sweep.runs.record import Record, Status, selection_metric

log = logging.getLogger("wgan_sweep")


class Competition:
    """A run and those that it competes with.

    Those are the runs of its sweep, of all cells and seeds, with the same data and the same scorer during training. How
    they have ended does not matter: they may be done, diverged, pruned, or from an earlier command.

    Args:
        config: The run's config.
        identity: The run's identity.
        others: The ids of the other runs of its sweep.
    """

    def __init__(self, config: Config, identity: Identity, others: Sequence[str]) -> None:
        self._config, self._identity = config, identity
        self._others = [RunDir(identity.directory.path.parent / run_id) for run_id in others]
        self._pruner, self._rungs = pruning.pruner_of(config), frozenset(pruning.rungs_of(config))

    def why_pruned(self, step: int) -> str | None:
        """Return why the run is stopped at a step at which it was scored, or None if it goes on."""
        if step not in self._rungs or not self._others:
            return None
        lines = list(self._identity.directory.read_metrics())
        measured = {name: value for line in lines if line["step"] == step for name, value in line.items()}
        metric = self._pruner.metric or selection_metric(measured)
        if metric is None or metric not in measured:
            wanted = metric or "metric by which runs are selected"
            log.warning("pruning: step %d has no %s, so the run goes on; choose another prune.metric", step, wanted)
            return None
        own = MetricCurve(pruning.costs_of(_values(lines, metric), metric))
        others = [curve for directory in self._others if (curve := self._curve(directory, metric)) is not None]
        why = self._pruner.why_pruned(step, own, others)
        return None if why is None else f"{metric} {measured[metric]:.4g}: {why}"

    def _curve(self, directory: RunDir, metric: str) -> MetricCurve | None:
        """Return the curve of another run, or None if it does not compete."""
        try:
            record = directory.read_record()
        except InputError as error:
            log.warning("pruning: a run is left out: %s", error)
            return None
        if record is None or not self._competes(record):
            return None
        values = _values(directory.read_metrics(), metric)
        return MetricCurve(pruning.costs_of(values, metric), is_done=record.status == Status.DONE)

    def _competes(self, record: Record) -> bool:
        """Whether a run was trained on the same data, and all its values are of the same scorer."""
        scored_by = [earlier.scored_by for earlier in record.history]
        scored_by += [record.scored_by] if record.status == Status.DONE else []
        return (
            record.science.get("data") == self._identity.science.get("data")
            and _scorer(record.config["scorer"]) == _scorer(self._config.scorer)
            and all(one == scored_by[0] for one in scored_by)
        )


def _values(lines: Iterable[Mapping[str, float]], metric: str) -> dict[int, float]:
    """Return the values of a metric during training, by step."""
    return {int(line["step"]): line[metric] for line in lines if metric in line and FINAL not in line}


def _scorer(node: Mapping[str, Any]) -> Any:
    """Return what decides the values of a scorer during training."""
    changes = node.get("during")
    return without_roles({**node, "every": 0, "during": None}, "scorer", Role.COMPUTING, Role.PLACE), changes
