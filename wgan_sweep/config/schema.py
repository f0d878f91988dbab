"""The config: its types, where its files are, and how it is composed, written and read."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from wgan_sweep.config.keys import referenced_keys, science_keys
from wgan_sweep.errors import InputError


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
    """The root. Groups of objects (``_target_``) are untyped here: the signature of the target is their type."""

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
    graphs: bool = MISSING
    runs: str = MISSING
    plan: bool = MISSING
    retry_diverged: bool = MISSING
    log_every: int = MISSING
    save_every: int = MISSING
    choices: dict[str, str] = field(default_factory=dict)
    """The chosen option of each group, by name; filled in when the config is composed."""


LAUNCHER = "hydra_plugins.wgan_sweep.SweepLauncher"
"""The name of our Hydra launcher: Hydra takes plugins only from this package, so the class is registered under it."""


def replicas(config: Config) -> int:
    """Return how many processes share each batch of a run.

    Raises:
        InputError: if it is less than one.
    """
    count = int(config.launch.get("gpus_per_run", 1))
    if count < 1:
        raise InputError(f"launch.gpus_per_run must be 1 or more, got {count}")
    return count


def conf_dir() -> Path:
    """Return the folder of the config groups: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def register() -> None:
    """Register the schema and the launcher with Hydra."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config, provider="wgan_sweep")
    store.store("sweep", {"_target_": LAUNCHER}, group="hydra/launcher", provider="wgan_sweep")


def finalise(composed: DictConfig, choices: Mapping[str, str | None]) -> Config:
    """Return the typed and resolved config of a composed one.

    Paths of data and runs become absolute. A group that no chosen option refers to (`div` for a loss without exponents)
    is left out of the choices.

    Args:
        composed: The config as Hydra composed it, with its interpolations.
        choices: The option of each group, by name, as Hydra gives it.

    Raises:
        InputError: for an unknown key, a value of another type, or a missing value.
    """
    # An option inside another option's node (`metric@scorer.metrics.fid`) is a detail of that option.
    named = {
        group: name for group, name in choices.items() if name and not group.startswith("hydra/") and "@" not in group
    }
    unused = unused_overrides(composed, set(named) & set(referenced_keys()))
    own_keys = [str(key) for key in composed if key not in ("hydra", "defaults")]
    try:
        # As plain values first: a typed node keeps keys that were added to it.
        plain = OmegaConf.to_container(OmegaConf.masked_copy(composed, own_keys), resolve=False)
        typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(plain))
        config = cast("Config", OmegaConf.to_object(typed))
    except ConfigKeyError as error:
        key = error.full_key or str(error)
        raise InputError(f"there is no config key {key}: leave it out (`wgan-sweep --help` lists the keys)") from error
    except OmegaConfBaseException as error:
        raise InputError(f"the config is not complete: {error}") from error
    config.choices = config.choices | {group: name for group, name in named.items() if group not in unused}
    config.runs = str(Path(config.runs).expanduser().absolute())
    if config.data.get("path"):
        config.data["path"] = str(Path(config.data["path"]).expanduser().absolute())
    return config


HYDRA = """\
# For Hydra: `wgan-sweep --config-path <this folder> --config-name config` asks for this run.
defaults:
  - override hydra/launcher: sweep
  - override hydra/job_logging: none
  - override hydra/hydra_logging: none
  - _self_
hydra:
  job: {name: wgan-sweep, chdir: false}
  output_subdir: null
  run: {dir: .}
  sweep: {dir: "${runs}/.sweeps/${now:%Y-%m-%dT%H-%M-%S}-${now:%f}", subdir: .}
  callbacks: {sweep: {_target_: wgan_sweep.commands.sweep.SweepCallback}}
"""


def to_yaml(config: Config) -> str:
    """Return the resolved config as YAML; `read` and Hydra restore the config from it."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(config))) + "\n" + HYDRA


def read(path: Path) -> Config:
    """Read the ``config.yaml`` of a run.

    Raises:
        InputError: if it does not fit the schema.
    """
    try:
        return finalise(cast("DictConfig", OmegaConf.load(path)), {})
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise InputError(f"{path} is not a run's config: {error}") from error


def unused_overrides(composed: DictConfig, keys: Iterable[str]) -> list[str]:
    """Return those of the overridden keys that no chosen option refers to.

    Args:
        composed: The composed config, with its interpolations.
        keys: Keys as given on the command line, for example ``div.k`` or ``sampling``.
    """
    raw = cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=False))
    used = {reference for key in science_keys() for reference in _references(raw.get(key.name.split(".")[0]))}
    for name in referenced_keys():
        if any(_related(name, reference) for reference in used):
            used |= set(_references(raw.get(name)))
    by_reference = [key for key in keys if key.split(".")[0] in referenced_keys()]
    return [key for key in by_reference if not any(_related(key, reference) for reference in used)]


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
    """Return whether two dotted keys are the same or one is above the other."""
    return key == other or key.startswith(other + ".") or other.startswith(key + ".")
