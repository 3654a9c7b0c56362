"""Questions with lettered options: ScienceQA (with images), SEED-Bench (images) and MMBench.

scienceqa  problems.json, pid_splits.json, images/<split>/<pid>/image.png; split test
seed       SEED-Bench.json, SEED-Bench-image/<data_id>
mmbench    MMBench_DEV_EN.tsv or another of its TSV files (`annotations`), pictures inside in base64. A file with rows
           of an index above 1,000,000 brings its own turns of the options; of another, each question is asked once
           for each of its options, which change places (circular evaluation)
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import sys
from collections.abc import Iterator

from vila2_ray.errors import CorpusError
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.published.files import MAX_PICTURE_BYTES, BytesPicture, Entry, Files
from vila2_ray.evaluate.rules.letters import MMBENCH_LETTERS, letters, with_letters

LETTER = "Answer with the option's letter from the given choices directly."
_TURNS = 1_000_000
"""MMBench's turns of question n have the indices n + 1,000,000, n + 2,000,000 …"""
_INSIDE = 64
"""A shorter picture column is the index of the row that holds the picture."""


def read_scienceqa(files: Files) -> Iterator[Item]:
    split = files.config.split or "test"
    problems, splits = files.json(files.find("problems.json")), files.json("pid_splits.json")
    for pid in splits.texts(split):
        entry = problems.entry(pid)
        if entry.fields.get("image") is None:
            continue  # the subset without images asks no vision-language model
        choices, right = entry.texts("choices"), entry.integer("answer")
        if not 0 <= right < len(choices):
            raise entry.refused("answer", right, "the number of one of the choices")
        picture = files.picture(f"{split}/{pid}/{entry.text('image')}", "images", "")
        if picture is None:
            continue
        hint, question = entry.optional("hint"), entry.text("question")
        context = f"Context: {hint}\n" if hint else ""
        prompt = f"{context}{question}\n{with_letters(choices)}\n{files.config.instruction or LETTER}"
        groups = tuple(group for group in (entry.optional("subject"),) if group)
        yield Item(pid, (picture,), prompt, (letters(26)[right],), choices, question, groups, picture.name)


def read_seed(files: Files) -> Iterator[Item]:
    whole = files.json(files.find("SEED-Bench.json"))
    kinds = {str(number): name for name, number in whole.entry("question_type").fields.items()}
    for entry in whole.entries("questions"):
        if entry.text("data_type") != "image":
            continue
        picture = files.picture(entry.id("data_id"), "SEED-Bench-image", "images", "")
        if picture is None:
            continue
        choices = tuple(entry.id(f"choice_{letter}") for letter in "abcd")
        right, question = entry.text("answer").strip().upper(), entry.text("question")
        prompt = f"{question}\n{with_letters(choices)}\n{files.config.instruction or LETTER}"
        kind = kinds.get(entry.id("question_type_id"), "")
        groups = (kind,) if kind else ()
        yield Item(entry.id("question_id"), (picture,), prompt, (right,), choices, question, groups, picture.name)


def read_mmbench(files: Files) -> Iterator[Item]:
    name = files.find("MMBench_DEV_EN.tsv", "MMBench_DEV_EN_legacy.tsv", "mmbench_dev_20230712.tsv")
    rows = list(_rows(files, name))
    brings_turns = any(_index(row) >= _TURNS for row in rows)
    pictures: dict[str, BytesPicture] = {}
    for row in rows:
        data = row.text_of_picture
        if len(data) > _INSIDE:
            pictures[row.id("index")] = BytesPicture(f"{files.store.path(name)}#{row.id('index')}", row.decoded())
    for row in rows:
        picture = pictures.get(row.id("index")) or pictures.get(row.text_of_picture.strip())
        picture = picture or pictures.get(str(_index(row) % _TURNS))
        if picture is None:
            files.missing.append(row.id("index"))
            continue
        if brings_turns:
            yield _mmbench_item(files, row, picture, row.choices(), row.text("answer").strip(), row.id("index"))
            continue
        choices, right = row.choices(), row.text("answer").strip()
        if right not in letters(len(choices)):
            raise row.refused("answer", right, "the letter of one of the options")
        for turn in range(len(choices)):
            turned = (*choices[turn:], *choices[:turn])
            place = (letters(26).index(right) - turn) % len(choices)
            yield _mmbench_item(files, row, picture, turned, letters(26)[place], f"{row.id('index')}/{turn}")


class _Row(Entry):
    @property
    def text_of_picture(self) -> str:
        value = self.fields.get("image")
        if not isinstance(value, str):
            raise self.refused("image", value, "a picture in base64")
        return value

    def decoded(self) -> bytes:
        data = self.text_of_picture
        if len(data) > 2 * MAX_PICTURE_BYTES:
            raise self.refused("image", f"{len(data):,} characters", f"at most {2 * MAX_PICTURE_BYTES:,}")
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise self.refused("image", data[:20], "base64") from error

    def choices(self) -> tuple[str, ...]:
        """Those before the first that is empty."""
        found = []
        for letter in MMBENCH_LETTERS:
            text = self.optional(letter)
            if not text or text == "nan":
                break
            found.append(text)
        return tuple(found)


def _rows(files: Files, name: str) -> Iterator[_Row]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(io.StringIO(files.text(name)), delimiter="\t")
    try:
        for number, fields in enumerate(reader, 2):
            yield _Row(fields, f"line {number}", files.store.path(name))
    except csv.Error as error:
        raise CorpusError(files.store.path(name), f"not a table ({error})", "Fetch the published file again") from error


def _index(row: Entry) -> int:
    try:
        return int(float(row.text("index")))
    except ValueError as error:
        raise row.refused("index", row.fields.get("index"), "a whole number") from error


def _mmbench_item(
    files: Files, row: Entry, picture: BytesPicture, choices: tuple[str, ...], right: str, number: str
) -> Item:
    hint, question = row.optional("hint"), row.text("question")
    lines = [*([hint] if hint and hint != "nan" else []), question, with_letters(choices)]
    prompt = "\n".join([*lines, files.config.instruction or LETTER])
    kinds = (row.optional(name) for name in ("l2-category", "category"))
    groups = tuple(dict.fromkeys(kind for kind in kinds if kind and kind != "nan"))
    return Item(number, (picture,), prompt, (right,), choices, question, groups, f"question {_index(row) % _TURNS}")
