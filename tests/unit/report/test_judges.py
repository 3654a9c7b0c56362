"""What judges say, on the page: rates with intervals, agreement, nothing where nobody judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.unit.judge.voting import pairs, votes
from vila2_ray.campaign.studies import draw_study
from vila2_ray.judge.study import Vote
from vila2_ray.judge.winning import Figures, figures
from vila2_ray.report.collect import collect
from vila2_ray.report.data import JudgedStudy
from vila2_ray.report.judges import agreement_tables, collect_studies, judged_tables
from vila2_ray.report.render import render

from .pages import Page, example
from .test_collect import make_campaign


def some() -> Figures:
    mine = pairs(40)
    given = [*votes(mine, "ann", "2" * 30 + "1" * 10), *votes(mine, "bob", "2" * 20 + "=" * 10)]
    for swapped in (False, True):
        given += votes(mine, "model:<b>", "2" * 30 + ("1" if swapped else "2") * 10, swapped)
    given += [Vote(mine[39].pair_id, "bob", "person", False, {}, 1.0)]
    return figures(mine, given, ["detail", "overall"], {"alt_text:round-1": 8})


def test_cells_hold_rates_and_what_was_not_asked_says_so() -> None:
    (table,) = judged_tables([JudgedStudy("votes", some())])
    people, model = table["rows"]
    # 20 images are second's, 10 half of it (ann second, bob tie: 3/4), 10 first's; 8 alike
    assert people["cells"][0]["value"] == f"{100 * (20 + 7.5 + 4) / 48:.1f}\u202f%"
    assert people["cells"][1] == {"value": "–", "interval": "", "bar": ""}
    assert people["about"] == "48 images, 8 of them alike, 2 raters"
    assert (model["judge"], model["about"]) == ("model:<b>", "48 images, 8 of them alike")
    assert table["details"][0][:8] == ("alt_text", "round-1", "people", "detail", "48", "25", "10", "13")
    assert table["told"] == "1 passed over"


def test_agreement_is_told_where_there_is_any() -> None:
    people, themselves, with_people = agreement_tables(some())
    assert people["rows"] == [("detail", "2", "30", "66.7\u202f%", people["rows"][0][4])]
    assert themselves["rows"] == [("model:<b>: detail", "40", "75.0\u202f%", "37.5\u202f%")], "30 of 80"
    # 20 of one mind; on 10 people are of two minds; ann alone says first, the model neither
    assert with_people["rows"] == [("model:<b>: detail", "30", "66.7\u202f%", "20", "100.0\u202f%")]
    alone = figures(pairs(2), votes(pairs(2), "ann", "12"), ["detail"], {})
    assert agreement_tables(alone) == []


def test_the_page_shows_them() -> None:
    page = Page(render(replace(example(), studies=(JudgedStudy("<i>", some()),))))
    assert page.errors == []
    assert "What judges say" in page.text
    assert "Study <i>" in page.text
    assert "Round 1 against alt text model:<b>: 48 images" in page.text
    assert "Krippendorff" in page.text
    assert "What judges say" not in Page(render(example())).text
    empty = figures(pairs(2), [], ["detail"], {})
    assert "What judges say" not in Page(render(replace(example(), studies=(JudgedStudy("votes", empty),)))).text


def test_a_campaigns_studies_are_collected(tmp_path: Path) -> None:
    campaign, notes = make_campaign(tmp_path), list[str]()
    study = draw_study(campaign, "votes", ["round-1", "round-2"], 5, ["detail"], 0)
    assert collect_studies(campaign, notes) == (), "nobody has voted"
    for vote in votes(study.pairs(), "ann", "22"):
        study.cast(vote)
    (found,) = collect_studies(campaign, notes)
    assert [(rate.second, rate.second_wins) for rate in found.figures.rates] == [("round-2", 2.0)]
    assert collect(campaign, 1).studies == (found,)
    assert notes == []
    study.store.write_text(f"votes/ann/{study.pairs()[0].pair_id}-0-99-abc.json", "{")
    assert collect_studies(campaign, notes) == ()
    assert "is no vote" in notes[0]
