"""A run that is requested again by its directory is the same run, whatever its config holds and lacks."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from wgan_sweep.config import schema
from wgan_sweep.config.schema import Config
from wgan_sweep.errors import InputError
from wgan_sweep.runs.identity import run_id
from wgan_sweep.sweeps import config_of_run

from .helpers import Shell, records

Expand = Callable[..., list[str]]


@pytest.fixture
def expand(tmp_path: Path) -> Expand:
    """A function that stores a config as that of a run, and returns the overrides that request the run again."""

    def expand_stored(config: Config, *given: str) -> list[str]:
        (tmp_path / "config.yaml").write_text(schema.to_yaml(config))
        (tmp_path / "record.json").write_text("{}")
        GlobalHydra.instance().clear()
        return config_of_run.expand([f"--config-path={tmp_path}", *given])

    return expand_stored


DELETED = [
    ["~optimizer.betas"],
    ["~optimizer.betas", "critic_optimizer.lr=1e-3"],
    ["optimizer=rmsprop", "~optimizer.lr"],
    ["loss=wgan_gp", "critic_optimizer=adam", "~critic_optimizer.betas"],
    ["scorer=fid", "~scorer.features", "model=mlp"],
]


@pytest.mark.integration
@pytest.mark.parametrize("overrides", DELETED, ids=" ".join)
def test_keys_that_the_command_has_deleted_do_not_come_back(make, expand: Expand, overrides: list[str]) -> None:
    config = make(*overrides)
    again = make(*expand(config), tiny=False)
    assert again == config
    assert run_id(again) == run_id(config)


def test_a_key_that_an_option_has_got_since_stays_out_also_if_it_is_null(make, expand: Expand) -> None:
    config = make("loss=wgan_gp", "constraint=none")
    del config.generator_optimizer["betas"]
    assert make("loss=wgan_gp", "constraint=none").generator_optimizer["betas"] is None
    assert make(*expand(config), tiny=False) == config


def test_a_group_that_refers_to_another_one_may_be_replaced_in_part(make, expand: Expand) -> None:
    fake = "{_target_:wgan_sweep.objectives.sampling.fake,_partial_:true}"
    config = make("loss=wgan_gp", f"constraint.sampling={fake}")
    assert config.sampling["_target_"] != config.constraint["sampling"]["_target_"]
    assert make(*expand(config), tiny=False) == config


def test_what_the_command_line_chooses_anew_is_not_deleted(make, expand: Expand) -> None:
    config = make("~optimizer.betas")
    assert make(*expand(config, "optimizer.betas=[0.3,0.4]"), tiny=False).optimizer["betas"] == [0.3, 0.4]
    assert make(*expand(config, "optimizer=adam_gp"), tiny=False).optimizer == make("optimizer=adam_gp").optimizer
    assert make(*expand(config, "~optimizer.betas"), tiny=False) == config


def test_the_command_line_deletes_what_the_run_has_set(make, expand: Expand) -> None:
    config = make("optimizer.betas=[0.3,0.4]")
    assert make(*expand(config, "~optimizer.betas"), tiny=False) == make("~optimizer.betas")


@pytest.mark.integration
def test_a_config_to_which_no_overrides_lead_is_refused(make, expand: Expand) -> None:
    config = make()
    config.optimizer = {**config.optimizer, "a.b": 1}
    with pytest.raises(InputError, match=r"no overrides lead to .*: optimizer\.a.* would be .* instead of .*; give"):
        expand(config)
    assert make(*expand(config, "optimizer=sgd"), tiny=False) == make("optimizer=sgd")  # it is not needed then
    config = make()
    config.tracker = {**config.tracker, "a.b": 1}  # decides no result
    assert run_id(make(*expand(config), tiny=False)) == run_id(config)


TEXTS = ["", "\\", "\\\\", 'a"b', "it's", '\\"', "C:\\data\\", "[a,b]", "{a: 1}", " a=b ", "a\nb", "ü→", "null", "1e-3"]


@pytest.mark.integration
@pytest.mark.parametrize("text", TEXTS, ids=repr)
def test_any_text_survives_being_asked_for_again(make, expand: Expand, text: str) -> None:
    config = make()
    config.reference = {"text": text, "texts": [text, "", text]}
    assert make(*expand(config), tiny=False) == config


TEXT = st.text("\\\"'a ,:[]{}=(\n~ü") | st.text()


@given(st.recursive(TEXT, lambda items: st.lists(items, max_size=3), max_leaves=5))
def test_hydra_reads_the_same_texts_and_lists(value: object) -> None:
    assert plain(OverridesParser.create().parse_override(f"++key={config_of_run._literal(value)}").value()) == value


def plain(value: object) -> object:
    """Return a value of an override with plain texts in its lists."""
    return [plain(item) for item in value] if isinstance(value, list) else getattr(value, "text", value)


@pytest.mark.integration
def test_the_command_finds_a_run_with_a_deleted_key_from_its_directory(sweep: Shell) -> None:
    sweep("~optimizer.betas")
    (first,) = records(sweep.folder)
    source = ["--config-path", str(sweep.folder / "runs" / first["run_id"])]
    assert "nothing left to do" in sweep.call(source).stderr
    sweep.call(["-m", *source, "seed=0,1"])
    sweep("seed=1", "~optimizer.betas")
    assert len(records(sweep.folder)) == 2
