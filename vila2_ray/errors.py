"""One exception tree for the whole project.

    Vila2Error
    ├── ConfigError          (ValueError)    a field of the configuration or a command-line value is wrong
    │   └── FingerprintError                 finished work was made under another configuration
    ├── CorpusError          (ValueError)    a shard, a layer or a whole corpus cannot be used
    ├── SampleError          (ValueError)    one sample is bad; becomes a failed row, never stops a shard
    ├── CheckpointError      (ValueError)    a folder of weights cannot be used
    ├── StorageError         (OSError)       a path cannot be read or written: full disk, refused, missing
    │   └── ConditionFailed                  a conditional write found another version
    ├── CampaignBusy         (RuntimeError)  another driver holds the campaign's lease
    ├── ClusterUnusable      (RuntimeError)  a Ray cluster does not answer, refuses us, or is of another version
    ├── LeaseLost            (RuntimeError)  this driver held the lease and no longer does
    ├── EngineDied           (RuntimeError)  the generating engine is gone; its actor must be replaced
    ├── BudgetSpent          (RuntimeError)  the campaign has cost what it may; more budget carries it on
    ├── UnknownModel         (LookupError)   nothing is served under that name
    ├── NotReady             (RuntimeError)  it will be served, or was; nothing answers for it now
    ├── Overloaded           (RuntimeError)  too many wait already; try again after some seconds
    └── StageFailed          (RuntimeError)  a stage gave up; names the stage and the remedy

Every message names what is wrong, where, and what to do about it. Nothing is decided by matching a message.
"""

from __future__ import annotations

import re
from enum import Enum


class Vila2Error(Exception):
    """Root of all errors that this project raises on purpose."""


class ConfigError(Vila2Error, ValueError):
    """A configuration field holds a value that cannot work."""

    def __init__(self, field: str, value: object, remedy: str) -> None:
        super().__init__(f"{field} = {value!r}: {remedy}")
        self.field, self.value, self.remedy = field, value, remedy

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.field, self.value, self.remedy)


class FingerprintError(ConfigError):
    """Finished output was made under another configuration; the message names fields, stages and `--from`."""


class CorpusError(Vila2Error, ValueError):
    """A corpus, shard or layer file cannot be used."""

    def __init__(self, path: str, problem: str, remedy: str = "") -> None:
        super().__init__(f"{path}: {problem}" + (f". {remedy}" if remedy else ""))
        self.path, self.problem, self.remedy = path, problem, remedy

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.path, self.problem, self.remedy)


class CheckpointError(CorpusError):
    """A folder of weights cannot be loaded, or must not be (pickled weights, remote code)."""


class Reason(str, Enum):
    """Why a row failed: the closed set that `error` of a caption row takes its values from."""

    NO_IMAGE = "no_image"
    IMAGE_UNREADABLE = "image_unreadable"
    IMAGE_TOO_LARGE = "image_too_large"
    IMAGE_TYPE = "image_type"
    DUPLICATE_KEY = "duplicate_key"
    SHARD_TRUNCATED = "shard_truncated"
    DOCUMENT = "document"
    """Interleaved images and texts, not one picture: passed through, never captioned. No row fails for it."""
    ENGINE_ERROR = "engine_error"
    ENGINE_DIED = "engine_died"


class SampleError(Vila2Error, ValueError):
    """One sample cannot be used: `reason` from the closed set, `detail` for people."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.reason, self.detail)


class StorageError(Vila2Error, OSError):
    """A path could not be read or written."""


class ConditionFailed(StorageError):
    """A conditional write found another version of the object than the caller had seen."""


class CampaignBusy(Vila2Error, RuntimeError):
    """Another driver runs this campaign."""


class ClusterUnusable(Vila2Error, RuntimeError):
    """A Ray cluster does not answer, refuses us, or is of another version."""


class LeaseLost(Vila2Error, RuntimeError):
    """Another driver took the campaign over; this one must stop without writing."""


class BudgetSpent(Vila2Error, RuntimeError):
    """The campaign stopped before it cost more than `budget`; a higher one carries it on where it stands."""

    def __init__(self, spent_dollars: float, budget_dollars: float, stage: str) -> None:
        super().__init__(
            f"{stage}: ${spent_dollars:,.2f} of budget={budget_dollars:g} dollars are spent; what is left is kept to "
            "stop in. Finished work is kept: raise budget=… and run the same command to go on from here"
        )
        self.spent_dollars, self.budget_dollars, self.stage = spent_dollars, budget_dollars, stage

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.spent_dollars, self.budget_dollars, self.stage)


def in_one_line(error: BaseException) -> str:
    """What another package raised, as a line for people: its kind and the beginning of its message, without paths."""
    said = " ".join(re.sub(r"\S*[/\\]\S*", "…", str(error)).split())[:200]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def own_cause(error: BaseException) -> Vila2Error | None:
    """The first error of ours in the chain of causes, Ray's wrappers (`cause`) included; None where there is none."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, Vila2Error):
            return cause
        cause = getattr(cause, "cause", None) or cause.__cause__ or cause.__context__
    return None


class EngineDied(Vila2Error, RuntimeError):
    """The generating engine cannot go on; its process must be replaced."""


class UnknownModel(Vila2Error, LookupError):
    """Nothing is served under that name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"{name!r} is not served; take one of {', '.join(known) or 'none, for nothing is served'}")
        self.name, self.known = name, known

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.name, self.known)


class NotReady(Vila2Error, RuntimeError):
    """What is asked is to be served, but nothing answers for it now."""


class Overloaded(Vila2Error, RuntimeError):
    """Too many questions wait already."""

    def __init__(self, detail: str, retry_after_seconds: float) -> None:
        super().__init__(detail)
        self.detail, self.retry_after_seconds = detail, retry_after_seconds

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        return type(self), (self.detail, self.retry_after_seconds)


class StageFailed(Vila2Error, RuntimeError):
    """A stage of the campaign gave up."""
