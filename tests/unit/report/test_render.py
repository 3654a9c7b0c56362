import base64
import hashlib
import re
from dataclasses import replace
from html import unescape

import pytest

from vila2_ray.report.data import Caption, LayerFacts, ReportData, RoundScores, Sample, Span
from vila2_ray.report.pictures import MAX_SIDE
from vila2_ray.report.render import MAX_CHARS, clean, dollars, duration, render

from .pages import Page, addresses, example, picture, round_scores

HOSTILE = (
    "</p><script>alert(1)</script><img src=https://evil.example/x onerror=alert(2)>\" onmouseover='x' "
    "{{ 7*7 }} \u202etxet\x00"
)


def hostile() -> ReportData:
    caption = Caption("round-1", "captioned", HOSTILE, (HOSTILE,), prompt_id=HOSTILE, wrong=(Span(4, 20, "absent"),))
    dead = Caption("round-2", "failed", error=HOSTILE, error_detail=HOSTILE)
    sample = Sample(HOSTILE, HOSTILE, (caption, dead), picture(), alt_wrong=(Span(1, 3, "absent"),), truth=(HOSTILE,))
    broken = Sample(HOSTILE, HOSTILE, (replace(caption, layer=HOSTILE),), problem=HOSTILE)
    layers = (LayerFacts(HOSTILE, 1, 0, {HOSTILE: 1}, {HOSTILE: 1}, 1, provenance={HOSTILE: HOSTILE}),)
    scores = tuple(replace(entry, model=HOSTILE) for entry in round_scores(0.1, 0.2, name=HOSTILE))
    data = replace(example(), campaign=HOSTILE, recipe=HOSTILE, samples=(sample, broken), layers=layers)
    return replace(
        data, scores=scores, metric=HOSTILE, config_yaml=HOSTILE, notes=(HOSTILE,), provenance=((HOSTILE, HOSTILE),)
    )


def test_a_whole_page_is_well_formed_and_loads_nothing() -> None:
    html = render(example())
    assert Page(html).errors == []
    assert addresses(html) == []
    assert "http" not in html.replace("http-equiv", "")


def test_texts_of_others_never_become_markup() -> None:
    html = render(hostile())
    page, plain = Page(html), Page(render(example()))
    assert page.errors == []
    assert addresses(html) == []
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 1
    handlers = [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert handlers == []
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in plain.elements} | {"ul", "li"}
    assert "{{ 7*7 }}" in page.text
    assert "\u202e" not in html
    assert "\x00" not in html


def test_the_policy_allows_this_style_and_script_and_nothing_else() -> None:
    html = render(example())
    policy = next(m["content"] for m in Page(html).all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert inside is not None
        assert base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode() in policy
    assert not any("style" in attributes for _, attributes in Page(html).elements)


def test_what_a_reader_looks_for_is_there() -> None:
    text = " ".join(Page(render(example())).text.split())
    for expected in (
        "Two rounds of recaptioning its own corpus raised object + place F1 from 35.7 % to 47.2 % (+11.5 points)",
        "Dead letter: engine died",
        "twice on this row",
        "not selected in this round",
        "image_unreadable: truncated",
        "In the picture small cat (left)",
        "1 wrong object",
        "too short",
        "177 captions for $0.005, training included: 1,300 times less than people would charge.",
        "seed: 0",
        "ab" * 32,
        "checkpoints/vlm-2/sft",
    ):
        assert " ".join(expected.split()) in text, expected


def test_scores_of_length_and_variety_fold_away_where_there_are_better_ones() -> None:
    values = {"object_f1": 0.1, "vqa_accuracy": 0.2, "word_accuracy": 0.3, "distinct_1": 0.4, "vocabulary": 99}
    data = ReportData("runs/x", metric="object_f1", scores=(RoundScores(0, "VLM_0", values),))
    html = render(data)
    assert html.index("Printed words read right") < html.index("<details>") < html.index("Different words per word")
    few = {"mean_logprob": -0.5, "distinct_1": 0.4, "vocabulary": 99}
    html = render(ReportData("runs/x", metric="mean_logprob", scores=(RoundScores(0, "VLM_0", few),)))
    assert "Different words per word" in html
    assert "<details>" not in html


def test_differences_and_wrong_objects_are_marked() -> None:
    html = render(example())
    assert '<mark class="absent end" title="not in the picture">dog</mark>' in html
    assert "<del>dog </del><ins>cat</ins>" in html


def test_every_image_has_alt_text_and_is_small() -> None:
    page = Page(render(example()))
    assert [image["alt"] for image in page.all("img")] == ["Sample shard-0/a, alt text: a cat"]
    assert all(max(image.size) <= MAX_SIDE for image in page.images())


def test_ids_are_unique_and_references_hold() -> None:
    page = Page(render(example()))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    wanted = [value for _, a in page.elements for name, value in a.items() if name in ("aria-labelledby", "for")]
    wanted += [a["href"][1:] for a in page.all("a") if a["href"]]
    assert set(wanted) <= set(ids)


def test_keyboards_reach_everything_and_filters_have_something_to_go_by() -> None:
    page = Page(render(example()))
    assert all("onclick" not in a for _, a in page.elements)
    kinds = [a["data-kinds"] for a in page.all("article")]
    assert kinds == ["corrected flagged random wrong", "failed"]
    labelled = page.all("label")
    assert len(labelled) == len(page.all("input")) + len(page.all("select"))


def test_endless_texts_are_cut_and_counted() -> None:
    endless = Caption("round-1", "captioned", "word " * 100_000)
    html = render(
        ReportData("runs/x", samples=(Sample("s/a", "alt " * 100_000, (endless, replace(endless, layer="round-2"))),))
    )
    assert len(html) < 80_000
    assert f"{500_000 - MAX_CHARS:,} more characters" in html


@pytest.mark.parametrize(
    "data",
    [
        ReportData("runs/x"),
        ReportData("runs/x", metric="mean_logprob", scores=round_scores(-1.5, name="mean_logprob")),
        ReportData("runs/x", samples=(Sample("s/a", "a cat", ()),)),
        ReportData(
            "runs/x", layers=(LayerFacts("round-1"),), samples=(Sample("s/a", "", (Caption("round-1", "missing"),)),)
        ),
        replace(example(), scores=(), metric=""),
        replace(example(), layers=(), samples=(), stages=()),
        replace(example(), scores=round_scores(0.3, 0.3, 0.3)),
        replace(example(), scores=round_scores(float("nan"), 0.3)),
    ],
)
def test_what_is_missing_is_left_out(data: ReportData) -> None:
    page = Page(render(data))
    assert page.errors == []
    assert "None" not in page.text
    assert "nan" not in page.text
    targets = {a["id"] for _, a in page.elements if "id" in a}
    assert {(a["href"] or "")[1:] for a in page.all("nav") if "href" in a} <= targets


def test_the_same_data_makes_the_same_bytes() -> None:
    assert render(example()) == render(example())


def test_hidden_and_reordering_characters_are_shown_as_replaced() -> None:
    assert clean("a\u202eb\x00c\ud800d\ne") == "a\ufffdb\ufffdc\ufffdd\ne"
    assert render(replace(example(), campaign="x\ud800")).encode("utf-8")


def test_times_and_sums_read_well() -> None:
    assert [duration(s) for s in (0.44, 59.6, 61, 3599.9, 100_000)] == [
        "0.4 s",
        "60 s",
        "1 min 01 s",
        "1 h 00 min",
        "27 h 46 min",
    ]
    assert [dollars(d) for d in (0, 0.00001, 0.0023, 0.1, 12.5, 36_000)] == [
        "$0",
        "under $0.0001",
        "$0.0023",
        "$0.10",
        "$12.50",
        "$36,000",
    ]


def test_apostrophes_and_quotes_survive() -> None:
    html = render(replace(example(), notes=('it\'s "fine" & <good>',)))
    assert 'it\'s "fine" & <good>' in unescape(html)


def test_specialists_captions_come_with_what_they_can_be_held_against() -> None:
    html = render(example())
    page = Page(html)
    frames = [attributes for attributes in page.all("svg") if attributes.get("class") == "boxes"]
    assert [frame["viewbox"] for frame in frames] == ["0 0 1000.0 1000.0"]
    rectangles = [a for a in page.all("rect") if a.get("width") in ("400.0", "29.0")]
    assert [(r["x"], r["y"], r["width"], r["height"]) for r in rectangles] == [
        ("0.0", "300.0", "400.0", "400.0"),
        ("1.0", "2.0", "29.0", "38.0"),
    ]
    assert 'class="told"' in html
    assert '<mark class="read end" title="printed in the picture">stop</mark>' in html
    assert "1 wrong word" in page.text
    assert "does not beat the generalist" in page.text
    assert "<ins>the cat" not in html, "a specialist's caption is not compared with the round's"


def test_pictures_that_are_not_square_keep_their_boxes_in_place() -> None:
    wide = replace(example().samples[0], thumbnail=picture(size=(200, 100)))
    frame = next(a for a in Page(render(replace(example(), samples=(wide,)))).all("svg") if a.get("class") == "boxes")
    assert frame["viewbox"] == "0 0 1000.0 500.0"


def test_without_specialists_nothing_is_said_of_them() -> None:
    html = render(replace(example(), specialists=(), final=None, samples=()))
    assert 'id="specialists"' not in html
