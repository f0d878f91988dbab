"""The command ``wgan-runs``: lists, shows, compares, samples, exports, removes, archives, cancels, cleans up."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from wgan_sweep.commands.completion import add_completion_option
from wgan_sweep.commands.options import add_common_options, ending_with_its_reader
from wgan_sweep.commands.runs_images import add_export, add_sample
from wgan_sweep.commands.runs_options import (
    FILTERS,
    Subparsers,
    add_command,
    check_folder,
    is_confirmed,
    opened_runs,
)
from wgan_sweep.common.files import check_output
from wgan_sweep.common.ranges import Range, check_value
from wgan_sweep.common.verbosity import logging_to_stderr
from wgan_sweep.errors import InputError, RunLockedError, one_line
from wgan_sweep.report.cells import check_metric, shown_metric
from wgan_sweep.runs.archive import SUFFIX, write_archive
from wgan_sweep.runs.directory import find_runs
from wgan_sweep.runs.lock import watch
from wgan_sweep.runs.record import Status
from wgan_sweep.runs.selection import StoredRun, by_id, in_order, matching, nothing_matches, selected

Item = TypeVar("Item")


def add_list(subparsers: Subparsers) -> None:
    """Add ``wgan-runs list``."""
    parser = add_command(subparsers, "list", "List runs, one per line.", _list, reads_archives=True)
    parser.add_argument("filters", nargs="*", metavar="KEY=VALUE", help=FILTERS)
    parser.add_argument(
        "--sort", default="started", metavar="KEY", help="any axis, metric, step, started (the default)"
    )
    parser.add_argument("--metric", help="metric to show: fid, w1, ... (default: fid, else w1, else kid)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _list(options: argparse.Namespace) -> bool:
    from wgan_sweep.report.listing import run_table, to_entries, write_table

    with opened_runs(options) as (_, runs, is_complete):
        found = matching(runs, options.filters)
        check_metric([run.record for run in runs], options.metric)
        metric = shown_metric([run.record for run in found], options.metric)
        found = in_order(found, options.sort, metric)
        if options.json:
            sys.stdout.write(json.dumps(to_entries(found), indent=2) + "\n")
        elif found:
            write_table(run_table(found, metric), sys.stdout)
        else:
            sys.stderr.write(f"wgan-runs: {nothing_matches(runs, options.filters)}\n")
    return is_complete


def add_show(subparsers: Subparsers) -> None:
    """Add ``wgan-runs show``."""
    parser = add_command(subparsers, "show", "Show what is known of a run.", _show, reads_archives=True)
    parser.add_argument("id", help="the run's id, or its first characters")


def _show(options: argparse.Namespace) -> bool:
    from wgan_sweep.report.listing import describe

    with opened_runs(options) as (_, runs, _):
        run = by_id(options.id, runs)
        differing = _differences(run)
        sys.stdout.write(describe(run, differing, with_files=options.runs.is_dir()))
    return True


def _differences(run: StoredRun) -> list[tuple[str, Any, Any]]:
    """Return how a run's config differs from the defaults; empty, with a note, if it cannot be composed here."""
    from wgan_sweep.config import schema
    from wgan_sweep.sweeps.config_of_run import differences

    schema.register()
    try:
        return differences(run.record.config)
    except InputError as error:
        sys.stderr.write(f"wgan-runs: the config is not compared with the defaults: {error}\n")
        return []


def add_diff(subparsers: Subparsers) -> None:
    """Add ``wgan-runs diff``."""
    parser = add_command(
        subparsers,
        "diff",
        "Show the config values in which two runs differ, and both scores.",
        _diff,
        reads_archives=True,
    )
    parser.add_argument("ids", nargs=2, metavar="ID", help="a run's id, or its first characters")


def _diff(options: argparse.Namespace) -> bool:
    from wgan_sweep.report.listing import compare

    with opened_runs(options) as (_, runs, _):
        first, second = (by_id(prefix, runs) for prefix in options.ids)
        sys.stdout.write(compare(first, second))
    return True


def add_best(subparsers: Subparsers) -> None:
    """Add ``wgan-runs best``."""
    parser = add_command(
        subparsers,
        "best",
        "Show the best finished run and the best cell (mean over seeds).",
        _best,
        reads_archives=True,
    )
    parser.add_argument("filters", nargs="*", metavar="KEY=VALUE", help=FILTERS)
    parser.add_argument("--metric", help="metric to compare: fid, w1, ... (default: fid, else w1, else kid)")


def _best(options: argparse.Namespace) -> bool:
    from wgan_sweep.report.listing import describe_best

    with opened_runs(options) as (_, runs, is_complete):
        check_metric([run.record for run in runs], options.metric)
        if not (found := matching(runs, options.filters)):
            raise InputError(nothing_matches(runs, options.filters))
        sys.stdout.write(describe_best(found, options.metric))
    return is_complete


def add_rm(subparsers: Subparsers) -> None:
    """Add ``wgan-runs rm``."""
    parser = add_command(subparsers, "rm", "Remove runs, except those that a process is working on.", _rm)
    parser.add_argument("words", nargs="*", metavar="ID|KEY=VALUE", help=f"ids, or {FILTERS}")
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _rm(options: argparse.Namespace) -> bool:
    from wgan_sweep.report.listing import run_table, size_text, write_table
    from wgan_sweep.runs.removal import remove_run, size_of

    check_folder(options)
    with opened_runs(options) as (_, runs, _):
        found = selected(runs, options.words)
        if not found:
            sys.stdout.write("no run matches: nothing is removed\n")
            return True
        write_table(run_table(found), sys.stdout)
        total = size_text(sum(size_of(run.directory.path) for run in found))
        if not is_confirmed(f"remove {_count(len(found), 'run')} ({total})?", options):
            return False
        watch(run.directory.lock for run in found)
        return _each(
            found, lambda run: remove_run(run.directory, run.record), lambda run: f"run {run.run_id}", "removed"
        )


def add_archive(subparsers: Subparsers) -> None:
    """Add ``wgan-runs archive``."""
    parser = add_command(
        subparsers,
        "archive",
        "Write records, configs, measurements and small pictures of runs to one file.",
        _archive,
        reads_archives=True,
    )
    parser.add_argument("filters", nargs="*", metavar="KEY=VALUE", help=FILTERS)
    parser.add_argument("--output", "-o", type=Path, required=True, metavar=f"FILE{SUFFIX}", help="the archive")
    parser.add_argument(
        "--with",
        dest="others",
        action="append",
        default=[],
        type=Path,
        metavar="PLACE",
        help="a folder or an archive whose runs are added; can be repeated",
    )
    parser.add_argument(
        "--no-pictures", action="store_true", help="leave out the samples, which take most of the space"
    )


def _archive(options: argparse.Namespace) -> bool:
    from wgan_sweep.report.listing import size_text

    if not options.output.name.endswith(SUFFIX):
        raise InputError(f"--output {options.output} must end in {SUFFIX}, by which archives are known")
    check_output(options.output, "--output")
    with opened_runs(options, options.others) as (folder, runs, is_complete):
        found = matching(runs, options.filters)
        if not found:
            raise InputError(f"nothing was written: {nothing_matches(runs, options.filters)}")
        losses = write_archive(options.output, folder, [run.record for run in found], pictures=not options.no_pictures)
        sys.stderr.writelines(f"wgan-runs: {loss}\n" for loss in losses)
        size = size_text(options.output.stat().st_size)
        sys.stdout.write(f"{options.output}: {_count(len(found), 'run')}, {size}\n")
        for status, count in Counter(run.status for run in found if run.status != Status.DONE).items():
            sys.stdout.write(f"{count} of them {status}\n")
    return is_complete and not losses


def add_clean(subparsers: Subparsers) -> None:
    """Add ``wgan-runs clean``."""
    parser = add_command(
        subparsers,
        "clean",
        "Remove what killed processes left, and the folders of old sweeps that hold no decision.",
        _clean,
    )
    parser.add_argument("--checkpoints", action="store_true", help="also previous checkpoints of finished runs")
    parser.add_argument(
        "--days", type=float, default=30.0, help="age from which the folder of a sweep is old (default: 30)"
    )
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _clean(options: argparse.Namespace) -> bool:
    from wgan_sweep.report.listing import size_text
    from wgan_sweep.runs.removal import Kind, leftovers, size_of

    check_value(options.days, Annotated[float, Range(0)], "--days")
    folder = check_folder(options)
    records = find_runs(folder).records
    submitted = _submitted(folder)
    found = leftovers(folder, records, days=options.days, checkpoints=options.checkpoints, submitted=submitted)
    if not found:
        sys.stdout.write("there is nothing to clean up\n")
        return True
    for kind in Kind:
        items = [item for item in found if item.kind is kind]
        if items:
            size = size_text(sum(size_of(item.path) for item in items))
            sys.stdout.write(f"{kind}: {len(items)}, {size}\n")
            sys.stdout.writelines(f"  {item.path}\n" for item in items)
    total = size_text(sum(size_of(item.path) for item in found))
    if not is_confirmed(f"remove {'it' if len(found) == 1 else f'these {len(found)}'} ({total})?", options):
        return False
    watch(item.run.lock for item in found if item.run is not None)
    return _each(found, lambda item: item.remove(), lambda item: str(item.path), "removed")


def _submitted(folder: Path) -> set[str]:
    """Return the ids of the runs whose SLURM jobs are not over, or of all with jobs if SLURM does not answer."""
    submitted = {path.stem for path in (folder / ".slurm").glob("[!.]*.json")}
    if not submitted:
        return submitted
    from wgan_sweep.sweeps.slurm_jobs import active_runs

    try:
        return {run.stored.run_id for run in active_runs(folder)}
    except InputError as error:
        sys.stderr.write(f"wgan-runs: the folders of sweeps whose runs were submitted are kept: {error}\n")
        return submitted


def add_cancel(subparsers: Subparsers) -> None:
    """Add ``wgan-runs cancel``."""
    parser = add_command(subparsers, "cancel", "Cancel the SLURM jobs of runs; what was trained is saved.", _cancel)
    parser.add_argument("words", nargs="*", metavar="ID|KEY=VALUE", help=f"ids, or {FILTERS}")
    parser.add_argument(
        "--others",
        action="store_true",
        help="cancel the jobs of all runs except the selected ones",
    )
    parser.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _cancel(options: argparse.Namespace) -> bool:
    from wgan_sweep.report.listing import run_table, write_table
    from wgan_sweep.sweeps.slurm_jobs import active_runs, cancel_jobs, jobs_of

    active = active_runs(check_folder(options))
    if not active:
        sys.stdout.write("no job of these runs is waiting or running\n")
        return True
    runs = [run.stored for run in active]
    chosen = {run.run_id for run in selected(runs, options.words)}
    cancelled = [run for run in active if (run.stored.run_id in chosen) is not options.others]
    jobs, shared = jobs_of(cancelled, active)
    for job, others in shared.items():
        sys.stderr.write(f"wgan-runs: job {job} is kept: it also trains {', '.join(others)}\n")
    cancelled = [run for run in cancelled if run.submission.job in jobs]
    if not cancelled:
        sys.stdout.write("no job is cancelled\n")
        return not shared
    write_table(run_table([run.stored for run in cancelled]), sys.stdout)
    if not is_confirmed(f"cancel {_count(len(jobs), 'job')} ({' '.join(jobs)})?", options):
        return False
    cancel_jobs(jobs)
    sys.stdout.write(f"{_count(len(jobs), 'job')} cancelled: the runs save a checkpoint and end\n")
    return not shared


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _each(items: Sequence[Item], act: Callable[[Item], None], name: Callable[[Item], str], done: str) -> bool:
    """Act on each item, whatever happens to the others; write what was done, and return whether all was.

    Args:
        items: The items.
        act: Acts on one.
        name: Returns its name.
        done: What was done, as the last word of the message.
    """
    completed = 0
    for item in items:
        try:
            act(item)
            completed += 1
        except RunLockedError as owner:
            sys.stderr.write(f"wgan-runs: {name(item)} is kept: {owner} is working on it\n")
        except InputError as error:
            sys.stderr.write(f"wgan-runs: {name(item)} is kept: {one_line(error)}\n")
        except OSError as error:
            sys.stderr.write(f"wgan-runs: {name(item)} is not {done}: {one_line(error)}\n")
    sys.stdout.write(f"{completed} of {len(items)} {done}\n")
    return completed == len(items)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``wgan-runs``."""
    parser = argparse.ArgumentParser("wgan-runs", description="Manage existing runs.")
    add_common_options(parser)
    add_completion_option(parser)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(subparsers)
    options = parser.parse_args(arguments)
    try:
        with ending_with_its_reader(), logging_to_stderr("wgan-runs", options.verbosity):
            is_complete = options.execute(options)
    except InputError as error:
        sys.exit(f"wgan-runs: {error}")
    except OSError as error:
        sys.exit(f"wgan-runs: {one_line(error)}: nothing more was done")
    except KeyboardInterrupt:
        sys.exit("wgan-runs: interrupted")
    if not is_complete:
        sys.exit(1)


COMMANDS = (
    add_list,
    add_show,
    add_diff,
    add_best,
    add_sample,
    add_export,
    add_rm,
    add_clean,
    add_cancel,
    add_archive,
)
"""Functions that add the subcommands, in the order of the help."""

if __name__ == "__main__":
    main()
