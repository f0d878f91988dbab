"""The help of ``wgan-sweep``: every option and key in a line, from the comments of the config files."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wgan_sweep.config.catalogue import option_files
from wgan_sweep.config.keys import find_key

WIDTH = 80
_LINE = re.compile(r"^(?P<indent> *)(?P<name>\w+):(?: +(?P<value>[^#]*?))?(?: *# *(?P<comment>.*))?$")
_HIDDEN = ("defaults", "hydra", "_target_", "_partial_")


@dataclass(frozen=True)
class _Option:
    """What a config file says of itself."""

    title: str
    """The first sentence of its first comment."""
    keys: dict[str, tuple[str, str]]
    """The value and the comment of each key, by the key's dotted name."""


def register() -> None:
    """Make the help available to config files, as ``${wgan_sweep.options:}``."""
    OmegaConf.register_new_resolver("wgan_sweep.options", _help_of, replace=True)


def _help_of(_root_: DictConfig) -> str:
    sources = _root_.hydra.runtime.config_sources
    folders = [Path(source.path) for source in sources if source.schema == "file" and source.path]
    text = describe(folders, dict(_root_.hydra.runtime.choices))
    return text.replace("$", "$$")  # Hydra fills in the template of the help


def describe(folders: Sequence[Path], choices: dict[str, Any]) -> str:
    """Return a paragraph for each group, with its options and their keys, and one with the other keys.

    Args:
        folders: The folders of the config files, the user's included.
        choices: The chosen option of each group.
    """
    groups: dict[str, dict[str, Path]] = {}
    for (group, option), file in option_files(tuple(folders)).items():
        is_own = file.parent.name == group or not find_key(group).shared_group  # not that of the group of both players
        if group != "hydra" and is_own:
            groups.setdefault(group, {})[option] = file
    paragraphs = [_of_group(group, groups[group], choices.get(group)) for group in sorted(groups)]
    root = next(file for folder in folders if (file := folder / "config.yaml").exists())
    return "\n\n".join(["\n".join(_keys(_read(root, ""))), *paragraphs])


def _of_group(group: str, files: dict[str, Path], chosen: str | None) -> str:
    options = {name: _read(file, group) for name, file in files.items()}
    width = max(map(len, options)) + 4
    lines = [f"{group}=..." + (f"  (default: {chosen})" if chosen else "")]
    if shared := find_key(group).shared_group:
        lines += _row("  NAME", f"the options of {shared}", width)
    for name, option in options.items():
        lines += _row(f"  {name}", option.title, width)
    if group == "experiment":  # their keys are those of other groups
        return "\n".join(lines)
    first = sorted(options.values(), key=lambda option: option is not options.get(str(chosen)))
    keys: dict[str, tuple[str, str]] = {}
    for option in first:
        for key, (value, comment) in option.keys.items():
            known = keys.get(key)
            keys[key] = (value, comment) if known is None else (known[0], known[1] or comment)
    return "\n".join([*lines, *_keys(_Option("", keys))])


def _keys(option: _Option) -> Iterator[str]:
    for key, (value, comment) in option.keys.items():
        yield from _row(f"  {key}={value}", comment, 34)


def _row(left: str, right: str, width: int) -> list[str]:
    """Return a left and a right column, on several lines if the right one is long."""
    if len(left) >= width and right:
        return [left, *_row("", right, width)]
    wrapped = textwrap.wrap(right, WIDTH - width) or [""]
    return [f"{part:{width}}{text}".rstrip() for part, text in zip([left, *[""] * len(wrapped)], wrapped, strict=False)]


def _read(file: Path, group: str) -> _Option:
    """Read the comments of a config file; keys have the name of the group before them, unless the file is global."""
    text = file.read_text(encoding="utf-8")
    lines = text.splitlines()
    above = "" if "@package _global_" in text else group
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        if "@package" not in line:
            comment.append(line.removeprefix("#").strip())
    sentence = re.split(r"(?<!\bal)\. (?=[A-Z`])", " ".join(comment))[0] if group else ""
    keys: dict[str, tuple[str, str]] = {}
    stack: list[tuple[int, str]] = []
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            continue
        indent = len(match["indent"])
        stack = [(depth, name) for depth, name in stack if depth < indent]
        stack.append((indent, match["name"]))
        names = [name for _, name in stack]
        dotted = ".".join([above, *names] if above else names)
        is_own = not group or dotted.startswith(f"{group}.")
        if match["value"] and is_own and not set(names) & set(_HIDDEN):
            keys[dotted] = match["value"].strip(), match["comment"] or ""
    return _Option(sentence.rstrip(".:"), keys)
