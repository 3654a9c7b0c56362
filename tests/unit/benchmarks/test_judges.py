"""What the benchmark of judges makes of captions whose truth is known: by hand."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vila2_ray.config import FiltersConfig

REPOSITORY = Path(__file__).parents[3]
sys.path.append(str(REPOSITORY / "benchmarks"))  # where benchmarks find their trials

from trials.endpoint import Couple, Opinion, read, wording  # noqa: E402
from trials.judgesreport import figures, write_report  # noqa: E402
from trials.judging import Writer, examined  # noqa: E402
from trials.verdicts import (  # noqa: E402
    COUNT,
    DESCRIBE,
    EXIST,
    READ,
    WHERE,
    Judged,
    Setting,
    Told,
    best_setting,
    detection,
    flags_of,
    objections,
    pairs,
    picked,
    preference,
    quality,
    questions,
    told,
)
from trials.written import Written  # noqa: E402

PROMPT = "describe the image in detail."
SCENE: dict[str, Any] = {
    "objects": [
        {"name": "cat", "size": "small", "place": "top left"},
        {"name": "dog", "size": "large", "place": "center"},
    ],
    "words": [{"text": "stop", "place": "bottom"}],
}
TRUE = "a small cat at the top left, a large dog at the center. a sign reading stop at the bottom."
SHORT = "a small cat at the top left."
TWICE = "a small cat at the top left, a small cat at the right."
WRONG = "a small frog at the top left, a large dog at the center. a sign reading zoo at the bottom."


def caption(text: str, variant: int = 1, scene: int = 1, min_logprob: float = -1.0, mean: float = -0.1) -> Written:
    return Written(scene, variant, text, "stop", mean, min_logprob)


def known(*captions: Written) -> list[Told]:
    return told(captions, {one.scene: SCENE for one in captions})


def test_what_is_made_up_is_counted() -> None:
    found = known(*(caption(text, n) for n, text in enumerate((TRUE, SHORT, TWICE, WRONG), 1)))
    assert [t.num_false for t in found] == [0, 0, 1, 2]  # the second cat; the frog and the word
    assert [t.num_true for t in found] == [2, 1, 1, 1]
    assert [t.hallucinates for t in found] == [False, False, True, True]
    assert {t.num_there for t in found} == {2}


def test_agreement_is_with_the_other_drawn_captions() -> None:
    greedy, *drawn = known(caption(TRUE, 0), caption(TRUE, 1), caption(TRUE, 2), caption("zoo", 3))
    assert greedy.agreement == pytest.approx(2 / 3)
    assert [t.agreement for t in drawn] == pytest.approx([0.5, 0.5, 0.0])
    assert known(caption(TRUE, 0))[0].agreement == 1.0


def test_precision_and_recall_are_of_those_that_hallucinate() -> None:
    judged = [Judged(0, True, True), Judged(0, True, True), Judged(1, True, False), Judged(1, False, True)]
    judged += [Judged(2, False, False)] * 3
    found = {name: estimate.value for name, estimate in detection(judged).items()}
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["false_alarms"] == pytest.approx(1 / 4)
    assert found["flagged"] == pytest.approx(3 / 7)
    assert found["base_rate"] == pytest.approx(3 / 7)
    assert found["gain"] == pytest.approx(2 / 3 - 1 / 4)
    none = detection([replace(one, is_flagged=False) for one in judged])
    assert math.isnan(none["precision"].value)
    assert none["recall"].value == 0


def test_who_only_counts_things_gains_nothing_among_captions_as_long() -> None:
    short = [Judged(n, n < 1, False, 1) for n in range(4)]  # one of four hallucinates
    long = [Judged(n, n < 3, True, 3) for n in range(4)]  # three of four do, and all of them are flagged
    found = detection([*short, *long])
    assert found["gain"].value == pytest.approx(3 / 4 - 1 / 4)
    assert found["gain_as_long"].value == 0
    knows = detection([replace(one, is_flagged=one.hallucinates) for one in (*short, *long)])
    assert knows["gain_as_long"].value == 1
    half = [Judged(0, True, True, 2), Judged(0, True, False, 2), Judged(0, False, False, 2)]
    assert detection([*half, *long])["gain_as_long"].value == pytest.approx(
        (1 / 2 * 2 / 3 + 0 * 3 / 4) / (2 / 3 + 3 / 4)
    )


def test_intervals_are_over_scenes_not_captions() -> None:
    many = [Judged(scene, True, scene < 5) for scene in range(10) for _ in range(8)]
    alone = [Judged(n, True, n < 40) for n in range(80)]
    wide, narrow = detection(many)["recall"], detection(alone)["recall"]
    assert wide.value == narrow.value == 0.5
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("mean", "share"), [(-1.0, 0.4), (-0.15, 0.0), (-0.25, 0.2), (-2.0, 0.5)])
def test_a_setting_flags_what_the_filters_flag(mean: float, share: float) -> None:
    texts = (TRUE, SHORT, TWICE, WRONG, "cat", f"{TRUE} {TRUE} {TRUE}", TRUE, SHORT, TWICE, WRONG)
    layer = known(*(caption(text, n, n, -0.3 * n, -0.05 * n) for n, text in enumerate(texts, 1)))
    alt_texts = dict.fromkeys(range(1, 11), "a cat icon")
    config = FiltersConfig(min_mean_logprob=mean, drop_lowest_min_logprob_share=share)
    free = replace(config, min_mean_logprob=-1e9, drop_lowest_min_logprob_share=0.0)
    others = flags_of(layer, alt_texts, PROMPT, free)
    assert ["too_short" in flags for flags in others] == [n == 5 for n in range(1, 11)]
    flagged = Setting(min_mean_logprob=mean, drop_lowest_min_logprob_share=share, others=True).flagged(layer, others)
    assert flagged == [bool(flags) for flags in flags_of(layer, alt_texts, PROMPT, config)]


def test_the_best_setting_tells_best_and_flagging_all_tells_nothing() -> None:
    layer = known(*(caption(text, n, n, -n) for n, text in enumerate((TRUE, TRUE, TRUE, WRONG, WRONG, TRUE), 1)))
    settings = [
        Setting(min_mean_logprob=0.0),
        Setting(),
        *(Setting(drop_lowest_min_logprob_share=n / 6) for n in (1, 3)),
    ]

    def judged(setting: Setting) -> list[Judged]:
        flagged = setting.flagged(layer, [[] for _ in layer])
        return [Judged(t.caption.scene, t.hallucinates, flag) for t, flag in zip(layer, flagged, strict=True)]

    assert best_setting(settings, judged) == settings[3]  # the lowest three are both wrong ones and a true one


def test_picking_by_each_rule() -> None:
    there = known(
        caption(WRONG, 1, min_logprob=-0.5, mean=-0.2),
        caption(TRUE, 2, min_logprob=-0.9, mean=-0.1),
        caption(SHORT, 3, min_logprob=-2.0, mean=-0.3),
        caption(TWICE, 4, min_logprob=-3.0, mean=-0.4),
    )
    rules = ("first", "fewest words", "min_logprob", "mean_logprob", "oracle")
    assert [there.index(picked(there, by) or there[3]) for by in rules] == [0, 2, 0, 1, 1]
    assert picked(there, "agreement", 0.99) is None
    assert picked(there, "agreement") is not None
    found = quality([(1, there[1]), (1, there[3]), (2, None)])
    assert found["picked"].value == pytest.approx(2 / 3)
    assert found["object_precision"].value == pytest.approx(3 / 4)
    assert found["object_recall"].value == pytest.approx(3 / 4)
    assert found["hallucinating"].value == pytest.approx(1 / 2)


def test_pairs_differ_in_what_they_make_up() -> None:
    true, short, twice, wrong = known(*(caption(text, n) for n, text in enumerate((TRUE, SHORT, TWICE, WRONG), 1)))
    greedy = known(caption(WRONG, 0))
    expected = [(true, twice), (true, wrong), (short, twice), (short, wrong), (twice, wrong)]
    assert list(pairs([*greedy, true, short, twice, wrong])) == expected
    found = preference([(true, wrong, 1.0), (wrong, true, 1.0), (short, twice, 0.5), (short, wrong, None)])
    assert found["accuracy"].value == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["as_long"].value == pytest.approx(1 / 2)  # of the first two
    assert found["decided"].value == pytest.approx(2 / 3)
    assert found["answered"].value == pytest.approx(3 / 4)


def test_answers_object_to_what_they_contradict() -> None:
    (wrong,) = known(caption(WRONG))
    assert questions(wrong, PROMPT) == [
        "is there a frog?",
        "is there a dog?",
        "where is the frog?",
        "where is the dog?",
        "how many objects are there?",
        PROMPT,
        "what does the sign say?",
    ]
    answers = {
        "is there a frog?": "No.",
        "is there a dog?": "yes",
        "where is the frog?": "at the top left",
        "where is the dog?": "right",
        "how many objects are there?": "1",
        "what does the sign say?": "stop",
        PROMPT: TRUE,
    }
    found = objections(wrong, {(1, question): said for question, said in answers.items()}, PROMPT)
    assert found == {EXIST: 1, COUNT: 1, READ: 1, WHERE: 1, DESCRIBE: 2}
    assert set(objections(wrong, {(2, question): said for question, said in answers.items()}, PROMPT).values()) == {0}


def test_a_verdict_is_read_or_is_a_problem() -> None:
    said = wording(Couple(1, "a frog", "a dog"))
    assert said.startswith("A: a frog\nB: a dog\n")
    answers = {"A": "first", "b ": "second", "TIE": "tie"}
    for side, answer in answers.items():
        assert read(f'so: {{"hallucination": "{side}"}}.').answer == answer
    for unreadable in ("", "A", "above of of of", '{"hallucination": "C"}', '{"detail": "A"}', "{]}", "[1]"):
        assert read(unreadable).problem == "no verdict"


def writer(number: int, answers: dict[tuple[int, str], str]) -> Writer:
    """Scenes 0 and 1 with the same captions; the model says the same of both."""
    made = known(*(caption(t, n, s, -n) for s in (0, 1) for n, t in enumerate((WRONG, TRUE, SHORT, WRONG))))
    drawn = [t for t in made if t.caption.variant]
    true, wrong = drawn[3], drawn[5]
    rubric = [(true, wrong, Opinion("first"), Opinion("second")), (true, wrong, Opinion("tie"), Opinion(None, "bad"))]
    greedy = [t for t in made if not t.caption.variant]
    return Writer(number, PROMPT, {0: "", 1: ""}, FiltersConfig(), greedy, drawn, answers, rubric)


def test_all_tables_are_of_the_reported_half(tmp_path: Path) -> None:
    strict = {(scene, "is there a frog?"): "no" for scene in (0, 1)}
    result = examined([writer(0, strict), writer(1, {})])
    by_name = {row.name: row for row in result.questions}
    exist = next(row for name, row in by_name.items() if name.startswith("“is there"))
    assert exist.pooled["recall"].value == 0.5  # one of the two judges sees it, in scene 1 alone
    assert [found["recall"].value for found in exist.single] == [1.0, 0.0]
    assert exist.pooled["precision"].value == 1.0
    assert result.greedy[0].pooled["base_rate"].value == 1.0
    assert result.drawn[0].pooled["base_rate"].value == pytest.approx(1 / 3)
    # the lenient judge lets pass its own, the strict one none of anybody's: that is no flattery
    assert result.flattery[EXIST].value == 0.0
    assert result.rubric == {"asked": 8.0, "unreadable": 0.25, "refused": 0.0, "same under swap": 1.0}
    rubric = result.pairs[-1]
    assert rubric.pooled["accuracy"].value == pytest.approx(3 / 4)
    text, last = write_report(tmp_path, "a command", result, [writer(0, strict), writer(1, {})])
    assert last == figures(result)
    assert {"filter_precision", "filter_recall"} <= last.keys()
    written = json.loads((tmp_path / "judges.json").read_text("utf-8"))
    assert written["figures"] == last
    assert text in (tmp_path / "judges.md").read_text("utf-8")
    assert "nan" not in text.lower()


def test_flattery_is_what_a_model_lets_pass_of_its_own_alone() -> None:
    first, second = writer(0, {}), writer(1, {})
    second.drawn[:] = known(*(replace(t.caption, text=t.caption.text.replace("frog", "panda")) for t in second.drawn))
    says_no_to_pandas = {(scene, "is there a panda?"): "no" for scene in (0, 1)}
    says_no_to_frogs = {(scene, "is there a frog?"): "no" for scene in (0, 1)}
    result = examined([replace(first, answers=says_no_to_pandas), replace(second, answers=says_no_to_frogs)])
    assert result.flattery[EXIST].value == 1.0
