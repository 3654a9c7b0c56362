"""Where the endpoint's log goes: standard error, a line for each request and for what an operator should know."""

from __future__ import annotations

import logging

SERVE, ACCESS = "vila2_ray.serve", "vila2_ray.serve.access"


def show_logs(with_requests: bool) -> None:
    """To be called before the app is made, which hides keys in what is told. Again: changes the requests alone."""
    logger = logging.getLogger(SERVE)
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
    logging.getLogger(ACCESS).setLevel(logging.INFO if with_requests else logging.WARNING)
