"""Carries a campaign on from wherever it stands: look at what is done, do the next stage, write its marker, go on.

    index → (screen →) align → pretrain-0 → sft-0 → evaluate-0
          → [ recaption → filter → pretrain → sft → evaluate ] × rounds
          → [ build → sft → evaluate → recaption → filter ] × specialists → pretrain → sft → evaluate (final)
          → promote → report → export

A stage is done when its marker says so under the fingerprint that it would have now. Nothing else is remembered.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.budget import Budget
from vila2_ray.campaign.inputs import stage_inputs
from vila2_ray.campaign.lease import Lease
from vila2_ray.campaign.ledger import Ledger
from vila2_ray.campaign.pricelist import PriceBook
from vila2_ray.campaign.promotion import fence_promotion, read_promoted
from vila2_ray.campaign.pulse import Pulse
from vila2_ray.campaign.saturation import Decision, decide
from vila2_ray.campaign.specialists import final_is_needed
from vila2_ray.campaign.stages import WORK, best_model
from vila2_ray.campaign.state import (
    Marker,
    check_fields,
    drop_markers,
    fence_markers,
    read_main_scores,
    read_markers,
    read_round_scores,
    write_marker,
)
from vila2_ray.campaign.view import Run
from vila2_ray.config import Config
from vila2_ray.errors import ConfigError, FingerprintError
from vila2_ray.progress import NullProgress, Progress, Several
from vila2_ray.recipe import to_yaml
from vila2_ray.storage import Store


@dataclass(frozen=True)
class Outcome:
    """What a campaign stands at when the driver ends."""

    scores: list[dict[str, float]]
    """Of VLM_0, VLM_1 … on the held-out corpus."""
    report_uri: str | None
    promoted: dict[str, Any] | None
    ran: list[str] = field(default_factory=list)
    """Stages that this call worked on; empty when all was done."""
    waits_for: str = ""
    """What a person has to say before the campaign goes on, as a sentence; empty where nothing has to be said."""


def run(
    config: Config,
    *,
    only: str | None = None,
    until: str | None = None,
    from_: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Carry the campaign on: to its end, `until` a stage, or for `only` one stage; `from_` redoes a stage and all
    later.

    Raises CampaignBusy, ConfigError, FingerprintError, CorpusError, StageFailed, StorageError, LeaseLost,
    BudgetSpent.
    """
    store, progress = Store(config.campaign), progress or NullProgress()
    plan = plans.stages(config)
    selected = plans.select(plan, only, until, from_)
    with Lease(store) as lease:
        if lease.took_over:
            fence_markers(store, [stage.name for stage in plan], lease.epoch)
            fence_promotion(store, lease.epoch)
        if from_ is not None:
            drop_markers(store, plan, from_, lease.epoch, lease.check)
        markers = read_markers(store)
        check_fields(plan, config, markers)
        _write_configuration(store, config)
        ledger = Ledger(store, PriceBook.of(config))
        budget = Budget(config.budget, config.budget_reserve_seconds, ledger)
        with Pulse(store, ledger, markers) as pulse, budget.enforced():
            work = Run(config, markers, Several(progress, pulse.meter, budget), lease.epoch, lease.check)
            driver = _Driver(work, plan, lease, ledger, budget, pulse)
            driver.go(selected, explicitly=only is not None)
        report = store.path("report/index.html") if store.exists("report/index.html") else None
        scores = read_main_scores(work.markers, config.rounds.metric)
        return Outcome(scores, report, read_promoted(store)["current"], driver.ran, driver.waits)


class _Driver:
    def __init__(
        self, work: Run, plan: list[plans.Stage], lease: Lease, ledger: Ledger, budget: Budget, pulse: Pulse
    ) -> None:
        self._work, self._plan, self._lease = work, plan, lease
        self._ledger, self._budget, self._pulse = ledger, budget, pulse
        self.ran: list[str] = []
        self.waits = ""

    def go(self, selected: list[plans.Stage], explicitly: bool) -> None:
        for stage in selected:
            decision = self._decision()
            saturated = decision.stop_after is not None and (stage.round or 0) > decision.stop_after
            unneeded = stage.is_final and final_is_needed(self._work.config, self._work.markers) is False
            if (saturated or unneeded) and not explicitly:
                continue
            self._work.best_round = decision.best
            if stage.name == "promote" and self._is_asked(stage):
                self._ask(decision)
                return
            self._one(stage)
            if stage.kind == "evaluate" and stage.round is not None and stage.name in self.ran:
                self._work.progress.note(self._decision().reason)

    def _is_asked(self, stage: plans.Stage) -> bool:
        """Whether a person has still to say what is promoted, of what there is now."""
        work, marker = self._work, self._work.markers.get(stage.name)
        if work.config.promote == "auto":
            return False
        name = plans.fingerprint(stage, work.config, stage_inputs(work, self._plan, stage))
        return marker is None or marker.fingerprint != name

    def _ask(self, decision: Decision) -> None:
        """Show what a person can decide by, and end here."""
        work = self._work
        best, _ = best_model(work)
        WORK["report"](work, next(stage for stage in self._plan if stage.name == "report"), "")
        self.waits = (
            f"{decision.reason}. {plans.model_of(best)} would be promoted; that is for a person to say: "
            f"vila2 promote {work.config.campaign} [MODEL], then vila2 run again"
        )
        work.progress.note(self.waits)

    def _decision(self) -> Decision:
        config = self._work.config
        return decide(read_round_scores(self._work.markers), config.rounds)

    def _one(self, stage: plans.Stage) -> None:
        work = self._work
        inputs = stage_inputs(work, self._plan, stage)
        name = plans.fingerprint(stage, work.config, inputs)
        covers = work.covered_by(stage)
        marker = work.markers.get(stage.name)
        if marker is not None:
            same = marker.fingerprint == name
            if same and marker.covers == covers and stage.kind != "index":
                return
            # shards may have been added
            grows = stage.kind == "index" or (stage.kind in ("screen", "recaption") and same)
            if not grows and stage.name not in plans.LAST_STAGES:
                self._refuse(stage, marker, inputs)
        self._budget.check(stage.name)
        with self._ledger.record(stage.name) as figures, self._pulse.meter.stage(stage.name, figures):
            done = WORK[stage.kind](work, stage, name)
            figures.update(done.summary)
        if stage.kind == "index" and marker is not None and (marker.fingerprint, marker.digest) == (name, done.digest):
            return  # looked again, found nothing new
        entry = Marker(
            stage=stage.name,
            fingerprint=name,
            fields=plans.fields_of(stage, work.config),
            inputs=inputs,
            digest=done.digest,
            epoch=self._lease.epoch,
            seconds=done.seconds,
            covers=covers,
            summary=done.summary,
        )
        write_marker(work.layout.store, entry, self._lease.check)
        work.markers[stage.name] = entry
        self.ran.append(stage.name)

    def _refuse(self, stage: plans.Stage, marker: Marker, inputs: dict[str, str]) -> None:
        changed = [name for name in sorted({*inputs, *marker.inputs}) if inputs.get(name) != marker.inputs.get(name)]
        raise FingerprintError(
            "inputs",
            ", ".join(changed),
            f"changed since {stage.name} was finished. Redo it and what follows with --from {stage.name}, or choose "
            "another campaign=FOLDER",
        )


def _write_configuration(store: Store, config: Config) -> None:
    from vila2_ray.schema import FORMAT_VERSION

    if store.exists("format_version"):
        found = store.read_text("format_version").strip()
        if found != str(FORMAT_VERSION):
            raise ConfigError("campaign", store.uri, f"written in format {found}; this version reads {FORMAT_VERSION}")
    else:
        store.write_text("format_version", f"{FORMAT_VERSION}\n")
    store.write_text("campaign.yaml", to_yaml(config))
