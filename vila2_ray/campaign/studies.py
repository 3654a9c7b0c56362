"""Studies of a campaign: pairs drawn from its layers, and what lies below `judgements/`."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from vila2_ray.campaign.api import Campaign
from vila2_ray.campaign.screening import open_screening
from vila2_ray.config import Config
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.screening import Screening
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.judge.pairs import Couple, Draw, Side, Variant, all_couples, couple_name, draw_pairs
from vila2_ray.judge.rubric import criteria as known_criteria
from vila2_ray.judge.study import ALT_TEXT, Study, is_rater

_SHARDS_AT_ONCE = 8
_VOTES = re.compile(r"(?P<study>[^/]+)/votes/(?P<rater>[^/]+)/(?P<pair>[0-9a-f]+-[01])-[^/]+\.json")


@dataclass(frozen=True)
class StudySummary:
    """One study, without its votes having been read."""

    name: str
    layers: tuple[str, ...]
    criteria: tuple[str, ...]
    num_pairs: int
    num_equal: int
    """Images that need not be asked: both layers say the same."""
    num_votes: dict[str, int]
    """Rater → votes; of a pair in one order the last alone."""


def draw_study(
    campaign: Campaign,
    name: str,
    layers: Sequence[str],
    num_samples: int,
    criteria: Sequence[str],
    seed: int,
    *,
    couples: Sequence[Couple] = (),
    variant: Variant = "first",
    only_kept: bool = True,
) -> Study:
    """Draw a study of `num_samples` images for each couple of layers: of `couples`, or else every two of `layers`.

    `alt_text` is a layer's name, too. Captions that the filters left out are not drawn where they have been judged,
    unless `only_kept` is off. The same call again finds the study as it is. Raises ConfigError for names that are none
    and for a study of that name that was drawn otherwise, CorpusError where there is nothing to compare, StageFailed
    where samples have still to be screened.
    """
    couples = tuple(couples) or all_couples(layers)
    _check(name, couples, num_samples)
    known_criteria(criteria)
    named = list(dict.fromkeys(layer for couple in couples for layer in couple))
    sides = _sides(campaign, named, only_kept)
    told: dict[str, Any] = {
        "layers": {side.name: _state(side) for side in sides},
        "couples": [couple_name(couple) for couple in couples],
        "num_samples": num_samples,
        "seed": seed,
        "variant": variant,
    }
    study = campaign.layout.study(name)
    if study.store.exists("study.json"):
        study.check(told, criteria)
        return study
    config = campaign.config
    corpus, screening = _screened(campaign, config)
    drawn = draw_pairs(corpus, sides, Draw(couples, num_samples, seed, variant, config.filters), screening)
    if not drawn.pairs:
        remedy = "Name layers that hold captions of the same images"
        if any(drawn.equal.values()):
            remedy = "They say the same of every image that was drawn"
        raise CorpusError(campaign.uri, f"there is nothing to compare in {', '.join(named)}", remedy)
    return Study.draw(study.store, drawn.pairs, {**told, "equal": drawn.equal}, criteria)


def default_layers(campaign: Campaign) -> list[str]:
    """What a study compares where nothing is said: the alt text and every finished round."""
    return [ALT_TEXT, *(name for name in campaign.layers() if name.startswith("round-"))]


def parse_couples(said: Sequence[str]) -> list[Couple]:
    """`round-1:round-2` and the like as pairs of names. Raises ConfigError for what is none."""
    couples = []
    for one in said:
        first, _, second = one.partition(":")
        if not first or not second or ":" in second:
            raise ConfigError("--pairs", one, "name two layers with a colon between them, for example alt_text:round-1")
        couples.append((first, second))
    return couples


def open_study(campaign: Campaign, name: str) -> Study:
    """A study that has been drawn. Raises ConfigError where there is none of that name."""
    if is_rater(name) and (study := campaign.layout.study(name)).store.exists("study.json"):
        return study
    found = ", ".join(study.name for study in list_studies(campaign))
    known = f"studies are {found}" if found else "there is none yet"
    raise ConfigError("--study", name, f"{known}; draw one with vila2 judge draw {campaign.uri} --study NAME")


def left_out(campaign: Campaign, study: Study) -> frozenset[str]:
    """Pairs that are no longer to be shown: their samples were screened out or taken down since they were drawn."""
    corpus, screening = _screened(campaign, campaign.config)
    if screening is None:
        return frozenset()
    known = {(ref.source, ref.shard) for ref in corpus.shards}  # of shards that are gone nobody sees a picture
    pairs = [pair for pair in study.pairs() if (pair.source, pair.shard) in known]
    shards = sorted({(pair.source, pair.shard) for pair in pairs})
    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        flags = dict(zip(shards, pool.map(lambda shard: screening.flags(*shard), shards), strict=True))
    return frozenset(pair.pair_id for pair in pairs if pair.row in flags[pair.source, pair.shard])


def list_studies(campaign: Campaign) -> list[StudySummary]:
    """All studies by name, from one listing of their files."""
    store = campaign.store.sub("judgements")
    names = store.list()
    votes: dict[str, dict[str, set[str]]] = {}
    for found in filter(None, map(_VOTES.fullmatch, names)):
        votes.setdefault(found["study"], {}).setdefault(found["rater"], set()).add(found["pair"])
    studies = [name.removesuffix("/study.json") for name in names if name.endswith("/study.json")]
    return [summary_of(campaign.layout.study(name), votes.get(name, {})) for name in studies]


def summary_of(study: Study, votes: Mapping[str, Collection[str]]) -> StudySummary:
    """A study with its votes, by rater, as they were counted."""
    told = study.told()
    return StudySummary(
        name=study.name,
        layers=tuple(
            dict.fromkeys(layer for couple in told["drawn_by"].get("couples", ()) for layer in couple.split(":"))
        ),
        criteria=tuple(told["criteria"]),
        num_pairs=study.store.num_rows(told["pairs"]),
        num_equal=sum(told["drawn_by"].get("equal", {}).values()),
        num_votes={rater: len(pairs) for rater, pairs in sorted(votes.items())},
    )


def _screened(campaign: Campaign, config: Config) -> tuple[Corpus, Screening | None]:
    """What is compared, and which of its samples are left out now."""
    corpus = campaign.layout.corpus("pretrain", config)
    return corpus, open_screening(campaign.layout, config, campaign.markers(), corpus)


def _check(name: str, couples: Sequence[Couple], num_samples: int) -> None:
    if not is_rater(name):
        raise ConfigError("--study", name, "1 to 64 letters, digits and . _ @ : + -, a letter or digit first")
    if not couples:
        raise ConfigError("--layers", "", f"one layer has nothing to be compared with; {ALT_TEXT} is one, too")
    for couple in couples:
        if len(set(couple)) < 2:
            raise ConfigError("--pairs", couple_name(couple), "a layer cannot be compared with itself")
        if couples.count(couple) + couples.count((couple[1], couple[0])) > 1:
            raise ConfigError("--pairs", couple_name(couple), "is named twice")
    if num_samples < 1:
        raise ConfigError("--samples", num_samples, "at least 1")


def _sides(campaign: Campaign, names: Sequence[str], only_kept: bool) -> list[Side]:
    known = campaign.layers()
    for name in names:
        if name not in (ALT_TEXT, *known):
            raise ConfigError("--layers", name, f"finished layers are {', '.join([ALT_TEXT, *known])}")
    return [
        Side(name)
        if name == ALT_TEXT
        else Side(name, campaign.layer(name), campaign.verdicts(name) if only_kept else None)
        for name in names
    ]


def _state(side: Side) -> str:
    """What was drawn from: of a layer or verdicts made anew, pairs are another study."""
    states = [made.store.uri.rpartition("/")[2] for made in (side.layer, side.verdicts) if made is not None]
    return ", kept by ".join(states)
