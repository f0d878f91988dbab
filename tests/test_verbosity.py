"""What `--quiet` and `--verbose` show, of every command."""

import argparse
import io
import logging
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from wgan_sweep.commands import report, runs, score
from wgan_sweep.common.verbosity import Verbosity, announce, logging_to_stderr
from wgan_sweep.errors import InputError
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.sweeps.arguments import take_verbosity

from .helpers import Shell, records, write_record
from .report.test_report import record


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], Verbosity.NORMAL),
        (["-q"], Verbosity.QUIET),
        (["--quiet", "-q"], Verbosity.QUIET),
        (["-v"], Verbosity.VERBOSE),
        (["--verbose"], Verbosity.VERBOSE),
    ],
)
def test_the_flags_are_removed_from_the_arguments_of_a_sweep(flags: list[str], expected: Verbosity) -> None:
    arguments = ["-m", *flags, "loss=wgan_gp"]
    assert take_verbosity(arguments) is expected
    assert arguments == ["-m", "loss=wgan_gp"]


def test_the_two_flags_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="-q and --verbose exclude each other: give one of them"):
        take_verbosity(["-q", "seed=1", "--verbose"])
    for main, words in ((report.main, ["runs"]), (score.main, ["a", "b"]), (runs.main, ["list"])):
        with pytest.raises(SystemExit, match="2"):
            main([*words, "-q", "-v"])
        assert "not allowed with argument" in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one run, and one directory whose record is damaged."""
    found = record(100.0)
    write_record(RunDir(tmp_path / "runs" / found.run_id), found)
    damaged = RunDir(tmp_path / "runs" / "0123456789ab").record
    damaged.parent.mkdir()
    damaged.write_text("{")
    return tmp_path / "runs"


@pytest.mark.parametrize(
    "command",
    [
        lambda folder, flags: report.main([str(folder), *flags]),
        lambda folder, flags: runs.main(["list", "--runs", str(folder), *flags]),
        lambda folder, flags: runs.main([*flags, "list", "--runs", str(folder)]),
    ],
    ids=["wgan-report", "wgan-runs list -q", "wgan-runs -q list"],
)
def test_commands_write_debug_messages_only_if_they_are_asked_for(
    command: Callable[[Path, list[str]], None], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = {}
    for flags in ((), ("-q",), ("--verbose",)):
        with pytest.raises(SystemExit, match="1"):  # the damaged record
            command(folder, list(flags))
        written[flags] = capsys.readouterr()
    results = {output.out for output in written.values()}
    assert len(results) == 1
    assert "100" in results.pop()
    for output in written.values():
        assert "0123456789ab" in output.err
    assert written[()].err == written["-q",].err
    detail = r"wgan-(report|runs): .*the records of 2 directories are read in \d+\.\d\d s\n"
    assert re.search(detail, written["--verbose",].err)
    assert not re.search(detail, written[()].err)


@pytest.mark.parametrize("verbosity", Verbosity)
def test_log_messages_go_to_standard_error_inside_the_context_only(
    verbosity: Verbosity, capsys: pytest.CaptureFixture[str]
) -> None:
    log = logging.getLogger("wgan_sweep.tests")
    package = logging.getLogger("wgan_sweep")
    before = package.level, package.handlers[:]
    with logging_to_stderr("wgan-runs", verbosity):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            log.log(level, "level %d", level)
    levels = [int(number) for number in re.findall(r"^wgan-runs: level (\d+)$", capsys.readouterr().err, re.MULTILINE)]
    expected = {
        Verbosity.SILENT: [],
        Verbosity.QUIET: [30, 40],
        Verbosity.NORMAL: [20, 30, 40],
        Verbosity.VERBOSE: [10, 20, 30, 40],
    }
    assert levels == expected[verbosity]
    assert (package.level, package.handlers) == before


def test_only_a_quiet_command_does_not_announce_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for verbosity in Verbosity:
        terminal = io.StringIO()
        monkeypatch.setattr(terminal, "isatty", lambda: True)
        monkeypatch.setattr("sys.stderr", terminal)
        announce("reading", verbosity)
        assert terminal.getvalue() == ("reading ...\n" if verbosity.shows_progress else "")


def test_every_subcommand_has_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[argparse.Namespace] = []
    words = {"show": ["1a"], "diff": ["1a", "1b"], "sample": ["1a"], "export": ["1a", "--to", "a.pt"]}
    words["archive"] = ["-o", "a.tar.gz"]
    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
        parsed.append(options := original(self, arguments))
        options.execute = lambda _: True
        return options

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    for add in runs.COMMANDS:
        name = add.__name__.removeprefix("add_")
        for flags in ([], ["-q"], ["-v"]):
            runs.main([name, *words.get(name, []), *flags])
    expected = [Verbosity.NORMAL, Verbosity.QUIET, Verbosity.VERBOSE]
    assert [options.verbosity for options in parsed] == expected * len(runs.COMMANDS)


@pytest.mark.integration
def test_a_quiet_sweep_shows_its_table_and_what_went_wrong_and_a_verbose_one_more(sweep: Shell) -> None:
    """One of two runs diverges. The verbose sweep is trained by workers, whose lines name the run's number, too."""
    grid = ["-m", "optimizer.lr=1e-4,1e30"]
    quiet = sweep(*grid, "-q", code=1)
    assert "| optimizer.lr" in quiet.stdout
    (line,) = quiet.stderr.splitlines()
    assert re.match(r"2 of 2  [0-9a-f]{12} optimizer\.lr=1e\+30  diverged", line)
    verbose = sweep(*grid, "seed=1", "--verbose", "launch=parallel", "launch.jobs=2", code=1)
    seeds = {run["run_id"]: run["config"]["seed"] for run in records(sweep.folder)}
    begun = re.findall(r"^(\d) of 2  ([0-9a-f]{12})  process \d+, 1 thread: (.*)$", verbose.stderr, re.MULTILINE)
    assert sorted(number for number, *_ in begun) == ["1", "2"]
    assert {seeds[run_id] for _, run_id, _ in begun} == {1}
    assert "starting at step 0" in verbose.stderr
    for text in verbose.stderr.splitlines():
        assert text.startswith(("1 of 2  ", "2 of 2  ", "sweep  ")), text
