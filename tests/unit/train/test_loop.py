from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from tests.unit.train import small
from vila2_ray.config import TrainConfig
from vila2_ray.errors import CheckpointError, StageFailed
from vila2_ray.model.families import part_of
from vila2_ray.storage import Store
from vila2_ray.train.checkpoint import StepStore
from vila2_ray.train.guard import LossGuard
from vila2_ray.train.loop import FitResult, Halted, StepReport, Watch, fit
from vila2_ray.train.parallelize import Place
from vila2_ray.train.source import ImageKey


def train(settings, *, undecodable=(), **options) -> tuple[torch.nn.Module, FitResult]:
    source, table = small.data(undecodable=undecodable)
    model = options.pop("model", None) or small.model()
    plan = small.plan(table, settings)
    options.setdefault("place", small.CPU)
    return model, fit(model, plan, source, settings, pad_token_id=small.PAD, **options)


def test_training_lowers_the_loss_and_reports_every_step() -> None:
    reports: list[StepReport] = []
    _, result = train(small.stage(num_epochs=10), on_step=reports.append)
    assert sum(result.losses[-5:]) < sum(result.losses[:5])
    assert [r.step for r in reports] == list(range(1, 61))
    assert sum(r.num_items for r in reports) == 240


@pytest.mark.parametrize("parts", [("connector",), ("language", "connector"), ("vision", "connector", "language")])
def test_frozen_parts_stay_bit_identical_and_trained_ones_move(parts: tuple[str, ...]) -> None:
    before = {name: p.clone() for name, p in small.model().named_parameters()}
    model, _ = train(small.stage(trained=parts, weight_decay=0.1))
    moved = {part_of(n, "vila") for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved == set(parts)


def test_accumulated_gradients_equal_one_big_batch() -> None:
    _, whole = train(small.stage(batch_size=8))
    _, pieces = train(small.stage(batch_size=8, micro_batch_size=3))
    assert whole.losses == pytest.approx(pieces.losses, abs=1e-4)


def test_cached_features_do_not_change_the_loss() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        place = Place(torch.device("cpu"), dtype)
        _, cached = train(small.stage(num_epochs=4), place=place)
        _, some = train(small.stage(num_epochs=4), place=place, feature_cache_bytes=3000)
        _, none = train(small.stage(num_epochs=4), place=place, feature_cache_bytes=0)
        assert cached.losses == pytest.approx(none.losses, abs=1e-4 if dtype == torch.float32 else 2e-2)
        assert some.losses == pytest.approx(none.losses, abs=1e-4 if dtype == torch.float32 else 2e-2)


def test_an_undecodable_image_keeps_its_slot_and_is_not_learned_from() -> None:
    settings = small.stage(num_epochs=1, batch_size=24)
    _, whole = train(settings)
    _, masked = train(settings, undecodable=(3, 9))
    assert masked.num_masked == 2
    assert masked.losses[0] != pytest.approx(whole.losses[0], abs=1e-6)
    source, table = small.data()
    kept = [i for i in range(24) if i not in (3, 9)]
    without = small.stage(num_epochs=1, batch_size=22)
    result = fit(
        small.model(), small.plan(table.take(kept), without), source, without, pad_token_id=small.PAD, place=small.CPU
    )
    assert masked.losses[0] == pytest.approx(result.losses[0], abs=1e-5)


def test_a_batch_without_images_trains() -> None:
    source, table = small.data()
    for key, tokens in list(source._tokens.items()):
        source._tokens[key] = type(tokens)(
            tokens.input_ids[[0, *range(5, len(tokens.input_ids))]], tokens.supervised[4:], ()
        )
    settings = small.stage(num_epochs=1)
    result = fit(small.model(), small.plan(table, settings), source, settings, pad_token_id=small.PAD, place=small.CPU)
    assert len(result.losses) == 6


def test_a_loss_that_is_no_number_names_step_and_samples() -> None:
    model = small.model()
    with torch.no_grad():
        model.model.multi_modal_projector.linear_1.bias[0] = float("nan")
    with pytest.raises(StageFailed, match=r"step 1: the loss is nan.*pretrain/0000\d/\d"):
        train(small.stage(), model=model)


def poisoned(settings):
    """Data of which one image makes every loss it is part of not a number; its step in the plan."""
    source, table = small.data()
    plan = small.plan(table, settings)
    bad = plan.sequence(2 * settings.batch_size)[0]  # of the third step
    source._pixels[ImageKey(*bad[:3])] = torch.full((3, 32, 32), float("nan"))
    return source, plan


@pytest.mark.parametrize("action", ["skip", "rollback"])
def test_a_step_whose_loss_is_no_number_is_left_out(tmp_path: Path, action: str) -> None:
    settings = small.stage(num_epochs=1)
    source, plan = poisoned(settings)
    notes: list[StepReport] = []
    model = small.model()
    result = fit(
        model, plan, source, settings, pad_token_id=small.PAD, place=small.CPU, on_step=notes.append,
        guard=LossGuard(TrainConfig(on_bad_loss=action)),
        checkpoints=StepStore(Store(tmp_path), "w", 1e9, every_steps=1, keep=2),
    )  # fmt: skip
    assert [math.isnan(loss) for loss in result.losses] == [False, False, True, False, False, False]
    assert [report.step for report in notes if report.note] == [3]
    assert "the loss is nan" in next(report.note for report in notes if report.note)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    _, expected = train(settings)
    assert result.losses[:2] == expected.losses[:2]


def test_going_back_without_a_save_starts_at_the_beginning(tmp_path: Path) -> None:
    settings = small.stage(num_epochs=1)
    source, plan = poisoned(settings)
    steps: list[int] = []
    result = fit(
        small.model(), plan, source, settings, pad_token_id=small.PAD, place=small.CPU,
        on_step=lambda report: steps.append(report.step), guard=LossGuard(TrainConfig(on_bad_loss="rollback")),
        checkpoints=StepStore(Store(tmp_path), "w", 1e9),
    )  # fmt: skip
    assert steps == [1, 2, 3, 1, 2, 3, 4, 5, 6]
    assert math.isnan(result.losses[2])


class Killed(Exception):
    pass


def test_resuming_equals_never_having_stopped(tmp_path: Path) -> None:
    settings = small.stage(weight_decay=0.01)
    undisturbed, expected = train(settings)

    def kill(report: StepReport) -> None:
        if report.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(settings, checkpoints=StepStore(Store(tmp_path), "w", 0.0, keep=2), on_step=kill)
    marker = json.loads((tmp_path / "last.json").read_text())
    first = marker["kept"][-1]["step"]
    assert 1 <= first <= 7
    assert sorted(path.name for path in tmp_path.glob("step-*")) == [kept["folder"] for kept in marker["kept"]]
    _, result = train(settings, model=small.model(seed=5), checkpoints=StepStore(Store(tmp_path), "w", 1e9))
    assert result.first_step == first
    assert result.losses[:first] == expected.losses[:first]
    # the tower is frozen, so it is not in the state: this one is another
    assert result.losses[first:] != expected.losses[first:]
    resumed, result = train(settings, checkpoints=StepStore(Store(tmp_path), "w", 1e9))
    assert result.losses == expected.losses
    for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_save_that_was_cut_off_is_never_read(tmp_path: Path) -> None:
    """What a killed process left without a marker goes away, and the save before it is taken."""
    settings = small.stage()
    _, expected = train(settings)
    train(settings, checkpoints=StepStore(Store(tmp_path), "w", 1e9, every_steps=5))
    kept = json.loads((tmp_path / "last.json").read_text())["kept"][-1]
    cut = tmp_path / "step-00000011-0000abcd"
    cut.mkdir()
    (cut / "shard-00001-model-00001-of-00001.safetensors").write_bytes(b"half")
    _, result = train(settings, checkpoints=StepStore(Store(tmp_path), "w", 1e9))
    assert (result.first_step, result.losses) == (kept["step"], expected.losses)
    assert kept["step"] in (5, 10)
    assert not cut.exists()


def test_state_of_other_work_is_not_continued_and_of_another_model_refused(tmp_path: Path) -> None:
    train(small.stage(), checkpoints=StepStore(Store(tmp_path), "w", 0.0))
    _, result = train(small.stage(), checkpoints=StepStore(Store(tmp_path), "other", 1e9))
    assert result.first_step == 0
    with pytest.raises(CheckpointError, match="other parameters"):
        train(small.stage(trained=("connector",)), checkpoints=StepStore(Store(tmp_path), "w", 1e9))


def test_reading_errors_reach_the_caller() -> None:
    source, table = small.data()
    source._tokens.pop(next(iter(source._tokens)))
    settings = small.stage()
    with pytest.raises(KeyError):
        fit(small.model(), small.plan(table, settings), source, settings, pad_token_id=small.PAD, place=small.CPU)


def test_a_notice_that_the_machine_will_be_taken_away_is_answered_by_a_save(tmp_path: Path) -> None:
    """Once for each notice, however long training still goes on."""
    asked: list[int] = []

    def is_leaving() -> bool:
        asked.append(1)
        return len(asked) >= 3

    watch = Watch(is_leaving, every_seconds=0.0)
    train(small.stage(), checkpoints=StepStore(Store(tmp_path), "w", 1e9, keep=9), watch=watch)
    (saved,) = json.loads((tmp_path / "last.json").read_text())["kept"]
    assert saved["step"] == 3
    assert len(asked) == 12


def test_training_that_is_told_to_end_saves_its_step_and_goes_on_from_there(tmp_path: Path) -> None:
    _, expected = train(small.stage())
    asked: list[int] = []

    def is_ending() -> bool:
        asked.append(1)
        return len(asked) >= 4

    told = Watch(lambda: False, every_seconds=0.0, is_ending=is_ending)
    with pytest.raises(Halted):
        train(small.stage(), checkpoints=StepStore(Store(tmp_path), "w", 1e9), watch=told)
    (saved,) = json.loads((tmp_path / "last.json").read_text())["kept"]
    assert saved["step"] == 4
    _, result = train(small.stage(), checkpoints=StepStore(Store(tmp_path), "w", 1e9))
    assert (result.first_step, result.losses) == (4, expected.losses)
