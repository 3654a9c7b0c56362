"""A server of its own for the soak: `python -m tests.e2e.soaked` prints its port, then serves until it is ended."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import uvicorn

from tests.unit.serve.scripted import PROMPTS, SETTINGS, ScriptedCaptioner
from vila2_ray.serve.app import create_app
from vila2_ray.serve.captioner import Standing


class Forgetful(ScriptedCaptioner):
    """Remembers no questions: what the soak measures must not grow by the test's own doing."""

    def standing(self) -> tuple[Standing, ...]:
        self.questions.clear()
        self.aborted.clear()
        return super().standing()


async def main() -> None:
    app = create_app(Forgetful(), replace(SETTINGS, max_body_mb=1.0), PROMPTS)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_keep_alive=60))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main())
