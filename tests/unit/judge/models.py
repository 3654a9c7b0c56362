"""A server that speaks OpenAI's chat completions and says what a test wants; real HTTP on 127.0.0.1."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from tests.e2e.served import served
from vila2_ray.config import JudgeConfig
from vila2_ray.judge.study import Pair, Shown, Study
from vila2_ray.progress import NullProgress
from vila2_ray.storage import Store

AT_ONCE_AGAIN = {"retry-after-ms": "5"}
CRITERIA = ("hallucination", "overall")
PICTURE = (b"\x89PNG\r\n\x1a\n of a test", "image/png")


@dataclass(frozen=True)
class Asked:
    """One request as it came."""

    body: dict[str, Any]
    authorization: str

    @property
    def parts(self) -> list[dict[str, Any]]:
        content = self.body["messages"][-1]["content"]
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    @property
    def text(self) -> str:
        [text] = [part["text"] for part in self.parts if part["type"] == "text"]
        return text

    @property
    def picture(self) -> bytes:
        [url] = [part["image_url"]["url"] for part in self.parts if part["type"] == "image_url"]
        return base64.b64decode(url.partition("base64,")[2])

    def shown(self, name: str) -> str:
        """What stands between the marks of that name."""
        mark = re.search(r"\[([0-9A-F]{8}) ", self.text)
        assert mark
        start, end = f"[{mark[1]} {name}]\n", f"\n[{mark[1]} end of {name}]"
        assert self.text.count(start) == self.text.count(end) == 1
        return self.text.partition(start)[2].partition(end)[0]


Say = Callable[[Asked], str | Response]


@dataclass
class Model:
    """What answers: a text becomes a completion of 100 tokens read and 10 written; a response goes out as it is."""

    say: Say
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "org/judge-7b"}])
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/v1/models")
        def models() -> Response:
            return JSONResponse({"object": "list", "data": [{"object": "model", **each} for each in self.models]})

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            from starlette.concurrency import run_in_threadpool

            asked = Asked(json.loads(await request.body()), request.headers.get("authorization", ""))
            return await run_in_threadpool(self._answer, asked)

        return app

    def _answer(self, asked: Asked) -> Response:
        with self._lock:
            self.asked.append(asked)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            said = self.say(asked)
            return said if isinstance(said, Response) else completion(said)
        finally:
            with self._lock:
                self.at_once -= 1

    def config(self, **settings: Any) -> JudgeConfig:
        return JudgeConfig(**{"endpoint": f"{self.url}/v1", "max_retries": 2, "at_once": 3, **settings})


@contextmanager
def serving(say: Say, **parts: Any) -> Iterator[Model]:
    model = Model(say, **parts)
    with served(model.app()) as model.url:
        yield model


def completion(text: str | None, finish_reason: str = "stop", usage: bool = True) -> Response:
    message = {"role": "assistant", "content": text}
    body = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
    }
    return JSONResponse(
        body | ({"usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}} if usage else {})
    )


def error(status: int, message: str = "no", param: str | None = None, **headers: str) -> Response:
    body = {"error": {"message": message, "type": "t", "param": param, "code": None}}
    return JSONResponse(body, status, headers=headers or AT_ONCE_AGAIN)


def verdict(side: str, **more: Any) -> str:
    return json.dumps({"reason": "It is so.", **dict.fromkeys(CRITERIA, side), **more})


def prefers(word: str) -> Say:
    """A judge that takes the caption with this word; tie where both or neither have it."""

    def say(asked: Asked) -> str:
        a, b = (word in asked.shown(f"caption {side}") for side in "AB")
        return verdict("tie" if a == b else "A" if a else "B")

    return say


def study(folder: Any, num_pairs: int = 4, first: str = "a cat", second: str = "a good cat") -> Study:
    pairs = [
        Pair(f"{n:016x}", "pretrain", "00000", n, f"00000/{n}", Shown("alt_text", 0, f"{first} {n}"),
             Shown("round-1", 0, f"{second} {n}"))
        for n in range(num_pairs)
    ]  # fmt: skip
    return Study.draw(Store(folder / "judgements" / "votes"), pairs, {"seed": 0}, CRITERIA)


class Heard(NullProgress):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.stage, self.total, self.done, self.is_over = "", 0, [], False
        self.figures: dict[str, float | str] = {}

    def start(self, stage: str, total: int, unit: str) -> None:
        self.stage, self.total = stage, total

    def update(self, done: int, **figures: float | str) -> None:
        self.done.append(done)
        self.figures = figures

    def finish(self) -> None:
        self.is_over = True
