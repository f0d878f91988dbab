"""Options that all commands have, and options that were renamed."""

import sys
from importlib.metadata import version
from types import SimpleNamespace

import pytest

from wgan_sweep.commands import report, score, sweep
from wgan_sweep.commands.scores import _feature_space
from wgan_sweep.config import objects
from wgan_sweep.config.catalogue import options
from wgan_sweep.scoring.metrics import METRICS


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
    assert _feature_space(SimpleNamespace(features="inception", layer=64, weights=None)) == expected
    assert set(options()["metric"]) == set(METRICS)  # named in the help
