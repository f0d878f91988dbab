"""The nearest of the known names, for a misspelt one."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most similar to a misspelt one; None if none is similar.

    Of dotted names, one with the same or a similar last part counts as similar: ``steps`` gives ``train.steps``.
    """
    names = sorted(set(known))
    if matches := get_close_matches(name, names, n=1, cutoff=0.75):
        return matches[0]
    by_last_part = {known_name.rpartition(".")[2]: known_name for known_name in reversed(names)}
    if matches := get_close_matches(name.rpartition(".")[2], by_last_part, n=1, cutoff=0.75):
        return by_last_part[matches[0]]
    matches = get_close_matches(name, names, n=1)
    return matches[0] if matches else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean X?"`` for a misspelt name, or nothing if no known name is similar."""
    suggestion = nearest(name, known)
    return f"; did you mean {suggestion}?" if suggestion else ""
