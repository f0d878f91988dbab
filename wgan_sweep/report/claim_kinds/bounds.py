"""Bounds on metric values, and numbers, as claims write them."""

import operator
import re
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Bound:
    """A bound on a metric value, such as ``fid <= 30``."""

    metric: str
    sign: str
    value: float

    PATTERN = re.compile(r"(?P<metric>[\w.]+) *(?P<sign>[<>]=?) *(?P<value>[-+\d.eE]+)")
    SIGNS: ClassVar = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
    FORMS = ", ".join(f"METRIC {sign} NUMBER" for sign in SIGNS)

    @classmethod
    def parse(cls, text: str) -> "Bound | None":
        """Return the bound that a text describes; None if it describes none."""
        match = cls.PATTERN.fullmatch(text)
        value = number_in(match["value"]) if match else None
        return cls(match["metric"], match["sign"], value) if match and value is not None else None

    @classmethod
    def required(cls, key: str, text: str) -> "Bound":
        """Return the bound that the text of a claim's key describes.

        Raises:
            ValueError: if it describes none.
        """
        bound = cls.parse(text)
        if bound is None:
            raise ValueError(f"{key}={text!r} is none of: {cls.FORMS}")
        return bound

    def __str__(self) -> str:
        return f"{self.metric} {self.sign} {self.value:g}"

    def holds(self, value: float) -> bool:
        """Whether a value is within the bound."""
        return bool(self.SIGNS[self.sign](value, self.value))


def number_in(text: str | None) -> float | None:
    """Return the number that a text describes; None if it describes none."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
