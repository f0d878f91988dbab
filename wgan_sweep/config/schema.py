"""The config: its types, where its files are, and how it is composed, written and read."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wgan_sweep.common.ranges import LARGEST_INT, Count, NonEmpty, Range, check_value, shown
from wgan_sweep.config import folders, help  # noqa: A004
from wgan_sweep.config.catalogue import option_values, unknown_key
from wgan_sweep.config.documents import dump_yaml, parse_yaml, read_yaml, refuse_interpolations
from wgan_sweep.config.folders import conf_dir as conf_dir
from wgan_sweep.config.keys import KEYS, leaves, referenced_keys, science_keys
from wgan_sweep.config.players import groups_of_players, sets_value
from wgan_sweep.errors import InputError


@dataclass
class Div:
    """Weight k and exponent p of the Wasserstein divergence."""

    k: Annotated[float, Range(above=0, remedy="W_(k,p) is a divergence for k > 0 and p > 1 only")] = MISSING
    p: Annotated[float, Range(above=1, remedy="W_(k,p) is a divergence for k > 0 and p > 1 only")] = MISSING


@dataclass
class Train:
    """How a run is trained."""

    steps: Annotated[int, Range(1, 10**12)] = MISSING
    batch_size: Annotated[int, Range(1, 10**9)] = MISSING
    n_critic: Annotated[int, Range(1, 10**6)] = MISSING
    ema: Annotated[float, Range(0, below=1, remedy="choose one in [0, 1); 0 turns averaging off")] = MISSING
    precision: NonEmpty = MISSING
    compile: bool = MISSING
    freeze_generator_at: Annotated[int, Range(0, LARGEST_INT, remedy="null: never")] | None = MISSING
    simultaneous: bool = MISSING
    # With a default, so that older configs can be read.
    generator_batch_size: Annotated[int, Range(1, 10**9, remedy="null: train.batch_size")] | None = None


@dataclass
class Decide:
    """How many runs a sweep that trains until its claims are decided may have."""

    max_seeds: Annotated[int, Range(2, 1000)] = 20
    budget: Any = None  # a text or null; it is checked where its unit is read
    batch: Annotated[int, Range(1, 1000)] = 1


NO_PRUNER = {"_target_": "wgan_sweep.runs.pruning.NoPruner"}
"""The option ``prune=none``."""


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
    generator_optimizer: Any = MISSING
    critic_optimizer: Any = MISSING
    schedule: Any = MISSING
    generator_schedule: Any = MISSING
    critic_schedule: Any = MISSING
    critic_updates: Any = MISSING
    train: Train = field(default_factory=Train)
    seed: int = MISSING
    features: Any = MISSING
    scorer: Any = MISSING
    tracker: Any = MISSING
    figure: Any = MISSING
    launch: Any = MISSING
    device: NonEmpty = MISSING
    graphs: bool = MISSING
    runs: NonEmpty = MISSING
    prune: Any = field(default_factory=lambda: dict(NO_PRUNER))  # with a default, so that older configs can be read
    archive: NonEmpty | None = None  # likewise
    claims: NonEmpty | None = None  # likewise
    decide: Decide = field(default_factory=Decide)
    plan: bool = MISSING
    retry_diverged: bool = MISSING
    log_every: Count = MISSING
    save_every: Count = MISSING
    reference: Any = None  # with a default, likewise; `reference.read_reference` gives its type
    choices: dict[str, str] = field(default_factory=dict)
    """The chosen option of each group, by name; filled in when the config is composed."""


NOT_OWN = ("hydra", "defaults")
"""Keys of a composed config that are not this package's: they are not part of a run's config."""
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


def register() -> None:
    """Register the schema, the launcher, the folders of options and the help with Hydra."""
    help.register()
    store = ConfigStore.instance()
    # Without types: `finalise` checks them, and names the key and the value.
    untyped = OmegaConf.to_container(OmegaConf.structured(Config), resolve=False)
    store.store(name="schema", node=untyped, provider="wgan_sweep")
    store.store("sweep", {"_target_": LAUNCHER}, group="hydra/launcher", provider="wgan_sweep")
    folders.register()


def finalise(composed: DictConfig, choices: Mapping[str, str | None]) -> Config:
    """Return the typed and resolved config of a composed one.

    Paths of data and runs become absolute. A group that no chosen option refers to (`div` for a loss without k and p)
    is left out of the choices. A config from before a group existed gets the option that stands for it.

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
    values = _resolve(composed)
    for key in KEYS:
        if key.legacy_option and values.get(key.name) is None:
            values[key.name] = option_values(key.name, key.legacy_option)
    _check_types(values, Config, "")
    config = _typed_if_plain(values) or _converted(values)
    config.choices = config.choices | {group: name for group, name in named.items() if group not in unused}
    config.runs = _absolute(config.runs, "runs")
    if config.archive is not None:
        config.archive = _absolute(config.archive, "archive")
    if isinstance(path := config.data.get("path"), str) and path:
        config.data["path"] = _absolute(path, "data.path")
    return config


def _converted(values: dict[str, Any]) -> Config:
    """Return the typed config of plain values: a text is converted to the number that it stands for.

    Raises:
        InputError: for a value that cannot be converted, a missing one, or a group that is not an option.
    """
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(values))
        for key in KEYS:
            node = values.get(key.name, NO_PRUNER if key.name == "prune" else None)
            if key.is_group and not isinstance(node, Mapping):
                raise InputError(f"{key.name} must be an option, got {shown(node)}: choose {key.name}=NAME")
        return cast("Config", OmegaConf.to_object(typed))
    except OmegaConfBaseException as error:
        raise InputError(
            f"{error.full_key or 'the config'} is invalid or missing: {str(error).splitlines()[0]}"
        ) from error


def _typed_if_plain(values: dict[str, Any]) -> Config | None:
    """Return the same config as `_converted`, much faster, if no value has to be converted; otherwise None."""
    are_options = all(isinstance(values.get(key.name), Mapping) for key in KEYS if key.is_group)
    if not are_options or any(mark in repr(values) for mark in ("${", "???")):
        return None
    return cast("Config | None", _instance(Config, values))


_NOT_PLAIN: Any = object()


def _instance(schema: Any, values: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass, or None if a value of it has another type or is missing."""
    parameters: dict[str, Any] = {}
    for name, hint in _hints(schema).items():
        value = values.get(name, _NOT_PLAIN)
        if is_dataclass(hint):
            value = (_instance(hint, value) if isinstance(value, Mapping) else None) or _NOT_PLAIN
        elif hint is float and type(value) is int:
            value = float(value)
        elif hint == dict[str, str] and value == {}:
            value = {}
        elif hint is not Any and type(value) not in (get_args(hint) or (hint,)):
            value = _NOT_PLAIN
        if value is _NOT_PLAIN:
            return None
        parameters[name] = value
    return schema(**parameters)


@cache
def _hints(schema: Any, *, with_ranges: bool = False) -> dict[str, Any]:
    return get_type_hints(schema, include_extras=with_ranges)


@contextmanager
def _without(config: DictConfig, *names: str) -> Iterator[None]:
    """Hide nodes of the first level: they are not converted, and interpolations do not find them."""
    content = config.__dict__["_content"]
    config.__dict__["_content"] = {name: node for name, node in content.items() if name not in names}
    try:
        yield
    finally:
        config.__dict__["_content"] = content


def _resolve(composed: DictConfig) -> dict[str, Any]:
    """Return the values of the own keys, with their interpolations replaced by what they refer to.

    Raises:
        InputError: for an interpolation that cannot be resolved.
    """
    try:
        with _without(composed, *NOT_OWN):
            return cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=True))
    except (OmegaConfBaseException, RecursionError) as error:
        values = dict(leaves(_unresolved(composed)))
        problems = {key: _interpolation_problem(composed, key, value) for key, value in values.items()}
        bad = [key for key, problem in problems.items() if problem is not None]
        # A key that refers to another bad one is not at fault itself.
        faults = [
            key for key in bad if not any(_related(r, o) for r in _references(values[key]) for o in bad if o != key)
        ]
        for key in faults or bad:
            raise InputError(
                f"{key}={values[key]} cannot be resolved ({problems[key]}): give it a value, or correct the reference"
            ) from error
        raise InputError(f"the config cannot be resolved: {str(error).splitlines()[0]}") from error


def _unresolved(composed: DictConfig) -> dict[str, Any]:
    """Return the values of the own keys, with their interpolations as text."""
    with _without(composed, *NOT_OWN):
        return cast("dict[str, Any]", OmegaConf.to_container(composed, resolve=False))


def _interpolation_problem(composed: DictConfig, key: str, value: Any) -> str | None:
    if "${" not in str(value):
        return None
    try:
        OmegaConf.to_container(OmegaConf.create({"value": OmegaConf.select(composed, key)}), resolve=True)
    except RecursionError:
        return "it refers to itself"
    except OmegaConfBaseException as error:
        return str(error).splitlines()[0]
    return None


def _check_types(values: Any, schema: Any, above: str) -> None:
    """Check keys and types of plain values below a dataclass. A text may stand for any value: it is converted later.

    Raises:
        InputError: for an unknown key, or a value of another type.
    """
    hints = _hints(schema)
    for name, value in values.items():
        key = f"{above}{name}"
        if name not in hints:
            raise InputError(unknown_key(key, Config))
        if is_dataclass(hints[name]):
            if not isinstance(value, Mapping):
                raise InputError(f"{key} must hold {', '.join(_hints(hints[name]))}, got {shown(value)}")
            _check_types(value, hints[name], f"{key}.")
        elif missing := [leaf for leaf, value in leaves(value, key) if value == MISSING]:
            raise InputError(f"{missing[0]} is missing: set {missing[0]}=VALUE")
        elif hints[name] is str and type(value) in (int, float):
            continue  # `runs=2024`
        elif not isinstance(value, str):
            check_value(value, hints[name], key)


def check_ranges(config: Any, schema: Any = Config, above: str = "") -> None:
    """Check the values of a typed config against the ranges of its schema.

    Args:
        config: The config, or a node of it.
        schema: Its dataclass.
        above: The dotted key of the node, with a dot at its end.

    Raises:
        InputError: for a value out of range.
    """
    for name, hint in _hints(schema, with_ranges=True).items():
        value = getattr(config, name)
        if is_dataclass(hint):
            check_ranges(value, hint, f"{above}{name}.")
        else:
            check_value(value, hint, f"{above}{name}")


def _absolute(path: str, key: str) -> str:
    check_value(path, NonEmpty, key)
    try:
        return str(Path(path).expanduser().absolute())
    except RuntimeError as error:  # the home of an unknown user
        raise InputError(f"{key}={path} cannot be a path ({error}): give another one") from error


def to_yaml(config: Config) -> str:
    """Return the resolved config as YAML; `read` restores the config from it."""
    return dump_yaml(asdict(config))


def read(path: Path) -> Config:
    """Read the ``config.yaml`` of a run.

    Raises:
        InputError: if it does not fit the schema.
    """
    return _from_values(read_yaml(path), path)


def parse(text: str, source: object, **defaults: Any) -> Config:
    """Return the config of a run, from the text of its ``config.yaml``.

    Args:
        text: The text.
        source: Its name in messages.
        **defaults: The values of keys that the text may lack.

    Raises:
        InputError: as `read`.
    """
    return _from_values({**defaults, **parse_yaml(text, source)}, source)


def _from_values(values: dict[str, Any], source: object) -> Config:
    kept = {name: value for name, value in values.items() if name not in ("hydra", "defaults")}
    refuse_interpolations(kept, source)
    try:
        return finalise(OmegaConf.create(kept), {})
    except (InputError, OmegaConfBaseException) as error:
        raise InputError(f"{source} is not a run's config: {error}") from error


def unused_overrides(composed: DictConfig, keys: Iterable[str]) -> list[str]:
    """Return those of the overridden keys that no chosen option refers to.

    Args:
        composed: The composed config, with its interpolations.
        keys: Keys as given on the command line, for example ``div.k`` or ``sampling``.
    """
    raw = _unresolved(composed)
    used = _used_references(raw)
    by_reference = [key for key in keys if key.split(".")[0] in referenced_keys()]
    return [key for key in by_reference if not any(_related(key, reference) for reference in used)]


def replaced_overrides(composed: DictConfig, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return those of the overridden keys that no player uses, with the groups of the players that replace them.

    Args:
        composed: The composed config, with its interpolations.
        keys: Keys as given on the command line, for example ``optimizer.lr``.
    """
    raw = _unresolved(composed)
    used, groups = _used_references(raw), groups_of_players()
    replaced = {}
    for key in keys:
        group, _, name = key.partition(".")
        own = groups.get(group, [])
        is_replaced = bool(own) and all(sets_value(raw.get(one), name) for one in own)
        if is_replaced and not any(_related(key, reference) for reference in used):
            replaced[key] = own
    return replaced


def _used_references(raw: Mapping[str, Any]) -> set[str]:
    """Return the keys that the interpolations of science keys refer to, directly or through other keys."""
    used = {reference for key in science_keys() for reference in _references(raw.get(key.name.split(".")[0]))}
    for name in referenced_keys():
        if any(_related(name, reference) for reference in used):
            used |= set(_references(raw.get(name)))
    return used


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
