"""Resolving a configuration: defaults → recipe YAML → `key=value` (unknown names are refused), and back to YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

from vila2_ray.config import Config
from vila2_ray.errors import ConfigError


def recipe_names() -> list[str]:
    """Recipes that ship with the package."""
    folder = resources.files("vila2_ray.recipes")
    return sorted(f.name[:-5] for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_config(recipe: str = "tiny", overrides: list[str] | None = None) -> Config:
    """Resolve `recipe` (a shipped name, a YAML file, or "" for the defaults alone) and `key=value` overrides.

    Raises ConfigError naming the field, its value and what would be right.
    """
    return _resolved(recipe, overrides or [], lambda: _recipe_yaml(recipe))


def override(config: Config, overrides: list[str]) -> Config:
    """A resolved configuration with `key=value` on top. Raises ConfigError as `load_config` does."""
    from omegaconf import OmegaConf

    return _resolved(config.recipe, overrides, lambda: OmegaConf.create(to_yaml(config)))


def _resolved(recipe: str, overrides: list[str], beneath: Callable[[], Any]) -> Config:
    """What `beneath` reads and the overrides over the defaults."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    merged = OmegaConf.structured(Config)
    try:
        for layer in (beneath(), _from_dotlist(overrides)):
            merged = OmegaConf.merge(merged, layer)
        config = OmegaConf.to_object(merged)
    except ConfigError:
        raise
    except OmegaConfBaseException as error:
        name = error.full_key or _refused(overrides) or str(error.key or recipe)
        given = _given(overrides, name)
        problem = (error.msg or str(error)).splitlines()[0].replace("$VALUE", str(given))
        raise ConfigError(name, given, f"{problem} (known here: {_known(name)})") from error
    assert isinstance(config, Config)
    return dataclasses.replace(config, recipe=recipe)


def to_yaml(config: Config) -> str:
    """The resolved configuration, as `load_config` reads it back."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(text: str) -> Config:
    """A configuration that `to_yaml` wrote. Raises ConfigError for a field that this version does not know."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(text)))
    except OmegaConfBaseException as error:
        problem = (error.msg or str(error)).splitlines()[0]
        remedy = "another version wrote it; the next vila2 run with this version writes it anew"
        raise ConfigError("campaign.yaml", error.full_key or str(error.key), f"{problem}: {remedy}") from error
    assert isinstance(config, Config)
    return config


def _recipe_yaml(recipe: str) -> Any:
    import yaml
    from omegaconf import OmegaConf

    if not recipe:
        return OmegaConf.create()
    if recipe in recipe_names():
        return OmegaConf.create(resources.files("vila2_ray.recipes").joinpath(f"{recipe}.yaml").read_text("utf-8"))
    path = Path(recipe)
    if not path.is_file():
        raise ConfigError("recipe", recipe, f"neither a YAML file nor one of {', '.join(recipe_names())}")
    try:
        return OmegaConf.load(path)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError("recipe", recipe, f"not a YAML file that can be read: {error}") from error


def _from_dotlist(overrides: list[str]) -> Any:
    import yaml
    from omegaconf import OmegaConf

    node = OmegaConf.create()
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or item.startswith("-"):
            raise ConfigError("override", item, "write it as key=value, for example rounds.max=2")
        try:
            node.merge_with_dotlist([item if value else f"{key}=''"])  # `key=` empties a field
        except yaml.YAMLError as error:
            raise ConfigError(key, value, "not a value in YAML; are brackets and quotes closed?") from error
    return node


def _refused(overrides: list[str]) -> str:
    """The field that an override names and that refuses its value; an error about an element of a list names none."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for item in overrides:
        try:
            OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), _from_dotlist([item])))
        except (OmegaConfBaseException, ConfigError):
            return item.partition("=")[0]
    return ""


def _given(overrides: list[str], name: str) -> object:
    return next((item.split("=", 1)[1] for item in overrides if item.startswith(name + "=")), None)


def _known(name: str) -> str:
    node: Any = Config
    for part in name.split(".")[:-1]:
        hints = get_type_hints(node)
        if not dataclasses.is_dataclass(hints.get(part)):
            break
        node = hints[part]
    return ", ".join(spec.name for spec in dataclasses.fields(node))
