"""Who may reach an endpoint without keys: this machine alone. The one place with that rule."""

from __future__ import annotations

import ipaddress

from vila2_ray.config.serving import ServeConfig
from vila2_ray.errors import ConfigError


def check_exposure(settings: ServeConfig) -> None:
    """Raises ConfigError where others than this machine could ask without a key."""
    if not settings.keys and not is_loopback(settings.host):
        remedy = f"serve.host = {settings.host!r} is reached from other machines, which need keys: make a file of them "
        remedy += "with vila2 serve-key FILE NAME, or listen on 127.0.0.1"
        raise ConfigError("serve.keys", settings.keys, remedy)


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
