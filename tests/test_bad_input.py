"""Wrong values for every key of every option: each is refused with the key and the value, or can be trained."""

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from wgan_sweep.config import objects
from wgan_sweep.config.catalogue import option_keys, options, schema_keys
from wgan_sweep.config.refusals import BAD_INPUT, explain
from wgan_sweep.config.schema import Config
from wgan_sweep.report.figures import make_figure
from wgan_sweep.runs.build import build, check, check_options

NEEDS_FILES = {("data", name) for name in ("mnist", "fashion_mnist", "cifar10", "celeba", "lsun", "image_folder")}
"""Options whose files are missing here: only their values are checked."""
NOT_FUZZED = {"experiment", "choices"}
"""The keys of experiments are keys of other groups; choices are not set by users."""
OTHER_DATA = {
    ("scorer", "exact"): "gaussians8",
    ("model", "location"): "shifted_uniform",
    ("model", "gaussian"): "gaussian",
    ("model", "mlp"): "gaussians8",
}

WRONG = {
    "null": "null",
    "list": "[7]",
    "empty list": "[]",
    "mapping": "{a: 7}",
    "nan": "nan",
    "inf": "inf",
    "-inf": "-inf",
    "negative": "-3",
    "zero": "0",
    "fraction": "1.5",
    "1e20": "1e20",
    "large integer": str(10**20),
    "10**400": str(10**400),
    "unicode": "'ünï ☃'",
    "empty": "''",
    "text": "notanumber",
    "bool": "true",
    "unset variable": "${oc.env:WGAN_SWEEP_NOT_SET}",
    "unknown key": "${no.such.key}",
    "itself": "${%s}",
}
"""Values, as they are written in an override, by their kinds."""


PUBLISHED = ["scorer.metrics.kid.subset_size=8", "scorer.num_samples=100", "scorer.repeats=1"]
"""A scorer for few images."""


@dataclass(frozen=True)
class Case:
    """A wrong value for one key of one option."""

    group: str
    option: str | None
    key: str
    kind: str

    @property
    def override(self) -> str:
        value = WRONG[self.kind]
        return f"++{self.key}={value % self.key if self.kind == 'itself' else value}"

    @property
    def chosen(self) -> list[str]:
        """The overrides that choose the option, for a small run."""
        if self.option is None:
            return []
        choice = f"{self.group}={self.option}"
        if self.group == "prune":
            return [choice, "scorer=none"] if self.option == "none" else ["data=gaussians8", choice, "scorer.every=1"]
        if self.group == "metric":
            return ["scorer=fid", f"+metric@scorer.metrics.x={self.option}"]
        if (data := OTHER_DATA.get((self.group, self.option))) is not None:
            return [f"data={data}", choice, "scorer=none"] if self.group == "model" else [f"data={data}", choice]
        extra = {
            "label_smoothing": ["loss=nsgan"],
            "npz": ["data.path={npz}"],
            **{name: [f"{self.group}.steps=100"] for name in ("linear", "cosine", "warmup")},
            "same": ["schedule=linear", "schedule.steps=100"] if self.group.endswith("_schedule") else [],
            "published": PUBLISHED,
            "image_folder": ["data.path=/"],
        }
        return [choice, *extra.get(self.option, [])]


def all_cases() -> list[Case]:
    """Return a case for every key and every kind of wrong value."""
    keys = [("schema", None, key) for key in schema_keys(Config) if key.split(".")[0] not in NOT_FUZZED]
    for group, names in options().items():
        for option in names if group not in NOT_FUZZED else []:
            below = [(group, option, key) for key in option_keys(group, option)]
            keys += [(*row[:2], row[2].replace("metric.", "scorer.metrics.x.", 1)) for row in below]
            own = "scorer.metrics.x" if group == "metric" else group
            keys.append((group, option, f"{own}._target_"))
    return [Case(*key, kind) for key in keys for kind in WRONG]


def outcome(case: Case, make, npz: Path) -> tuple[str, Config | None]:
    """Do what the command does before it trains; return the message of a refusal, or the accepted config."""
    overrides = [text.format(npz=npz) for text in case.chosen]
    is_points = any(text.startswith("data=") for text in overrides)
    tiny = [f"data.path={npz}"] if not is_points else []
    base = ["data=npz", *tiny] if not is_points else []
    small = ["train.batch_size=8", "train.n_critic=1", "tracker=none", "device=cpu"]
    if case.group not in ("scorer", "metric", "prune") and "scorer=none" not in overrides:
        small.append("scorer=none")
    try:
        config = make(*base, *small, *overrides, case.override, tiny=False)
        check_options(config)
        objects.make(config.launch, "launch")
        make_figure(config.figure)
        if (case.group, case.option) not in NEEDS_FILES:
            check(config)
    except BAD_INPUT as error:
        return explain(error, [case.override]), None
    return "", config


SHOWN = {
    "bool": "true",
    "list": "7",
    "mapping": "{'a': 7}",
    "empty": "''",
    "unicode": "ünï ☃",
    "large integer": "1000000000000000",
    "1e20": "1e+20",
    "10**400": "100000000000000000000",
    "unset variable": "WGAN_SWEEP_NOT_SET",
    "unknown key": "no.such.key",
}
"""What a message shows of a value, where it is not as in the override."""

REFERENCES = {"loss.k": "div.k", "loss.p": "div.p"}
"""Keys whose value is that of another key, by which messages may name them."""


def names_the_fault(case: Case, message: str) -> bool:
    """Return whether a message is one line that names the key and the value (or the unknown key in the value)."""
    values = (SHOWN.get(case.kind, WRONG[case.kind]), "${" if case.kind == "itself" else WRONG[case.kind])
    is_value_named = any(value in message for value in values) or "no config key" in message or " has no " in message
    key = REFERENCES.get(case.key, case.key)
    return "\n" not in message and (case.key in message or key in message) and is_value_named


def run_cases(cases: list[Case], make, npz: Path, tmp_path: Path, *, steps: int) -> None:
    counts: dict[str, Counter[str]] = {}
    faults = []
    for case in cases:
        count = counts.setdefault(case.group, Counter())
        try:
            message, config = outcome(case, make, npz)
            if config is None:
                count["refused"] += 1
                if not names_the_fault(case, message):
                    faults.append(f"{case.chosen} {case.override[:60]}: unclear: {message[:200]}")
            else:
                count["accepted"] += 1
                if steps and (case.group, case.option) not in NEEDS_FILES:
                    next(build(config).trainer.steps(1))
        except Exception as error:
            count["other exception"] += 1
            faults.append(f"{case.chosen} {case.override[:60]}: {type(error).__name__}: {str(error)[:200]}")
        assert not (tmp_path / "runs").exists(), case
    table = {group: dict(count) for group, count in counts.items()}
    sys.stdout.write(json.dumps(table, indent=1))
    if path := os.environ.get("WGAN_SWEEP_TEST_COUNTS"):
        Path(path).write_text(json.dumps({"counts": table, "faults": faults}, indent=1))
    assert not faults, "\n".join(faults)


@pytest.mark.integration
def test_a_sample_of_wrong_values_is_refused_or_trainable(make, npz: Path, tmp_path: Path) -> None:
    cheap = [case for case in all_cases() if case.group not in ("scorer", "metric", "features")]
    run_cases(cheap[:: len(cheap) // 40], make, npz, tmp_path, steps=0)


@pytest.mark.slow
def test_every_wrong_value_of_every_key_is_refused_or_trainable(make, npz: Path, tmp_path: Path) -> None:
    run_cases(all_cases(), make, npz, tmp_path, steps=1)


COMMANDS = [
    (["train.stepz=3"], ["train.stepz", "did you mean train.steps?"]),
    (["loss=wgan_dvi"], ["loss=wgan_dvi", "did you mean wgan_div?"]),
    (["seed=${seed}"], ["seed=${seed}"]),
    (["-m", "seed=range(0,0)"], ["no runs"]),
    (["-m", "hydra/sweeper=optuna"], ["nothing to search"]),
    (["-m", "hydra/sweeper=optuna", "seed=range(0,2)"], ["scorer=none"]),
    (["-m", "hydra.sweep.dir=/proc/x", "seed=1,2"], ["hydra.sweep.dir=/proc/x"]),
    (["model.dim=1000000000"], ["model.dim=1000000000", "lower them"]),
    (["model._target_=nonexistent.Foo"], ["model._target_=nonexistent.Foo"]),
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [*COMMANDS[:2], *(pytest.param(*case, marks=pytest.mark.slow) for case in COMMANDS[2:])],
    ids=" ".join,
)
def test_the_command_refuses_bad_input_in_one_line(sweep, arguments: list[str], words: list[str]) -> None:
    done = sweep(*arguments, code=1)
    lines = done.stderr.splitlines()
    assert len(lines) == 1 or "optuna" in " ".join(arguments), done.stderr  # Optuna logs that it starts
    assert all(word in lines[-1] for word in words), lines
    assert list(sweep.folder.iterdir()) == []
