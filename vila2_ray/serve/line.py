"""A way to one version on Ray Serve: its handle, and Serve's words for what goes wrong turned into ours."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import grpc
from ray import serve
from ray.exceptions import RayActorError, RayError, TaskCancelledError
from ray.serve.exceptions import BackPressureError, RayServeException

from vila2_ray.engines.live import Piece
from vila2_ray.errors import EngineDied, Overloaded, Vila2Error, own_cause
from vila2_ray.serve.captioner import Question

DEPLOYMENT = "engine"
WARM_SECONDS = 5.0


class ServeLine:
    """Made in the event loop that asks. Answers wanted whole travel as one message, not as a stream of one."""

    def __init__(self, application: str) -> None:
        self.handle = serve.get_deployment_handle(DEPLOYMENT, application, _check_exists=False)
        self._whole, self._stream = self.handle.whole, self.handle.options(stream=True).stream
        self._num_running, self._is_closed = 0, False

    async def warm(self) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(result(self.handle.version.remote()), WARM_SECONDS)

    async def pieces(self, question: Question) -> AsyncGenerator[Piece, None]:
        self._num_running += 1
        response: Any = None
        try:
            with in_our_words():
                if question.streamed:
                    response = self._stream.remote(question)
                    async for piece in response:
                        yield _checked(piece)
                else:
                    response = self._whole.remote(question)
                    yield _checked(await response)
            response = None
        finally:
            if response is not None:  # nobody waits for the rest
                response.cancel()
            self._num_running -= 1
            self._shut_if_over()

    def close(self) -> None:
        self._is_closed = True
        self._shut_if_over()

    def _shut_if_over(self) -> None:
        """A handle listens to the cluster as long as it is open."""
        if self._is_closed and not self._num_running:
            with contextlib.suppress(RuntimeError):  # the loop is closing: the handle goes with it
                _BACKGROUND.add(task := asyncio.get_running_loop().create_task(_shut(self.handle)))
                task.add_done_callback(_BACKGROUND.discard)


_BACKGROUND: set[asyncio.Task[None]] = set()
"""Tasks that nobody awaits are kept from being collected."""


async def result(response: Any) -> Any:
    """Serve's responses can be awaited and are no coroutines, which tasks and time-outs want."""
    return await response


async def _shut(handle: Any) -> None:
    with contextlib.suppress(Exception):
        await handle.shutdown_async()


def _checked(said: Piece | Vila2Error) -> Piece:
    if isinstance(said, Vila2Error):
        raise said
    return said


@contextlib.contextmanager
def in_our_words() -> Iterator[None]:
    """What Ray and Serve raise, as errors of ours where there is one that means the same."""
    try:
        yield
    except Vila2Error:
        raise
    except BackPressureError as error:
        raise Overloaded("too many questions wait already", error.retry_after_s or 1.0) from error
    except TaskCancelledError:
        raise
    except (RayActorError, RayServeException, grpc.aio.AioRpcError) as error:
        raise EngineDied("the replica that was to answer is gone") from error
    except RayError as error:
        if (own := own_cause(error)) is not None:
            raise own from error
        raise
