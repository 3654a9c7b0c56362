"""Where pictures may be fetched from: addresses of the open internet, and nothing that leads back inside. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from vila2_ray.serve.problems import Problem

_MAX_CHARACTERS = 4096
_PORTS = {"http": 80, "https": 443}
_AS_IT_IS = "/%:@!$&'()*+,;=~-._?"
_V6_UNICAST = ipaddress.ip_network("2000::/3")
_CLOSED = (
    ipaddress.ip_network("168.63.129.16/32"),  # Azure's own, within each of its machines
    ipaddress.ip_network("192.88.99.0/24"),  # relays of 6to4
    ipaddress.ip_network("2001::/23"),  # Teredo and other protocols' own
    ipaddress.ip_network("2002::/16"),  # 6to4: an IPv4 address within
)
"""What Python calls global, and what may lead elsewhere than it says. Other tunnels lie outside of 2000::/3."""


def is_public(address: str) -> bool:
    """Whether a numeric address, IPv4 or IPv6, belongs to the open internet and to one machine there."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not found.is_global or found.is_multicast or found.is_reserved or found.is_unspecified:
        return False
    if isinstance(found, ipaddress.IPv6Address) and (found not in _V6_UNICAST or found.scope_id):
        return False
    return not any(found in net for net in _CLOSED if net.version == found.version)


@dataclass(frozen=True)
class Target:
    """A checked http(s) URL, taken apart."""

    scheme: str
    host: str
    """ASCII, without brackets; not yet known where it leads."""
    port: int
    path: str
    """With the query, as a request line holds it."""

    @property
    def is_secure(self) -> bool:
        """Whether TLS is spoken."""
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """As the Host header names it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def target(url: str, base: Target | None = None) -> Target:
    """What a URL says; relative to `base`, as redirects may be. Raises Problem 422 for what is not fetched."""
    if len(url) > _MAX_CHARACTERS or any(ord(character) <= 0x20 or character in "\\\x7f" for character in url):
        raise refused("longer than 4,096 characters, or with blanks, control characters or a backslash in it")
    try:
        if base is not None:
            url = urljoin(f"{base.scheme}://{base.authority}{base.path}", url)
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna").decode("ascii")
    except ValueError as error:  # UnicodeError is one
        raise refused("not a URL") from error
    if parts.scheme not in _PORTS:
        raise refused("its scheme is neither http nor https")
    if "@" in parts.netloc:
        raise refused("user names and passwords in it are not sent")
    if not host or "%" in host:
        raise refused("it names no host")
    if port not in (None, *_PORTS.values()):
        raise refused("only the ports 80 and 443 are asked")
    path = quote(parts.path or "/", safe=_AS_IT_IS) + (f"?{quote(parts.query, safe=_AS_IT_IS)}" if parts.query else "")
    return Target(parts.scheme, host, port or _PORTS[parts.scheme], path)


def refused(why: str) -> Problem:
    """The address cannot be used, whatever is behind it."""
    return Problem(422, "address-refused", "This address is not fetched", f"{why}: send the picture itself instead")
