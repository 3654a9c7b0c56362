"""Differences between two captions word by word, and the marking of a text with them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from markupsafe import Markup, escape

from vila2_ray.report.data import Span

MAX_TOKENS = 600
"""Longer texts are compared up to here: the comparison is quadratic and captions are not trusted to be short."""

_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+(?:[’'\-]\w+)*|[^\w\s]")
"""A word, a sign, or one character of a script that writes no spaces."""


@dataclass(frozen=True)
class Difference:
    """How a text came from an earlier one."""

    added: tuple[tuple[int, int], ...] = ()
    """Character ranges of the later text that the earlier one did not have."""
    removed: tuple[tuple[int, str], ...] = ()
    """(Position in the later text, words of the earlier text that stood there)."""


def word_diff(earlier: str, later: str) -> Difference:
    """What `later` added and what it no longer says; case and spacing do not count."""
    old, new = (list(_TOKEN.finditer(text))[:MAX_TOKENS] for text in (earlier, later))
    matcher = SequenceMatcher(None, [t[0].casefold() for t in old], [t[0].casefold() for t in new], autojunk=False)
    added, removed = [], []
    for what, i, j, k, m in matcher.get_opcodes():
        if what in ("insert", "replace"):
            added.append((new[k].start(), new[m - 1].end()))
        if what in ("delete", "replace"):
            at = new[k].start() if k < len(new) else (new[-1].end() if new else 0)
            removed.append((at, earlier[old[i].start() : old[j - 1].end()]))
    return Difference(tuple(added), tuple(removed))


def marked(text: str, difference: Difference | None = None, wrong: Sequence[Span] = ()) -> Markup:
    """`text` as HTML, escaped, with additions in `<ins>`, removals in `<del>` and wrong objects in `<mark>`."""
    difference = difference or Difference()
    spans = [span for span in wrong if 0 <= span.start < span.stop <= len(text)]
    cuts = {0, len(text)} | {edge for pair in difference.added for edge in pair} | {at for at, _ in difference.removed}
    cuts |= {edge for span in spans for edge in (span.start, span.stop)}
    edges = sorted(cuts)
    out = [_removed(difference, edges[0])]
    for start, stop in itertools.pairwise(edges):
        piece = escape(text[start:stop])
        span = next((s for s in spans if s.start <= start and stop <= s.stop), None)
        if span is not None:
            end = " end" if stop == span.stop else ""
            piece = Markup('<mark class="{}{}" title="{}">{}</mark>').format(span.kind, end, _WHY[span.kind], piece)
        if any(a <= start and stop <= b for a, b in difference.added):
            piece = Markup("<ins>{}</ins>").format(piece)
        out += [piece, _removed(difference, stop)]
    return Markup("").join(out)


_WHY = {
    "absent": "not in the picture",
    "repeated": "named more often than it is there",
    "read": "printed in the picture",
    "unread": "not printed in the picture",
}


def _removed(difference: Difference, at: int) -> Markup:
    words = [Markup("<del>{} </del>").format(text) for where, text in difference.removed if where == at]
    return Markup("").join(words)
