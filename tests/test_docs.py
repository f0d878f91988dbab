"""The README and the guides: their commands can be run, their links lead somewhere, and their tables are true.

A block of YAML or Python whose first line is a comment with a path, such as ``# mine.yaml``, is the file that the
commands of the same document use under that path.
"""

import argparse
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from markdown_it import MarkdownIt
from markdown_it.token import Token
from omegaconf import DictConfig
from PIL import Image

from wgan_sweep.config import catalogue, schema
from wgan_sweep.config.keys import KEYS
from wgan_sweep.objectives.losses import hinge
from wgan_sweep.report.claims import read_claims
from wgan_sweep.runs.build import check_options
from wgan_sweep.runs.directory import RunDir
from wgan_sweep.runs.record import Record
from wgan_sweep.sweeps import config_of_run
from wgan_sweep.sweeps.compose import task_overrides
from wgan_sweep.sweeps.hydra_launcher import GRID, run_config

from .helpers import write_record

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / ".github"
GUIDES = PICTURES / "guide"
README = ROOT / "README.md"
EVIDENCE = PICTURES / "evidence" / "README.md"
DOCUMENTS = [README, *sorted(GUIDES.glob("*.md")), EVIDENCE]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
OTHER_PROGRAMS = {".", "cd", "docker", "git", "rm", "twine", "wandb"}
"""Programs whose arguments are not checked."""
RUN_NAMES = ("<run_id>", "0123456789ab")
"""Names of runs in the documents."""


def parse(document: Path) -> list[Token]:
    """Return the tokens of a document, those inside of paragraphs, headings and cells included."""
    tokens = MarkdownIt("commonmark").enable("table").parse(document.read_text())
    return [child for token in tokens for child in (token, *(token.children or []))]


TOKENS = {document: parse(document) for document in DOCUMENTS}


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: Path
    language: str
    line: int
    """Number of its first line in the document."""
    text: str

    @property
    def path(self) -> str | None:
        """The path of the file that the block is, if it says so."""
        comment = re.match(r"# ([\w~./-]+\.(?:yaml|py))\n", self.text)
        return comment[1] if comment else None


BLOCKS = [
    Block(document, token.info, (token.map or [0])[0] + 2, token.content)
    for document, tokens in TOKENS.items()
    for token in tokens
    if token.type == "fence"
]


@dataclass(frozen=True)
class Command:
    """A command of a document."""

    document: Path
    line: int
    words: tuple[str, ...]
    """The program and its arguments."""
    sets_path: bool = False
    """Whether it runs with ``PYTHONPATH=.``."""

    def __str__(self) -> str:
        return f"{self.document.stem}:{self.line} {' '.join(self.words)}"


def _command(document: Path, line: int, text: str) -> Command | None:
    words = shlex.split(text, comments=True)
    variables = list(takewhile(re.compile(r"[A-Z_]+=").match, words))
    words = words[len(variables) :]
    return Command(document, line, tuple(words), "PYTHONPATH=." in variables) if words else None


def commands_of(block: Block) -> Iterator[Command]:
    """Yield the commands of a block: of a console those after a prompt, of a script all lines."""
    lines = list(enumerate(block.text.replace("\\\n", "  ").splitlines(), block.line))
    for number, line in lines:
        if block.language == "bash" or line.startswith("$ "):
            command = _command(block.document, number, line.removeprefix("$ "))
            if command is not None:
                yield command


def commands_in_text(document: Path) -> Iterator[Command]:
    """Yield the commands with arguments that stand within sentences."""
    for token in TOKENS[document]:
        if token.type == "code_inline" and token.content.partition(" ")[0] in PROJECT["scripts"]:
            command = _command(document, 0, token.content)
            if command is not None and len(command.words) > 1:
                yield command


COMMANDS = [
    *(command for block in BLOCKS if block.language in ("console", "bash") for command in commands_of(block)),
    *(command for document in DOCUMENTS for command in commands_in_text(document)),
]
UNIQUE = list({command.words: command for command in reversed(COMMANDS)}.values())[::-1]
TRAINED = GUIDES / "extending.md"
"""The guide whose commands `test_extending` runs."""
SWEEPS = [command for command in UNIQUE if command.words[0] == "wgan-sweep" and command.document != TRAINED]
OTHERS = [command for command in UNIQUE if command.words[0] != "wgan-sweep"]


def rows(document: Path) -> Iterator[tuple[str, list[Token]]]:
    """Yield each row of a document's tables: the first word of the table's header, and the cells."""
    title, cells, in_cell = "", list[Token](), False
    for token in TOKENS[document]:
        if token.type == "thead_open":
            title = ""
        elif token.type == "tr_open":
            cells = []
        elif token.type in ("th_open", "td_open"):
            in_cell = True
        elif token.type == "inline" and in_cell:
            cells.append(token)
            in_cell = False
        elif token.type == "tr_close":
            if title:
                yield title, cells
            title = title or cells[0].content or "-"


def codes(cell: Token) -> list[str]:
    return [child.content for child in cell.children or [] if child.type == "code_inline"]


@pytest.fixture
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the documents of the checkout, whose parent is the home directory."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / ".github").symlink_to(ROOT / ".github")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(folder)
    yield folder
    GlobalHydra.instance().clear()


def write_runs(runs: Path, config: schema.Config) -> None:
    """Write directories of runs with the names that the documents use."""
    for name in RUN_NAMES:
        directory = RunDir(runs / name)
        directory.path.mkdir(parents=True)
        directory.config.write_text(schema.to_yaml(config))
        write_record(directory, Record(name.strip("<>")))


def write_files(document: Path) -> None:
    """Write the files that a document shows."""
    for block in BLOCKS:
        if block.document == document and block.path is not None:
            path = Path(block.path).expanduser()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)


def jobs_of(master: DictConfig, overrides: list[str]) -> list[list[str]]:
    """Return the overrides of the jobs of a sweep; of a search, one job without the values that it chooses."""
    parser = OverridesParser.create()
    if master.hydra.sweeper._target_ != GRID:
        parsed = parser.parse_overrides(overrides)
        return [[o.input_line for o in parsed if not o.is_sweep_override()]]
    grid = [f"{key}={values}" for key, values in (master.hydra.sweeper.params or {}).items()]
    (jobs,) = BasicSweeper.split_arguments(parser.parse_overrides([*grid, *overrides]), None)
    return [list(job) for job in jobs]


def compose(arguments: list[str]) -> list[schema.Config]:
    """Return the config of the run that a command line requests; of a sweep, those of its first and last run."""
    parsed = get_args_parser().parse_args(config_of_run.expand(arguments))
    overrides = list(parsed.overrides)
    if parsed.config_dir is not None:
        folder = Path(parsed.config_dir).expanduser()
        assert folder.is_dir()
        overrides.append(f"hydra.searchpath=[file://{folder}]")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)
        if parsed.multirun or master.hydra.mode == RunMode.MULTIRUN:
            jobs = jobs_of(master, task_overrides(master.hydra))
            composed = [loader.load_sweep_config(master, job) for job in (jobs[0], jobs[-1])]
        else:
            assert not any(o.is_sweep_override() for o in OverridesParser.create().parse_overrides(overrides))
            composed = [master]
        return [run_config(config, config.hydra) for config in composed]


@pytest.mark.integration
@pytest.mark.parametrize("command", SWEEPS, ids=str)
def test_a_sweep_composes(command: Command, working_directory: Path, make, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(command.document)
    if "--config-path" in command.words:
        write_runs(working_directory / "runs", make())
    if command.sets_path:
        monkeypatch.syspath_prepend(str(working_directory))
        for file in working_directory.glob("*.py"):
            monkeypatch.delitem(sys.modules, file.stem, raising=False)
    for config in compose(list(command.words[1:])):
        schema.check_ranges(config)
        check_options(config)


class ParsedError(Exception):
    """A program has parsed its arguments."""


def parse_arguments(main, name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program parse its arguments with argparse, and check that it accepts them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        original(self, args, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with pytest.raises(ParsedError):
        main()


@pytest.mark.parametrize("command", OTHERS, ids=str)
def test_a_command_exists_and_accepts_its_arguments(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    program, *arguments = Path(command.words[0]).name or ".", *command.words[1:]
    if program in PROJECT["scripts"]:
        module, _, function = PROJECT["scripts"][program].partition(":")
        parse_arguments(getattr(importlib.import_module(module), function), program, arguments, monkeypatch)
    elif program.startswith("python") and arguments[:1] == ["-m"] and arguments[1].startswith("wgan_sweep"):
        module = importlib.import_module(f"{arguments[1]}.__main__")
        parse_arguments(module.main, program, arguments[2:], monkeypatch)
    elif program.startswith("python"):
        assert arguments[:1] == ["-m"]
        assert arguments[1] in ("build", "pip", "pytest", "venv")
    elif program == "make":
        for word in arguments:
            name, is_variable, _ = word.partition("=")
            assert re.search(rf"^{name} [?:]=" if is_variable else rf"^{name}:", MAKEFILE, re.MULTILINE), word
    elif program == "pip":
        assert arguments[0] in ("check", "install")
        for extra in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)):
            assert set(extra.split(",")) <= PROJECT["optional-dependencies"].keys()
    else:
        assert program in OTHER_PROGRAMS


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "yaml"], ids=lambda b: f"{b.document.stem}:{b.line}"
)
def test_yaml_can_be_read(block: Block, tmp_path: Path) -> None:
    content = yaml.safe_load(block.text)
    assert isinstance(content, dict)
    if "claims" in content:
        (tmp_path / "claims.yaml").write_text(block.text)
        assert len(read_claims(tmp_path / "claims.yaml")) == len(content["claims"])


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python"], ids=lambda b: f"{b.document.stem}:{b.line}"
)
def test_python_compiles(block: Block) -> None:
    compile(block.text, f"{block.document.name}:{block.line}", "exec")


def test_every_block_has_a_known_language() -> None:
    assert {block.language.partition(" ")[0] for block in BLOCKS} <= {
        "",
        "console",
        "bash",
        "yaml",
        "python",
        "dockerfile",
        "toml",
        "bibtex",
    }


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, by GitHub's rule."""
    found: set[str] = set()
    for heading, content in zip(TOKENS[document], TOKENS[document][1:], strict=False):
        if heading.type == "heading_open":
            text = "".join(child.content for child in content.children or [])
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            found.add(next(name for name in (slug, *(f"{slug}-{i}" for i in range(1, 99))) if name not in found))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: f"{d.parent.name}-{d.name}")
def test_links_and_pictures_exist(document: Path) -> None:
    targets = [str(t.attrs["href"]) for t in TOKENS[document] if t.type == "link_open"]
    targets += [str(t.attrs["src"]) for t in TOKENS[document] if t.type == "image"]
    for target in targets:
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.is_relative_to(ROOT), target
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target


def test_every_picture_is_shown() -> None:
    shown = {Path(str(t.attrs["src"])).name for tokens in TOKENS.values() for t in tokens if t.type == "image"}
    assert {path.name for path in [*PICTURES.glob("*.png"), *PICTURES.glob("evidence/*.png")]} == shown


def test_every_guide_is_in_the_table_of_the_readme() -> None:
    links = {
        str(c.attrs["href"]) for title, r in rows(README) if title == "guide" for c in r[0].children or [] if c.attrs
    }
    assert {path.name for path in GUIDES.glob("*.md")} == {Path(link).name for link in links}


@pytest.mark.parametrize("guide", DOCUMENTS[1:], ids=lambda d: f"{d.parent.name}-{d.name}")
def test_a_guide_begins_with_what_it_answers(guide: Path) -> None:
    first = guide.read_text().split("\n\n")[1]
    assert re.match(r"This page (answers|\w+s) ", first), first


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 200


def test_the_demo_shows_the_same_table_in_the_readme_and_in_its_picture() -> None:
    with Image.open(PICTURES / "demo.png") as picture:
        table = str(picture.info["Description"]).strip()
    assert table in [block.text.strip() for block in BLOCKS if block.document == README]


def test_choices_lists_every_option_of_every_group() -> None:
    documented: dict[str, list[str]] = {}
    for title, (group, options, *_) in rows(GUIDES / "choices.md"):
        if title == "group":
            documented.setdefault(codes(group)[0], []).extend(codes(options))
    expected = {group: sorted(names) for group, names in catalogue.options().items()}
    assert {group: sorted(names) for group, names in documented.items()} == expected


def test_choices_lists_every_key() -> None:
    documented = [key for title, (names, *_) in rows(GUIDES / "choices.md") if title == "key" for key in codes(names)]
    groups = {key.name for key in KEYS if key.is_group}
    keys = {
        key for key in catalogue.schema_keys(schema.Config) if key.partition(".")[0] not in groups | {"div", "choices"}
    }
    assert sorted(documented) == sorted(keys - {"train", "decide"})


def test_choices_shows_what_each_loss_sets(make) -> None:
    table = [cells for title, cells in rows(GUIDES / "choices.md") if title == "`loss`"]
    for names, constraint, optimizer, updates, _ in table:
        for name in codes(names):
            config = make(f"loss={name}", tiny=False)
            assert codes(constraint)[0] == config.choices["constraint"]
            assert optimizer.content.split()[0].lower() == config.optimizer["_target_"].rpartition(".")[2].lower()
            numbers = [float(number) for number in re.findall(r"\d[\d.e-]*", optimizer.content)]
            assert numbers == [config.optimizer["lr"], *config.optimizer.get("betas", [])]
            assert int(updates.content) == config.train.n_critic
    assert sorted(name for names, *_ in table for name in codes(names)) == catalogue.options()["loss"]


def test_questions_quote_messages_of_the_package() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "wgan_sweep").rglob("*.py"))
    quotes = [r[0].content for title, r in rows(GUIDES / "faq.md") if title == "message contains"]
    assert len(quotes) > 3
    assert [quote for quote in quotes if quote not in source] == []


def test_the_loss_of_the_readme_is_the_published_one_at_a_margin_of_1() -> None:
    (block,) = (b for b in BLOCKS if b.document == README and b.language == "python")
    names: dict = {}
    exec(compile(block.text, README.name, "exec"), names)  # noqa: S102
    real, fake = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    own, published = names["hinge"](1.0), hinge()
    torch.testing.assert_close(own.critic(real, fake), published.critic(real, fake))
    torch.testing.assert_close(own.generator(fake), published.generator(fake))
    assert float(names["hinge"](3.0).critic(real, fake)) > float(own.critic(real, fake))
