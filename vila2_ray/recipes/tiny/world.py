"""The tiny world: what a scene holds, and how it is put into words. Pure: no pixels, no torch.

A scene has one to three things of 32 kinds, small or large, each at one of 3 × 3 places; three scenes in ten also have
a printed sign with a word of a small lexicon at a place of its own. Its *truth* is the JSON object
`{"objects": [{"name", "size", "place", "box", "artwork", "rotation", "mirrored"}],
  "words": [{"text", "place", "box"}]}`
with boxes as [xmin, ymin, xmax, ymax], integers 0–999 of the image. `compose` adds boxes and artwork; texts need
neither.

Held-out scenes are never seen in training, neither by a campaign nor by the base: one composition in eight (which
things at which places, see `is_held_out`) is theirs alone, and `compose` gives them backgrounds, rotations, hues and
plates of their own.
"""

from __future__ import annotations

import random
import zlib
from typing import Any

from vila2_ray.captions.mentions import PLACES, SIZES

Truth = dict[str, list[dict[str, Any]]]

EMOJI = {
    "red apple": "red_apple",
    "banana": "banana",
    "lemon": "lemon",
    "strawberry": "strawberry",
    "pineapple": "pineapple",
    "watermelon": "watermelon",
    "pizza": "pizza",
    "hamburger": "hamburger",
    "cat": "cat_face",
    "dog": "dog_face",
    "rabbit": "rabbit_face",
    "panda": "panda",
    "frog": "frog",
    "penguin": "penguin",
    "fish": "fish",
    "octopus": "octopus",
    "butterfly": "butterfly",
    "turtle": "turtle",
    "car": "automobile",
    "bus": "bus",
    "bicycle": "bicycle",
    "airplane": "airplane",
    "rocket": "rocket",
    "sailboat": "sailboat",
    "guitar": "guitar",
    "camera": "camera",
    "key": "key",
    "umbrella": "umbrella",
    "balloon": "balloon",
    "gift": "wrapped_gift",
    "soccer ball": "soccer_ball",
    "alarm clock": "alarm_clock",
}
"""Name in the world → name of the emoji."""
NAMES = tuple(EMOJI)
LEXICON = ("stop", "open", "sale", "exit", "taxi", "cafe", "zoo", "park", "milk", "post")
JUNK = ("stock photo free download", "image 2034", "buy now best price", "my holiday", "untitled")
TINY_PROMPTS = {
    "brief": "caption",
    "detailed": "describe the image in detail.",
    "narrative": "tell what is in the image.",
    "confident": "list only what is certain.",
}
"""Prompt id → wording. Alt text is trained under `brief`; the three others ask for a careful caption."""
DETAILED_PROMPTS = ("detailed", "narrative", "confident")


def layout(rng: random.Random, *, heldout: bool = False) -> Truth:
    """A scene without pixels: objects with name, size and place, words with text and place, both in reading order."""
    while True:
        words, free = [], list(range(9))
        if rng.random() < 0.3:
            spot = rng.randrange(9)
            words.append({"text": rng.choice(LEXICON), "place": PLACES[spot]})
            # a sign is wider than its place: the places beside it stay empty
            free = [i for i in free if i // 3 != spot // 3 or abs(i - spot) > 1]
        spots = sorted(rng.sample(free, rng.choice((1, 2, 3))))
        objects = [{"name": rng.choice(NAMES), "size": rng.choice(SIZES), "place": PLACES[i]} for i in spots]
        truth = {"objects": objects, "words": words}
        if is_held_out(truth) == heldout:
            return truth


def is_held_out(truth: Truth) -> bool:
    """Whether this composition (names and places of its things) is one of the eighth that training never sees."""
    composition = "|".join(f"{thing['name']}@{thing['place']}" for thing in truth["objects"])
    return zlib.crc32(composition.encode()) % 8 == 0


def with_article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def careful_caption(truth: Truth) -> str:
    """Everything in the scene in reading order: `a large red apple at the top left, a small cat at the center.` …"""
    things = [f"a {thing['size']} {thing['name']} at the {thing['place']}" for thing in truth["objects"]]
    signs = [f" a sign reading {word['text']} at the {word['place']}." for word in truth["words"]]
    return ", ".join(things) + "." + "".join(signs)


def alt_text(truth: Truth, rng: random.Random) -> str:
    """What the web might say: two to four words about one thing; one in five junk, one in five the wrong thing."""
    draw = rng.random()
    if draw < 0.2:
        return rng.choice(JUNK)
    if truth["words"] and rng.random() < 0.25:
        return f"{truth['words'][0]['text']} sign"
    name = rng.choice(truth["objects"])["name"]
    if draw < 0.4:
        name = rng.choice(NAMES)
    return rng.choice((with_article(name), f"the {name}", f"{name} picture", f"the {name} photo", f"cute {name} icon"))


def questions(truth: Truth, rng: random.Random, num: int | None = 3) -> list[dict[str, str]]:
    """`num` different questions as {"kind", "question", "answer"}.

    None asks one of every kind that the scene allows, and `exist` both ways.
    """
    asked: list[dict[str, str]] = []
    if num is None:
        every = (_question(truth, rng, kind) for kind in _DRAWS)
        return [question for question in every if question is not None]
    while len(asked) < num:
        kind = rng.choices(tuple(_DRAWS), tuple(_DRAWS.values()))[0]
        question = _question(truth, rng, kind)
        if question is not None and question not in asked:
            asked.append(question)
    return asked


_DRAWS = {"exist-yes": 2, "exist-no": 2, "where": 3, "count": 2, "size": 3, "read": 2}
"""How often each kind of question is drawn, relative to the others."""


def _question(truth: Truth, rng: random.Random, kind: str) -> dict[str, str] | None:
    names = [thing["name"] for thing in truth["objects"]]
    single = [thing for thing in truth["objects"] if names.count(thing["name"]) == 1]
    if kind == "count":
        return {"kind": "count", "question": "how many objects are there?", "answer": str(len(names))}
    if kind == "exist-yes":
        return {"kind": "exist", "question": f"is there {with_article(rng.choice(names))}?", "answer": "yes"}
    if kind == "exist-no":
        absent = rng.choice([name for name in NAMES if name not in names])
        return {"kind": "exist", "question": f"is there {with_article(absent)}?", "answer": "no"}
    if kind == "read":
        if not truth["words"]:
            return None
        return {"kind": "read", "question": "what does the sign say?", "answer": truth["words"][0]["text"]}
    if not single:
        return None
    thing = rng.choice(single)
    if kind == "where":
        return {"kind": "where", "question": f"where is the {thing['name']}?", "answer": thing["place"]}
    return {"kind": "size", "question": f"what size is the {thing['name']}?", "answer": thing["size"]}
