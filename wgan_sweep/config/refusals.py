"""One line for each kind of bad input that Hydra and OmegaConf refuse: the key, the value and the remedy."""

import re
from collections.abc import Sequence

import yaml
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.catalogue import unknown_key
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError

BAD_INPUT = (InputError, HydraException, OmegaConfBaseException, RecursionError, yaml.YAMLError)
"""The exceptions of a config that cannot be composed."""


def explain(error: BaseException, overrides: Sequence[str] = ()) -> str:
    """Return one line that tells what is wrong with the input, the value, and the remedy.

    Args:
        error: One of `BAD_INPUT`.
        overrides: The overrides of the command line.
    """
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, yaml.YAMLError):
        return f"a config file cannot be read ({_one_line(error)}): correct it"
    if isinstance(error, MissingConfigException) and (missing := error.missing_cfg_file):
        group, slash, option = missing.rpartition("/")
        if not slash or error.options is None:
            return _one_line(error)
        names = error.options
        return f"{group}={option}: no such option{did_you_mean(option, names) or ';'} options: {', '.join(names)}"
    if isinstance(error, OverrideParseException):
        return (
            f"the override {error.override!r} cannot be read ({_first_line(error.message)}): "
            "write key=value, and quote the value for the shell and for Hydra, as in 'key=\"a, b\"'"
        )
    if isinstance(error, RecursionError):
        return f"an interpolation refers to itself{_interpolating(overrides)}: give it a value"
    text = str(error)
    if match := re.search(r"Could not (?:override|delete from config\.?) '([^']+)'", text):
        return unknown_key(match[1].split("@")[0], Config)
    cause: BaseException = error
    while isinstance(cause, ConfigCompositionException) and cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, RecursionError):
        return explain(cause, overrides)
    key = getattr(cause, "full_key", None)
    named = f"{key}: " if key else ""
    context = f"{_first_line(text)}: " if cause is not error else ""
    return f"{named}{context}{_first_line(str(cause))}{_interpolating(overrides)}; correct it or leave it out"


def _interpolating(overrides: Sequence[str]) -> str:
    named = [override for override in overrides if "${" in override]
    return f" (given: {', '.join(named)})" if named else ""


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0].rstrip(". ") if text.strip() else "invalid"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
