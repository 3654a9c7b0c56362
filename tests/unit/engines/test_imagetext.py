"""The image–text scorer on a tiny SigLIP made on the spot."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.unit.engines.tiny_siglip import write_siglip
from tests.unit.engines.tiny_vila import write_vila
from vila2_ray.engines.imagetext import ImageTextScorer
from vila2_ray.errors import CheckpointError


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> ImageTextScorer:
    return ImageTextScorer(write_siglip(tmp_path_factory.mktemp("siglip")))


def test_each_text_is_compared_with_its_own_image(scorer: ImageTextScorer) -> None:
    red, blue = Image.new("RGB", (40, 30), "red"), Image.effect_noise((32, 32), 90).convert("RGB")
    texts = ["a small red apple at the left.", "a large dog", "caption"]
    together = scorer.similarities([red, blue], [texts, texts[:1]])
    assert [len(several) for several in together] == [3, 1]
    assert all(-1 <= value <= 1 for several in together for value in several)
    assert len(set(together[0])) == 3
    alone = [scorer.similarities([image], [[text]])[0][0] for image, text in ((red, texts[1]), (blue, texts[0]))]
    assert alone == pytest.approx([together[0][1], together[1][0]], abs=1e-5)


def test_long_texts_are_cut_and_no_texts_are_no_work(scorer: ImageTextScorer) -> None:
    image = Image.new("RGB", (8, 8))
    long = "a small red apple " * 40
    assert scorer.similarities([image], [[long, long + "dog"]])[0] == pytest.approx(
        scorer.similarities([image], [[long]])[0] * 2, abs=1e-6
    )
    assert scorer.similarities([image, image], [[], []]) == [[], []]


def test_other_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no image and text features"):
        ImageTextScorer(write_vila(tmp_path / "vila"))
    with pytest.raises(CheckpointError, match="is not a folder"):
        ImageTextScorer(tmp_path / "nothing")
