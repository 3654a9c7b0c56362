import math
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vila2_ray.captions.filters import Flag, judge, layer_threshold, repeated_ngram_share, training_text
from vila2_ray.captions.prompts import FAMILY
from vila2_ray.captions.words import words
from vila2_ray.config import FiltersConfig

CONFIG = FiltersConfig()
GOOD = "A large red apple lies at the left and a small cat sits beside it."
NAMES = {flag.value for flag in Flag}


def threshold_of(values: list[float], share: float) -> float:
    """Of values that come in pieces."""
    column = np.array(values, np.float32)
    return layer_threshold(lambda: (column[at : at + 20] for at in range(0, len(column), 20)), share)


def flags(
    text: str,
    config: FiltersConfig = CONFIG,
    *,
    alt_text: str = "an apple picture",
    prompt: str = FAMILY["detailed"],
    finish_reason: str = "stop",
    mean_logprob: float | None = -0.3,
    min_logprob: float | None = -1.0,
    threshold: float | None = None,
    edit: str | None = None,
) -> list[str]:
    row = {"text": text, "finish_reason": finish_reason, "mean_logprob": mean_logprob, "min_logprob": min_logprob}
    row |= {"edit": edit}
    return judge([row], [alt_text], [prompt], config, threshold)[0]


def test_a_good_caption_is_kept() -> None:
    assert flags(GOOD) == []


def test_length() -> None:
    assert flags("A cat.") == ["too_short"]
    assert flags("") == ["too_short"]
    assert flags("猫が一匹いる。") == []  # characters count where words are not spaced
    assert flags(GOOD, replace(CONFIG, max_words=14)) == ["too_long"]
    assert flags(GOOD, replace(CONFIG, max_words=15)) == []


def test_an_edit_is_judged_in_place_of_its_caption() -> None:
    bad = {"finish_reason": "length", "mean_logprob": -9.0, "min_logprob": -9.0, "threshold": -5.0}
    assert flags("a red apple and " * 8, edit=GOOD, **bad) == []
    assert flags(GOOD, edit="A cat.") == ["too_short"]
    assert flags(GOOD, edit="an apple picture") == ["alt_text_copy"]
    assert flags(GOOD, edit=f"{GOOD} It is red. It is red. It is red. It is red.") == [], "what is trained on is judged"
    assert flags(GOOD, edit="It is red. " * 9) == ["repetition"], "uncut, as it is trained on"
    assert flags(GOOD, edit="") == flags(GOOD, edit=" … ") == ["edited_out"]
    assert training_text("So. So.", CONFIG, "Is it so? Is it so?") == "Is it so? Is it so?"


def test_repetition() -> None:
    assert flags("a red apple and " * 8) == ["repetition"]
    assert flags("a small cat at the left, a small cat at the right, and a dog in front of a house.") == []


def test_a_loop_of_sentences_is_cut_and_its_beginning_kept() -> None:
    looped = f"{GOOD} It is red. It is red. It is red. It is"
    assert flags(looped, finish_reason="length") == []
    assert training_text(looped, CONFIG) == f"{GOOD} It is red."
    whole = replace(CONFIG, cut_at_repeated_sentence=False)
    assert training_text(looped, whole) == looped
    assert flags(looped, whole, finish_reason="length") == ["unfinished"]


def test_unfinished() -> None:
    assert flags("A large red apple lies at the", finish_reason="length") == ["unfinished"]
    assert flags("A large red apple lies at the left.", finish_reason="length") == []
    assert flags("a large red apple at the left", finish_reason="stop") == []
    assert flags("A large red apple lies at the", replace(CONFIG, drop_unfinished=False), finish_reason="length") == []


def test_prompt_echo() -> None:
    assert flags(f"{FAMILY['detailed']} A cat.") == ["prompt_echo"]
    assert flags("Describe this picture in words: a cat on a mat.") == ["prompt_echo"]
    assert flags(
        f"{GOOD} Leave out what would have to be guessed, make no lists, and say little about how beautiful it is.",
        prompt=FAMILY["confident"],
    ) == ["prompt_echo"]
    assert flags("This picture is a drawing of a cat.") == []
    assert flags("caption: a cat on a mat.", prompt="caption") == []  # one word in common is chance
    assert flags("caption", prompt="caption") == ["too_short", "prompt_echo"]
    assert flags(f"{FAMILY['detailed']} A cat.", replace(CONFIG, drop_prompt_echo=False)) == []
    assert flags(GOOD, prompt="") == []


def test_alt_text_copy() -> None:
    assert flags("An apple picture!") == ["alt_text_copy"]
    assert flags("red apple photo", alt_text="cute red apple photo") == ["alt_text_copy"]
    assert flags("An apple picture with a cat.") == []
    assert flags("An apple picture!", replace(CONFIG, drop_alt_text_copy=False)) == []
    assert flags(GOOD, alt_text="") == []


def test_log_probabilities() -> None:
    assert flags(GOOD, mean_logprob=-2.1) == ["low_mean_logprob"]
    assert flags(GOOD, mean_logprob=-2.0) == []
    assert flags(GOOD, mean_logprob=math.nan) == ["low_mean_logprob"]
    assert flags(GOOD, min_logprob=-3.0, threshold=-2.9) == ["low_min_logprob"]
    assert flags(GOOD, min_logprob=-2.9, threshold=-2.9) == []
    assert flags(GOOD, mean_logprob=None, min_logprob=None, threshold=0.0) == []


def test_flags_go_with_their_rows() -> None:
    rows = [
        {"text": text, "finish_reason": "stop", "mean_logprob": 0.0, "min_logprob": 0.0}
        for text in (GOOD, "A cat.", GOOD)
    ]
    found = judge(rows, ["", "", GOOD], ["", "", ""], CONFIG)
    assert found == [[], ["too_short"], ["alt_text_copy"]]
    with pytest.raises(ValueError, match="do not go together"):
        judge(rows, [""], ["", "", ""], CONFIG)


@given(st.text(), st.text(), st.text(), st.sampled_from(["stop", "length"]), st.floats(), st.floats())
def test_any_text_can_be_judged_and_flags_come_from_the_closed_set(
    text: str, alt_text: str, prompt: str, finish_reason: str, mean_logprob: float, min_logprob: float
) -> None:
    found = flags(
        text,
        alt_text=alt_text,
        prompt=prompt,
        finish_reason=finish_reason,
        mean_logprob=mean_logprob,
        min_logprob=min_logprob,
        threshold=-1.0,
    )
    assert set(found) <= NAMES
    assert len(found) == len(set(found))
    assert ("too_short" in found) == (len(words(training_text(text, CONFIG))) < 3)


LOGPROBS = st.lists(st.floats(-20, 0, width=32), max_size=50)


@settings(deadline=None)
@given(LOGPROBS, st.floats(0, 1))
def test_never_more_than_the_share_is_left_out(values: list[float], share: float) -> None:
    threshold = threshold_of(values, share)
    dropped = sum(value < threshold for value in values)
    assert dropped <= share * len(values) + 1e-6
    if len(set(values)) == len(values):
        assert dropped == math.floor(share * len(values) + 1e-9)


@settings(deadline=None)
@given(LOGPROBS, st.floats(0, 1))
def test_what_is_left_out_is_lower_than_what_is_kept(values: list[float], share: float) -> None:
    threshold = threshold_of(values, share)
    dropped, kept = [v for v in values if v < threshold], [v for v in values if v >= threshold]
    assert not dropped or not kept or max(dropped) < min(kept)


def test_ties_at_the_border_are_kept() -> None:
    values = [-3.0, -2.0, -2.0, -2.0, -1.0]
    assert threshold_of(values, 0.4) == -2.0
    assert threshold_of([-1.0] * 10, 0.5) == -1.0


def test_threshold_ends_and_rounding() -> None:
    assert threshold_of([-1.0, -2.0], 0.0) == -math.inf
    assert threshold_of([-1.0, -2.0], 1.0) == math.inf
    assert threshold_of([], 0.5) == -math.inf
    values = [float(-i) for i in range(100)]
    for percent in range(1, 100):
        assert sum(value < threshold_of(values, percent / 100) for value in values) == percent


def test_threshold_reads_arrow_columns_and_leaves_nulls_and_nans_out() -> None:
    column = pa.chunked_array(
        [pa.array([-3.0, None], pa.float32()), pa.array([-1.1, math.nan, -2.2, -0.5], pa.float32())]
    )
    threshold = layer_threshold(lambda: [column], 0.5)
    assert threshold == float(np.float32(-1.1))
    assert [v < threshold for v in column.to_pylist() if v is not None] == [True, False, False, True, False]


def test_repeated_ngram_share() -> None:
    assert repeated_ngram_share(words("a b c d e")) == 0
    assert repeated_ngram_share(words("a b c d a b c d")) == pytest.approx(1 / 5)
    assert repeated_ngram_share(["a"] * 23) == pytest.approx(0.95)
    assert repeated_ngram_share([]) == 0
