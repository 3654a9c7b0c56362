"""One training stage, whole: pack plan, training under Ray Train, the finished checkpoint folder.

`run_training` starts `num_workers` ranks with Ray Train's TorchTrainer; `train_in_process` does the same work in this
process. Both can be killed at any moment and started again: the plan is read back, the loop goes on at the saved step,
and a stage that is finished says so at once. Where the ranks run is Ray Train's business, what they do is
`work.train_rank`'s.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from vila2_ray import logs
from vila2_ray.errors import BudgetSpent, StageFailed, Vila2Error
from vila2_ray.progress import Progress
from vila2_ray.raytasks import spread
from vila2_ray.train.external import run_external
from vila2_ray.train.feed import check_cpus
from vila2_ray.train.job import TrainingJob, TrainingSummary
from vila2_ray.train.loop import Halted, StepReport, Watch
from vila2_ray.train.parallelize import find_place
from vila2_ray.train.work import open_remote, open_source, read_plan, read_summary, ready_plan, train_rank

__all__ = ["TrainingJob", "TrainingSummary", "run_training", "train_in_process"]

_POLL_SECONDS = 0.5
_SPREAD_SHARDS = 64
"""Shards from which on the plan's lengths are measured by the cluster: starting processes takes seconds."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def train_in_process(job: TrainingJob, progress: Progress) -> TrainingSummary:
    """The whole stage in this process, as one rank. Raises StageFailed, ConfigError, CorpusError, CheckpointError."""
    train = job.config.train
    source = open_source(job)
    plan = ready_plan(job, source, progress)
    if (summary := read_summary(job, plan)) is None:
        progress.start(job.title, plan.num_steps, "steps")
        place = find_place(train.autocast, int(train.cpus_per_worker))
        train_rank(job, plan, source, place, lambda report: _show(progress, report, 1))
        progress.finish()
        summary = read_summary(job, plan)
    assert summary is not None
    return summary


def run_training(job: TrainingJob, progress: Progress) -> TrainingSummary:
    """The whole stage on the Ray cluster that this process is connected to.

    A dead worker is replaced `train.max_failures` times; training then goes on from the saved state.
    Raises StageFailed when that was not enough or the loss is not a number, else what the ranks raised. BudgetSpent,
    which `progress` raises, is passed on when the ranks have saved their state.
    Where `train.command` is configured for the stage, it trains in their place.
    """
    if job.config.train.command_of(job.stage):
        return run_external(job, progress)
    import ray
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from vila2_ray.train.gang import CapableTorchConfig

    check_cpus(job.config.train, ray.cluster_resources().get("CPU", 0.0))
    plan = ready_plan(job, None, progress, on_cluster if job.num_shards >= _SPREAD_SHARDS else None)
    if (summary := read_summary(job, plan)) is not None:
        return summary
    train = job.config.train
    # beside this process: on a node of the cluster it would go with it, and with it what the ranks have said
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(num_cpus=0, scheduling_strategy=here)(_Board).remote()
    scratch = job.state.sub("ray")
    resources = {"CPU": train.cpus_per_worker, **({"GPU": train.gpus_per_worker} if train.gpus_per_worker else {})}
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job, "board": board, "about": logs.about()},
        torch_config=CapableTorchConfig(),
        scaling_config=ScalingConfig(
            num_workers=train.num_workers,
            use_gpu=train.gpus_per_worker > 0,
            resources_per_worker=resources,
            label_selector=dict(train.label_selector) or None,
        ),
        run_config=RunConfig(
            name=uuid.uuid4().hex,  # Ray Train would take up a run of the same name; resuming is ours
            storage_path=scratch.uri,
            failure_config=FailureConfig(
                max_failures=train.max_failures, max_preemption_failures=train.max_preemptions
            ),
        ),
    )
    progress.start(job.title, plan.num_steps, "steps")
    stop = threading.Event()
    spent: list[BudgetSpent] = []
    watcher = threading.Thread(target=_watch, args=(board, progress, train.num_workers, stop, spent), daemon=True)
    watcher.start()
    try:
        trainer.fit()
    except (RayError, RuntimeError) as error:
        problem = ray.get(board.problem.remote())
        if isinstance(problem, Vila2Error):
            raise problem from error
        raise StageFailed(
            f"{job.title}: {_first_line(error)}. Run the same command again to go on from the last saved step"
        ) from error
    finally:
        stop.set()
        watcher.join()
        scratch.delete_tree()
    problem = ray.get(board.problem.remote())
    ray.kill(board)
    if spent and read_summary(job, plan) is None:
        raise spent[0]
    if isinstance(problem, Vila2Error) and (summary := read_summary(job, plan)) is None:
        raise problem
    progress.finish()
    summary = read_summary(job, plan)
    if summary is None:
        raise StageFailed(f"{job.title}: the workers ended without a finished checkpoint. Run the same command again")
    return summary


def on_cluster(function: Callable[[_Item], _Result], items: list[_Item]) -> Iterator[_Result]:
    """`function` of each item on the cluster's CPUs, in order, a bounded number at a time. Raises what it raises."""
    return spread(function, items, in_order=True)


class _Board:
    """An actor on which the ranks leave what the driver shows: the last step, and why they stopped."""

    def __init__(self) -> None:
        self._report: StepReport | None = None
        self._problem: Vila2Error | None = None
        self._ends = False

    def tell(self, report: StepReport) -> None:
        self._report = report

    def report(self) -> StepReport | None:
        return self._report

    def end(self) -> None:
        self._ends = True

    def is_ending(self) -> bool:
        return self._ends

    def stopped(self, problem: Vila2Error) -> None:
        self._problem = self._problem or problem

    def problem(self) -> Vila2Error | None:
        return self._problem


def _work(config: dict[str, Any]) -> None:
    """One rank under Ray Train."""
    import ray
    from ray.train import get_preemption_info

    logs.adopt(config["about"])
    job: TrainingJob = config["job"]
    board = config["board"]
    train = job.config.train
    place = find_place(train.autocast, int(train.cpus_per_worker), train.shard_size)
    told = 0.0

    def tell(report: StepReport) -> None:
        nonlocal told
        now = time.monotonic()
        if place.rank == 0 and (report.note or now - told >= _POLL_SECONDS or report.step == report.num_steps):
            told = now
            board.tell.remote(report)

    try:
        plan = read_plan(job)
        assert plan is not None, "the driver has written the plan"
        watch = Watch(lambda: get_preemption_info() is not None, is_ending=lambda: ray.get(board.is_ending.remote()))
        train_rank(job, plan, open_remote(job), place, tell, watch)
    except Halted:
        return
    except StageFailed as failed:  # every rank sees the same loss and ends here: trying again would end the same
        ray.get(board.stopped.remote(failed))
    except Vila2Error as problem:
        ray.get(board.stopped.remote(problem))
        raise


def _watch(board: Any, progress: Progress, world: int, stop: threading.Event, spent: list[BudgetSpent]) -> None:
    """Shows what the ranks tell; when that costs the last of the budget, has them save and end."""
    import ray
    from ray.exceptions import RayError

    seen = 0
    while not stop.wait(_POLL_SECONDS):
        try:
            report = ray.get(board.report.remote(), timeout=10)
        except RayError:
            continue
        if report is not None and report.step != seen:
            seen = report.step
            try:
                _show(progress, report, world)
            except BudgetSpent as error:
                spent.append(error)
                board.end.remote()


def _show(progress: Progress, report: StepReport, world: int) -> None:
    """Tell of a step of the first of `world` ranks, which are taken as alike."""
    if report.note:
        progress.note(report.note)
    seconds = max(report.step_seconds, 1e-9)
    progress.update(
        report.step,
        loss=report.loss,
        lr=report.lr,
        data_wait_share=report.data_seconds / seconds,
        tokens_per_second=world * report.num_tokens / seconds,
        samples_per_second=world * report.num_items / seconds,
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
