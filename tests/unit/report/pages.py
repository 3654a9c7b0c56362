"""Reports made by hand, and a reader of pages, for the tests beside this file."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

from PIL import Image

from vila2_ray.report.data import (
    Caption,
    DrawnBox,
    FinalModel,
    LayerDrift,
    LayerFacts,
    Promotion,
    ReportData,
    RoundScores,
    Sample,
    Span,
    Specialist,
    StageCost,
    Told,
    TrainedOn,
    Words,
)
from vila2_ray.report.pictures import thumbnail

DOG = Span(8, 11, "absent")
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """What a browser would see: elements with attributes, visible text, and whether tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.errors = "", []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.errors += [f"<{tag}> never closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self._open or self._open[-1] != tag:
            self.errors.append(f"</{tag}> closes {self._open[-3:]} at {self.getpos()}")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def images(self) -> list[Image.Image]:
        return [
            Image.open(io.BytesIO(base64.b64decode((image["src"] or "").split(",", 1)[1]))) for image in self.all("img")
        ]


def addresses(html: str) -> list[str]:
    """Everything in a page that a browser would load or follow, but for its own anchors and inline images."""
    loaded = [
        value or ""
        for _, attributes in Page(html).elements
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "poster", "data", "background", "xlink:href", "formaction")
    ]
    styles = re.findall(r"url\(([^)]*)\)|@import\s+([^;]+)", html)
    return [a for a in loaded if not a.startswith(("#", "data:image/jpeg;base64,")) and a != "data:,"] + [
        a or b for a, b in styles
    ]


def picture(color: str = "teal", size: tuple[int, int] = (96, 96)) -> bytes:
    return thumbnail(Image.new("RGB", size, color))


def round_scores(*values: float, name: str = "object_place_f1") -> tuple[RoundScores, ...]:
    return tuple(RoundScores(k, f"VLM_{k}", {name: value}) for k, value in enumerate(values))


def example() -> ReportData:
    """Two rounds with everything in them."""
    samples = (
        Sample(
            "shard-0/a",
            "a cat",
            (
                Caption("round-1", "captioned", "a small dog at the left.", ("too_short",), wrong=(DOG,)),
                Caption("round-2", "captioned", "a small cat at the left.", prompt_id="detailed", mean_logprob=-0.4),
                Caption(
                    "grounding",
                    "captioned",
                    "a cat [0,300,400,700], a dog [1,2,30,40].",
                    boxes=(DrawnBox("cat", (0, 300, 400, 700), True), DrawnBox("dog", (1, 2, 30, 40), False)),
                    is_specialists=True,
                ),
                Caption(
                    "spatial",
                    "captioned",
                    "the cat is left of the dog.",
                    relations=(Told("cat left of dog", False), Told("cat above key", None)),
                    is_specialists=True,
                ),
                Caption(
                    "ocr",
                    "captioned",
                    "stop exit",
                    wrong=(Span(0, 4, "read"), Span(5, 9, "unread")),
                    is_specialists=True,
                ),
            ),
            picture(),
            truth=("small cat (left)",),
        ),
        Sample(
            "shard-0/b",
            "",
            (
                Caption("round-1", "failed", error="engine_died", error_detail="twice on this row"),
                Caption("round-2", "not_selected"),
            ),
            problem="image_unreadable: truncated",
            chosen_for="failed",
        ),
    )
    layers = tuple(
        LayerFacts(
            f"round-{k}",
            num_captioned=90 - k,
            num_not_selected=8,
            errors={"engine_died": k},
            flags={"too_short": 5 // k, "repetition": 0},
            num_flagged=5 // k,
            words=Words(20.0 + k, 9, 30),
            num_shards=2,
            num_shards_read=2,
            provenance={"layer": f"round-{k}", "checkpoint_digest": "ab" * 32},
        )
        for k in (1, 2)
    )
    scores = tuple(
        RoundScores(k, f"VLM_{k}", {"object_place_f1": f1, "hallucination_rate": wrong, "words_per_caption": 20.0 + k})
        for k, (f1, wrong) in enumerate([(0.357, 0.228), (0.46, 0.222), (0.472, 0.219)])
    )
    return ReportData(
        campaign="runs/example",
        recipe="tiny",
        written="1 May 2026, 10:00 UTC",
        metric="object_place_f1",
        decision="the rounds end here",
        scores=scores,
        layers=layers,
        alt_words=Words(2.9, 2, 4),
        samples=samples,
        num_corpus_samples=100,
        stages=(
            StageCost("align", 100, 0.003),
            StageCost("recaption-1", 30, 0.001, 89),
            StageCost("recaption-2", 30, 0.001, 88),
        ),
        specialists=(
            Specialist("grounding", "box_recall_50", 0.0, 0.51, True),
            Specialist("ocr", "word_accuracy", 0.71, 0.7, False),
        ),
        final=FinalModel("VLM_2", (("object_place_f1", 0.472, 0.46), ("box_recall_50", 0.0, 0.3))),
        trained_on=(TrainedOn("pretrain-0", "pretrain", 97, 4096, 512, 97),),
        node_dollars_per_hour=0.1,
        config_yaml="campaign: runs/example\nseed: 0\n",
        provenance=(("base weights", "cd" * 32),),
        promotions=(Promotion("VLM_2", "2026-05-01 09:59 UTC", "checkpoints/vlm-2/sft", "ef" * 32, True),),
    )


def drifting(*collapses: str) -> tuple[LayerDrift, ...]:
    """Figures of two layers; the second one's first figures are of a layer that collapsed."""
    sound = {"words_per_caption": 101.2, "vocabulary": 5210.0, "share_identical": 0.001, "refusal_share": 0.0}
    return (
        LayerDrift("round-1", sound),
        LayerDrift("round-2", {**sound, "share_identical": 0.93, "previous_similarity": 0.41}, collapses),
    )
