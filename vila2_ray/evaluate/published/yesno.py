"""Questions that are answered by yes or no: POPE and MME.

pope   coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json (a JSON object a line), val2014/
mme    <subtask>/…: a picture and a text file of the same name beside it (or in images/ and questions_answers_YN/), each
       line a question, a tab and Yes or No; MME_Benchmark_release_version/ may stand above
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from vila2_ray.errors import CorpusError
from vila2_ray.evaluate.items import Item
from vila2_ray.evaluate.published.files import FilePicture, Files, stem
from vila2_ray.evaluate.published.shortanswers import SHORT
from vila2_ray.evaluate.rules.yesno import COGNITION, PERCEPTION

_PICTURES = (".jpg", ".png", ".jpeg")
_OWN_INSTRUCTION = " Please answer yes or no."
"""What MME's questions end with, in the place of which ours stands."""


def read_pope(files: Files) -> Iterator[Item]:
    parts = {part: f"coco_pope_{part}.json" for part in ("random", "popular", "adversarial")}
    if files.config.annotations:
        parts = {stem(name).rpartition("_")[2]: name for name in files.config.annotations}
    elif files.config.split:
        parts = {files.config.split: f"coco_pope_{files.config.split}.json"}
    for part, published in parts.items():
        found = files.look_for(published) or files.look_for(f"{published}l")
        if found is None:
            raise CorpusError(files.store.uri, f"no {published} there", "Put POPE's files there, or name a `split`")
        for entry in files.json_list(found):
            label, question = entry.text("label").strip().lower(), entry.text("text").strip()
            if label not in ("yes", "no"):
                raise entry.refused("label", label, "yes or no")
            picture = files.picture(entry.text("image"), "val2014", "images", "")
            if picture is not None:
                prompt = f"{question}\n{files.config.instruction or SHORT}"
                number = f"{part}/{entry.id('question_id')}"
                yield Item(
                    number, (picture,), prompt, (label,), question=question, groups=(part,), cluster=picture.name
                )


def read_mme(files: Files) -> Iterator[Item]:
    names = files.store.list()
    pictures: dict[tuple[str, str], str] = {}
    texts: dict[str, list[str]] = defaultdict(list)
    for name in names:
        subtask = next((part for part in name.split("/")[:-1] if part in (*PERCEPTION, *COGNITION)), "")
        if subtask and name.lower().endswith(_PICTURES):
            pictures[subtask, stem(name)] = name
        elif subtask and name.endswith(".txt"):
            texts[subtask].append(name)
    if not texts:
        told = f"no folder of MME's subtasks ({PERCEPTION[0]}, {PERCEPTION[1]} …) with text files there"
        raise CorpusError(files.store.uri, told, "Unpack MME_Benchmark_release_version there")
    wanted = [files.config.split] if files.config.split else [*PERCEPTION, *COGNITION]
    for subtask in wanted:
        for name in texts[subtask]:
            found = pictures.get((subtask, stem(name)))
            if found is None:
                files.missing.append(name)
                continue
            yield from _asked(files, subtask, name, FilePicture(files.store, found))


def _asked(files: Files, subtask: str, name: str, picture: FilePicture) -> Iterator[Item]:
    for number, line in enumerate(line for line in files.text(name).splitlines() if line.strip()):
        question, tab, answer = line.rpartition("\t")
        right = answer.strip().lower().replace(".", "")
        if not tab or right not in ("yes", "no"):
            problem = f"line {number + 1} is no question, tab and Yes or No"
            raise CorpusError(files.store.path(name), problem, "Fetch the published file again")
        question = question.strip()
        prompt = f"{question.replace(_OWN_INSTRUCTION, '')}\n{files.config.instruction or SHORT}"
        yield Item(
            f"{subtask}/{stem(name)}/{number}",
            (picture,),
            prompt,
            (right,),
            question=question,
            groups=(subtask,),
            cluster=f"{subtask}/{stem(name)}",
        )
