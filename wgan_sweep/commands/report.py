"""The command ``wgan-report``: tables, pages and charts of the runs in folders and archives."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wgan_sweep.commands.completion import add_completion_option
from wgan_sweep.commands.options import add_common_options, add_folders_option, ending_with_its_reader
from wgan_sweep.common.files import check_output
from wgan_sweep.common.verbosity import announce, logging_to_stderr
from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import METRIC_NAMES, Report, check_metric, group_runs, shown_metric
from wgan_sweep.report.text import to_csv, to_json, to_latex, to_markdown
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.places import OpenedRuns, no_runs, opened
from wgan_sweep.runs.record import Record

if TYPE_CHECKING:
    from wgan_sweep.report.references import Comparisons


def _config_of_recipe(name: str) -> Mapping[str, Any] | None:
    from wgan_sweep.config import schema
    from wgan_sweep.sweeps.config_of_run import config_of_recipe

    schema.register()
    return config_of_recipe(name)


def _comparisons(runs: OpenedRuns, options: argparse.Namespace) -> "Comparisons":
    """Return the runs of recipes beside the published values, if they are shown; damaged runs are named."""
    from wgan_sweep.report.references import Comparisons, compare

    if not options.reference and options.format != "html":
        return Comparisons([], 0, [])
    compared = compare([*runs.found.records, *runs.not_started], _config_of_recipe, runs.folder)
    for line in compared.problems:
        sys.stderr.write(f"wgan-report: {line}\n")
    return compared


def _references(options: argparse.Namespace, compared: "Comparisons") -> str:
    """Return the comparisons with published values as Markdown or JSON."""
    from wgan_sweep.report import references

    if options.format not in ("md", "json"):
        raise InputError(f"--reference cannot be written as {options.format}: choose --format md, json or html")
    if not compared.rows:
        places = ", ".join(map(str, options.runs))
        raise InputError(
            f"no run in {places} has a reference to compare with: train a recipe that has one, as in "
            "wgan-sweep experiment=reference/NAME"
        )
    return references.to_json(compared) if options.format == "json" else references.to_markdown(compared)


def _page(report: Report, runs: OpenedRuns, options: argparse.Namespace, compared: "Comparisons") -> str:
    from wgan_sweep.report import claims
    from wgan_sweep.report.page import to_html

    asked = claims.read_claims(claims.claims_file(options.claims or claims.PAPER))
    return to_html(report, runs.folder, asked, runs.name, compared)


def _png(report: Report, runs: OpenedRuns, *_: object) -> bytes:
    from wgan_sweep.report.charts import to_png

    return to_png(report, runs.folder)


FORMATS: dict[str, Callable[[Report, OpenedRuns, argparse.Namespace, "Comparisons"], str | bytes]] = {
    "md": lambda report, *_: to_markdown(report),
    "tex": lambda report, *_: to_latex(report),
    "csv": lambda report, *_: to_csv(report),
    "json": lambda report, *_: to_json(report),
    "html": _page,
    "png": _png,
}


def _claims(options: argparse.Namespace, records: Sequence[Record], folder: Path) -> str:
    """Return the verdicts on the claims as Markdown or JSON."""
    from wgan_sweep.report import claims
    from wgan_sweep.report.curves import Curves
    from wgan_sweep.report.decisions import with_decisions

    asked = claims.read_claims(claims.claims_file(options.claims or claims.PAPER))
    judged = claims.judge(asked, records, options.metric, Curves.in_folder(folder))
    judgements = with_decisions(judged, records, folder)
    if options.format == "json":
        return json.dumps(claims.to_entries(judgements), indent=2) + "\n"
    if options.format != "md":
        raise InputError(f"--claims cannot be written as {options.format}: choose --format md, json or html")
    return claims.to_markdown(judgements, shown_metric(records, options.metric))


def _write(output: str | bytes, path: Path | None) -> None:
    """Write to a file, or to standard output."""
    content = output.encode() if isinstance(output, str) else output
    if path is not None:
        from wgan_sweep.common.files import write

        write(path, content)
    else:
        rest = memoryview(content)
        while rest:  # with PYTHONUNBUFFERED, a write to a pipe may end early
            rest = rest[sys.stdout.buffer.write(rest) :]
        sys.stdout.buffer.flush()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "wgan-report", description="Report on the runs in folders and archives, from them alone."
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of run directories, such as ./runs, or archives")
    parser.add_argument(
        "--format", choices=FORMATS, help="format of the report (default: by the ending of --output, else md)"
    )
    parser.add_argument("--metric", help="metric to show: fid, w1, w2, modes, ... (default: fid, else w1, else kid)")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="output file (default: standard output)")
    parser.add_argument(
        "--claims",
        type=Path,
        nargs="?",
        const=False,
        metavar="YAML",
        help="test the claims in a file (default: paper, the paper's claims)",
    )
    parser.add_argument(
        "--reference", action="store_true", help="compare the runs of recipes with the values that were published"
    )
    add_folders_option(parser, "folder of your recipes, so that --reference can list what runs changed")
    parser.add_argument("--wandb", action="store_true", help="upload ended runs that W&B does not have yet; no report")
    parser.add_argument("--dashboard", action="store_true", help="save a W&B workspace for the runs; no report")
    parser.add_argument("--project", help="W&B project (default: the runs' project, else wgan-sweep)")
    parser.add_argument("--entity", help="W&B user or team (default: the runs' entity, else your default entity)")
    parser.add_argument("--jobs", type=int, default=4, help="concurrent uploads (default: 4)")
    parser.add_argument("--watch", action="store_true", help="show a live table of the runs until Ctrl-C")
    add_common_options(parser)
    add_completion_option(parser)
    return parser.parse_args(arguments)


def _format_of(output: Path | None) -> str:
    """Return the format that the ending of an output file names; Markdown without a file or an ending.

    Raises:
        InputError: for an ending that names no format.
    """
    ending = output.suffix.removeprefix(".").lower() if output is not None else ""
    if ending in FORMATS:
        return ending
    if ending in ("", "txt"):
        return "md"
    raise InputError(f"--output {output}: the ending .{ending} names no format: add --format {', '.join(FORMATS)}")


def _check_options(options: argparse.Namespace) -> None:
    """Refuse options without effect, and an output that cannot be written.

    Raises:
        InputError: naming the option.
    """
    if not (options.wandb or options.dashboard):
        for name in ("project", "entity"):
            if getattr(options, name) is not None:
                raise InputError(f"--{name} has no effect on a report: add --wandb or --dashboard, or leave it out")
    if options.output is not None:
        check_output(options.output, "--output")


def _upload(folder: Path, options: argparse.Namespace) -> bool:
    """Upload the ended runs in a folder; return whether any upload failed."""
    from wgan_sweep.report.upload import upload_runs
    from wgan_sweep.tracking.wandb import key_is_configured, settings

    if options.jobs < 1:
        raise InputError(f"--jobs must be 1 or more, got {options.jobs}")
    mode = settings().mode
    if mode == "disabled":
        raise InputError("W&B is disabled (WANDB_MODE, or `wandb disabled`): set WANDB_MODE to online or offline")
    if not key_is_configured() and mode not in ("offline", "dryrun"):
        raise InputError("W&B has no API key: run `wandb login`, or set WANDB_MODE=offline to write offline records")
    failed = False
    for name, outcome in upload_runs(folder, options.project, options.entity, options.jobs):
        sys.stdout.write(f"{name}  {outcome}\n")
        sys.stdout.flush()
        failed |= outcome.startswith("failed")
    return failed


def _dashboard(folder: Path, options: argparse.Namespace, records: Sequence[Record]) -> None:
    """Save a W&B workspace and print its URL."""
    from wgan_sweep.report.upload import destination_of
    from wgan_sweep.tracking.wandb import default_entity, key_is_configured
    from wgan_sweep.tracking.workspace import workspace

    if not key_is_configured():
        raise InputError("W&B has no API key: run `wandb login`")
    newest = records[-1]
    where = destination_of(newest, RunDir(folder / newest.run_id), options.project, options.entity)
    measured = [name for name in METRIC_NAMES if any(name in record.scores for record in records)]
    names = dict.fromkeys([shown_metric(records, options.metric), *measured])
    metrics = {name: METRIC_NAMES.get(name, name) for name in names}
    dashboard = workspace(where.project, where.entity or default_entity(), metrics)
    dashboard.save()
    sys.stdout.write(f"{dashboard.url}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``wgan-report``."""
    options = _arguments(arguments)
    try:
        if options.watch:
            from wgan_sweep.report.watch import watch

            watch(_only_folder(options, "--watch"), options.metric)
            return
        if options.folders:
            from wgan_sweep.config import folders

            for folder in options.folders:
                folders.use(folder)
        _check_options(options)
        options.format = options.format or _format_of(options.output)
        announce(f"wgan-report: reading {' '.join(map(str, options.runs))}", options.verbosity)
        with (
            ending_with_its_reader(),
            logging_to_stderr("wgan-report", options.verbosity),
            opened(options.runs) as runs,
        ):
            is_complete = _report(runs, options)
    except InputError as error:
        sys.exit(f"wgan-report: {error}")
    if not is_complete:
        sys.exit(1)


def _only_folder(options: argparse.Namespace, option: str) -> Path:
    """Return the folder of runs, for an option that works on one.

    Raises:
        InputError: if there is not one folder.
    """
    folder: Path = options.runs[0]
    if len(options.runs) > 1 or not folder.is_dir():
        raise InputError(f"{option} needs one folder of runs, got {' '.join(map(str, options.runs))}: give a folder")
    return folder


def _report(runs: OpenedRuns, options: argparse.Namespace) -> bool:
    """Write what was requested, and return whether nothing damaged was left out; exit after an upload.

    Raises:
        InputError: if there are no runs, or an option cannot be followed.
    """
    records, problems = runs.found.records, runs.found.problems
    for line in [*problems, *runs.notes]:
        sys.stderr.write(f"wgan-report: {line}\n")
    if not records and not runs.not_started:
        raise InputError(no_runs(options.runs, "another folder"))
    check_metric(records, options.metric)
    if options.reference and options.format != "html" and (options.metric or options.claims is not None):
        other = "--metric" if options.metric else "--claims"
        raise InputError(f"--reference compares by the metric of each recipe: leave out {other}, or ask separately")
    if records and (options.wandb or options.dashboard):
        failed = options.wandb and _upload(_only_folder(options, "--wandb"), options)
        if options.dashboard:
            _dashboard(runs.folder, options, records)
        sys.exit(1 if failed or problems else 0)
    compared = _comparisons(runs, options)
    if options.reference and options.format != "html":
        output: str | bytes = _references(options, compared)
    elif options.claims is not None and options.format != "html":
        output = _claims(options, records, runs.folder)
    else:
        report = group_runs([*records, *runs.not_started], options.metric, runs.folder)
        output = FORMATS[options.format](report, runs, options, compared)
    if isinstance(output, bytes) and options.output is None and sys.stdout.isatty():
        raise InputError("a terminal cannot show a PNG: give --output FILE, or redirect the output")
    try:
        _write(output, options.output)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(f"{options.output or 'standard output'} cannot be written to ({error})") from error
    return not (problems or compared.problems)


if __name__ == "__main__":
    main()
