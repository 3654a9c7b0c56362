"""What experts saw, written and read again."""

from __future__ import annotations

import json

from vila2_ray.captions.boxes import Box
from vila2_ray.skills.things import Annotation, Line, Thing

FULL = Annotation(
    (Thing("cat", Box(1, 2, 3, 4), 0.5, 2.5, (2, 5)), Thing("dog", Box(5, 6, 7, 8))),
    (Line("Stop", Box(1, 1, 9, 9), 0.9, "en"),),
    "A cat.",
)


def test_json_reads_back() -> None:
    for annotation in (FULL, Annotation(), Annotation((), ()), Annotation(None, FULL.lines)):
        assert Annotation.from_json(json.loads(json.dumps(annotation.as_json()))) == annotation
    assert Annotation().as_json() == {}


def test_of_a_composed_scene() -> None:
    truth = {"objects": [{"name": "cat", "box": [1, 2, 3, 4], "size": "small"}], "words": []}
    assert Annotation.from_truth(truth) == Annotation((Thing("cat", Box(1, 2, 3, 4)),), ())
