from __future__ import annotations

import contextlib
import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2_ray.serve.addresses import is_public, target
from vila2_ray.serve.problems import Problem

INSIDE = [
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "100.64.0.0/10",
    "0.0.0.0/8",
    "192.0.2.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "192.88.99.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "168.63.129.16/32",
    "::/8",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:db8::/32",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
]


@given(st.sampled_from(INSIDE), st.integers(min_value=0))
@settings(deadline=None)
def test_no_address_of_the_inside_is_public(net: str, offset: int) -> None:
    inside = ipaddress.ip_network(net)
    assert not is_public(str(inside[offset % inside.num_addresses]))


@given(st.ip_addresses(v=4), st.sampled_from(["::ffff:{}", "::{}", "64:ff9b::{}"]))
@settings(deadline=None)
def test_no_address_within_an_address_is_public(address: ipaddress.IPv4Address, form: str) -> None:
    assert not is_public(form.format(address))
    assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | int(address) << 80)))


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "2a00:1450::64"])
def test_the_open_internet_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", ["", "localhost", "0x7f.1", "127.1", "2130706433", "2606:2800::1%eth0", "fe80::1%1"]
)
def test_what_is_no_plain_address_is_not(address: str) -> None:
    assert not is_public(address)


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_is_a_target_or_a_problem(text: str) -> None:
    with contextlib.suppress(Problem):
        found = target(text)
        assert found.scheme in ("http", "https")
        assert found.port in (80, 443)
        assert found.host.isascii()
        assert found.path.isascii()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "cat.jpg",
        "//example.org/cat.jpg",
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "https://",
        "https:///x",
        "https://user@example.org/",
        "https://user:word@example.org/",
        "https://example.org:8080/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://example.org:x/",
        "https://exa mple.org/",
        "https://example.org/\r\nHost: inside",
        "https://example.org\\@inside/",
        "https://[::1",
        "https://[fe80::1%25eth0]/",
        "https://a..b/",
        "https://" + "a" * 70 + ".org/",
        "https://example.org/" + "a" * 5000,
    ],
)
def test_urls_that_are_not_fetched(url: str) -> None:
    with pytest.raises(Problem) as caught:
        target(url)
    assert caught.value.status == 422
    assert "send the picture itself" in caught.value.detail


def test_urls_are_taken_apart_as_a_request_needs_them() -> None:
    found = target("https://Bücher.example:443/ein bild.jpg?q=ä#part".replace(" ", "%20"))
    assert (found.host, found.port, found.is_secure) == ("xn--bcher-kva.example", 443, True)
    assert (found.path, found.authority) == ("/ein%20bild.jpg?q=%C3%A4", "xn--bcher-kva.example")
    assert target("http://example.org:443").authority == "example.org:443"
    assert target("http://[2606:2800::1]/").authority == "[2606:2800::1]"


def test_redirects_may_be_relative_and_are_checked_alike() -> None:
    base = target("https://example.org/a/b.jpg")
    assert target("../c.jpg", base).path == "/c.jpg"
    assert target("//other.org/x", base).host == "other.org"
    with pytest.raises(Problem):
        target("file:///etc/passwd", base)
    with pytest.raises(Problem):
        target("http://x@inside/", base)
