"""Completion by a shell, as bash answers: the scripts of wgan-report, wgan-runs and wgan-score."""

import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from wgan_sweep.commands import report, runs, score
from wgan_sweep.commands.completion import SHELLS

IDS = ("0a1b2c3d4e5f", "0a9988776655", "ffffffffffff")
Complete = Callable[..., set[str]]


def script(main: Callable[[list[str]], None], shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit, match="0"):
        main(["--shell-completion", f"install={shell}"])
    return capsys.readouterr().out


@pytest.fixture
def complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Complete:
    """A function that returns what bash offers for the last word of a command, in a folder with runs and a file."""
    for name in IDS:
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "archive.jsonl.gz").touch()
    scripts = tmp_path / "scripts"
    scripts.write_text("\n".join(script(main, "bash", capsys) for main in (report.main, runs.main, score.main)))
    tools = tmp_path / "tools"  # no Python among them
    tools.mkdir()
    for tool in ("sh", "ls", "grep", "printenv", "xargs"):
        found = shutil.which(tool)
        assert found is not None
        (tools / tool).symlink_to(found)

    def answer(*words: str, **environment: str) -> set[str]:
        line = " ".join(map(shlex.quote, words))
        program = (
            f"source {shlex.quote(str(scripts))}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; "
            f'function=$(complete -p {words[0]}); function=${{function##*-F }}; "${{function%% *}}"; '
            "printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        bash = shutil.which("bash")
        assert bash is not None
        done = subprocess.run(
            [bash, "--norc", "-c", program],
            cwd=tmp_path,
            env={"PATH": str(tools), **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return {word.strip() for word in done.stdout.split("\n")} - {""}

    return answer


def test_subcommands_options_and_choices_are_completed(complete: Complete) -> None:
    names = {add.__name__.removeprefix("add_") for add in runs.COMMANDS}
    assert complete("wgan-runs", "") == names
    assert complete("wgan-runs", "a") == {"archive"}
    assert complete("wgan-runs", "list", "--s") == {"--sort"}
    assert complete("wgan-report", "runs", "--format", "") == set(report.FORMATS)
    assert complete("wgan-score", "--fea") >= {"--features"}
    assert "inception" in complete("wgan-score", "--features", "")
    assert complete("wgan-report", "--shell-completion", "install=f") == {"install=fish"}


def test_ids_of_runs_and_files_are_completed(complete: Complete, tmp_path: Path) -> None:
    for words in (["show"], ["diff"], ["diff", IDS[2]], ["sample"], ["export"], ["rm"], ["rm", IDS[2]], ["cancel"]):
        assert complete("wgan-runs", *words, "0a") == set(IDS[:2])
    elsewhere = tmp_path / "else where"
    (elsewhere / "0abababababa").mkdir(parents=True)
    assert complete("wgan-runs", "show", "0", WGAN_SWEEP_RUNS=str(elsewhere)) == {"0abababababa"}
    assert complete("wgan-runs", "show", "0", WGAN_SWEEP_RUNS=str(tmp_path / "missing")) == set()
    assert complete("wgan-report", "ar") == {"archive.jsonl.gz"}
    assert complete("wgan-runs", "list", "--runs", "ru") == {"runs"}
    assert complete("wgan-score", "--config-dir", "to") == {"tools"}


@pytest.mark.parametrize("name", ["$(touch made)", "`touch made`", "0a1b2c3d4e5$(touch made)", "0a*", "0a; touch made"])
def test_the_name_of_a_directory_is_never_executed(complete: Complete, tmp_path: Path, name: str) -> None:
    (tmp_path / "runs" / name).mkdir()
    before = set(tmp_path.rglob("*"))
    assert complete("wgan-runs", "show", "0a") == set(IDS[:2])
    assert complete("wgan-runs", "show", "") == set(IDS)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("main", [report.main, runs.main, score.main], ids=["report", "runs", "score"])
def test_every_shell_gets_a_script_that_it_can_read(main, shell: str, capsys, tmp_path: Path) -> None:
    text = script(main, shell, capsys)
    assert "--verbose" in text or "-l verbose" in text
    program = shutil.which(shell)
    if program is None:
        return
    (tmp_path / "script").write_text(text)
    subprocess.run([program, "-n", str(tmp_path / "script")], check=True)
