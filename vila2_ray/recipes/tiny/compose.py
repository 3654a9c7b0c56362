"""Paints scenes of the tiny world: 96 × 96 pixels, artwork with alpha on gradients, signs on small plates.

Held-out scenes differ in everything that can differ: radial and two-band backgrounds instead of linear gradients,
artwork turned by 13–20° instead of at most 12° and shifted in hue by 8–14° instead of not at all, signs on darker and
more tinted plates. Compositions differ too, see `world.is_held_out`.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vila2_ray.recipes.tiny.world import PLACES, Truth

SIDE = 96
"""Width and height of a scene in pixels."""
FONT_SIZE = 15
"""Points; capitals of Pillow's bundled font are then 10 pixels high."""


def compose(
    scene: Truth, rng: random.Random, artwork: Mapping[str, Image.Image], *, heldout: bool = False
) -> tuple[Image.Image, Truth]:
    """Paint a `world.layout`. Returns the RGB image and the scene's full truth, with boxes and artwork variants."""
    image = _background(rng, heldout)
    objects = [{**thing, **_paste(image, thing, rng, artwork, heldout)} for thing in scene["objects"]]
    words = [{**word, "box": _sign(image, word, rng, heldout)} for word in scene["words"]]
    return image, {"objects": objects, "words": words}


def place_center(place: str) -> tuple[float, float]:
    """(x, y) in pixels of the middle of a place."""
    index = PLACES.index(place)
    return (index % 3 + 0.5) * SIDE / 3, (index // 3 + 0.5) * SIDE / 3


def _paste(
    image: Image.Image, thing: dict, rng: random.Random, artwork: Mapping[str, Image.Image], heldout: bool
) -> dict[str, object]:
    picture = artwork[thing["name"]]
    mirrored = rng.random() < 0.5
    if mirrored:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    rotation = rng.uniform(13, 20) * rng.choice((-1, 1)) if heldout else rng.uniform(-12, 12)
    variant = "plain"
    if heldout:
        hue = round(rng.uniform(8, 14)) * rng.choice((-1, 1))
        picture, variant = _shift_hue(picture, hue), f"hue{hue:+d}"
    picture = picture.rotate(rotation, Image.Resampling.BILINEAR)
    picture = picture.crop(picture.getchannel("A").point(lambda alpha: 255 * (alpha > 32)).getbbox())
    longer = rng.randint(39, 42) if thing["size"] == "large" else rng.randint(28, 30)
    scale = longer / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    center_x, center_y = place_center(thing["place"])
    x = _inside(center_x + rng.uniform(-2, 2) - width / 2, width)
    y = _inside(center_y + rng.uniform(-2, 2) - height / 2, height)
    image.paste(picture, (x, y), picture)
    return {
        "box": _box(x, y, x + width, y + height),
        "artwork": variant,
        "rotation": round(rotation, 1),
        "mirrored": mirrored,
    }


def _sign(image: Image.Image, word: dict, rng: random.Random, heldout: bool) -> list[int]:
    text, font = word["text"].upper(), _font()
    left, top, right, bottom = font.getbbox(text)
    width, height = math.ceil(right - left) + 6, math.ceil(bottom - top) + 6
    center_x, center_y = place_center(word["place"])
    x = _inside(center_x + rng.uniform(-2, 2) - width / 2, width)
    y = _inside(center_y + rng.uniform(-2, 2) - height / 2, height)
    plate, ink = _color(rng, 180, 224) if heldout else _color(rng, 225, 255), _color(rng, 0, 60)
    draw = ImageDraw.Draw(image)
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=plate, outline=ink)
    draw.text((x + 3 - left, y + 3 - top), text, fill=ink, font=font)
    return _box(x, y, x + width, y + height)


def _background(rng: random.Random, heldout: bool) -> Image.Image:
    """Linear gradients (down, across, both diagonals) for training; radial ones and two soft bands for held-out."""
    first, second = (np.array(_color(rng, 60, 240), dtype=np.float32) for _ in range(2))
    down, across = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / (SIDE - 1)
    if heldout:
        center_x, center_y, horizon = rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.8), rng.uniform(0.3, 0.7)
        if rng.random() < 0.5:
            mix = np.clip(np.hypot(across - center_x, down - center_y) / 0.9, 0, 1)
        else:
            mix = 1 / (1 + np.exp(-(down - horizon) * 20))
    else:
        mix = (down, across, (down + across) / 2, (down + 1 - across) / 2)[rng.randrange(4)]
    pixels = first + (second - first) * mix[:, :, None]
    return Image.fromarray(pixels.astype(np.uint8))


def _shift_hue(picture: Image.Image, degrees: int) -> Image.Image:
    hue, saturation, value = picture.convert("RGB").convert("HSV").split()
    hue = hue.point(lambda level: (level + round(degrees * 256 / 360)) % 256)
    shifted = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    shifted.putalpha(picture.getchannel("A"))
    return shifted


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(FONT_SIZE)


def _color(rng: random.Random, low: int, high: int) -> tuple[int, int, int]:
    return rng.randint(low, high), rng.randint(low, high), rng.randint(low, high)


def _inside(start: float, length: int) -> int:
    """`start` moved so that the whole length lies inside the image, in whole pixels."""
    return min(max(int(start), 0), SIDE - length)


def _box(*pixels: float) -> list[int]:
    return [min(999, int(pixel * 1000 / SIDE)) for pixel in pixels]
