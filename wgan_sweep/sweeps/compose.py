"""Composing the configs of a sweep: Hydra's result, without its work for what all of them share."""

import copy
from collections.abc import Sequence
from typing import Self, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf, open_dict


class Composer:
    """Stands for a loader's `load_sweep_config`: composes each choice of groups once, and sets values on copies.

    Hydra's sweepers compose each job to see whether it can be, and launchers compose it again: here the second asker
    gets what the first one got.

    Args:
        loader: Hydra's loader.
    """

    def __init__(self, loader: ConfigLoaderImpl) -> None:
        self._loader = loader
        self._load = loader.load_sweep_config
        self._parser = OverridesParser.create()
        self._bases: dict[tuple[str, ...], DictConfig] = {}
        self._made: dict[tuple[str, ...], DictConfig] = {}

    @classmethod
    def of(cls, loader: ConfigLoader) -> Self:
        """Return one that takes the place of a loader's method."""
        composer = cls(cast("ConfigLoaderImpl", loader))
        loader.load_sweep_config = composer  # type: ignore[method-assign]
        return composer

    def __call__(self, master_config: DictConfig, sweep_overrides: Sequence[str]) -> DictConfig:
        """Return the config of one job."""
        key = tuple(sweep_overrides)
        if key in self._made:
            return self._made.pop(key)
        parsed = self._parser.parse_overrides(list(key))
        groups = tuple(o.input_line or "" for o in parsed if not self._is_value(o))
        if groups not in self._bases:
            self._bases[groups] = self._load(master_config, list(groups))
        made: DictConfig = copy.deepcopy(self._bases[groups])
        ConfigLoaderImpl._apply_overrides_to_config([o for o in parsed if self._is_value(o)], made)
        own = [o for o in parsed if not o.is_hydra_override()]
        with open_dict(made.hydra):
            made.hydra.overrides.task = [o.input_line for o in own]
            style = made.hydra.job.config.override_dirname
            made.hydra.job.override_dirname = get_overrides_dirname(
                own, kv_sep=style.kv_sep, item_sep=style.item_sep, exclude_keys=style.exclude_keys
            )
        OmegaConf.copy_cache(from_config=master_config, to_config=made)
        self._made[key] = made
        return made

    def _is_value(self, override: Override) -> bool:
        """Say whether an override sets a value, and so changes nothing of which files are composed."""
        return not (override.is_hydra_override() or self._loader.repository.group_exists(override.key_or_group))
