from dataclasses import replace

from vila2_ray.report.data import LayerFacts, Promotion, ReportData
from vila2_ray.report.headline import headline

from .pages import example, round_scores


def title(*values: float, name: str = "object_place_f1") -> str:
    return headline(ReportData("runs/x", metric=name, scores=round_scores(*values, name=name))).title


def test_what_became_better_is_said_with_numbers() -> None:
    assert title(0.357, 0.46, 0.472) == (
        "Two rounds of recaptioning its own corpus raised object + place F1 "
        "from 35.7\u202f% to 47.2\u202f% (+11.5 points)"
    )


def test_a_score_that_should_fall() -> None:
    assert "One round of recaptioning its own corpus lowered hallucination rate" in title(
        0.3, 0.2, name="hallucination_rate"
    )


def test_no_gain_is_said_plainly() -> None:
    said = title(0.5, 0.42, 0.44)
    assert said == "No round beat VLM_0 on object + place F1: 44.0\u202f% at best, 50.0\u202f% before"


def test_before_the_first_round() -> None:
    assert title(0.357) == "VLM_0 reaches 35.7\u202f% object + place F1; no round has followed yet"
    assert headline(ReportData("runs/x")).title == "Nothing has been captioned or scored yet"
    unscored = ReportData("runs/x", layers=(LayerFacts("round-1", num_captioned=1200),))
    assert headline(unscored).title == "1,200 captions in one layer, not scored yet"


def test_names_keep_their_capitals() -> None:
    assert "raised CIDEr against" in title(1.0, 2.0, name="reference_cider")


def test_figures_compare_the_best_round_with_the_first() -> None:
    head = headline(example())
    assert [(f.label, f.gain, f.is_better) for f in head.figures] == [
        ("Object + place F1", "+11.5", True),
        ("Hallucination rate", "−0.9", True),
        ("Words per caption", "+2.0", None),
    ]
    assert "177 captions for 100 samples" in head.lede
    assert "three rows failed" in head.lede


def test_what_is_promoted_is_said_even_where_it_is_not_the_best() -> None:
    data = replace(example(), promotions=(Promotion("VLM_1", is_current=True),))
    assert "compare VLM_2 with VLM_0; VLM_1 is promoted." in headline(data).lede
