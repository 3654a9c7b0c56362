"""Examines every judge of captions against the truth, over all campaigns together and over each alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, product
from typing import NamedTuple

from trials.endpoint import Opinion
from trials.verdicts import (
    COUNT,
    DESCRIBE,
    EXIST,
    FLAGS,
    READ,
    WHERE,
    Asked,
    Judged,
    Passed,
    Setting,
    Told,
    best_setting,
    by_score,
    detection,
    flags_of,
    flattery,
    objections,
    pairs,
    picked,
    preference,
    quality,
)

from vila2_ray.captions.words import words
from vila2_ray.config import FiltersConfig
from vila2_ray.evaluate.rules.tally import Estimate
from vila2_ray.judge.study import Answer

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
MEAN_LOGPROBS = (-1.0, -0.5, -0.3, -0.2, -0.1, -0.05, -0.03, -0.02)
AGREEMENTS = (0.5, 0.7, 0.8, 0.9, 0.95)
KINDS = {
    EXIST: "“is there a …?” of each thing named",
    COUNT: "“how many objects are there?”, against the things named",
    READ: "“what does the sign say?”, against the words read",
    WHERE: "“where is the …?” of each thing named",
    DESCRIBE: "asked for a greedy description: names what that does not",
}
ALL = "all questions"
BEST = "**what tells best**"
CROWDED = "no judge: names three things or more"


@dataclass(frozen=True)
class Writer:
    """A campaign's captions, and what its model said as a judge."""

    number: int
    prompt: str
    alt_texts: Mapping[int, str]
    filters: FiltersConfig
    """The campaign's own."""
    greedy: list[Told]
    drawn: list[Told]
    answers: Mapping[Asked, str] = field(default_factory=dict)
    """About all writers' captions."""
    rubric: Sequence[tuple[Told, Told, Opinion, Opinion]] = ()
    """Pairs of its own with an opinion of the pair as it is, and of the pair turned round."""

    def reported(self, layer: Sequence[Told]) -> list[Told]:
        """Captions of the half of the scenes that nothing was chosen on."""
        return [t for t in layer if is_reported(t.caption.scene)]

    def by_scene(self) -> list[list[Told]]:
        """Sampled captions of each reported scene."""
        there = self.reported(self.drawn)
        return [list(group) for _, group in groupby(there, key=lambda t: t.caption.scene)]


def is_reported(scene: int) -> bool:
    """Every second scene; settings are chosen on the others."""
    return scene % 2 == 1


class Row(NamedTuple):
    """A judge with its scores: over all campaigns, and over each alone."""

    name: str
    pooled: dict[str, Estimate]
    single: list[dict[str, Estimate]]


@dataclass
class Result:
    """All tables. Rows are called by what they judge with."""

    best: Setting
    greedy: list[Row]
    """Filters on greedy captions."""
    drawn: list[Row]
    """Filters on sampled captions."""
    picks: list[Row]
    questions: list[Row]
    """The VLM judge on sampled captions, each of its own model."""
    pairs: list[Row]
    rubric: dict[str, float]
    others: list[Row]
    """The VLM judge on captions of the other campaigns' models; empty with one campaign."""
    flattery: dict[str, Estimate]
    """Kind of question → by how much more of its own hallucinating captions a model lets pass than of others'."""


def examined(writers: Sequence[Writer]) -> Result:
    """Everything, on the reported half of the scenes. Raises ValueError where there are none."""
    if not any(writer.by_scene() for writer in writers):
        raise ValueError("there are no scenes to report on")
    best = _best(writers)
    return Result(
        best=best,
        greedy=_filter_rows(writers, "greedy", best),
        drawn=_filter_rows(writers, "drawn", best),
        picks=[_row(name, writers, _picking(by, border), quality) for name, by, border in _PICKS],
        questions=_question_rows(writers, [(writer, writer) for writer in writers]),
        pairs=_pair_rows(writers),
        rubric=_rubric_figures(writers),
        others=_question_rows(writers, [(j, w) for j in writers for w in writers if j is not w])
        if len(writers) > 1
        else [],
        flattery=_flattery(writers),
    )


# --- filters ---------------------------------------------------------------------------------------------------------

Detector = Callable[[Writer, Sequence[Told]], Sequence[bool]]
"""Flags each caption of a whole layer."""


def _without_borders(filters: FiltersConfig) -> FiltersConfig:
    return replace(filters, min_mean_logprob=-1e9, drop_lowest_min_logprob_share=0.0)


def _by_setting(setting: Setting) -> Detector:
    def detector(writer: Writer, layer: Sequence[Told]) -> Sequence[bool]:
        nothing: list[list[str]] = [[] for _ in layer]
        others = flags_of(layer, writer.alt_texts, writer.prompt, _without_borders(writer.filters))
        return setting.flagged(layer, others if setting.others else nothing)

    return detector


def _by_flags(filters: FiltersConfig | None, flag: str = "") -> Detector:
    """Any flag of the filters (None: the campaign's own), or a single one."""

    def detector(writer: Writer, layer: Sequence[Told]) -> Sequence[bool]:
        found = flags_of(layer, writer.alt_texts, writer.prompt, filters or writer.filters)
        return [flag in said if flag else bool(said) for said in found]

    return detector


def _judged(writer: Writer, layer: Sequence[Told], detector: Detector, reported: bool = True) -> list[Judged]:
    return [
        Judged(t.caption.scene, t.hallucinates, flagged, len(t.things))
        for t, flagged in zip(layer, detector(writer, layer), strict=True)
        if is_reported(t.caption.scene) == reported
    ]


def _best(writers: Sequence[Writer]) -> Setting:
    """Of what the filters' configuration can say, the best on sampled captions of the other half of the scenes."""
    settings = [
        Setting(min_mean_logprob=mean, drop_lowest_min_logprob_share=share, others=True)
        for share, mean in product((0.0, *SHARES), MEAN_LOGPROBS)
    ]
    others = {w.number: flags_of(w.drawn, w.alt_texts, w.prompt, _without_borders(w.filters)) for w in writers}

    def judged(setting: Setting) -> list[Judged]:
        return [
            one
            for writer in writers
            for one in _judged(writer, writer.drawn, lambda w, ts: setting.flagged(ts, others[w.number]), False)
        ]

    return best_setting(settings, judged)


def _filter_rows(writers: Sequence[Writer], layer: str, best: Setting) -> list[Row]:
    rules: list[tuple[str, Detector]] = [
        (BEST, _by_setting(best)),
        ("the campaign's own filters", _by_flags(None)),
        ("default filters", _by_flags(FiltersConfig())),
        *((f"default filters: {flag.value} alone", _by_flags(FiltersConfig(), flag.value)) for flag in FLAGS),
    ]
    rules.append((CROWDED, lambda writer, layer: [len(t.things) >= 3 for t in layer]))
    borders = [
        *(Setting(drop_lowest_min_logprob_share=share) for share in SHARES),
        *(Setting(min_mean_logprob=border) for border in MEAN_LOGPROBS),
        *(Setting(min_agreement=border) for border in AGREEMENTS),
    ]
    rules += [(str(setting), _by_setting(setting)) for setting in borders]
    return [
        _row(name, writers, lambda w, d=detector: _judged(w, getattr(w, layer), d), detection)
        for name, detector in rules
    ]


# --- picking ---------------------------------------------------------------------------------------------------------

_PICKS = (
    ("greedy, none picked", "greedy", 0.0),
    ("first", "first", 0.0),
    ("random", "random", 0.0),
    ("fewest words", "fewest words", 0.0),
    ("mean_logprob", "mean_logprob", 0.0),
    ("min_logprob", "min_logprob", 0.0),
    ("agreement", "agreement", 0.0),
    *((f"agreement, min_agreement={border:g}", "agreement", border) for border in AGREEMENTS[1:]),
    ("oracle", "oracle", 0.0),
)


def _picking(by: str, border: float) -> Callable[[Writer], list[tuple[int, Told | None]]]:
    def chosen(writer: Writer) -> list[tuple[int, Told | None]]:
        if by == "greedy":
            return [(t.caption.scene, t) for t in writer.reported(writer.greedy)]
        return [(there[0].caption.scene, picked(there, by, border)) for there in writer.by_scene()]

    return chosen


# --- questions -------------------------------------------------------------------------------------------------------


def _objected(judge: Writer, kind: str, t: Told) -> int:
    found = objections(t, judge.answers, judge.prompt)
    return sum(found.values()) if kind == ALL else found[kind]


def _unobjected(kind: str, judge: Writer, t: Told) -> int:
    return -_objected(judge, kind, t)


def _question_rows(writers: Sequence[Writer], couples: Sequence[tuple[Writer, Writer]]) -> list[Row]:
    """`couples`: judge and writer. A campaign's own figures are those of its model as a judge."""
    rows = []
    for kind, title in [*KINDS.items(), (ALL, "any of these")]:

        def judged(judge: Writer, kind: str = kind) -> list[Judged]:
            return [
                Judged(t.caption.scene, t.hallucinates, _objected(judge, kind, t) > 0, len(t.things))
                for asked, writer in couples
                if asked is judge
                for t in writer.reported(writer.drawn)
            ]

        rows.append(_row(title, writers, judged, detection))
    return rows


def _flattery(writers: Sequence[Writer]) -> dict[str, Estimate]:
    """By kind of question; empty with one campaign."""

    def passed(kind: str) -> list[Passed]:
        return [
            Passed(t.caption.scene, judge.number, writer.number, _objected(judge, kind, t) == 0)
            for judge, writer in product(writers, writers)
            for t in writer.reported(writer.drawn)
            if t.hallucinates
        ]

    return {kind: flattery(passed(kind)) for kind in (*KINDS, ALL)} if len(writers) > 1 else {}


# --- pairs -----------------------------------------------------------------------------------------------------------


def _pair_rows(writers: Sequence[Writer]) -> list[Row]:
    scores: dict[str, Callable[[Writer, Told], float]] = {
        "fewer words": lambda writer, t: -len(words(t.caption.text)),
        "fewer things named": lambda writer, t: -len(t.things),
        "mean_logprob": lambda writer, t: t.caption.mean_logprob,
        "min_logprob": lambda writer, t: t.caption.min_logprob,
        "agreement": lambda writer, t: t.agreement,
    }
    for kind in (*KINDS, ALL):
        scores[f"VLM, fewer objections: {kind}"] = partial(_unobjected, kind)

    def preferred(writer: Writer, score: Callable[[Writer, Told], float]) -> list[tuple[Told, Told, float | None]]:
        there = pairs(writer.reported(writer.drawn))
        return [(a, b, by_score(score(writer, a), score(writer, b))) for a, b in there]

    rows = [_row(name, writers, lambda w, s=score: preferred(w, s), preference) for name, score in scores.items()]
    return [*rows, _row("VLM, rubric", writers, _by_rubric, preference)]


_VALUES: dict[Answer, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


def _by_rubric(writer: Writer) -> list[tuple[Told, Told, float | None]]:
    """The mean of both orders, of one where the other cannot be read."""
    found: list[tuple[Told, Told, float | None]] = []
    for first, second, as_is, turned in writer.rubric:
        values = [_VALUES[as_is.answer]] if as_is.answer else []
        values += [1 - _VALUES[turned.answer]] if turned.answer else []
        found.append((first, second, sum(values) / len(values) if values else None))
    return found


def _rubric_figures(writers: Sequence[Writer]) -> dict[str, float]:
    """Shares of what was asked: not to be read, refused; and of pairs read in both orders, the same both times."""
    opinions = [opinion for writer in writers for *_, as_is, turned in writer.rubric for opinion in (as_is, turned)]
    both = [(a.answer, b.answer) for writer in writers for *_, a, b in writer.rubric if a.answer and b.answer]
    found = {"asked": float(len(opinions))}
    if opinions:
        found["unreadable"] = sum(o.answer is None for o in opinions) / len(opinions)
        found["refused"] = sum(o.problem.startswith("refused") for o in opinions) / len(opinions)
    if both:
        found["same under swap"] = sum(_VALUES[a] == 1 - _VALUES[b] for a, b in both) / len(both)
    return found


def _row(name: str, writers: Sequence[Writer], given: Callable, scores: Callable) -> Row:
    """`given`: what a writer gives to be scored."""
    each = [given(writer) for writer in writers]
    pooled = [one for found in each for one in found]
    if not pooled:
        return Row(name, {}, [])
    return Row(name, scores(pooled), [scores(found) for found in each if found])
