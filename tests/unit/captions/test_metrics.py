import pytest
from hypothesis import given
from hypothesis import strategies as st

from vila2_ray.captions.metrics import alt_text_metrics, caption_metrics, cider, reference_metrics, token_f1

REFERENCES = ["a red apple on a table", "two dogs run in the park", "the blue boat near the shore"]


def test_caption_metrics() -> None:
    found = caption_metrics(["A red apple here.", "A red apple there!", "Two dogs."])
    assert found["words_per_caption"] == pytest.approx(10 / 3)
    assert found["vocabulary"] == 7
    assert found["distinct_1"] == pytest.approx(7 / 10)
    assert found["distinct_2"] == pytest.approx(5 / 7)
    assert found["repeated_4gram_share"] == 0
    assert found["share_starting_alike"] == pytest.approx(2 / 3)


def test_captions_that_say_one_thing_have_no_variety() -> None:
    found = caption_metrics(["a cat"] * 10)
    assert found["distinct_2"] == pytest.approx(0.1)
    assert found["share_starting_alike"] == 1


def test_no_captions_no_scores() -> None:
    assert caption_metrics([]) == {}
    assert alt_text_metrics([], []) == {}
    assert reference_metrics([], []) == {}


def test_alt_text_metrics_go_by_content_words() -> None:
    found = alt_text_metrics(["a red apple and the cat", "the dog"], ["the apple", "a bird"])
    assert found["alt_text_recall"] == pytest.approx((1 + 0) / 2)
    assert found["alt_text_novelty"] == pytest.approx((2 / 3 + 1) / 2)


def test_pairs_without_content_do_not_count() -> None:
    assert alt_text_metrics(["a cat"], ["..."]) == {}
    assert alt_text_metrics(["a cat", "the dog"], ["the", "dog"])["alt_text_recall"] == 1


def test_token_f1() -> None:
    assert token_f1("a red apple", "A red, red apple.") == pytest.approx(2 * 3 / 7)
    assert token_f1("", "") == 1
    assert token_f1("cat", "") == 0


def test_cider_prefers_what_is_said_in_the_reference_only() -> None:
    assert cider(REFERENCES, REFERENCES) == pytest.approx(10)
    rotated = REFERENCES[1:] + REFERENCES[:1]
    assert cider(rotated, REFERENCES) < 1
    near = ["a red apple on a plate", "two dogs run in a park", "the blue boat near the beach"]
    assert 2 < cider(near, REFERENCES) < 10


def test_cider_punishes_padding() -> None:
    padded = [f"{text} {'very ' * 20}" for text in REFERENCES]
    assert cider(padded, REFERENCES) < 1


@given(st.lists(st.tuples(st.text(), st.text()), max_size=6))
def test_scores_stay_in_their_ranges(pairs: list[tuple[str, str]]) -> None:
    captions, others = [a for a, _ in pairs], [b for _, b in pairs]
    for name, value in {**reference_metrics(captions, others), **alt_text_metrics(captions, others)}.items():
        assert 0 <= value <= (10.000001 if name == "reference_cider" else 1), name
    for name, value in caption_metrics(captions).items():
        assert value >= 0, name
