"""Spatial relations as sentences state and imply them: `the cat is to the left of the dog`, `a cat at the top left`.

A reader that is strict about what it takes: between the things and the relation only words may stand that cannot change
who is where. What it does not understand is not read, and so neither right nor wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple, get_args

from vila2_ray.captions.mentions import PLACES, Named, find_names, find_things, plain

Relation = Literal["left of", "right of", "above", "below", "in front of", "behind"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

_INVERSE: dict[Relation, Relation] = {
    "left of": "right of",
    "right of": "left of",
    "above": "below",
    "below": "above",
    "in front of": "behind",
    "behind": "in front of",
}
_VIEWER = r"(?: (?:to|from) (?:the (?:camera|viewer)|us))?"
_SIDE = r"(?: hand)?(?: side)? of\b"
_OR_BOTH = r"(?= and (?:above|over|below|under|beneath|behind|in front)\b)"
"""`to the left and above the dog`."""
_SPELLINGS: dict[Relation, str] = {
    "left of": rf"left{_SIDE}|(?<=to the )left{_OR_BOTH}",
    "right of": rf"right{_SIDE}|(?<=to the )right{_OR_BOTH}",
    "above": r"above|over|on top of|atop|higher(?: up)? than",
    "below": r"below|under(?:neath)?|beneath|lower(?: down)? than",
    "in front of": rf"in front of|(?:closer|nearer){_VIEWER} than",
    "behind": rf"behind|in back of|(?:farther|further)(?: away)?{_VIEWER} than",
}
_RELATION = re.compile("|".join(rf"(?P<r{i}>\b(?:{_SPELLINGS[r]})(?!\w))" for i, r in enumerate(RELATIONS)))
_CAMERA = re.compile(r"\b(?:on|at|in|to) the (?:far )?(?:left|right)\b|\b(?:close(?:st)?|near(?:est)?|far(?:thest)?)\b")
_SENTENCE = re.compile(r"[^.;!?\n]+")
_WORD = re.compile(r"[^\W_][\w'’]*")


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


_ARTICLES = {*_words("a an the another its his her their this that these those one two three")}
_IS = {*_words("is are was were sits stands lies rests hangs stays appears")}
_NOT = {*_words("not never no isn't aren't wasn't weren't isn’t aren’t neither nor")}
_PLAIN_WORDS = _IS | set(
    _words(
        "be being seen found shown set visible to the on at in which that also both just directly slightly far "
        "right left top bottom center centre middle upper lower corner side part half hand edge immediate immediately "
        "diagonally clearly of image picture photo scene frame"
    )
)
"""What may stand between a thing and the relation that is said of it; words in -ing and -ed (`sitting`) may as well."""
_NO_NOUNS = _PLAIN_WORDS | _NOT | {*_words("and or but near with by from it there while as we you they than")}
"""What does not stand between an article and its noun."""
_MAX_NOUN_WORDS = 4


class Statement(NamedTuple):
    """`the cat is left of the dog`."""

    one: str
    relation: Relation
    other: str

    @property
    def turned_round(self) -> Statement:
        """The same, said of the other thing: `the dog is right of the cat`."""
        return Statement(self.other, inverse(self.relation), self.one)


def inverse(relation: Relation) -> Relation:
    """The same relation as the other thing has it."""
    return _INVERSE[relation]


def states_where(text: str) -> bool:
    """Whether a text tells at all where something is with respect to something else, or to who looks."""
    said = plain(text)
    return bool(_RELATION.search(said) or _CAMERA.search(said))


def noun_phrases(text: str) -> list[str]:
    """Nouns of a text without their articles, as far as articles show them, each once, in order."""
    found: dict[str, None] = {}
    for sentence in re.split(r"[.,;:!?\n]", plain(_without_boxes(text))):
        words = _words(_RELATION.sub(" of ", sentence))
        for index, word in enumerate(words):
            if word not in _ARTICLES:
                continue
            stop = index + 1
            while stop < len(words) and words[stop] not in _NO_NOUNS | _ARTICLES:
                stop += 1
            if 0 < stop - index - 1 <= _MAX_NOUN_WORDS:
                found[" ".join(words[index + 1 : stop])] = None
    return list(found)


def parse_statements(text: str, names: Iterable[str] | None = None) -> list[Statement]:
    """The relations that a text states between things of these names, each once, in order. Takes any text.

    `the cat is to the left of the dog and under a lamp`, `behind the car stands a tree`, `the cat and the dog are above
    the car`. What is denied is not stated. Without `names`, things are what articles stand before.
    """
    known = noun_phrases(text) if names is None else tuple(names)
    said = plain(_without_boxes(text))
    found: dict[Statement, None] = {}
    for sentence in _SENTENCE.finditer(said):
        for statement in _Sentence(sentence.group(), known).statements():
            found[statement] = None
    return list(found)


def implied_statements(text: str, names: Iterable[str]) -> list[Statement]:
    """What an ordinary caption says of relations by naming places, for things that it names once.

    `a cat at the top left, a dog at the center`: the cat is left of the dog, and above it. Places are the nine of a
    3 × 3 grid, so `at the top` is its middle column; each pair of things comes one way round.
    """
    # `on the left hand side of the dog` is no place in the image
    placing = _RELATION.sub(lambda match: " " * len(match.group()), plain(text))
    mentions = find_things(placing, names)
    times = Counter(mention.name for mention in mentions)
    placed = [(m.name, PLACES.index(m.place)) for m in mentions if m.place is not None and times[m.name] == 1]
    found: list[Statement] = []
    for (one, first), (other, second) in combinations(placed, 2):
        if first % 3 != second % 3:
            found.append(Statement(one, "left of" if first % 3 < second % 3 else "right of", other))
        if first // 3 != second // 3:
            found.append(Statement(one, "above" if first // 3 < second // 3 else "below", other))
    return found


class _Phrase(NamedTuple):
    """One relation or several of the same things: `above and to the left of`."""

    relations: tuple[Relation, ...]
    start: int
    stop: int


class _Sentence:
    """One sentence in lower case, its named things and relations."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text = text
        self.phrases = self._phrases()
        inside = [range(phrase.start, phrase.stop) for phrase in self.phrases]
        self.things = [thing for thing in find_names(text, names) if not any(thing.start in span for span in inside)]

    def statements(self) -> list[Statement]:
        found: list[Statement] = []
        last_ones: list[Named] = []
        last_others: list[Named] = []
        for phrase in self.phrases:
            after = [thing for thing in self.things if thing.start >= phrase.stop]
            if not after or not _is_determiner(self.text[phrase.stop : after[0].start]):
                continue
            others, rest = self._joined(after)
            ones = self._brought_in(others[-1], rest) or self._subjects(phrase, last_ones, last_others)
            last_ones, last_others = ones, others
            found += [
                Statement(one.name, relation, other.name)
                for relation in phrase.relations
                for one in ones
                for other in others
                if one.name != other.name
            ]
        return found

    def _phrases(self) -> list[_Phrase]:
        found: list[_Phrase] = []
        for match in _RELATION.finditer(self.text):
            relation = RELATIONS[int(str(match.lastgroup)[1:])]
            between = _words(self.text[found[-1].stop : match.start()]) if found else ["-"]
            if found and set(between) <= {"and", "to", "the", "on", "also", "slightly", "just"}:
                last = found[-1]
                found[-1] = _Phrase((*last.relations, relation), last.start, match.end())
            else:
                found.append(_Phrase((relation,), match.start(), match.end()))
        return found

    def _subjects(self, phrase: _Phrase, last_ones: list[Named], last_others: list[Named]) -> list[Named]:
        """What a relation is said of: the thing before it, or that of the relation before (`and above the car`)."""
        before = [thing for thing in self.things if thing.stop <= phrase.start]
        if not before:
            return []
        words = _words(self.text[before[-1].stop : phrase.start])
        if words[:1] in (["and"], ["but"]) and before[-1] in last_others:
            return last_ones if _may_stand_between(words[1:]) else []
        if not _may_stand_between(words):
            return []
        ones = [before.pop()]
        while before and {"are", "were", "both"} & set(words):
            between = self.text[before[-1].stop : ones[0].start]
            if not re.match(r"\s*(?:,|,? and)\b", between) and not between.strip().startswith(","):
                break
            if not _is_determiner(re.sub(r"^\s*,?\s*(?:and\b)?", "", between)):
                break
            ones.insert(0, before.pop())
        return ones

    def _joined(self, after: list[Named]) -> tuple[list[Named], list[Named]]:
        """The things a relation is to (`the dog and the car`, if the sentence ends there), and those that follow."""
        if len(after) > 1:
            between = self.text[after[0].stop : after[1].start]
            ends = not _words(self.text[after[1].stop :])
            if ends and re.match(r"\s*and\b", between) and _is_determiner(re.sub(r"^\s*and\b", "", between)):
                return after[:2], after[2:]
        return after[:1], after[1:]

    def _brought_in(self, other: Named, rest: list[Named]) -> list[Named]:
        """The thing of `behind the car there is a tree`, where it is said after what it is behind of."""
        if not rest:
            return []
        words = _words(self.text[other.stop : rest[0].start])
        verbs = [index for index, word in enumerate(words[:3]) if word in _IS or word == "see"]
        if not verbs or set(words[: verbs[0]]) - {"there", "we", "you"} or "and" in words:
            return []
        article = words[verbs[0] + 1 :]
        is_noun = bool(article) and article[0] in _ARTICLES and not set(article[1:]) & (_NO_NOUNS | _ARTICLES)
        return rest[:1] if is_noun else []


def _may_stand_between(words: Sequence[str]) -> bool:
    return all(word in _PLAIN_WORDS or word.endswith(("ing", "ed")) for word in words)


def _is_determiner(text: str) -> bool:
    """Whether a text is what stands before a noun: perhaps an article, perhaps a few adjectives."""
    words = _words(text)
    if "," in text or len(words) > _MAX_NOUN_WORDS:
        return False
    return not set(words[1:]) & _ARTICLES and not set(words) & (_NO_NOUNS - _ARTICLES)


def _without_boxes(text: str) -> str:
    """The text with blanks for its brackets, every character in its place."""
    return re.sub(r"\[[^\[\]]*\]", lambda match: " " * len(match.group()), text)
