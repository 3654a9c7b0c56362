from vila2_ray.report.wrong import known_names, things_there, wrong_spans

TRUTH = {
    "objects": [
        {"name": "cat", "size": "small", "place": "left", "box": [0, 0, 1, 1]},
        {"name": "alarm clock", "size": "large", "place": "top", "box": [0, 0, 1, 1]},
    ],
    "words": [{"text": "stop", "place": "bottom"}],
}


def marked(text: str) -> list[tuple[str, str]]:
    return [(text[span.start : span.stop], span.kind) for span in wrong_spans(text, TRUTH)]


def test_what_is_not_there_and_what_is_named_too_often() -> None:
    text = "a small cat at the left, a dog at the top, a cat at the right."
    assert marked(text) == [("dog", "absent"), ("cat", "repeated")]
    assert wrong_spans(text, TRUTH)[1].start == text.rindex("cat")


def test_spans_hold_where_scoring_puts_synonyms_right() -> None:
    text = "Upper left: a big Cat; upper right, a little PANDA and an Alarm-Clock in the upper middle, two dogs."
    assert marked(text) == [("PANDA", "absent"), ("dogs", "absent")]


def test_what_is_there_reads_well() -> None:
    assert things_there(TRUTH) == ("small cat (left)", "large alarm clock (top)", "“stop” (bottom)")
    assert things_there({"objects": []}) == ()


def test_other_worlds_bring_their_own_names() -> None:
    truth = {"objects": [{"name": "sofa"}]}
    names = known_names([truth, {"objects": [{"name": "lamp"}]}, None, {"objects": 3}])
    assert {"sofa", "lamp", "cat"} <= names
    assert [span.kind for span in wrong_spans("a sofa, a lamp and a sofa", truth, names)] == ["absent", "repeated"]


def test_no_truth_and_foreign_truth_mark_nothing() -> None:
    for truth in (None, {}, {"objects": "cat"}, {"objects": [{"label": 3}]}, {"caption": "x"}):
        assert things_there(truth) is None
        assert wrong_spans("a dog", truth) == ()
    assert wrong_spans("", TRUTH) == ()
