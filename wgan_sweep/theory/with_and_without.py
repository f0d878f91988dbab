"""The effect of each option of a config group: its runs against those of the option that does nothing."""

from collections.abc import Sequence
from pathlib import Path

from wgan_sweep.common.plots import panels, to_png
from wgan_sweep.report.claim_kinds.means import Lower
from wgan_sweep.report.claims import Judgement, judge
from wgan_sweep.report.inference.evidence import LEVEL, with_interval
from wgan_sweep.report.text import SweepSummary, markdown, problems
from wgan_sweep.runs.record import Record
from wgan_sweep.theory.cells import config_value, group_by, mean_and_sd, scored_runs, summary_without_runs


def _effect(judgement: Judgement) -> str:
    evidence = judgement.evidence
    if evidence is None:
        return judgement.why
    return with_interval(evidence.effect, evidence.low, evidence.high, digits=3)


def summarise(records: Sequence[Record], runs: Path, group: str, without: str, metric: str) -> SweepSummary:  # noqa: ARG001
    """Plot the metric of every seed with each option, and tabulate by how much it is lower than without.

    Args:
        records: Runs that differ in one config group and in their seeds.
        runs: Folder of the runs.
        group: The config group.
        without: The option of the group that does nothing.
        metric: The metric to compare; lower is better.
    """
    finished = [record for record in scored_runs(records) if metric in record.scores]
    options = group_by(finished, lambda record: str(config_value(record, f"choices.{group}")))
    if not options:
        return summary_without_runs(records)
    names = sorted(options, key=lambda name: name != without)
    claims = [
        Lower(f"lower with {name}", {group: name}, {group: without})
        for name in names
        if name != without and without in options
    ]
    judgements = {
        str(claim.claimed[group]): judgement
        for claim, judgement in zip(claims, judge(claims, records, metric), strict=True)
    }
    figure, (ax,) = panels(1, 1, side=4, wide=1.6)
    rows = []
    for row, name in enumerate(names):
        values = [record.scores[metric] for record in options[name]]
        ax.plot(values, [row] * len(values), "o", color=f"C{row}", alpha=0.6)
        ax.plot(sum(values) / len(values), row, "|", color="black", markersize=16)
        judgement = judgements.get(name)
        tested = ["", ""] if judgement is None else [_effect(judgement), str(judgement.verdict)]
        rows.append([name, mean_and_sd(values, 2), *tested, str(len(values))])
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.grid(visible=True, axis="x", linewidth=0.4)
    ax.set(xlabel=metric, title=f"{metric} of every seed, and the mean (|)")
    header = [group, metric, f"lower than {without} by [{1 - LEVEL:.0%}]", "verdict: lower", "runs"]
    notes = [
        f"Mean ± sd over seeds. All verdicts together are false with a probability of at most {LEVEL:g}",
        "(Behrens-Fisher, adjusted by Holm's method); contradicted means higher.",
        *problems(records),
    ]
    return SweepSummary(markdown(header, rows, notes), to_png(figure))
