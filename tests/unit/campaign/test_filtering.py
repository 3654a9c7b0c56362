"""The filter stage on layers written by hand: flags, picks, figures of drift, and that a second look does nothing."""

from __future__ import annotations

import functools
import operator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.campaign.layers import SOURCE, write_corpus, write_layer
from tests.unit.engines.tiny_siglip import write_siglip
from tests.unit.judge.judgements import edited, judgement, table
from vila2_ray.campaign.filtering import Filtered, FilterJob, filter_layers
from vila2_ray.captions.drift import figures
from vila2_ray.captions.prompts import Prompts
from vila2_ray.captions.votes import counting
from vila2_ray.config import Config, FallbackConfig, FiltersConfig, PickConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.storage import Store
from vila2_ray.train.items import StageItems

PICKED_BY_MEAN = PickConfig("mean_logprob")


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return write_corpus(tmp_path, [4, 3])


def judged(
    folder: Path, corpus: Corpus, layers: list[Layer], previous: Layer | None = None, **of_job: Any
) -> tuple[Filtered, list[Verdicts]]:
    names = [f"round-{number + 1}" for number, _ in enumerate(layers)]
    said = of_job.get("said", ())
    verdicts = [Verdicts(Store(folder / "verdicts" / str(number))) for number, _ in enumerate(layers)]
    job = FilterJob(
        corpus=corpus,
        layers=list(zip(layers, verdicts, strict=True)),
        prompts=Prompts(("detailed",)),
        filters=of_job.get("filters", FiltersConfig()),
        pick=of_job.get("pick", PickConfig()),
        previous=previous,
        votes=counting(table(*said), names, "overall", "all", "votes.csv"),
    )
    return filter_layers(job, map), verdicts


def kept(corpus: Corpus, layers: list[Layer], verdicts: list[Verdicts]) -> dict[tuple[str, int], list[str]]:
    """What training would take of the layers, by (shard, row)."""
    pairs = list(zip(layers, verdicts, strict=True))
    items = StageItems(corpus, pairs, Config(), "pretrain")
    found: dict[tuple[str, int], list[str]] = {}
    for ref in corpus.shards:
        for row, captions in items._captions(ref)[0].items():
            found[ref.shard, row] = [said.text for said in captions]
    return found


def surer(shard: str, row: int, variant: int) -> dict[str, Any]:
    """Variant 1 is the surest of three."""
    return {"mean_logprob": -0.1 if variant == 1 else -0.5}


def test_without_pick_all_that_the_filters_keep_stays(tmp_path: Path, corpus: Corpus) -> None:
    layer = write_layer(Store(tmp_path / "layer"), corpus, 2, lambda s, row, v: {"text": "No."} if row == 1 else {})
    judgement, verdicts = judged(tmp_path, corpus, [layer])
    assert judgement.flags == {"captions": 14, "kept": 10, "too_short": 4}
    assert verdicts[0].flags(SOURCE, "00000") == {(1, 0): ["too_short"], (1, 1): ["too_short"]}


def test_one_caption_of_each_sample_is_trained_on(tmp_path: Path, corpus: Corpus) -> None:
    layer = write_layer(Store(tmp_path / "layer"), corpus, 3, surer)
    judgement, verdicts = judged(tmp_path, corpus, [layer], pick=PICKED_BY_MEAN)
    assert judgement.flags == {"captions": 21, "kept": 7, "not_picked": 14, "samples": 7, "alt_text": 0}
    chosen = kept(corpus, [layer], verdicts)
    assert len(chosen) == 7
    assert all(len(texts) == 1 and "number 1" in texts[0] for texts in chosen.values())


def test_only_what_the_filters_keep_is_picked(tmp_path: Path, corpus: Corpus) -> None:
    def change(shard: str, row: int, variant: int) -> dict[str, Any]:
        return {**surer(shard, row, variant), **({"text": "No."} if variant == 1 else {})}

    layer = write_layer(Store(tmp_path / "layer"), corpus, 3, change)
    _, verdicts = judged(tmp_path, corpus, [layer], pick=PICKED_BY_MEAN)
    flags = verdicts[0].flags(SOURCE, "00000")
    assert flags[0, 1] == ["too_short"]
    assert flags[0, 2] == ["not_picked"]
    assert (0, 0) not in flags


def test_of_all_layers_the_newest_wins_where_they_tie(tmp_path: Path, corpus: Corpus) -> None:
    first = write_layer(Store(tmp_path / "1"), corpus, 1, lambda s, row, v: {"mean_logprob": -0.1 if row else -0.5})
    second = write_layer(Store(tmp_path / "2"), corpus, 1, lambda s, row, v: {"text": f"Row {row} of the second one."})
    judgement, verdicts = judged(tmp_path, corpus, [first, second], first, pick=PickConfig("mean_logprob", "all"))
    assert judgement.flags["kept"] == 7
    chosen = kept(corpus, [first, second], verdicts)
    assert chosen["00000", 0] == ["Row 0 of the second one."]
    assert all(text.startswith("Thing") for (_, row), (text,) in chosen.items() if row)
    assert figures(judgement.drift)["words_per_caption"] == 6.0, "drift is the newest layer's alone"


def test_draws_that_contradict_each_other_leave_the_alt_text(tmp_path: Path, corpus: Corpus) -> None:
    said = ["A red cat sleeps here.", "Two boats under grey skies.", "Nobody knows what happened."]
    layer = write_layer(Store(tmp_path / "layer"), corpus, 3, lambda s, row, v: {"text": said[v]} if row == 2 else {})
    judgement, verdicts = judged(tmp_path, corpus, [layer], pick=PickConfig("agreement"))
    assert judgement.flags["alt_text"] == 2
    assert ("00000", 2) not in kept(corpus, [layer], verdicts)
    assert len(kept(corpus, [layer], verdicts)["00000", 1]) == 1


SAID = (
    judgement(0, "round-1.0", "round-1.2", "second"),
    judgement(1, "round-1.1", "alt_text", "second"),
    judgement(2, "round-1.1", "alt_text", "tie"),
)


def test_the_best_voted_caption_is_picked_and_the_rest_stays_as_it_was(tmp_path: Path, corpus: Corpus) -> None:
    layer = write_layer(Store(tmp_path / "layer"), corpus, 3, surer)
    judgement, verdicts = judged(tmp_path, corpus, [layer], said=SAID)
    assert judgement.flags == {
        "captions": 21, "kept": 14, "not_picked": 7, "samples": 7, "alt_text": 1, "voted": 3
    }  # fmt: skip
    chosen = kept(corpus, [layer], verdicts)
    assert ["number 2" in text for text in chosen["00000", 0]] == [True]
    assert ("00000", 1) not in chosen, "the alt text was rather taught with"
    assert len(chosen["00000", 2]) == 1
    assert len(chosen["00000", 3]) == len(chosen["00001", 0]) == 3


def test_where_nobody_voted_the_rule_picks(tmp_path: Path, corpus: Corpus) -> None:
    layer = write_layer(Store(tmp_path / "layer"), corpus, 3, surer)
    judgement, verdicts = judged(tmp_path, corpus, [layer], pick=PICKED_BY_MEAN, said=SAID)
    assert judgement.flags["voted"] == 3
    assert (judgement.flags["samples"], judgement.flags["alt_text"], judgement.flags["kept"]) == (7, 1, 6)
    chosen = kept(corpus, [layer], verdicts)
    assert "number 2" in chosen["00000", 0][0]
    assert "number 1" in chosen["00000", 3][0]


def test_votes_are_about_what_the_filters_keep(tmp_path: Path, corpus: Corpus) -> None:
    layer = write_layer(Store(tmp_path / "layer"), corpus, 3, lambda s, row, v: {"text": "No."} if v == 2 else {})
    judgement, verdicts = judged(tmp_path, corpus, [layer], said=SAID[:1])
    assert "voted" not in judgement.flags
    assert len(kept(corpus, [layer], verdicts)["00000", 0]) == 2


def test_an_earlier_rounds_caption_can_win_by_votes_and_by_nothing_else(tmp_path: Path, corpus: Corpus) -> None:
    layers = [write_layer(Store(tmp_path / f"{k}"), corpus, 1, lambda s, row, v, k=k: {"text": f"It is of round {k}."})
              for k in (1, 2)]  # fmt: skip
    won = judgement(0, "round-1", "round-2", "first"), judgement(1, "round-1", "round-2", "second")
    _, verdicts = judged(tmp_path, corpus, layers, said=won)
    chosen = kept(corpus, layers, verdicts)
    assert chosen["00000", 0] == ["It is of round 1."]
    assert {text for place, texts in chosen.items() for text in texts if place != ("00000", 0)} == {"It is of round 2."}
    _, verdicts = judged(tmp_path / "unasked", corpus, layers)
    assert set(map(tuple, kept(corpus, layers, verdicts).values())) == {("It is of round 2.",)}


def test_an_edit_takes_its_captions_place(tmp_path: Path, corpus: Corpus) -> None:
    said = (
        edited(0, "round-1.0", "A person looked at it closely."),
        edited(1, "round-1.0", ""),
        edited(2, "round-1.1", "No."),
    )
    layer = write_layer(Store(tmp_path / "layer"), corpus, 2, lambda s, row, v: {"mean_logprob": -9.0 + v})
    judgement, verdicts = judged(tmp_path, corpus, [layer], said=said)
    assert judgement.flags == {
        "captions": 14, "kept": 1, "low_mean_logprob": 11, "edited_out": 1, "too_short": 1, "edited": 3, "samples": 1,
        "alt_text": 0,
    }  # fmt: skip
    assert kept(corpus, [layer], verdicts) == {("00000", 0): ["A person looked at it closely."]}
    assert verdicts[0].opinions(SOURCE, "00000").edits == {
        (0, 0): "A person looked at it closely.",
        (1, 0): "",
        (2, 1): "No.",
    }
    assert figures(judgement.drift)["words_per_caption"] == 11.0, "drift is the model's"


def test_a_rule_takes_an_edit_for_sure(tmp_path: Path, corpus: Corpus) -> None:
    layer = write_layer(Store(tmp_path / "layer"), corpus, 3, surer)
    said = [edited(0, "round-1.2", "A person looked at it closely.")]
    strict = PickConfig("mean_logprob", fallback_alt_text=FallbackConfig(min_mean_logprob=-0.05))
    _, verdicts = judged(tmp_path, corpus, [layer], pick=strict, said=said)
    assert kept(corpus, [layer], verdicts) == {("00000", 0): ["A person looked at it closely."]}


def test_a_scorer_looks_at_the_pictures(tmp_path: Path, corpus: Corpus) -> None:
    scorer = str(write_siglip(tmp_path / "siglip"))
    layer = write_layer(Store(tmp_path / "layer"), corpus, 2)
    loose = PickConfig("scorer", scorer=scorer, fallback_alt_text=FallbackConfig(min_scorer_margin=-2.0))
    judgement, verdicts = judged(tmp_path, corpus, [layer], pick=loose)
    assert judgement.flags["kept"] == 7
    assert {len(texts) for texts in kept(corpus, [layer], verdicts).values()} == {1}
    strict = PickConfig("scorer", scorer=scorer, fallback_alt_text=FallbackConfig(min_scorer_margin=2.0))
    judgement, verdicts = judged(tmp_path / "strict", corpus, [layer], pick=strict)
    assert judgement.flags["alt_text"] == 7
    assert kept(corpus, [layer], verdicts) == {}


def test_a_second_look_finds_the_same_without_reading_captions(tmp_path: Path, corpus: Corpus) -> None:
    layer = write_layer(Store(tmp_path / "layer"), corpus, 2, surer)
    first, verdicts = judged(tmp_path, corpus, [layer], layer, pick=PICKED_BY_MEAN)
    verdicts[0].store.delete(verdicts[0].path(SOURCE, "00001"))
    layer.store.delete(layer.path(SOURCE, "00000"))  # not looked at again
    again, _ = judged(tmp_path, corpus, [layer], None, pick=PICKED_BY_MEAN)
    assert again.flags == first.flags
    assert figures(first.drift)["previous_similarity"] == 1.0
    assert figures(again.drift)["num_captions"] == 14


def test_verdicts_that_tell_nothing_of_drift_are_made_anew(tmp_path: Path, corpus: Corpus) -> None:
    layer = write_layer(Store(tmp_path / "layer"), corpus)
    first, verdicts = judged(tmp_path, corpus, [layer])
    for ref in corpus.shards:
        verdicts[0].write(SOURCE, ref.shard, verdicts[0].read(SOURCE, ref.shard))  # as an older version wrote them
    assert judged(tmp_path, corpus, [layer])[0] == first


def test_failed_rows_have_no_verdict_and_no_part_in_drift(tmp_path: Path, corpus: Corpus) -> None:
    failed = {"status": "failed", "error": "engine_died"}
    layer = write_layer(Store(tmp_path / "layer"), corpus, 1, lambda s, row, v: failed if row == 0 else {})
    judgement, verdicts = judged(tmp_path, corpus, [layer])
    assert judgement.flags["captions"] == figures(judgement.drift)["num_captions"] == 5
    assert functools.reduce(operator.add, (v.to_table().num_rows for v in verdicts)) == 5
