"""Files of claims: their form, and reading them."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from wgan_sweep.common.ranges import shown
from wgan_sweep.common.suggestions import did_you_mean
from wgan_sweep.config.documents import read_resolved_yaml
from wgan_sweep.config.keys import KEYS, Role
from wgan_sweep.errors import InputError
from wgan_sweep.report.claim_kinds.bounds import Bound
from wgan_sweep.report.claim_kinds.claim import Claim
from wgan_sweep.report.claim_kinds.curves import Correlates, Faster
from wgan_sweep.report.claim_kinds.means import CountingPruned, Equal, Lower, Monotone, SpreadsLess
from wgan_sweep.report.claim_kinds.rates import Event, Rarer
from wgan_sweep.runs.coordinates import GROUPS

PUBLISHED = Path(__file__).with_name("claims.yaml")
"""The paper's claims."""
PAPER = "paper"
"""Name of the paper's claims, where a file is expected."""

FORMS: dict[tuple[str, ...], Callable[..., Claim]] = {
    ("claim", "lower", "than"): lambda claim, lower, than: Lower(claim, lower, than),
    ("claim", "higher", "than"): lambda claim, higher, than: Lower(claim, higher, than, higher=True),
    ("claim", "lowest", "among"): lambda claim, lowest, among: Lower(
        claim, {**among, **lowest}, among, names_candidates=True
    ),
    ("claim", "highest", "among"): lambda claim, highest, among: Lower(
        claim, {**among, **highest}, among, higher=True, names_candidates=True
    ),
    ("claim", "spread_of", "less_in", "than_in"): lambda claim, spread_of, less_in, than_in: SpreadsLess(
        claim, spread_of, less_in, than_in
    ),
    ("claim", "equal", "within"): lambda claim, equal, within: Equal(claim, equal, within),
    ("claim", "rises_with", "in"): lambda claim, rises_with, **rest: Monotone(claim, rises_with, rest["in"]),
    ("claim", "falls_with", "in"): lambda claim, falls_with, **rest: Monotone(
        claim, falls_with, rest["in"], falls=True
    ),
    ("claim", "event", "rarer_in", "than_in"): lambda claim, event, rarer_in, than_in: Rarer(
        claim, rarer_in, than_in, Event(event)
    ),
    ("claim", "correlates", "with", "in"): lambda claim, correlates, **rest: Correlates(
        claim, correlates, rest["with"], rest["in"]
    ),
    ("claim", "correlates", "with", "in", "above"): lambda claim, correlates, above, **rest: Correlates(
        claim, correlates, rest["with"], rest["in"], above
    ),
    ("claim", "correlates", "with", "in", "below"): lambda claim, correlates, below, **rest: Correlates(
        claim, correlates, rest["with"], rest["in"], below, below=True
    ),
    ("claim", "faster", "than", "to"): lambda claim, faster, than, to: Faster(
        claim, faster, than, Bound.required("to", to)
    ),
    ("claim", "faster", "than", "to", "in_units_of"): lambda claim, faster, than, to, in_units_of: Faster(
        claim, faster, than, Bound.required("to", to), in_units_of
    ),
}
"""Constructors of claims, by the keys of their entry in a file of claims."""

PRUNED, WORST = "pruned", "worst"
"""The key of an entry that says how pruned runs count, and its value."""
PAIRED, BY_SEED = "paired", "seed"
"""The key of an entry that says how runs are paired, and its value."""
OPTIONAL = {PRUNED, PAIRED}
TEXTS = {"claim", "event", "correlates", "with", "to", "in_units_of"}
AXES = {"spread_of", "rises_with", "falls_with"}
NUMBERS = {"within"}
CORRELATIONS = {"above", "below"}


def claims_file(name: str | Path) -> Path:
    """Return the file of claims with a name: `PAPER`, or a path."""
    return PUBLISHED if str(name) == PAPER else Path(name)


def read_claims(path: Path) -> list[Claim]:
    """Read claims from a YAML file.

    Raises:
        InputError: if the file or one of its entries does not have the form of `PUBLISHED`, or names an unknown axis.
    """
    example = f"{PUBLISHED} is an example of a file of claims"
    try:
        content = read_resolved_yaml(path)
    except InputError as error:
        raise InputError(f"{error}; {example}") from error
    if "claims" not in content:
        keys = f", but {', '.join(map(str, content))}" if content else ""
        raise InputError(f"{path} has no key `claims`{keys}; {example}")
    entries = content["claims"]
    if not isinstance(entries, list):
        raise InputError(f"{path}: `claims` must be a list of claims, got {shown(entries)}; {example}")
    claims = [_claim(path, entry) for entry in entries]
    names = [claim.claim for claim in claims]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}: several claims are named {shown(repeated[0])}: give each a name of its own")
    return claims


def _claim(path: Path, entry: Any) -> Claim:
    form = next((keys for keys in FORMS if isinstance(entry, dict) and set(keys) == entry.keys() - OPTIONAL), None)
    if form is None:
        raise InputError(f"{path}: {_why_no_claim(entry)} ({PUBLISHED} has examples)")
    try:
        for key in form:
            _check(key, entry[key])
        claim = FORMS[form](**{key: entry[key] for key in form})
        claim = _paired(claim, entry[PAIRED]) if PAIRED in entry else claim
        return _counting_pruned(claim, entry[PRUNED]) if PRUNED in entry else claim
    except ValueError as error:
        raise InputError(f"{path}: the claim {entry['claim']!r}: {error}") from error


def _why_no_claim(entry: Any) -> str:
    """Return why the keys of an entry are those of no form, and the keys to give."""
    if not isinstance(entry, dict):
        return f"a claim must be a mapping with the key `claim`, got {shown(entry)}"
    name = f"the claim {shown(entry.get('claim', entry))}"
    known = {*OPTIONAL, *(key for keys in FORMS for key in keys)}
    for key in entry:
        if key not in known:
            return f"{name}: there is no key {shown(key)}{did_you_mean(str(key), known)}"
    largest = max(len(entry.keys() & {*keys}) for keys in FORMS)
    nearest = [keys for keys in FORMS if len(entry.keys() & {*keys}) == largest]
    return f"{name} has the keys {', '.join(entry)}: give {' or '.join(', '.join(keys) for keys in nearest)}"


def _paired(claim: Claim, value: Any) -> Claim:
    if value != BY_SEED:
        raise ValueError(f"{PAIRED}={value!r} is not {BY_SEED}; without it, runs are not paired")
    if isinstance(claim, Lower | SpreadsLess | Equal | Monotone):
        return replace(claim, paired=True)
    raise ValueError(f"{PAIRED}: {BY_SEED} is for claims about means, not about events or learning curves")


def _counting_pruned(claim: Claim, value: Any) -> Claim:
    if value != WORST:
        raise ValueError(f"{PRUNED}={value!r} is not {WORST}; without it, a claim with pruned runs is undecided")
    if isinstance(claim, Lower):
        return CountingPruned(claim)
    raise ValueError(f"{PRUNED}: {WORST} is for claims about lower, higher, lowest or highest means; leave it out")


def _check(key: str, value: Any) -> None:
    """Refuse a value of a claim's entry that has another type, or names an unknown axis."""
    if key in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{key}={value!r} is not a positive number")
    elif key in CORRELATIONS:
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1 < value < 1:
            raise ValueError(f"{key}={value!r} is not a correlation between -1 and 1")
    elif key in TEXTS | AXES:
        if not isinstance(value, str) or not value:
            raise ValueError(f"{key}={value!r} is not a text")
        if key in AXES:
            _check_axis(key, value)
    elif not isinstance(value, dict) or not value:
        raise ValueError(f"{key}={value!r} is not a mapping of axes to values, such as {{loss: wgan_div, div.k: 2}}")
    else:
        for axis in value:
            _check_axis(key, axis)


def _check_axis(key: str, axis: Any) -> None:
    groups = {*GROUPS, *(entry.name for entry in KEYS if entry.shared_group), "div"}
    roots = {*groups, *(entry.name.split(".")[0] for entry in KEYS if entry.role is Role.SCIENCE)}
    if not isinstance(axis, str) or (axis not in groups and ("." not in axis or axis.split(".")[0] not in roots)):
        known = [*groups, *(entry.name for entry in KEYS if entry.role is Role.SCIENCE and "." in entry.name)]
        raise ValueError(f"{key}: {axis!r} is not an axis{did_you_mean(str(axis), [*known, 'div.k', 'div.p'])}")
