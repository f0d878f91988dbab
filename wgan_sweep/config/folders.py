"""The folders that hold options: the one of this package, those of installed plugins, and those that the user names.

A folder that the command line names (`--config-dir`) may also hold modules, which become importable. It is trusted
because the user named it, and a plugin because the user installed it. A run directory is never used as such a folder.
"""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import invalidate_caches, metadata
from importlib.util import find_spec
from pathlib import Path

import yaml
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from wgan_sweep.config.players import groups_of_players
from wgan_sweep.errors import InputError, one_line

FLAG = "--config-dir"
"""The option by which a command line names a folder."""
ENTRY_POINTS = "wgan_sweep.configs"
"""The group of entry points by which a distribution adds its folder: ``name = "package.folder"``."""
_TARGET = re.compile(r"_target_: *[\"']?([\w.]+)")


@dataclass(frozen=True)
class OptionFolder:
    """A folder with options, ``GROUP/NAME.yaml``."""

    path: Path
    origin: str
    """Where it comes from, for messages and for Hydra."""
    package: str | None = None
    """The package of a plugin."""


_named: list[OptionFolder] = []
"""The folders that the user named."""


def conf_dir() -> Path:
    """Return the folder of this package's options: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def extensions() -> list[OptionFolder]:
    """Return the folders of plugins and those that the user named, in the order in which Hydra searches them.

    Raises:
        InputError: if a plugin is broken.
    """
    return [*plugins(), *_named]


def named() -> tuple[str, ...]:
    """Return the paths of the folders that the user named, to `use` them in another process."""
    return tuple(str(folder.path) for folder in _named)


def modules() -> list[str]:
    """Return the names of the modules and packages in the folders that the user named."""
    return [name for folder in _named for name in _modules_in(folder.path)]


def trusted_names() -> list[str]:
    """Return what a run directory may name, too, because of the folders that the user named.

    These are the modules in the folders, and the functions and classes of libraries that their config files name.
    """
    return [*modules(), *sorted({name for folder in _named for name in targets_in(folder.path)})]


def use(path: Path | str) -> None:
    """Use a folder that the user named: its options can be chosen, and its modules imported.

    Raises:
        InputError: if it is missing or a run directory, or if it has a module or an option of an existing name.
    """
    folder = Path(path).expanduser().absolute()
    added = OptionFolder(folder, f"{FLAG}={path}")
    if not str(path):
        raise InputError(f"{FLAG} is empty: give a folder that holds GROUP/NAME.yaml")
    if any(folder == other.path for other in _named):
        return
    if not folder.is_dir():
        raise InputError(f"{added.origin}: there is no such folder; give one that holds GROUP/NAME.yaml")
    if (folder / "record.json").exists():
        raise InputError(
            f"{added.origin} is a run directory, from which no code is taken: to request that run again, use "
            f"--config-path={path}"
        )
    for name in _modules_in(folder):
        if existing := _module_elsewhere(name, folder):
            raise InputError(
                f"{added.origin} has a module {name}, but {existing} has the same name and would be imported in its "
                "place: rename yours"
            )
    _check_options(added, extensions())
    _named.append(added)
    sys.path.append(str(folder))  # at the end: it replaces no other module
    invalidate_caches()


@cache
def plugins() -> tuple[OptionFolder, ...]:
    """Return the folders of installed plugins, by the names of their distributions. None of their code is run.

    Raises:
        InputError: if a plugin is broken, naming its distribution.
    """
    found: list[OptionFolder] = []
    for distribution in _plugin_distributions():
        for plugin in _folders_of(distribution):
            _check_options(plugin, found)
            found.append(plugin)
    return tuple(found)


def plugin_targets() -> frozenset[str]:
    """Return the names of the options of plugins: targets in their config files that belong to their own package."""
    named_targets = ((plugin, name) for plugin in plugins() for name in targets_in(plugin.path))
    return frozenset(name for plugin, name in named_targets if name.partition(".")[0] == plugin.package)


def targets_in(folder: Path) -> Iterator[str]:
    """Yield the targets that the config files of a folder name."""
    for file in folder.rglob("*.yaml"):
        yield from _TARGET.findall(file.read_text(encoding="utf-8", errors="replace"))


class OptionFolders(SearchPathPlugin):
    """Lets Hydra find the options of plugins and users, after those of this package."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders, and offer the options of both players to each player."""
        _offer_to_each_player(conf_dir())
        for folder in extensions():
            search_path.append(folder.origin, f"file://{folder.path}")
            _offer_to_each_player(folder.path)


def _offer_to_each_player(folder: Path) -> None:
    """Store ``critic_optimizer=NAME`` with the values of ``optimizer=NAME``, and so on, for the options of a folder."""
    for group, own_groups in groups_of_players().items():
        for file in (folder / group).rglob("*.yaml"):
            name = file.relative_to(folder / group).with_suffix("").as_posix()
            for own in own_groups:
                node = {"defaults": [{f"/{group}@_here_": name}]}
                ConfigStore.instance().store(name, node, group=own, provider="wgan_sweep")


def register() -> None:
    """Let Hydra search the folders, too, whenever it composes a config in this process."""
    Plugins.instance().register(OptionFolders)


def _modules_in(folder: Path) -> list[str]:
    packages = {path.parent.name for path in folder.glob("*/*.py")}
    files = {path.stem for path in folder.glob("*.py")}
    return sorted(name for name in packages | files if name.isidentifier() and not name.startswith("__"))


def _module_elsewhere(name: str, folder: Path) -> str | None:
    """Return which other module has the name of a module in a folder; None if there is none."""
    try:
        spec = find_spec(name)
    except ValueError:  # it is loaded, and does not say from where
        return f"the module {name}"
    if spec is None or spec.origin is None:  # a folder without `__init__.py` is found only if there is nothing else
        return None
    if spec.origin in ("built-in", "frozen"):
        return f"Python's module {name}"
    return None if Path(spec.origin).resolve().is_relative_to(folder.resolve()) else spec.origin


def _check_options(added: OptionFolder, others: Iterable[OptionFolder]) -> None:
    """Refuse a folder with an option of a name that exists already: Hydra would choose the other one."""
    own = OptionFolder(conf_dir(), "wgan-sweep")
    for other in (own, *others):
        for file in sorted(other.path.glob("*/**/*.yaml")):
            if (added.path / (option := file.relative_to(other.path))).is_file():
                raise InputError(
                    f"{added.origin} has an option {option}, but {other.origin} has one of the same name, which would "
                    "be chosen in its place: rename the file"
                )


def _problem_of(file: Path) -> str | None:
    """Return why Hydra could not read a config file; None if it can."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        return one_line(error)
    return None if isinstance(content, dict | None) else "it holds no keys and values"


def _plugin_distributions() -> list[metadata.Distribution]:
    """Return the installed distributions that have entry points of our group, by name; the first of each name."""
    found: dict[str, metadata.Distribution] = {}
    for distribution in metadata.distributions():
        with suppress(UnicodeDecodeError):  # not ours
            if ENTRY_POINTS in (distribution.read_text("entry_points.txt") or ""):
                found.setdefault(_name(distribution), distribution)
    return [found[name] for name in sorted(found)]


def _name(distribution: metadata.Distribution) -> str:
    with suppress(UnicodeDecodeError):
        if distribution.read_text("METADATA") and "Name" in (known := distribution.metadata):
            return known["Name"]
    return Path(getattr(distribution, "_path", "of unknown name")).name


def _folders_of(distribution: metadata.Distribution) -> Iterator[OptionFolder]:
    label = f"the plugin {_name(distribution)}"
    remedy = "repair it, or uninstall it"
    try:
        points = [(str(point.name), str(point.value)) for point in distribution.entry_points.select(group=ENTRY_POINTS)]
    except (TypeError, ValueError) as error:  # as importlib.metadata reports a line without "="
        raise InputError(f"{label}: its entry_points.txt cannot be read ({one_line(error)}): {remedy}") from error
    for name, value in points:
        where = f"{label}: its entry point {name} = {value}"
        package, *below = value.split(".")
        if not all(part.isidentifier() for part in (package, *below)):
            raise InputError(f"{where} is not the name of a folder of a package, as package.conf is: {remedy}")
        spec = find_spec(package)
        if spec is None:
            raise InputError(f"{where} names a package that is not installed: {remedy}")
        folders = [Path(location, *below).absolute() for location in spec.submodule_search_locations or ()]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise InputError(f"{where} names a folder that does not exist: {remedy}")
        if not any(folder.glob("*/*.yaml")):
            raise InputError(f"{where} names a folder without options, GROUP/NAME.yaml: {remedy}")
        for file in sorted(folder.rglob("*.yaml")):
            if problem := _problem_of(file):
                raise InputError(f"{label}: {file} cannot be read ({problem}): {remedy}")
        yield OptionFolder(folder, label, package)
