"""How a layer's captions drift from round to round, and when they have collapsed.

Figures are gathered shard by shard in sketches of a fixed size that can be joined in any order: sums are exact, the
vocabulary is counted exactly up to a thousand words and estimated to within a few percent above, and the commonest
beginnings and captions are found wherever they are common. So no layer is too large.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

from vila2_ray.captions.filters import echoes, repeated_ngram_share
from vila2_ray.captions.metrics import token_f1
from vila2_ray.captions.words import ends_sentence, has_content, words
from vila2_ray.config import DriftConfig

_START_WORDS = 6
"""More than evaluation counts: good models begin nearly all captions with the same three words, "The image shows"."""
_SMALLEST_HASHES = 1024
"""Of the vocabulary's hashes, so many are kept: the estimate's standard error is 1/√1022, 3 %."""
_COMMONEST = 64
"""Beginnings and captions that a sketch remembers."""
_REFUSAL = re.compile(
    r"""^\W*(?:(?:oh|well|no|hello|hi)\b\W*)?(?:
        (?:i\W?\s?a?m\s+(?:very\s+|so\s+|really\s+)?(?:sorry|afraid|unable|not\s+able|not\s+(?:allowed|permitted)))
      | (?:sorry|apologies|my\s+apologies|i\s+apologi[sz]e|unfortunately\W+(?:i|as\s+an)\b)
      | (?:i\s+(?:can\s?no?t|can\W?t|could\s+not|couldn\W?t|won\W?t|will\s+not|am\s+unable|do\s+not\s+(?:have|see)
            |don\W?t\s+(?:have|see))\b)
      | (?:as\s+an?\s+(?:ai|artificial|large\s+language|language\s+model))
      | (?:it\s+is\s+not\s+possible\s+(?:for\s+me\s+)?to)
      | (?:(?:no|there\s+is\s+no)\s+image\s+(?:was|has\s+been|is|to|provided|attached|given))
      | (?:please\s+(?:provide|upload|share|attach)\b)
      | (?:there\s+(?:is|was)\s+no\s+image\b)
    )""",
    re.IGNORECASE | re.VERBOSE,
)


@dataclass
class Sketch:
    """Figures of a part of a layer, in bounded memory; `+` joins two parts."""

    num_captions: int = 0
    num_words: int = 0
    num_empty: int = 0
    num_refusals: int = 0
    num_echoes: int = 0
    num_unfinished: int = 0
    repeated: float = 0.0
    num_with_alt_text: int = 0
    alt_text_f1: float = 0.0
    num_with_previous: int = 0
    previous_f1: float = 0.0
    starts: dict[str, int] = field(default_factory=dict)
    """Commonest first words → captions that begin with them."""
    whole: dict[str, int] = field(default_factory=dict)
    """Hashes of the commonest captions → how many they are."""
    hashes: list[int] = field(default_factory=list)
    """Smallest 64-bit hashes of the different words, in order."""

    def __add__(self, other: Sketch) -> Sketch:
        mine, theirs = asdict(self), asdict(other)
        sums = {n: mine[n] + theirs[n] for n in mine if n not in ("starts", "whole", "hashes")}
        return Sketch(
            **sums,
            starts=_commonest(Counter(self.starts) + Counter(other.starts)),
            whole=_commonest(Counter(self.whole) + Counter(other.whole)),
            hashes=heapq.nsmallest(_SMALLEST_HASHES, {*self.hashes, *other.hashes}),
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Sketch:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Watched:
    """One captioned row with what it is compared with."""

    text: str
    prompt: str
    is_cut_off: bool
    """Generation ended at max_tokens."""
    alt_text: str = ""
    previous: str | None = None
    """The previous round's caption of the same sample and variant."""


def sketch(captions: Iterable[Watched]) -> Sketch:
    """Figures of the captions of a shard."""
    made = Sketch()
    starts: Counter[str] = Counter()
    whole: Counter[str] = Counter()
    vocabulary: set[str] = set()
    for caption in captions:
        said = words(caption.text)
        vocabulary.update(said)
        made.num_captions += 1
        made.num_words += len(said)
        made.num_empty += not has_content(caption.text)
        made.num_refusals += is_refusal(caption.text)
        made.num_echoes += echoes(caption.text, caption.prompt)
        made.num_unfinished += caption.is_cut_off and not ends_sentence(caption.text)
        made.repeated += repeated_ngram_share(said)
        starts[" ".join(said[:_START_WORDS])] += 1
        whole[f"{_hash(' '.join(said)):016x}"] += 1
        if has_content(caption.alt_text):
            made.num_with_alt_text += 1
            made.alt_text_f1 += token_f1(caption.text, caption.alt_text)
        if caption.previous is not None:
            made.num_with_previous += 1
            made.previous_f1 += token_f1(caption.text, caption.previous)
    made.starts, made.whole = _commonest(starts), _commonest(whole)
    made.hashes = heapq.nsmallest(_SMALLEST_HASHES, {_hash(word) for word in vocabulary})
    return made


def figures(made: Sketch) -> dict[str, float]:
    """A layer's figures by name; empty without captions. Shares and similarities lie in [0, 1].

    `previous_similarity` and `alt_text_similarity` are absent where there was nothing to compare with.
    """
    n = made.num_captions
    if not n:
        return {}
    found = {
        "num_captions": float(n),
        "words_per_caption": made.num_words / n,
        "vocabulary": _num_different(made.hashes),
        "repeated_4gram_share": made.repeated / n,
        "share_starting_alike": max(made.starts.values()) / n,
        "share_identical": max(made.whole.values()) / n,
        "empty_share": made.num_empty / n,
        "refusal_share": made.num_refusals / n,
        "prompt_echo_share": made.num_echoes / n,
        "unfinished_share": made.num_unfinished / n,
    }
    if made.num_with_alt_text:
        found["alt_text_similarity"] = made.alt_text_f1 / made.num_with_alt_text
    if made.num_with_previous:
        found["previous_similarity"] = made.previous_f1 / made.num_with_previous
    return found


def collapses(now: Mapping[str, float], before: Mapping[str, float], config: DriftConfig) -> list[str]:
    """A sentence for each border that a layer's figures have crossed, with figure, border and its field; empty: sound.

    `before`: the previous round's figures, empty where there is none. Fewer than `min_captions` show nothing.
    """
    sentences: list[str] = []
    if now.get("num_captions", 0) < config.min_captions:
        return sentences
    for name, value, sign, border in _checks(now, before, config):
        limit = getattr(config, border)
        if value is not None and (value > limit if sign > 0 else value < limit):
            sentences.append(f"{name} is {_said(value)}, {border} = {_said(limit)}")
    return sentences


def is_refusal(text: str) -> bool:
    """Whether a caption begins by declining to describe the picture, as assistants do."""
    return _REFUSAL.match(text.replace("’", "'")) is not None


def _checks(
    now: Mapping[str, float], before: Mapping[str, float], config: DriftConfig
) -> Iterable[tuple[str, float | None, int, str]]:
    """(figure, value, +1: too high or −1: too low, field of the border)."""
    yield "words_per_caption", now.get("words_per_caption"), -1, "min_words_per_caption"
    for name in ("empty_share", "refusal_share", "prompt_echo_share", "unfinished_share", "repeated_4gram_share"):
        yield name, now.get(name), +1, f"max_{name}"
    for name in ("share_starting_alike", "share_identical", "alt_text_similarity"):
        yield name, now.get(name), +1, f"max_{name}"
    yield "previous_similarity", now.get("previous_similarity"), -1, "min_previous_similarity"
    for name, border in (("words_per_caption", "min_words_ratio"), ("vocabulary", "min_vocabulary_ratio")):
        if name in now and before.get(name):
            yield f"{name} against the previous round's", now[name] / before[name], -1, border


def _commonest(counts: Counter[str]) -> dict[str, int]:
    """Of equals those first in the alphabet: the order of shards must not matter more than it has to."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_COMMONEST])


def _num_different(hashes: list[int]) -> float:
    """From the k smallest of evenly spread hashes: (k − 1) / the largest of them, as a share of all hashes."""
    if len(hashes) < _SMALLEST_HASHES:
        return float(len(hashes))
    return (len(hashes) - 1) / (hashes[-1] / 2**64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _said(value: float) -> str:
    return f"{value:.3g}"
