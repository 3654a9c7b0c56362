"""Configuration: layers in order, mistakes named, every field semantic or operational."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vila2_ray.config import Config, semantic_fields
from vila2_ray.errors import ConfigError
from vila2_ray.recipe import from_yaml, load_config, recipe_names, to_yaml


def test_recipes_ship_and_load() -> None:
    names = recipe_names()
    assert {"tiny", "vila2-8b"} <= set(names)
    for name in names:
        assert load_config(name).recipe == name


def test_the_command_line_wins_over_the_recipe_and_that_over_defaults(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("campaign: there\nseed: 3\nrounds:\n  max: 2\n")
    config = load_config(str(recipe), ["rounds.max=1", "train.align.trained=[connector,vision]"])
    assert (config.campaign, config.seed, config.rounds.max) == ("there", 3, 1)
    assert config.train.align.trained == ("connector", "vision")
    assert config.rounds.fraction == Config().rounds.fraction


def test_without_a_recipe_there_are_the_defaults() -> None:
    assert load_config("", ["seed=1"]) == dataclasses.replace(Config(), seed=1)


def test_an_empty_value_empties_a_field() -> None:
    assert load_config("tiny", ["corpus.heldout="]).corpus.heldout == ""


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("rounds.maximum=2", "rounds.maximum"),
        ("nothing=1", "nothing"),
        ("rounds.max=many", "rounds.max"),
        ("rounds.max=-1", "rounds.max"),
        ("rounds.fraction=0", "rounds.fraction"),
        ("fuse.rule=sum", "fuse.rule"),
        ("train.align.trained=[ears]", "trained"),
        ("train.align.trained=[connector", "train.align.trained"),
        ("recaption.prompt_ids=[]", "recaption.prompt_ids"),
        ("recaption.sampling.temperature=-1", "recaption.sampling.temperature"),
        ("recaption.engine.max_actors=0", "recaption.engine.max_actors"),
        ("recaption.engine.label_selector={pool: two words}", "recaption.engine.label_selector.pool"),
        ("train.label_selector={-pool: train}", "train.label_selector"),
        ("filters.max_words=1", "filters.max_words"),
        ("rounds.max", "rounds.max"),
        ("--rounds.max=1", "--rounds.max=1"),
    ],
)
def test_a_mistake_is_refused_by_name(override: str, named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config("tiny", [override])
    assert named in str(raised.value)


def test_an_unknown_field_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"known here: max, fraction, metric, min_gain"):
        load_config("tiny", ["rounds.maximum=2"])


def test_an_unknown_recipe_is_answered_with_those_that_ship() -> None:
    with pytest.raises(ConfigError, match="tiny"):
        load_config("huge")


def test_a_broken_yaml_file_is_a_mistake_not_a_crash(tmp_path: Path) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_text("rounds: [1,\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(str(recipe))


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_configuration_reads_back_equal(name: str) -> None:
    config = load_config(name)
    assert from_yaml(to_yaml(config)) == config


def test_operational_fields_stay_out_of_fingerprints() -> None:
    names = set(semantic_fields(Config(), ""))
    assert {"seed", "rounds.fraction", "fuse.rule", "recaption.sampling.temperature", "train.sft.peak_lr"} <= names
    operational = ("campaign", "recipe", "rounds.max", "rounds.min_gain", "recaption.range_rows", "train.num_workers")
    assert not names & set(operational)
    assert not [n for n in names if n.startswith(("prices", "rates", "recaption.engine"))]
    assert not [n for n in names if n.endswith("micro_batch_size")]


def test_label_selectors_are_rays_and_operational() -> None:
    from ray._private.label_utils import validate_label_selector

    given = "recaption.engine.label_selector={ray-subcluster: recaption, ray.io/market-type: '!in(spot, other)'}"
    config = load_config("tiny", [given, "train.label_selector={ray-subcluster: train}"])
    selector = {"ray-subcluster": "recaption", "ray.io/market-type": "!in(spot, other)"}
    assert config.recaption.engine.label_selector == selector
    assert validate_label_selector(selector) is None
    assert not [name for name in semantic_fields(config, "") if "label_selector" in name]


def test_a_configuration_of_another_version_is_refused_by_name() -> None:
    text = to_yaml(load_config("tiny")).replace("  range_rows:", "  rows_of_old: 3\n  range_rows:")
    with pytest.raises(ConfigError, match=r"campaign.yaml = 'recaption.rows_of_old'.*another version"):
        from_yaml(text)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("judge.endpoint=localhost:8000", r"judge.endpoint = 'localhost:8000': must be an address"),
        ("judge.endpoint='http://h/v1?key=s3cret'", r"judge.endpoint = 'http://h…'.*without user, password and query"),
        ("judge.endpoint='http://ann:s3cret@h/v1'", r"judge.endpoint = 'http://h…'"),
        ("judge.endpoint=http://h/v1/chat/completions", r"is one route"),
        ("judge.key=sk-s3cret", r"judge.key = '…': must be the NAME of an environment variable"),
        ("judge.temperature=-1", r"judge.temperature"),
        ("judge.dollars_per_million_input_tokens=-1", r"judge.dollars_per_million_input_tokens"),
        ("judge.max_side=0", r"judge.max_side"),
    ],
)
def test_a_judge_that_cannot_work_is_refused_without_its_secrets(override: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        load_config("tiny", [override])
    assert "s3cret" not in str(raised.value)


def test_a_judge_decides_no_fingerprint() -> None:
    config = load_config("tiny", ["judge.endpoint=https://api.example.org/v1/", "judge.key=MY_KEY"])
    assert not [name for name in semantic_fields(config, "") if name.startswith("judge")]
    assert from_yaml(to_yaml(config)).judge.key == "MY_KEY"
