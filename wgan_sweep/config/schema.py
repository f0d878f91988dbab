"""The config: its types, the part of it that is science, and where its files are."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wgan_sweep.errors import InputError
from wgan_sweep.runs import directory as runs


@dataclass
class Div:
    """Exponents of the Wasserstein divergence."""

    k: float = MISSING
    p: float = MISSING


@dataclass
class Train:
    """How a run is trained."""

    steps: int = MISSING
    batch_size: int = MISSING
    n_critic: int = MISSING
    ema: float = MISSING
    precision: str = MISSING
    compile: bool = MISSING
    freeze_generator_at: int | None = MISSING
    simultaneous: bool = MISSING


@dataclass
class Config:
    """The root. A group of objects (``_target_``) is untyped here: the object's signature is its type."""

    loss: Any = MISSING
    constraint: Any = MISSING
    sampling: Any = MISSING
    div: Div = field(default_factory=Div)
    stabiliser: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING
    optimizer: Any = MISSING
    train: Train = field(default_factory=Train)
    seed: int = MISSING
    features: Any = MISSING
    scorer: Any = MISSING
    tracker: Any = MISSING
    figure: Any = MISSING
    launch: Any = MISSING
    device: str = MISSING
    graphs: bool = True  # runs that are older than it can be read
    runs: str = MISSING
    plan: bool = MISSING
    retry_diverged: bool = MISSING
    log_every: int = MISSING
    save_every: int = MISSING
    choices: dict[str, str] = field(default_factory=dict)
    """Which option of each group was chosen, by name; filled in when the config is composed."""


LAUNCHER = "hydra_plugins.wgan_sweep.Cells"
"""Hydra takes plugins from this package only, by name; `cli` registers the class itself."""


def replicas(config: Config) -> int:
    """Return how many processes share each batch of a run.

    Raises:
        InputError: for less than one.
    """
    count = int(config.launch.get("gpus_per_run", 1))
    if count < 1:
        raise InputError(f"launch.gpus_per_run must be 1 or more, got {count}")
    return count


SCIENCE = ("loss", "constraint", "stabiliser", "model", "data", "optimizer", "train", "seed")
BY_REFERENCE = ("div", "sampling")
"""Groups that count where one of `SCIENCE` refers to them, and nowhere else."""


def conf_dir() -> Path:
    """Return the folder of the config groups: beside the package where it was installed, else the checkout's."""
    package = Path(__file__).parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def register() -> None:
    """Make the types known to Hydra, as ``schema``, and the launcher that a sweep's runs go through."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config, provider="wgan_sweep")
    store.store("cells", {"_target_": LAUNCHER}, group="hydra/launcher", provider="wgan_sweep")


def finalise(composed: DictConfig, choices: Mapping[str, str | None]) -> Config:
    """Return the typed, resolved config of a composed one.

    Paths of data and runs are made absolute. A group that no chosen option refers to is no choice (`div` for a loss
    without exponents).

    Raises:
        InputError: if a value is missing or refers to nothing.
    """
    # An option within another one's node (`metric@scorer.metrics.fid`) is a detail of that one.
    named = {group: name for group, name in choices.items() if name and not group.startswith("hydra/")}
    named = {group: name for group, name in named.items() if "@" not in group}
    unused = unused_overrides(composed, set(named) & set(BY_REFERENCE))
    composed = OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in ("hydra", "defaults")])
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), composed)
        config = cast("Config", OmegaConf.to_object(typed))
    except OmegaConfBaseException as error:
        raise InputError(f"the config is not complete: {error}") from error
    config.choices = config.choices | {group: name for group, name in named.items() if group not in unused}
    config.runs = str(Path(config.runs).expanduser().absolute())
    if config.data.get("path"):
        config.data["path"] = str(Path(config.data["path"]).expanduser().absolute())
    return config


def science(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run's identity is made of, from a config or from one that a record holds.

    Not in it: how far it is trained (`train.steps`), how it is computed (`train.compile`, `device`), where files are
    (`data.root`), and what only looks (scorer, tracker, cadence).
    """
    every = config if isinstance(config, Mapping) else asdict(config)
    values = {name: every.get(name) for name in SCIENCE}
    aside = {"train": ("steps", "compile"), "data": ("root",)}
    for group, names in aside.items():
        values[group] = {name: value for name, value in (values[group] or {}).items() if name not in names}
    return cast("dict[str, Any]", runs.canonical(values))


def run_id(config: Config) -> str:
    """Return the name of the run that this config asks for."""
    return runs.run_id(science(config))


def differences(one: Any, other: Any, key: str = "") -> Iterator[str]:
    """Yield ``key: value in one, value in other`` for each leaf in which two configs differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in sorted({*one, *other}):
            yield from differences(one.get(name), other.get(name), f"{key}.{name}" if key else name)
    elif one != other:
        yield f"{key}: {one!r}, {other!r}"


def check_science(place: Path, theirs: Mapping[str, Any], config: Config) -> None:
    """Refuse a place that belongs to a run of other science.

    Raises:
        InputError: naming the differences.
    """
    if found := list(differences(theirs, science(config))):
        raise InputError(
            f"{place} belongs to another config (key: there, here): {'; '.join(found)}. "
            "Move it away to train anew, or ask for its config"
        )


HYDRA = """\
# Hydra's part: so that `wgan-sweep --config-path <this folder> --config-name config` asks for this run.
defaults:
  - override hydra/launcher: cells
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
  - _self_
hydra:
  job: {name: wgan-sweep, chdir: false}
  output_subdir: null
  run: {dir: .}
  sweep: {dir: "${runs}/.sweeps/${now:%Y-%m-%dT%H-%M-%S}-${now:%f}", subdir: .}
  callbacks: {sweep: {_target_: wgan_sweep.commands.sweep.Sweep}}
"""


def to_yaml(config: Config) -> str:
    """Return the config as yaml, resolved; `read` gives it back, and so does Hydra."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config))) + "\n" + HYDRA


def read(path: Path) -> Config:
    """Read the ``config.yaml`` of a run.

    Raises:
        InputError: if it does not fit the schema.
    """
    try:
        return finalise(cast("DictConfig", OmegaConf.load(path)), {})
    except OmegaConfBaseException as error:
        raise InputError(f"{path} is not a run's config: {error}") from error


def _references(node: Any) -> Iterator[str]:
    """Yield the keys that the interpolations below a node refer to."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
    elif isinstance(node, str):
        for part in node.split("${")[1:]:
            yield part.split("}")[0]


def _related(key: str, other: str) -> bool:
    return key == other or key.startswith(other + ".") or other.startswith(key + ".")


def unused_overrides(composed: DictConfig, keys: Iterable[str]) -> list[str]:
    """Return those of the overridden keys that no chosen option refers to.

    Args:
        composed: The composed config, with its interpolations.
        keys: Keys as given on the command line, for example ``div.k`` or ``sampling``.
    """
    raw = cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=False))
    used = {reference for name in SCIENCE for reference in _references(raw.get(name))}
    for name in BY_REFERENCE:
        if any(_related(name, reference) for reference in used):
            used |= set(_references(raw.get(name)))
    of_reference = [key for key in keys if key.split(".")[0] in BY_REFERENCE]
    return [key for key in of_reference if not any(_related(key, reference) for reference in used)]
