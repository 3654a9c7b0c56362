"""Scores of what a model says of a skill, against what is in the images.

A text that is empty or cannot be understood counts as having said nothing, and so scores 0 where there is something to
say. Every share lies in [0, 1] and is 0 where there was nothing to count; the counts stand beside them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

from vila2_ray.captions.boxes import iou, named_boxes, parse_boxes
from vila2_ray.skills.flags import says_no_text
from vila2_ray.skills.printed import character_error_rate, word_accuracy, word_precision, words_of
from vila2_ray.skills.relations import (
    Statement,
    check_statements,
    clear_statements,
    implied_statements,
    parse_statements,
)
from vila2_ray.skills.things import Annotation, Thing

MAIN = {"spatial": "relation_accuracy", "grounding": "box_recall_50", "ocr": "word_accuracy"}
"""Skill → the score by which a specialist is compared with the generalist; more is better."""
MIN_IOU = 0.5

Said = Sequence[tuple[str, Annotation]]
"""(what was said of an image, what is in it)."""


def score(skill: str, said: Said) -> dict[str, float]:
    """All scores of a skill (spatial, grounding, ocr). An image of which the skill's part is not known is left out."""
    return {"spatial": score_relations, "grounding": score_boxes, "ocr": score_words}[skill](said)


def score_relations(said: Said) -> dict[str, float]:
    """Relations told, by statements or by places named for both things, pooled over all images.

    `relation_accuracy`: share of the clear relations between things named once that the text tells rightly, whichever
    way round, and nowhere wrongly. `relation_precision`: share of the relations told, of those that boxes bear out or
    contradict, that they bear out.
    """
    num_clear = num_told = num_right = num_wrong = 0
    for text, annotation in said:
        if annotation.things is None:
            continue
        names = [thing.name for thing in annotation.things]
        stated = [*parse_statements(text, names), *implied_statements(text, names)]
        told = {_one_way_round(statement) for statement in stated}
        checked = check_statements(told, annotation.things)
        num_right, num_wrong = num_right + checked.num_right, num_wrong + checked.num_wrong
        for one, relation, other in clear_statements(annotation.things):
            num_clear += 1
            right, wrong = Statement(one, relation, other), Statement(other, relation, one)
            num_told += _one_way_round(right) in told and _one_way_round(wrong) not in told
    return {
        "relation_accuracy": _share(num_told, num_clear),
        "relation_precision": _share(num_right, num_right + num_wrong),
        "num_relations": float(num_clear),
        "num_relations_told": float(num_right + num_wrong),
    }


def score_boxes(said: Said) -> dict[str, float]:
    """Boxes said with the names of things, pooled over all images; each box counts for one thing and each for one box.

    `box_recall_50`: share of the things whose name is said with a box of IoU ≥ 0.5. `box_precision_50`: share of the
    brackets said that are such a box. `box_mean_iou`: over things whose name is said with any box.
    """
    num_things = num_brackets = num_hits = 0
    overlaps: list[float] = []
    for text, annotation in said:
        if annotation.things is None:
            continue
        things = [thing for thing in annotation.things if thing.box.is_valid]
        matched = _matched(text, things)
        brackets = parse_boxes(text)
        num_things += len(things)
        num_brackets += len(brackets.valid) + len(brackets.problems)
        num_hits += sum(overlap >= MIN_IOU for overlap in matched)
        overlaps += matched
    return {
        "box_recall_50": _share(num_hits, num_things),
        "box_precision_50": _share(num_hits, num_brackets),
        "box_mean_iou": _share(sum(overlaps), len(overlaps)),
        "num_things": float(num_things),
        "num_boxes_said": float(num_brackets),
    }


def score_words(said: Said) -> dict[str, float]:
    """Printed words said, as means over images.

    `word_accuracy` and `character_error_rate` (not clipped, less is better) over images with text, `word_precision`
    over those of which something was read out, `empty_accuracy` over images without text: whether that is said.
    """
    accuracies: list[float] = []
    errors: list[float] = []
    precisions: list[float] = []
    empty: list[float] = []
    for text, annotation in said:
        if annotation.lines is None:
            continue
        claims_none = says_no_text(text)
        if any(words_of(line.text) for line in annotation.lines):
            accuracies.append(word_accuracy(text, annotation.lines))
            errors.append(character_error_rate(text, annotation.lines))
        else:
            empty.append(float(claims_none))
        if words_of(text) and not claims_none:
            precisions.append(word_precision(text, annotation.lines))
    return {
        "word_accuracy": _share(sum(accuracies), len(accuracies)),
        "word_precision": _share(sum(precisions), len(precisions)),
        "character_error_rate": _share(sum(errors), len(errors)),
        "empty_accuracy": _share(sum(empty), len(empty)),
        "num_images_with_text": float(len(accuracies)),
        "num_images_without_text": float(len(empty)),
    }


def question_accuracy(answers: Iterable[tuple[Hashable, str, str]]) -> dict[str, float]:
    """Of yes–no questions as (pair, right answer, given answer), where a statement asked both ways round is a pair.

    `question_accuracy`: share of the pairs of which every answer is right, so that always saying the same scores 0.
    `answer_accuracy`: share of the answers.
    """
    by_pair: dict[Hashable, list[bool]] = defaultdict(list)
    for pair, right, given in answers:
        by_pair[pair].append(_yes_or_no(given) == _yes_or_no(right) != "")
    all_answers = [is_right for answered in by_pair.values() for is_right in answered]
    return {
        "question_accuracy": _share(sum(all(answered) for answered in by_pair.values()), len(by_pair)),
        "answer_accuracy": _share(sum(all_answers), len(all_answers)),
        "num_question_pairs": float(len(by_pair)),
    }


def _yes_or_no(answer: str) -> str:
    """The first word of an answer, where it is yes or no."""
    word = re.match(r"\W*(yes|no)\b", answer.casefold())
    return word.group(1) if word else ""


def _one_way_round(statement: Statement) -> Statement:
    """The same statement by one of two inverse relations, names in lower case."""
    turned = statement.turned_round if statement.relation in ("right of", "below", "behind") else statement
    return Statement(turned.one.casefold(), turned.relation, turned.other.casefold())


def _matched(text: str, things: Sequence[Thing]) -> list[float]:
    """IoU of each thing that is said with a box, the best pairs first."""
    names = {thing.name.lower() for thing in things}
    boxes = named_boxes(text, names)
    pairs = [
        (iou(thing.box, said.box), i, j)
        for i, thing in enumerate(things)
        for j, said in enumerate(boxes)
        if said.name == thing.name.lower()
    ]
    found: list[float] = []
    done_things: set[int] = set()
    done_boxes: set[int] = set()
    for overlap, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if i not in done_things and j not in done_boxes:
            done_things.add(i)
            done_boxes.add(j)
            found.append(overlap)
    return found


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0
