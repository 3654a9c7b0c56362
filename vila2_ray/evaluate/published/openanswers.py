"""Open answers: MM-Vet, and questions of a user's own.

mmvet   mm-vet.json, images/; the judge is a command
own     questions.jsonl, a JSON object a line: id, image (a name in images/), question, and as far as there are any
        answers (a list), choices (then the answer is a letter), group. Without a judge's command an answer is right
        where it is one of the answers, or names the right letter
"""

from __future__ import annotations

from collections.abc import Iterator

from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.published.files import Files
from vila2_ray.evaluate.published.options import LETTER
from vila2_ray.evaluate.rules.letters import with_letters


def read_mmvet(files: Files) -> Iterator[Item]:
    for number, entry in files.json(files.find("mm-vet.json")).members():
        picture = files.picture(entry.text("imagename"), "images", "")
        if picture is not None:
            question = entry.text("question")
            prompt = f"{question}\n{files.config.instruction}" if files.config.instruction else question
            groups = entry.texts("capability")
            answers = (entry.text("answer"),)
            yield Item(number, (picture,), prompt, answers, (), question, groups, picture.name)


def read_own(files: Files) -> Iterator[Item]:
    for number, entry in enumerate(files.json_list(files.find("questions.jsonl", "questions.json"))):
        picture = files.picture(entry.text("image"), "images", "")
        if picture is None:
            continue
        question = entry.text("question")
        choices = entry.texts("choices") if entry.fields.get("choices") else ()
        answers = entry.texts("answers") if entry.fields.get("answers") else ()
        lines = [question, *([with_letters(choices)] if choices else [])]
        lines += [files.config.instruction or (LETTER if choices else "")]
        name = entry.id("id") if "id" in entry.fields else str(number)
        groups = tuple(group for group in (entry.optional("group"),) if group)
        prompt = "\n".join(line for line in lines if line)
        yield Item(name, (picture,), prompt, answers, choices, question, groups, picture.name)
