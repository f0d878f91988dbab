"""The published value with which the runs of a recipe are compared: the config section ``reference``."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

from wgan_sweep.common.ranges import NonEmpty, Range, check_value, shown
from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.errors import InputError

KEY = "reference"


@dataclass(frozen=True)
class Reference:
    """A published value, where it was published, and how the recipe's own setting differs."""

    source: NonEmpty
    """Publication and code, as text."""
    metric: NonEmpty = "fid"
    value: float | None = None
    """The published value; None if there is none."""
    tolerance: Annotated[float, Range(minimum=0, remedy="0 accepts the published value only")] | None = None
    """The largest difference of a reproduction, in units of the metric; None if none is stated."""
    setting: str = ""
    """How the value was measured: features, numbers of images, step."""
    differs: tuple[str, ...] = ()
    """What the recipe does otherwise than the publication."""


def read_reference(node: Any) -> Reference | None:
    """Return the reference that a config node describes, or None if the node is null.

    Args:
        node: The value of the key ``reference``, which may be of any type: a run's config is untrusted.

    Raises:
        InputError: for an unknown key, a missing source, a value of another type or out of its range, or a tolerance
            without a value.
    """
    if node is None:
        return None
    names = [field.name for field in fields(Reference)]
    if not isinstance(node, Mapping):
        raise InputError(f"{KEY} must hold {', '.join(names)}, got {shown(node)}: give a mapping, or null")
    for name in map(str, node):
        if name not in names:
            known = [f"{KEY}.{other}" for other in names]
            raise InputError(
                f"there is no config key {KEY}.{name}{did_you_mean(f'{KEY}.{name}', known)} (it holds "
                f"{', '.join(names)}; correct it, or leave it out)"
            )
    if "source" not in node:
        raise InputError(f"{KEY}.source is missing in {KEY}={shown(dict(node))}: name the publication")
    hints = get_type_hints(Reference, include_extras=True)
    for name in names:
        if name in node:
            check_value(node[name], hints[name], f"{KEY}.{name}")
    if node.get("tolerance") is not None and node.get("value") is None:
        raise InputError(
            f"{KEY}.tolerance={shown(node['tolerance'])} is given without {KEY}.value: give the published value, too, "
            "or leave the tolerance out"
        )
    return Reference(**{**node, "differs": tuple(node.get("differs", ()))})
