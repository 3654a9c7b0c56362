"""COCO's pictures, to be described: against people's captions (CIDEr), or by what is really in them (CHAIR).

coco    captions_val2014.json (or val2017, or Karpathy's dataset_coco.json), val2014/
chair   instances_val2014.json, and captions_val2014.json where it is there: what people name counts as there, too

`split`: val2014, val2017; of dataset_coco.json test, val …
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.published.files import Entry, FilePicture, Files
from vila2_ray.evaluate.rules.hallucination import named_objects

ONE_SENTENCE = "Provide a one-sentence caption for the provided image."
IN_DETAIL = "Please describe this image in detail."
_FOLDERS = ("annotations/", "")


def read_coco(files: Files) -> Iterator[Item]:
    split = files.config.split or "val2014"
    published = [f"{folder}captions_{split}.json" for folder in _FOLDERS]
    whole = files.json(files.find(*published, "dataset_coco.json"))
    prompt = files.config.instruction or ONE_SENTENCE
    if "annotations" not in whole.fields:
        yield from _karpathy(files, whole, prompt)
        return
    captions = _captions(whole)
    for entry in whole.entries("images"):
        number = entry.id("id")
        if references := captions.get(number):
            picture = files.picture(entry.text("file_name"), split, "images", "")
            if picture is not None:
                yield _item(number, picture, prompt, tuple(references))


def read_chair(files: Files) -> Iterator[Item]:
    split = files.config.split or "val2014"
    whole = files.json(files.find(*(f"{folder}instances_{split}.json" for folder in _FOLDERS)), without="segmentation")
    classes = {entry.id("id"): entry.text("name") for entry in whole.entries("categories")}
    there: dict[str, set[str]] = defaultdict(set)
    for entry in whole.entries("annotations"):
        kind = entry.id("category_id")
        if kind not in classes:
            raise entry.refused("category_id", kind, "the id of one of the categories")
        there[entry.id("image_id")].add(classes[kind])
    told = next(filter(None, (files.look_for(f"{folder}captions_{split}.json") for folder in _FOLDERS)), None)
    for number, captions in (_captions(files.json(told)) if told else {}).items():
        there[number].update(name for caption in captions for name in named_objects(caption))
    for entry in whole.entries("images"):
        number = entry.id("id")
        if number in there:
            picture = files.picture(entry.text("file_name"), split, "images", "")
            if picture is not None:
                yield _item(number, picture, files.config.instruction or IN_DETAIL, tuple(sorted(there[number])))


def _captions(whole: Entry) -> dict[str, list[str]]:
    """Image id → captions."""
    found: dict[str, list[str]] = defaultdict(list)
    for entry in whole.entries("annotations"):
        found[entry.id("image_id")].append(entry.text("caption"))
    return found


def _karpathy(files: Files, whole: Entry, prompt: str) -> Iterator[Item]:
    split = files.config.split or "test"
    for entry in whole.entries("images"):
        if entry.text("split") != split:
            continue
        name = entry.text("filename")
        names = [f"{folder}/{name}" for folder in [entry.optional("filepath")] if folder]
        picture = files.picture_named([*names, name], "", "val2014", "images")
        if picture is not None:
            captions = tuple(sentence.text("raw") for sentence in entry.entries("sentences"))
            yield _item(entry.id("cocoid"), picture, prompt, captions)


def _item(number: str, picture: FilePicture, prompt: str, answers: tuple[str, ...]) -> Item:
    return Item(number, (picture,), prompt, answers, cluster=picture.name)
