"""What can be said of captions without truth: on their own, against the alt text, and against reference captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from vila2_ray.captions.cider import ciders
from vila2_ray.captions.filters import repeated_ngram_share
from vila2_ray.captions.words import ngrams, words

_ENGLISH = """
a an the this that these those it its he she they his her their is are was were be been being has have had do does did
in on at of to for from by with without and or but as into onto over under there here which who what where when while
not no some any each other very also
"""
FUNCTION_WORDS = frozenset(_ENGLISH.split())
"""English words that name nothing; other languages keep all of theirs."""
_START_WORDS = 3


def caption_metrics(captions: Sequence[str]) -> dict[str, float]:
    """Length and variety of a set of captions; empty when there are none.

    words_per_caption · vocabulary (different words) · distinct_1, distinct_2 (different n-grams per n-gram) ·
    repeated_4gram_share (mean over captions) · share_starting_alike (captions with the commonest first three words).
    """
    if not captions:
        return {}
    tokens = [words(caption) for caption in captions]
    starts = Counter(tuple(said[:_START_WORDS]) for said in tokens)
    return {
        "words_per_caption": sum(map(len, tokens)) / len(tokens),
        "vocabulary": float(len({word for said in tokens for word in said})),
        "distinct_1": _distinct(tokens, 1),
        "distinct_2": _distinct(tokens, 2),
        "repeated_4gram_share": sum(map(repeated_ngram_share, tokens)) / len(tokens),
        "share_starting_alike": starts.most_common(1)[0][1] / len(tokens),
    }


def alt_text_metrics(captions: Sequence[str], alt_texts: Sequence[str]) -> dict[str, float]:
    """How captions and the alt texts beside them agree, over pairs where both have content words; empty when none has.

    alt_text_recall: share of the alt text's content words that the caption says too.
    alt_text_novelty: share of the caption's content words that the alt text lacks.
    """
    pairs = [(content_words(c), content_words(a)) for c, a in zip(captions, alt_texts, strict=True)]
    pairs = [(said, given) for said, given in pairs if said and given]
    if not pairs:
        return {}
    return {
        "alt_text_recall": sum(len(said & given) / len(given) for said, given in pairs) / len(pairs),
        "alt_text_novelty": sum(len(said - given) / len(said) for said, given in pairs) / len(pairs),
    }


def reference_metrics(captions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Agreement with one reference caption each: reference_f1 (mean token F1, in [0, 1]) and reference_cider."""
    if not captions:
        return {}
    pairs = list(zip(captions, references, strict=True))
    return {
        "reference_f1": sum(token_f1(caption, reference) for caption, reference in pairs) / len(pairs),
        "reference_cider": cider(captions, references),
    }


def content_words(text: str) -> set[str]:
    """The different words of a text that can name something."""
    return set(words(text)) - FUNCTION_WORDS


def token_f1(caption: str, reference: str) -> float:
    """Harmonic mean of precision and recall over words, each counted as often as it occurs. 1 when both are empty."""
    said, wanted = Counter(words(caption)), Counter(words(reference))
    if not said and not wanted:
        return 1.0
    shared = (said & wanted).total()
    return 2 * shared / (said.total() + wanted.total())


def cider(captions: Sequence[str], references: Sequence[str]) -> float:
    """CIDEr-D (arXiv 1411.5726) with one reference each and unstemmed words, in [0, 10].

    Words that every reference has weigh nothing, so it says little about sets of a few samples.
    """
    if not captions:
        return 0.0
    found = ciders([words(caption) for caption in captions], [[words(reference)] for reference in references])
    return sum(found) / len(found)


def _distinct(tokens: Sequence[Sequence[str]], n: int) -> float:
    found = [gram for said in tokens for gram in ngrams(said, n)]
    return len(set(found)) / len(found) if found else 0.0
