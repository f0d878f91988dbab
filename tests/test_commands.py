"""Options that all commands have, and options that were renamed."""

import re
import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from wgan_sweep.commands import report, score, sweep
from wgan_sweep.commands.scores import _feature_space, _make_metrics, _space_node
from wgan_sweep.config import help as help_text
from wgan_sweep.config import objects
from wgan_sweep.config.catalogue import conf_dir, option_keys, options, schema_keys
from wgan_sweep.config.keys import find_key
from wgan_sweep.config.schema import Config


@pytest.mark.parametrize("command", [sweep, report, score], ids=["wgan-sweep", "wgan-report", "wgan-score"])
def test_every_command_prints_the_version_of_this_package(command, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["the command", "--version"])
    try:
        command.main()
    except SystemExit as end:
        assert end.code == 0  # noqa: PT017
    assert capsys.readouterr().out == f"wgan-sweep {version('wgan-sweep')}\n"


def test_the_renamed_option_of_the_layer_is_refused_with_the_new_name(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        score.main(["a.npz", "b.npz", "--feature", "64"])
    assert end.value.code == 2
    assert "there is no --feature: --layer 64 chooses a layer, --features NAME the network" in capsys.readouterr().err


def test_the_feature_spaces_and_metrics_of_wgan_score_are_those_of_the_config(make) -> None:
    for name in options()["features"]:
        expected = objects.make(make(f"features={name}").features, "features")
        assert _feature_space(SimpleNamespace(features=name, layer=None, weights=None)) == expected
    expected = objects.make(make("features.layer=64").features, "features")
    layer = SimpleNamespace(features="inception", layer=64, weights=None)
    assert _feature_space(layer) == expected
    named = SimpleNamespace(metrics=",".join(options()["metric"]), kid_subset_size=None, neighbours=None)
    assert set(_make_metrics(named, _space_node(layer))) == set(options()["metric"])


def test_the_help_has_a_line_for_every_option_and_key_of_the_package_and_of_the_user(tmp_path) -> None:
    mine = tmp_path / "loss" / "mine.yaml"
    mine.parent.mkdir()
    mine.write_text("# A loss of mine. More on it.\n_target_: my_losses.mine\nmargin: 0.5   # how far it reaches\n")
    text = help_text.describe([conf_dir(), tmp_path], {"loss": "mine"})
    paragraphs = {part.partition("=")[0]: part for part in text.split("\n\n")}
    for group, names in options().items():
        of_both_players = options().get(find_key(group).shared_group, [])
        if of_both_players:
            assert f"  NAME  the options of {find_key(group).shared_group}\n" in paragraphs[group]
        for name in (name for name in names if name not in of_both_players):
            entry = re.search(rf"^  {name}  +\S.*$", paragraphs[group], re.MULTILINE)
            assert entry, f"{group}={name} has no comment that explains it"
    assert re.search(r"^  mine +A loss of mine$", paragraphs["loss"], re.MULTILINE)
    assert "loss=...  (default: mine)" in text
    assert re.search(r"^  loss\.margin=0\.5 +how far it reaches$", text, re.MULTILINE)
    shown = set(re.findall(r"^  ([\w.]+)=", text, re.MULTILINE))
    own = {
        key
        for group in options()
        if group != "experiment"
        for name in options()[group]
        for key in option_keys(group, name)
        if key.startswith(f"{group}.") and "_partial_" not in key
    }
    assert {
        key for key in own if not any(other.startswith(f"{key}.") or key.startswith(f"{other}.") for other in shown)
    } <= shown
    assert {key for key in schema_keys(Config) if key.startswith("train.")} <= shown
    assert not [line for line in text.splitlines() if len(line) > 80]


def test_every_key_of_the_help_is_explained() -> None:
    """The explanation begins in column 34: beside the key, or below a key that is longer than that."""
    lines = help_text.describe([conf_dir()], {}).splitlines()
    keys = {index: line.partition("=")[0].strip() for index, line in enumerate(lines) if re.match(r"^  [\w.]+=", line)}
    assert len(keys) > 100
    bare = [
        key
        for index, key in keys.items()
        if not re.match(r"^.{33} \S", lines[index]) and not lines[index + 1 : index + 2][0].startswith(" " * 34)
    ]
    assert bare == [], "give these keys a comment in their file in conf/"
