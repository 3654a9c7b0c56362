"""Questions with a word or a phrase for an answer: VQAv2, TextVQA, VizWiz and GQA.

vqav2     v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json, val2014/COCO_val2014_….jpg
textvqa   TextVQA_0.5.1_val.json, train_images/<image_id>.jpg (of OpenImages, where its val split comes from)
vizwiz    val.json (or Annotations/val.json), val/VizWiz_val_….jpg
gqa       testdev_balanced_questions.json, images/<imageId>.jpg

`split` names another: val2014, val, testdev_balanced. The wording is LLaVA-1.5's (arXiv 2310.03744).
"""

from __future__ import annotations

from collections.abc import Iterator

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.published.files import Entry, Files

SHORT = "Answer the question using a single word or phrase."
UNANSWERABLE = f"When the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}"


def read_vqav2(files: Files) -> Iterator[Item]:
    split = files.config.split or "val2014"
    asked, answered = f"v2_OpenEnded_mscoco_{split}_questions.json", f"v2_mscoco_{split}_annotations.json"
    if len(files.config.annotations) > 1:
        asked, answered = files.config.annotations[:2]
    known = {entry.id("question_id"): entry for entry in files.json(answered).entries("annotations")}
    for entry in files.json(asked).entries("questions"):
        number, image = entry.id("question_id"), entry.integer("image_id")
        if number not in known:
            raise entry.refused("question_id", number, f"a question that {answered} answers")
        answers = tuple(answer.text("answer") for answer in known[number].entries("answers"))
        name = f"COCO_{split}_{image:012d}.jpg"
        groups = (known[number].optional("answer_type"),)
        yield from _item(files, entry, number, name, answers, groups, split, "images", "")


def read_textvqa(files: Files) -> Iterator[Item]:
    split = files.config.split or "val"
    for entry in files.json(files.find(f"TextVQA_0.5.1_{split}.json")).entries("data"):
        name, answers = f"{entry.id('image_id')}.jpg", entry.texts("answers")
        yield from _item(files, entry, entry.id("question_id"), name, answers, (), "train_images", "images", "")


def read_vizwiz(files: Files) -> Iterator[Item]:
    split = files.config.split or "val"
    for entry in files.json_list(files.find(f"{split}.json", f"Annotations/{split}.json")):
        name = entry.text("image")
        answers = tuple(answer.text("answer") for answer in entry.entries("answers"))
        groups = (entry.optional("answer_type"),)
        yield from _item(files, entry, name, name, answers, groups, split, "images", "", instruction=UNANSWERABLE)


def read_gqa(files: Files) -> Iterator[Item]:
    split = files.config.split or "testdev_balanced"
    for number, entry in files.json(files.find(f"{split}_questions.json")).members():
        kinds = entry.entry("types") if "types" in entry.fields else None
        groups = (kinds.optional("structural"),) if kinds else ()
        name, answers = f"{entry.id('imageId')}.jpg", (entry.text("answer"),)
        yield from _item(files, entry, number, name, answers, groups, "images", "")


def _item(
    files: Files,
    entry: Entry,
    number: str,
    image: str,
    answers: tuple[str, ...],
    groups: tuple[str, ...],
    *folders: str,
    instruction: str = SHORT,
) -> Iterator[Item]:
    """The item, where its picture is there."""
    picture = files.picture(image, *folders)
    if picture is not None:
        question = entry.text("question").strip()
        prompt = f"{question}\n{files.config.instruction or instruction}"
        kinds = tuple(group for group in groups if group)
        yield Item(number, (picture,), prompt, answers, question=question, groups=kinds, cluster=picture.name)
