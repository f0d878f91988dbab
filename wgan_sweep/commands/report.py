"""The command `wgan-report`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from wgan_sweep.errors import InputError
from wgan_sweep.report.cells import Report, report, shown_metric
from wgan_sweep.report.text import to_csv, to_json, to_markdown
from wgan_sweep.runs.directory import Record, find_runs


def _page(found: Report, options: argparse.Namespace) -> str:
    from wgan_sweep.report import claims
    from wgan_sweep.report.page import to_html

    return to_html(found, options.runs, claims.read(options.claims or claims.PUBLISHED))


def _picture(found: Report, options: argparse.Namespace) -> bytes:
    from wgan_sweep.report.charts import to_png

    return to_png(found, options.runs)


FORMATS: dict[str, Callable[[Report, argparse.Namespace], str | bytes]] = {
    "md": lambda found, _: to_markdown(found),
    "csv": lambda found, _: to_csv(found),
    "json": lambda found, _: to_json(found),
    "html": _page,
    "png": _picture,
}


def _claims(options: argparse.Namespace, records: Sequence[Record]) -> str:
    from wgan_sweep.report import claims

    judged = claims.judge(claims.read(options.claims or claims.PUBLISHED), records, options.metric)
    if options.format == "json":
        return json.dumps(claims.to_entries(judged), indent=2) + "\n"
    if options.format != "md":
        raise InputError(f"--claims come as --format md, json or html, not {options.format}")
    return claims.to_markdown(judged, shown_metric(records, options.metric))


def _write(made: str | bytes, target: Path | None) -> None:
    content = made.encode() if isinstance(made, str) else made
    if target is not None:
        from wgan_sweep.common.files import write

        write(target, content)
    else:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("wgan-report", description="What the runs below a folder have come to.")
    parser.add_argument("runs", type=Path, help="the folder of runs, for example ./runs")
    parser.add_argument("--format", choices=FORMATS, default="md", help="default: md")
    parser.add_argument("--metric", help="the score to show: fid, w1, w2, modes, ... (default: fid, else w1)")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="where to write (default: standard output)")
    parser.add_argument(
        "--claims",
        type=Path,
        nargs="?",
        const=False,
        metavar="YAML",
        help="judge the claims of a file (default: the paper's) instead",
    )
    parser.add_argument("--wandb", action="store_true", help="upload finished runs that W&B does not have yet instead")
    parser.add_argument("--dashboard", action="store_true", help="save a workspace for them in W&B instead")
    parser.add_argument("--project", help="of W&B (default: the runs' own, else wgan-sweep)")
    parser.add_argument("--entity", help="of W&B: the user or team (default: the runs' own, else yours)")
    parser.add_argument("--jobs", type=int, default=4, help="how many runs are uploaded at once (default: 4)")
    parser.add_argument("--watch", action="store_true", help="show the table, again and again, while runs go on")
    return parser.parse_args(arguments)


def _upload(options: argparse.Namespace) -> bool:
    """Upload runs; return whether any failed."""
    from wgan_sweep.runs.mirroring import upload_runs
    from wgan_sweep.tracking.wandb import key_is_configured

    if options.jobs < 1:
        raise InputError(f"--jobs must be 1 or more, got {options.jobs}")
    chosen = os.environ.get("WANDB_MODE") or "online"
    if chosen not in ("online", "offline"):
        raise InputError(f"WANDB_MODE is {chosen}: nothing would be uploaded")
    if not key_is_configured() and chosen == "online":
        raise InputError("W&B has no key: run `wandb login`, or set WANDB_MODE=offline to write offline records")
    failed = False
    for name, became in upload_runs(options.runs, options.project, options.entity, options.jobs):
        sys.stdout.write(f"{name}  {became}\n")
        sys.stdout.flush()
        failed |= became.startswith("failed")
    return failed


def _dashboard(options: argparse.Namespace, records: Sequence[Record]) -> None:
    from wgan_sweep.runs.mirroring import asked_for
    from wgan_sweep.tracking.wandb import default_entity, key_is_configured
    from wgan_sweep.tracking.workspace import workspace

    if not key_is_configured():
        raise InputError("W&B has no key: run `wandb login`")
    project, entity = asked_for(records[-1])
    made = workspace(options.project or project, options.entity or entity or default_entity())
    made.save()
    sys.stdout.write(f"{made.url}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``wgan-report``."""
    options = _arguments(arguments)
    if not options.runs.is_dir():
        sys.exit(f"wgan-report: there is no folder {options.runs}: give the folder that holds the runs (key `runs`)")
    if options.watch:
        from wgan_sweep.report.watch import watch

        watch(options.runs, options.metric)
        return
    records, problems = find_runs(options.runs)
    for problem in problems:
        sys.stderr.write(f"wgan-report: {problem}\n")
    if not records:
        sys.exit(f"wgan-report: {options.runs} holds no runs: start some with wgan-sweep, or give another folder")
    try:
        if options.wandb or options.dashboard:
            failed = options.wandb and _upload(options)
            if options.dashboard:
                _dashboard(options, records)
            sys.exit(1 if failed or problems else 0)
        if options.claims is not None and options.format != "html":
            made: str | bytes = _claims(options, records)
        else:
            made = FORMATS[options.format](report(records, options.metric), options)
    except InputError as error:
        sys.exit(f"wgan-report: {error}")
    if isinstance(made, bytes) and options.output is None and sys.stdout.isatty():
        sys.exit("wgan-report: a picture is nothing for a terminal: give --output FILE, or redirect it")
    _write(made, options.output)
    if problems:
        sys.exit(1)


if __name__ == "__main__":
    main()
