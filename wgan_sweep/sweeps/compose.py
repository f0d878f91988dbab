"""Composes the configs of a sweep's jobs faster than Hydra: what jobs share is composed once."""

import copy
from collections.abc import Sequence
from typing import Any, Self, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict


class Composer:
    """Replaces the method `load_sweep_config` of Hydra's config loader.

    Each choice of config groups is composed once; the values of a job are set on a copy. Hydra's sweepers compose each
    job to validate it, and launchers compose it again: the second call returns the result of the first.

    Args:
        loader: Hydra's config loader.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self._loader = loader
        self._load = loader.load_sweep_config
        self._parser = OverridesParser.create()
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        """Composed configs by their choice of groups."""
        self._validated: dict[tuple[str, ...], DictConfig] = {}
        """Composed configs of jobs, by their overrides, that were returned once."""

    @classmethod
    def install(cls, loader: ConfigLoader) -> Self:
        """Replace a loader's method by a new composer; return the composer."""
        composer = cls(cast("ConfigLoaderImpl", loader))
        loader.load_sweep_config = composer  # type: ignore[method-assign]
        return composer

    def __call__(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Return the config of one job."""
        key = tuple(sweep_overrides)
        if key in self._validated:
            return self._validated.pop(key)
        overrides = self._parser.parse_overrides(list(key))
        groups = tuple(override.input_line or "" for override in overrides if not self._is_value(override))
        if groups not in self._bases:
            self._bases[groups] = self._load(master_config, list(groups))
        config: DictConfig = copy.deepcopy(self._bases[groups])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in overrides if self._is_value(o)], config)
        task_overrides = [override for override in overrides if not override.is_hydra_override()]
        with open_dict(config.hydra):
            config.hydra.overrides.task = [override.input_line for override in task_overrides]
            style = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(
                task_overrides, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
            )
        OmegaConf.copy_cache(from_config=master_config, to_config=config)
        self._validated[key] = config
        return config

    def _is_value(self, override: Override) -> bool:
        """Return whether an override sets a value, and so does not change which files are composed."""
        return not (override.is_hydra_override() or self._loader.repository.group_exists(override.key_or_group))


def task_overrides(hydra_config: DictConfig) -> list[str]:
    """Return the overrides of a job or sweep as they were given: an interpolation in one is not resolved."""
    return cast("list[str]", OmegaConf.to_container(hydra_config.overrides.task, resolve=False))


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a config node, resolved, as plain dictionaries."""
    return cast("dict[str, Any]", OmegaConf.to_container(node, resolve=True))
