"""The exception tree: where people's mistakes belong, and that errors cross process borders whole."""

from __future__ import annotations

import inspect
import pickle

import pytest

from vila2_ray import errors
from vila2_ray.errors import ConfigError, CorpusError, Reason, SampleError, Vila2Error

EVERY = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]
MADE = [
    ConfigError("rounds.max", -1, "must not be negative"),
    errors.FingerprintError("inputs", "base", "changed"),
    CorpusError("s3://b/0.tar", "is empty", "Remove it"),
    errors.CheckpointError("/w", "no config.json"),
    SampleError(Reason.IMAGE_UNREADABLE, "truncated"),
    errors.StorageError("disk full"),
    errors.ConditionFailed("written meanwhile"),
    errors.CampaignBusy("held"),
    errors.ClusterUnusable("no answer"),
    errors.LeaseLost("lost"),
    errors.EngineDied("gone"),
    errors.UnknownModel("vlm-9", ("promoted",)),
    errors.NotReady("still loads"),
    errors.Overloaded("64 wait", 2.0),
    errors.BudgetSpent(5.5, 5.0, "sft-0"),
    errors.StageFailed("gave up"),
]


def test_every_error_has_one_root() -> None:
    assert all(issubclass(c, Vila2Error) for c in EVERY)
    assert {type(e) for e in MADE} | {Vila2Error} == set(EVERY), "a new error belongs into MADE"


@pytest.mark.parametrize("error", MADE, ids=lambda e: type(e).__name__)
def test_errors_survive_pickling(error: Vila2Error) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_config_error_names_field_value_and_remedy() -> None:
    assert str(MADE[0]) == "rounds.max = -1: must not be negative"
    assert isinstance(MADE[0], ValueError)


def test_a_corpus_error_without_remedy_ends_after_the_problem() -> None:
    assert str(CorpusError("a.tar", "is empty")) == "a.tar: is empty"
    assert str(CorpusError("a.tar", "is empty", "Remove it")) == "a.tar: is empty. Remove it"


def test_reasons_are_plain_strings_for_tables() -> None:
    assert [str(r.value) for r in Reason] == [r.value for r in Reason]
    assert all(r.value == r.name.lower() for r in Reason)


def test_an_error_of_ours_is_found_below_what_others_wrapped_it_in() -> None:
    ours = CorpusError("00000.tar", "is empty")
    wrapped = RuntimeError("actor failed")
    wrapped.cause = KeyError("x")  # type: ignore[attr-defined]
    wrapped.cause.__cause__ = ours  # type: ignore[attr-defined]
    assert errors.own_cause(wrapped) is ours
    assert errors.own_cause(ours) is ours
    loop = ValueError("round")
    loop.__context__ = KeyError("and round")
    loop.__context__.__context__ = loop
    assert errors.own_cause(loop) is None
