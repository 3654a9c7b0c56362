"""Looking at a campaign from Python: layers, verdicts, scores, costs, what is done. Read-only; starts nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from vila2_ray.campaign import plan as plans
from vila2_ray.campaign.layout import Layout
from vila2_ray.campaign.ledger import JUDGING, Entry, Spent, read_ledger, spent_by_stage
from vila2_ray.campaign.live import read_live
from vila2_ray.campaign.promotion import read_promoted
from vila2_ray.campaign.saturation import decide
from vila2_ray.campaign.screening import open_screening
from vila2_ray.campaign.specialists import final_is_needed, is_left_out
from vila2_ray.campaign.spending import CaptionCosts, caption_costs
from vila2_ray.campaign.state import Marker, read_main_scores, read_markers, read_round_scores
from vila2_ray.config import Config
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.screening import Screening
from vila2_ray.corpus.verdicts import Verdicts
from vila2_ray.errors import ConfigError, CorpusError
from vila2_ray.recipe import from_yaml
from vila2_ray.storage import Store

if TYPE_CHECKING:
    from vila2_ray.campaign.view import Run
    from vila2_ray.evaluate.suite import Result


SILENT_SECONDS = 60.0
"""Who tells nothing for so long is not at work any more."""


@dataclass(frozen=True)
class StageStatus:
    """Where one stage stands: done | left out (ended without making anything: its specialist is no better than the
    generalist) | running (a driver tells that it is at it) | begun (and interrupted) | missing | not needed.
    """

    name: str
    state: str
    done: int
    total: int
    """0: not known before the stage runs."""
    unit: str
    seconds: float
    gpu_seconds: float = 0.0
    dollars: float = 0.0


class Campaign:
    """A campaign folder.

    >>> Campaign("runs/tiny").layer("round-1").to_pandas()      # doctest: +SKIP

    Raises ConfigError where there is no campaign.
    """

    def __init__(self, uri: str) -> None:
        self.store = Store(uri)
        self.layout = Layout(self.store)
        if not self.store.exists("campaign.yaml"):
            raise ConfigError("campaign", self.store.uri, "there is no campaign here yet; start one with vila2 run")

    @property
    def uri(self) -> str:
        return self.store.uri

    @property
    def config(self) -> Config:
        """The configuration that the last driver resolved."""
        return from_yaml(self.store.read_text("campaign.yaml"))

    def markers(self) -> dict[str, Marker]:
        """Finished stages by name."""
        return read_markers(self.store)

    def corpus(self, source: str = "pretrain") -> Corpus:
        return self.layout.corpus(source, self.config)

    def layers(self) -> list[str]:
        """Names of the finished caption layers, in order of their making."""
        markers = self.markers()
        recaptions = [stage for stage in plans.stages(self.config) if stage.kind == "recaption"]
        return [s.layer for s in recaptions if s.name in markers and not is_left_out(markers[s.name])]

    def layer(self, name: str) -> Layer:
        """One layer's captions; `.to_pandas()`: a row per sample and variant. Where the configuration puts a retried
        layer in its place, that one. Raises CorpusError for unknown names.
        """
        name = self.config.layers.get(name, name)
        marker = self.markers().get(plans.sealing_stage(name))
        if marker is None or is_left_out(marker):
            known = ", ".join(self.layers()) or "none yet"
            raise CorpusError(self.uri, f"no finished layer {name!r}", f"Finished layers: {known}")
        return self.layout.layer(name, marker.fingerprint)

    def verdicts(self, name: str, judged_with: str = "") -> Verdicts | None:
        """What the filters think of a layer; None where they have not run. With pick.layers=all a later layer's filter
        stage judges the earlier ones anew: `judged_with` names it.
        """
        marker = self.markers().get(f"filter-{(judged_with or name).removeprefix('round-')}")
        return self.layout.verdicts(name, marker.fingerprint) if marker else None

    def screening(self, source: str = "pretrain") -> Screening | None:
        """Which samples are left out of everything, as of now; None where nothing can be. Notes a grown takedown list.

        Raises StageFailed where samples have still to be screened, CorpusError for a bad list.
        """
        return open_screening(self.layout, self.config, self.markers(), self.corpus(source))

    def scores(self) -> list[dict[str, Any]]:
        """Held-out scores by round, VLM_0 first, each with `round` and `model`; benchmarks' main ones as `pope.f1`."""
        found = read_main_scores(self.markers(), self.config.rounds.metric)
        return [{"round": k, "model": f"vlm-{k}", **scores} for k, scores in enumerate(found)]

    def benchmarks(self) -> dict[str, dict[str, Result]]:
        """Model → benchmark → its scores with intervals; a pretrain-stage checkpoint is called `vlm-1-pretrain`."""
        from vila2_ray.evaluate.suite import read_results

        return read_results(self.layout.benchmarks())

    def specialists(self) -> list[dict[str, Any]]:
        """What became of each specialist that has been scored: `skill`, `model`, `beside` (the generalist), `metric`,
        `beats`, `reason`, `scores` of it and `generalist_scores` on the skill, `general` ones of the specialist.
        """
        markers, found = self.markers(), []
        for skill in self.config.specialists:
            if (marker := markers.get(f"evaluate-{skill}")) is not None:
                told = marker.summary
                constant = {name: told[name] for name in ("model", "beside", "metric", "beats", "reason")}
                scores = {"scores": told["skill"], "generalist_scores": told["generalist"], "general": told["scores"]}
                found.append({"skill": skill, **constant, **scores})
        return found

    def final_scores(self) -> dict[str, Any] | None:
        """Of the model that learnt from the specialists: `scores`, and `skills` (skill → scores); None without one."""
        marker = self.markers().get("evaluate-final") if self.config.specialists else None
        return None if marker is None else {name: marker.summary[name] for name in ("scores", "skills")}

    def heldout_records(self, model: str) -> pa.Table | None:
        """Per-sample captions and answers of one model on the held-out corpus."""
        name = self.layout.evaluation(model)
        return self.store.read_table(name) if self.store.exists(name) else None

    def promoted(self) -> dict[str, Any]:
        """`{"current": entry | None, "history": [...]}`."""
        return read_promoted(self.store)

    def ledger(self) -> list[Entry]:
        """What every attempt spent on every stage."""
        return read_ledger(self.store)

    def spent(self) -> dict[str, Spent]:
        """Stage → what all its attempts cost."""
        return spent_by_stage(self.ledger())

    def caption_costs(self) -> CaptionCosts:
        """What captions cost so far, per 1,000 written and kept, beside people's."""
        config, entries = self.config, self.ledger()
        human, judges_all = config.prices.human_dollars_per_1000_captions, config.pick.layers == "all"
        return caption_costs(spent_by_stage(entries), entries, self.markers(), human, judges_all)

    def status(self) -> list[StageStatus]:
        """Every stage of the campaign, in order; then what models judged."""
        from vila2_ray.campaign.inputs import observe

        work = observe(self)
        config, markers = work.config, work.markers
        decision = decide(read_round_scores(markers), config.rounds)
        ledger, rows, under_way = self.ledger(), [], self._under_way()
        spent = spent_by_stage(ledger)
        for stage in plans.stages(config):
            beyond = decision.stop_after is not None and (stage.round or 0) > decision.stop_after
            beyond = beyond or (stage.is_final and final_is_needed(config, markers) is False)
            done, total, unit = self._counts(stage, work)
            if (marker := markers.get(stage.name)) is not None:
                state = "left out" if is_left_out(marker) else "done"
            elif beyond:
                state = "not needed"
            else:
                state = "begun" if done or self._begun(stage) else "missing"
                state = "running" if stage.name == under_way else state
            cost = spent.get(stage.name, Spent())
            figures = cost.seconds, cost.gpu_seconds, cost.dollars
            rows.append(StageStatus(stage.name, state, done, total, unit, *figures))
        return [*rows, *_judgings(ledger, spent)]

    def _under_way(self) -> str:
        """The stage that a driver is at, by what it tells every few seconds; "" where none is."""
        live = read_live(self.store)
        if live is None or live.ended or time.time() - live.written_at > SILENT_SECONDS:
            return ""
        return live.stage

    def _begun(self, stage: plans.Stage) -> bool:
        where = f"training/{stage.model}/{stage.kind}"
        if stage.kind == "build":
            where = f"conversations/{stage.about}"
        return stage.kind in ("align", "pretrain", "sft", "build") and bool(self.store.list(where))

    def _counts(self, stage: plans.Stage, work: Run) -> tuple[int, int, str]:
        marker = work.markers.get(stage.name)
        if stage.kind == "index":
            count = sum(v["num_samples"] for v in marker.summary.values()) if marker else 0
            return count, count, "samples"
        if stage.kind == "screen":
            count = sum(v["samples"] for v in marker.summary["flags"].values()) if marker else 0
            return count, count, "samples"
        if stage.kind == "build":
            count = int(marker.summary["num_samples"]) if marker else 0
            return count, count, "conversations"
        if stage.kind in ("align", "pretrain", "sft"):
            steps = int(marker.summary.get("num_steps", 0)) if marker else 0
            return steps, steps, "steps"
        if stage.kind == "recaption":
            total = self._corpus_rows(work.markers)
            if marker:
                return (0, 0, "") if is_left_out(marker) else (total, total, "rows")
            return self._rows_in_parts(stage, work), total, "rows"
        if stage.kind == "evaluate" and marker:
            num_models = 2 if stage.specialist else 1
            return num_models, num_models, "models"
        return (1, 1, "") if marker else (0, 0, "")

    def _corpus_rows(self, markers: dict[str, Marker]) -> int:
        index = markers.get("index")
        return int(index.summary["pretrain"]["num_samples"]) if index and "pretrain" in index.summary else 0

    def _rows_in_parts(self, stage: plans.Stage, work: Run) -> int:
        """Rows of an unfinished layer that are safe already: whole shards and parts."""
        from vila2_ray.campaign.inputs import current_fingerprint

        name = current_fingerprint(work, plans.stages(work.config), stage) if "index" in work.markers else None
        if name is None:
            return 0
        layer, corpus = self.layout.layer(stage.layer, name), self.corpus()
        whole = set(layer.shards())
        rows = sum(num_rows for ref, num_rows in corpus.rows_by_shard() if (ref.source, ref.shard) in whole)
        parts = self.layout.parts(stage.layer, name).ranges()
        return rows + sum(stop - start for key, found in parts.items() if key not in whole for start, stop in found)


def _judgings(ledger: list[Entry], spent: Mapping[str, Spent]) -> list[StageStatus]:
    """What models judged, by study."""
    found: dict[str, list[Entry]] = {}
    for entry in ledger:
        if entry.stage.startswith(JUDGING):
            found.setdefault(entry.stage, []).append(entry)
    rows = []
    for name, entries in found.items():
        votes, cost = sum(int(entry.figures.get("num_votes") or 0) for entry in entries), spent[name]
        is_silent = time.time() - (entries[-1].started_at + entries[-1].seconds) > SILENT_SECONDS
        state = "done" if entries[-1].finished else "begun" if is_silent else "running"
        rows.append(StageStatus(name, state, votes, 0, "votes", cost.seconds, cost.gpu_seconds, cost.dollars))
    return rows
