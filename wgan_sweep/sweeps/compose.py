"""Composes the configs of a sweep's jobs faster than Hydra: what jobs share is composed once."""

import copy
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

log = logging.getLogger("wgan_sweep")


@dataclass
class _Base:
    """The config of a choice of groups."""

    config: DictConfig
    """As Hydra composed it; never changed."""
    working: DictConfig
    """A copy, on which the values of one job are set."""
    changed: set[str]
    """Its keys of the first level that the last job has changed."""

    def reset(self) -> None:
        """Undo the changes of the last job."""
        if not self.changed:
            return
        original, nodes = self.config.__dict__["_content"], self.working.__dict__["_content"]
        restored = {name: copy.deepcopy(original[name]) for name in self.changed if name in original}
        for node in restored.values():
            node._set_parent(self.working)
        content = {name: restored[name] if name in self.changed else nodes[name] for name in original}
        self.working.__dict__["_content"] = content
        self.changed = set()


class Composer:
    """Replaces the method `load_sweep_config` of Hydra's config loader.

    Each choice of config groups is composed once. The values of a job are set on a copy, which the next job of the same
    choice uses again. The first job that sets other keys, or values of other types, than those before is also composed
    by Hydra: if the results differ, or a job cannot be composed, the result of Hydra is what counts.

    Args:
        loader: Hydra's config loader.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self._load = loader.load_sweep_config
        self._is_group = cache(loader.repository.group_exists)
        parser = OverridesParser.create()
        self._parse = cache(lambda override: parser.parse_overrides([override])[0])
        self._bases: dict[tuple[str, ...], _Base] = {}
        """By the choice of groups."""
        self._is_exact: dict[tuple[object, ...], bool] = {}
        """Whether Hydra composed the same config, by the choice of groups, the other keys, and the types of values."""

    @classmethod
    def install(cls, loader: ConfigLoader) -> Self:
        """Replace a loader's method by a new composer; return the composer."""
        composer = cls(cast("ConfigLoaderImpl", loader))
        loader.load_sweep_config = composer  # type: ignore[method-assign]
        return composer

    def __call__(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Return the config of one job. Do not change it; it holds the job's values until the next call.

        Raises:
            HydraException, OmegaConfBaseException: as Hydra does, if the job cannot be composed.
        """
        overrides = [self._parse(override) for override in sweep_overrides]
        values = [override for override in overrides if self._is_value(override)]
        groups = tuple(override.input_line or "" for override in overrides if not self._is_value(override))
        keys = [(override.input_line or "").partition("=")[0] for override in values]
        shape = (groups, *keys, *(type(override.value()) for override in values))
        if not self._is_exact.get(shape, True):
            return self._load(master_config, list(sweep_overrides))
        try:
            config = self._quickly(master_config, groups, values, overrides)
        except (HydraException, OmegaConfBaseException):
            return self._load(master_config, list(sweep_overrides))
        if shape not in self._is_exact:
            expected = self._load(master_config, list(sweep_overrides))
            self._is_exact[shape] = _is_same(config, expected)
            if not self._is_exact[shape]:
                log.info("runs like %s are composed by Hydra, which takes longer", " ".join(sweep_overrides))
                return expected
        return config

    def _quickly(
        self,
        master_config: DictConfig,
        groups: tuple[str, ...],
        values: Sequence[Override],
        overrides: Sequence[Override],
    ) -> DictConfig:
        """Return the config of a choice of groups, with values set on it."""
        if groups not in self._bases:
            config = self._load(master_config, list(groups))
            self._bases[groups] = _Base(config, copy.deepcopy(config), set())
        base = self._bases[groups]
        base.reset()
        base.changed = {re.split(r"[.\[\]]+", override.key_or_group.lstrip("["))[0] for override in values}
        config = base.working
        ConfigLoaderImpl._apply_overrides_to_config(list(values), config)
        task_overrides = [override for override in overrides if not override.is_hydra_override()]
        with open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in task_overrides]
            style = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(
                task_overrides, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
            )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        return config

    def _is_value(self, override: Override) -> bool:
        """Return whether an override sets a value, and so does not change which files are composed."""
        return not (override.is_hydra_override() or self._is_group(override.key_or_group))


def _is_same(config: DictConfig, expected: DictConfig) -> bool:
    """Return whether two configs hold the same values, interpolations included, in the same order."""
    ours, theirs = (OmegaConf.to_container(one, resolve=False) for one in (config, expected))
    return repr(ours) == repr(theirs)


def task_overrides(hydra_config: DictConfig) -> list[str]:
    """Return the overrides of a job or sweep as they were given: an interpolation in one is not resolved."""
    return cast("list[str]", OmegaConf.to_container(hydra_config.overrides.task, resolve=False))


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a config node, resolved, as plain dictionaries."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
