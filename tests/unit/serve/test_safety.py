from __future__ import annotations

import pytest

from vila2_ray.config.serving import ServeConfig
from vila2_ray.errors import ConfigError
from vila2_ray.serve.safety import check_exposure


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"])
def test_this_machine_alone_needs_no_keys(host: str) -> None:
    check_exposure(ServeConfig(host=host))


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "", "10.0.0.3", "captions.example.org", "localhost.example.org", "::2"]
)
def test_others_need_keys(host: str) -> None:
    with pytest.raises(ConfigError, match="serve-key") as caught:
        check_exposure(ServeConfig(host=host))
    assert caught.value.field == "serve.keys"
    check_exposure(ServeConfig(host=host, keys="keys"))
