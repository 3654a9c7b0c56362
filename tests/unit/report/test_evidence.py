from vila2_ray.report.evidence import evidence

TRUTH = {
    "objects": [
        {"name": "cat", "size": "large", "place": "left", "box": [0, 300, 400, 700]},
        {"name": "dog", "size": "small", "place": "right", "box": [600, 300, 900, 600]},
    ],
    "words": [{"text": "stop", "place": "top", "box": [300, 0, 700, 100]}],
}
NAMES = ("cat", "dog", "key")


def test_boxes_are_right_where_a_thing_of_that_name_is() -> None:
    found = evidence("grounding", "a cat [0,310,390,700], a key [600,300,900,600], a dog [0,0,50,50].", TRUTH, NAMES)
    assert [(box.name, box.is_right) for box in found.boxes] == [("cat", True), ("key", False), ("dog", False)]
    assert found.boxes[0].corners == (0, 310, 390, 700)


def test_without_truth_boxes_are_drawn_and_not_judged() -> None:
    found = evidence("grounding", "a zebra [0,310,390,700].", None, NAMES)
    assert [(box.name, box.is_right) for box in found.boxes] == [("zebra", None)]
    other_form = evidence("grounding", "a cat [0,310,390,700].", {"objects": [{"name": "cat"}], "words": []}, NAMES)
    assert other_form.boxes[0].is_right is None


def test_relations_are_right_wrong_or_open() -> None:
    text = "the cat is left of the dog. the dog is left of the cat. the cat is above the key."
    found = evidence("spatial", text, TRUTH, NAMES)
    assert [(told.text, told.is_right) for told in found.relations] == [
        ("cat left of dog", True),
        ("dog left of cat", False),
        ("cat above key", None),
    ]


def test_words_are_marked_as_printed_or_not() -> None:
    text = "STOP taxi"
    found = evidence("ocr", text, TRUTH, NAMES)
    assert [(text[span.start : span.stop], span.kind) for span in found.words] == [("STOP", "read"), ("taxi", "unread")]
    assert evidence("ocr", "there is no text.", TRUTH, NAMES).words == ()
    assert evidence("ocr", text, None, NAMES).words == ()


def test_other_layers_have_none() -> None:
    assert evidence("round-1", "a cat [0,310,390,700].", TRUTH, NAMES).boxes == ()
