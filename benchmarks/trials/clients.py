"""The process that asks over HTTP: `python -m trials.clients --port …`, then orders on stdin (`trials.orders`)."""

from __future__ import annotations

import argparse
from pathlib import Path

from trials.load import Ask, Connection, Pictures, http_clients, route, run
from trials.orders import obey


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both the engine asked directly and the clients over HTTP must know."""
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--pictures", type=Path, required=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add_options(parser)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="")
    parser.add_argument("--most", type=int, required=True, help="clients at once")
    options = parser.parse_args()
    pictures, said = Pictures(options.pictures), dict[int, str]()
    connections = [Connection(options.port) for _ in range(options.most)]

    def make(num: int, name: str) -> list[Ask]:
        for connection in connections:
            connection.close()  # meanwhile its server may have: idle ones are not kept for long
        put = route(name, options.model, options.prompt, options.tokens)
        return http_clients(connections[:num], put, pictures, options.tokens, said)

    run(obey(make, said))


if __name__ == "__main__":
    main()
