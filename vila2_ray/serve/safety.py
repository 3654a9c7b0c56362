"""Who may reach an endpoint without keys: this machine alone. The one place with that rule."""

from __future__ import annotations

import ipaddress

from vila2_ray.config.serving import ServeConfig
from vila2_ray.errors import ConfigError


def check_exposure(settings: ServeConfig) -> None:
    """Raises ConfigError where others than this machine could ask without a key."""
    check_reach(settings.host, settings.keys, "serve.host", "serve.keys")


def check_reach(host: str, keys: str, host_field: str, keys_field: str) -> None:
    """The same of any server; the fields are where people say its host and its file of keys."""
    if not keys and not is_loopback(host):
        remedy = f"{host_field} = {host!r} is reached from other machines, which need keys: make a file of them "
        remedy += "with vila2 serve-key FILE NAME, or listen on 127.0.0.1"
        raise ConfigError(keys_field, keys, remedy)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`. A name may lead anywhere: `localhost` alone is believed."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
