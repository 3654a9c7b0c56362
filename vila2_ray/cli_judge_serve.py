"""`vila2 judge serve`: the page for people who judge, until Ctrl-C."""

from __future__ import annotations

import socket

from fastapi import FastAPI

from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.studies import left_out, open_study
from vila2_ray.judge.app import create_judge_app
from vila2_ray.serve.hosting import address_of, listen, make_server, run_until_done
from vila2_ray.serve.keys import Keys
from vila2_ray.serve.logs import show_logs
from vila2_ray.serve.safety import check_reach

DRAIN_SECONDS = 10
"""At Ctrl-C, for votes that are being kept."""


def serve_study_here(campaign: str, study: str, host: str, port: int, keys: str) -> None:
    """Serve until Ctrl-C. Raises ConfigError before it listens where something does not fit."""
    check_reach(host, keys, "--host", "--keys")
    held = Keys.read(keys) if keys else None
    found = Campaign(campaign)
    judged = open_study(found, study)
    gone = left_out(found, judged)
    show_logs(with_requests=False)
    app = create_judge_app(judged, found.corpus, held, gone)
    with listen(host, port, "--port") as listening:
        run_until_done(_serve(app, listening, study))


async def _serve(app: FastAPI, listening: socket.socket, study: str) -> None:
    print(f"judging {study} at {address_of(listening)}, until Ctrl-C; every vote is kept as it comes", flush=True)
    await make_server(app, DRAIN_SECONDS).serve(sockets=[listening])
