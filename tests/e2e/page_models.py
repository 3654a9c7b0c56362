"""Models whose answers the page's tests know: what is asked says how they answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from vila2_ray.engines.live import Piece
from vila2_ray.errors import EngineDied, Overloaded
from vila2_ray.serve.captioner import Question, Said, Served, Standing

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script> </p> &amp; a <b [10,10,90,90]> thing'
BOXED = {
    "promoted": "A small dog [100,200,500,700] sits beside a red ball [600,550,850,800] on the grass.",
    "vlm-0": "The dog [90,210,480,720] and two birds [10,20,80,90] and [900,20,980,110].",
    "grounding": "a dog [100,200,500,700], a ball [600,550,850,800], a tree [0,0,999,400].",
}
SERVED = {
    "promoted": Served("promoted", "vlm-1", "5be0a1c2d3e4" * 5, engine="fake 1", since=1.0),
    "vlm-0": Served("vlm-0", "vlm-0", "0c94f1b7a288" * 5, engine="fake 1", since=1.0),
    "grounding": Served("grounding", "vlm-1-grounding", "77d1b6e09f3c" * 5, "grounding", "fake 1", 1.0),
}


class PageModels:
    """A captioner. Asked `slow` it goes on for ever, `full` it refuses, `die` it breaks off, `hostile` it says HTML."""

    def __init__(self) -> None:
        self.asked: list[Question] = []
        self.num_closed = 0
        """Answers that were ended before they were whole."""
        self.num_refusals = 1
        """How often it refuses what it is asked by `full`."""
        self.served = dict(SERVED)

    async def start(self) -> None:
        pass

    def standing(self) -> tuple[Standing, ...]:
        serving = [Standing(name, "serving", served) for name, served in self.served.items()]
        return (*serving, Standing("ocr", "loading", detail="vlm-1-ocr is being loaded"))

    async def answer(self, question: Question) -> AsyncGenerator[Said, None]:
        self.asked.append(question)
        by, words = self.served[question.name], question.turns[-1].text
        if words == "full" and self.num_refusals > 0:
            self.num_refusals -= 1
            raise Overloaded("64 questions wait already", 2.0)
        text = {"hostile": HOSTILE, "slow": "and on " * 100_000}.get(words, BOXED[question.name])
        said = 0
        try:
            for start in range(0, len(text), 7):
                if words == "die" and start > 21:
                    raise EngineDied("the engine is gone")
                said = min(start + 7, len(text))
                last = said == len(text)
                piece = Piece(text[start:said], start // 7 + 1, "stop" if last else "", 40 if last else 0)
                yield Said(piece, by)
                await asyncio.sleep(0.02 if words == "slow" else 0)
        finally:
            self.num_closed += said < len(text)

    async def close(self) -> None:
        pass
