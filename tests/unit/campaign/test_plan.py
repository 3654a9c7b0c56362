import pytest

from vila2_ray.campaign import plan as plans
from vila2_ray.errors import ConfigError
from vila2_ray.recipe import from_yaml, load_config, to_yaml


def config(*overrides: str):
    return load_config("tiny", ["specialists=[]", *overrides])


def named(configuration, name: str) -> plans.Stage:
    return next(stage for stage in plans.stages(configuration) if stage.name == name)


def test_stages_are_in_order_and_read_only_what_comes_before() -> None:
    seen: set[str] = set()
    for stage in plans.stages(config("rounds.max=3", "rounds.fraction=0.5")):
        assert set(stage.inputs) <= seen, stage
        seen.add(stage.name)
    assert {"recaption-3", "filter-full", "promote", "report", "export"} <= seen


def test_every_round_starts_from_the_same_alignment() -> None:
    assert [s.inputs[0] for s in plans.stages(config("rounds.max=3")) if s.kind == "pretrain"] == ["align"] * 4


def test_no_recaptioning_without_rounds() -> None:
    assert not [s for s in plans.stages(config("rounds.max=0", "rounds.fraction=0.5")) if s.kind == "recaption"]


@pytest.mark.parametrize(
    "override",
    [
        "rounds.max=2",
        "recaption.engine.max_actors=7",
        "recaption.range_rows=64",
        "train.num_workers=4",
        "train.pretrain.micro_batch_size=4",
        "prices.node_dollars_per_hour=3",
        "corpus.pretrain=/elsewhere",
    ],
)
def test_operational_fields_change_no_fingerprint(override: str) -> None:
    before, after = config("rounds.max=3"), config("rounds.max=3", override)
    for stage in plans.stages(after):
        assert plans.fingerprint(stage, before, {"x": "1"}) == plans.fingerprint(stage, after, {"x": "1"})


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("train.sft.peak_lr=0.123", {"sft-0", "sft-1"}),
        ("train.align.num_epochs=9", {"align"}),
        ("filters.min_words=9", {"filter-1"}),
        ("recaption.sampling.temperature=0.7", {"recaption-1"}),
        ("fuse.rule=recaption", {"pretrain-1"}),
        ("fuse.prompted=false", {"align", "pretrain-0", "pretrain-1"}),
        ("evaluate.max_samples=3", {"evaluate-0", "evaluate-1"}),
    ],
)
def test_semantic_fields_change_just_the_stages_that_read_them(override: str, changed: set[str]) -> None:
    before, after = config("rounds.max=1"), config("rounds.max=1", override)
    every = [s for s in plans.stages(after) if s.name not in plans.LAST_STAGES]
    found = {s.name for s in every if plans.fingerprint(s, before, {}) != plans.fingerprint(s, after, {})}
    assert found == changed


def test_an_input_changes_the_fingerprint() -> None:
    stage = named(config(), "sft-0")
    assert plans.fingerprint(stage, config(), {"a": "1"}) != plans.fingerprint(stage, config(), {"a": "2"})


def test_unknown_stage_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"--until = 'nope'.*evaluate-0"):
        plans.select(plans.stages(config()), None, "nope", None)


def test_until_and_only() -> None:
    every = plans.stages(config())
    assert [s.name for s in plans.select(every, None, "pretrain-0", None)] == ["index", "align", "pretrain-0"]
    assert [s.name for s in plans.select(every, "sft-0", None, None)] == ["sft-0"]


OFF = ["screen.near_distance=7", "screen.takedown=list.txt"]
ON = ["screen.min_side=64"]


def test_without_screening_there_is_no_stage_and_every_fingerprint_stays() -> None:
    before, after = plans.stages(config("rounds.fraction=0.5")), plans.stages(config("rounds.fraction=0.5", *OFF))
    assert before == after
    assert "screen" not in {stage.name for stage in before}
    for stage in before:
        assert plans.fingerprint(stage, config(), {"x": "1"}) == plans.fingerprint(stage, config(*OFF), {"x": "1"})


def test_what_reads_the_corpus_depends_on_screening() -> None:
    on = plans.stages(config("rounds.max=1", "rounds.fraction=0.5", *ON))
    assert [stage.name for stage in on][:3] == ["index", "screen", "align"]
    readers = {stage.name for stage in on if "screen" in stage.inputs}
    assert readers == {"align", "pretrain-0", "recaption-1", "pretrain-1", "recaption-full"}
    also = plans.stages(config("rounds.max=1", *ON, "screen.heldout=true"))
    assert {stage.name for stage in also if "screen" in stage.inputs and stage.kind == "sft"} == {"sft-0", "sft-1"}


def test_screening_is_named_by_its_rules_and_not_by_the_corpus_nor_by_lists() -> None:
    stage = named(config(*ON, "screen.heldout=true"), "screen")
    assert stage.corpora == ("heldout",), "its digest enters the name; the pretraining corpus may grow"

    def name(*overrides: str) -> str:
        return plans.fingerprint(stage, config(*overrides), {})

    assert name(*ON) == name(*ON, "screen.takedown=x", "screen.heldout_hashes=[y]") != name("screen.min_side=65")


def fingerprints(configuration) -> dict[str, str]:
    inputs = {"x": "1"}
    return {s.name: plans.fingerprint(s, configuration, inputs) for s in plans.stages(configuration)}


def test_pick_that_is_off_changes_nothing() -> None:
    before, after = config("rounds.max=2"), config("rounds.max=2", "pick.fallback_alt_text.min_agreement=0.9")
    assert fingerprints(before) == fingerprints(after)
    drift = config("rounds.max=2", "drift.stop=false", "drift.max_empty_share=1")
    assert fingerprints(before) == fingerprints(drift)


def test_pick_changes_the_filter_stages_alone() -> None:
    before, after = config("rounds.max=1"), config("rounds.max=1", "pick.by=mean_logprob")
    changed = {name for name, found in fingerprints(after).items() if fingerprints(before)[name] != found}
    assert changed == {"filter-1"}


def test_a_scorer_is_read_by_its_digest_not_its_path() -> None:
    here, there = (config("rounds.max=1", "pick.by=scorer", f"pick.scorer={path}") for path in ("/a", "/b"))
    assert fingerprints(here) == fingerprints(there)
    assert [s.name for s in plans.stages(here) if s.reads_scorer] == ["filter-1"]


def test_votes_enter_by_what_they_say_and_not_by_their_file() -> None:
    voted = config(
        "rounds.max=2", "specialists=[ocr]", "pick.votes=/v.csv", "pick.raters=people", "pick.criterion=detail"
    )
    assert fingerprints(voted) == fingerprints(config("rounds.max=2", "specialists=[ocr]"))
    assert [s.name for s in plans.stages(voted) if s.reads_votes] == ["filter-1", "filter-2", "filter-ocr"]
    with pytest.raises(ConfigError, match=r"pick.criterion = 'edit'"):
        config("pick.criterion=edit")


def test_votes_can_choose_among_rounds_without_a_rule() -> None:
    assert plans.layers_judged(config("rounds.max=2", "pick.layers=all"), "round-2") == ("round-2",)
    voted = config("rounds.max=2", "pick.layers=all", "pick.votes=/v.csv")
    assert plans.layers_judged(voted, "round-2") == ("round-1", "round-2")


def test_picking_among_all_layers_reads_all_layers() -> None:
    every = config("rounds.max=3", "rounds.fraction=0.5", "pick.by=mean_logprob", "pick.layers=all")
    assert named(every, "filter-3").inputs == ("recaption-1", "recaption-2", "recaption-3")
    assert named(every, "filter-full").inputs == ("recaption-full",)
    assert plans.layers_judged(every, "round-2") == ("round-1", "round-2")
    latest = config("rounds.max=3", "pick.by=mean_logprob")
    assert plans.layers_judged(latest, "round-2") == ("round-2",)


def test_a_retried_layer_takes_the_place_of_its_layer_in_later_stages() -> None:
    chosen = config("rounds.max=2", "layers.round-1=round-1-retry-2")
    assert named(chosen, "filter-1").inputs == ("recaption-1-retry-2",)
    assert "recaption-1-retry-2" in named(chosen, "pretrain-1").inputs
    assert named(chosen, "recaption-2").inputs == ("sft-1",)
    assert fingerprints(chosen) == fingerprints(config("rounds.max=2")), "its digest enters, its name does not"
    with pytest.raises(ConfigError, match=r"layers.round-1 = 'round-2-retry-1'"):
        config("layers.round-1=round-2-retry-1")


@pytest.mark.parametrize("layer", ["round-1", "full", "round-2-retry-1", "full-retry-3"])
def test_a_layer_and_the_stage_that_seals_it_name_each_other(layer: str) -> None:
    assert plans.layer_sealed_by(plans.sealing_stage(layer)) == layer
    assert plans.layer_sealed_by("filter-1") is None


def test_agreement_needs_something_to_agree_with() -> None:
    with pytest.raises(ConfigError, match=r"pick.by = 'agreement'.*num_variants"):
        config("pick.by=agreement")
    config("pick.by=agreement", "recaption.num_variants=2")
    config("pick.by=agreement", "pick.layers=all")


DOCS = ("corpus.sources.docs.uri=/d", "corpus.sources.docs.kind=documents", "corpus.sources.docs.stages=[pretrain]")
CHAT = ("corpus.sources.talk.uri=/t", "corpus.sources.talk.kind=chat")


def test_a_stage_reads_the_sources_that_name_it() -> None:
    found = config("rounds.max=1", *DOCS, *CHAT)
    assert named(found, "align").corpora == ("pretrain",)
    assert named(found, "pretrain-1").corpora == ("pretrain", "docs")
    assert named(found, "sft-1").corpora == ("sft", "talk")
    assert named(found, "index").corpora == ("pretrain", "sft", "heldout", "docs", "talk")
    assert named(config("corpus.sft=", *CHAT), "sft-0").corpora == ("talk",)
    assert named(config("corpus.sft="), "sft-0").corpora == ("sft",)  # what is missing is said when it is opened


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("corpus.sources.docs.weight=0.5", {"pretrain-0", "pretrain-1"}),
        ("corpus.sources.docs.repeat=2", {"pretrain-0", "pretrain-1"}),
        ("corpus.sources.docs.uri=/elsewhere", set()),
        ("corpus.sources.talk.images=/elsewhere", set()),
        ("corpus.sources.talk.weight=0.5", {"sft-0", "sft-1"}),
        ("corpus.sources.pretrain.weight=0.5", {"align", "pretrain-0", "pretrain-1"}),
    ],
)
def test_a_sources_share_changes_the_stages_that_train_on_it(override: str, changed: set[str]) -> None:
    before = config("rounds.max=1", *DOCS, *CHAT)
    after = config("rounds.max=1", *DOCS, *CHAT, override)
    found = set()
    for stage, then in zip(plans.stages(after), plans.stages(before), strict=True):
        if plans.fingerprint(then, before, {"x": "1"}) != plans.fingerprint(stage, after, {"x": "1"}):
            found.add(stage.name)
    assert found == changed


def test_sources_that_are_not_told_of_change_no_fingerprint() -> None:
    before, after = config("rounds.max=1"), config("rounds.max=1", *DOCS)
    for then, now in zip(plans.stages(before), plans.stages(after), strict=True):
        same = plans.fingerprint(then, before, {}) == plans.fingerprint(now, after, {})
        assert same == (now.kind != "pretrain")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["corpus.sources.Docs.uri=/d"], "small letters"),
        (["corpus.sources.heldout.uri=/d"], "not heldout"),
        (["corpus.sources.docs.kind=text"], "docs.uri.*name a folder"),
        (["corpus.sources.pretrain.uri=/d"], "say corpus.pretrain"),
        (["corpus.sources.docs.uri=/d", "corpus.sources.docs.weight=1.5"], "between 0 and 1"),
        (["corpus.sources.docs.uri=/d", "corpus.sources.docs.weight=0"], "greater than 0"),
        (["corpus.sources.docs.uri=/d", "corpus.sources.docs.repeat=0"], "greater than 0"),
        (["corpus.sources.docs.uri=/d", "corpus.sources.docs.kind=movies"], "docs.kind"),
        (["corpus.sources.docs.uri=/d", "corpus.sources.docs.stages=[warm]"], "docs.stages"),
        (["corpus.sources.docs.colour=red"], "colour"),
        (["corpus.sources.sft.kind=chat", "corpus.sources.sft.stages=[pretrain]"], "leaves sft without a source"),
    ],
)
def test_a_source_that_cannot_be_is_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config(*overrides)


def test_sources_come_back_from_yaml() -> None:
    found = config(*DOCS, *CHAT, "corpus.sources.docs.weight=0.5")
    assert from_yaml(to_yaml(found)).corpus == found.corpus
    assert found.corpus.source("docs").stages == ("pretrain",)
    assert found.corpus.source("talk").stages == ("sft",)


BEFORE_SPECIALISTS = {
    "index": "e711e8c94f51",
    "screen": "506cb0c33c22",
    "align": "26b7308ae2ca",
    "pretrain-0": "5fb8427f9452",
    "sft-0": "304b2aca5834",
    "evaluate-0": "d599c6e608b8",
    "recaption-1": "a0fe2227b933",
    "filter-1": "19e11dc2000d",
    "pretrain-1": "72254b3ba8ed",
    "sft-1": "304b2aca5834",
    "evaluate-1": "d599c6e608b8",
    "recaption-full": "dfbc67376a03",
    "filter-full": "19e11dc2000d",
}
"""Fingerprints of the defaults with `ROUNDS`, written down when there were no specialists."""
ROUNDS = ("rounds.max=1", "rounds.fraction=0.5", "screen.min_side=8")
BOXES = ("skills.spatial.annotations=/boxes", "skills.grounding.annotations=/boxes")
ALL = ("specialists=[spatial,grounding,ocr]", *BOXES)


def defaults(*overrides: str):
    return load_config("", list(overrides))


def short(configuration) -> dict[str, str]:
    return {k: v[:12] for k, v in fingerprints(configuration).items() if k not in plans.LAST_STAGES}


def test_campaigns_from_before_specialists_stay_valid() -> None:
    assert short(defaults(*ROUNDS)) == BEFORE_SPECIALISTS


def test_specialists_come_after_the_rounds_and_change_nothing_before() -> None:
    worded = ("recaption.prompts.ocr=read!", "skills.spatial.prompt_ids=[mine]", "recaption.prompts.mine=where?")
    found = short(defaults(*ROUNDS, *ALL, *worded))
    assert {name: found[name] for name in BEFORE_SPECIALISTS} == BEFORE_SPECIALISTS
    later = [name for name in found if name not in BEFORE_SPECIALISTS]
    kinds = ("build", "sft", "evaluate", "recaption", "filter")
    assert later == [
        *(f"{kind}-{skill}" for skill in ("spatial", "grounding", "ocr") for kind in kinds),
        *("pretrain-final", "sft-final", "evaluate-final"),
    ]


def test_a_skill_that_is_added_later_leaves_the_others_as_they_are() -> None:
    one = short(defaults("rounds.max=1", "specialists=[ocr]", "recaption.prompts.ocr=read!"))
    two = defaults("rounds.max=1", "specialists=[ocr,spatial]", *BOXES, "recaption.prompts.ocr=read!")
    more = short(two)
    changed = {name for name, found in one.items() if more[name] != found}
    assert changed == {"pretrain-final", "evaluate-final"}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("skills.train.peak_lr=0.123", {"sft-ocr"}),
        ("skills.ocr.max_tokens=99", {"evaluate-ocr", "recaption-ocr", "evaluate-final"}),
        ("skills.ocr.min_score=0.9", {"build-ocr", "evaluate-ocr", "filter-ocr", "evaluate-final"}),
        ("skills.ocr.questions=[what?]", {"build-ocr", "evaluate-ocr", "pretrain-final", "evaluate-final"}),
        ("recaption.prompts.ocr=read!", {"build-ocr", "evaluate-ocr", "recaption-ocr", "filter-ocr", "*-final"}),
        ("recaption.sampling.temperature=0.7", {"recaption-1", "recaption-ocr"}),
        ("skills.turns=apart", {"pretrain-final"}),
        ("skills.asks_statements=true", {"pretrain-final"}),
        ("skills.grounding.max_tokens=99", set()),
        ("skills.ocr.images=/elsewhere", set()),
        ("skills.max_general_loss=0.5", set()),
    ],
)
def test_a_skills_fields_change_just_the_stages_that_read_them(override: str, changed: set[str]) -> None:
    before, after = (
        fingerprints(defaults("rounds.max=1", "specialists=[ocr]", "skills.ocr.images=/here", *more))
        for more in ((), (override,))
    )
    found = {name for name in after if after[name] != before[name]}
    if "*-final" in changed:
        changed = changed - {"*-final"} | {"pretrain-final", "evaluate-final"}
    assert found == changed


BEFORE_REHEARSALS = {"filter-ocr": "b9b6dd197158", "pretrain-final": "f19678783813", "sft-final": "304b2aca5834"}
"""Fingerprints of the defaults with `ALL`, written down when nothing was rehearsed and shares were of all layers."""


def test_campaigns_from_before_rehearsals_stay_valid() -> None:
    found = short(defaults("rounds.max=1", *ALL))
    assert {name: found[name] for name in BEFORE_REHEARSALS} == BEFORE_REHEARSALS


@pytest.mark.parametrize("skill", ["spatial", "grounding", "ocr"])
def test_a_skills_own_share_changes_its_filter_stage_alone(skill: str) -> None:
    before = fingerprints(defaults("rounds.max=1", *ALL))
    after = fingerprints(defaults("rounds.max=1", *ALL, f"skills.{skill}.drop_lowest_min_logprob_share=0"))
    assert {name for name in after if after[name] != before[name]} == {f"filter-{skill}"}


REHEARSED = ("rounds.max=1", "specialists=[ocr]", "skills.rehearsal=0.1")


def test_a_rehearsal_is_the_final_sfts_alone() -> None:
    before = defaults("rounds.max=1", "specialists=[ocr]")
    found = defaults(*REHEARSED)
    then, now = fingerprints(before), fingerprints(found)
    assert {name for name in now if now[name] != then[name]} == {"sft-final"}
    final = named(found, "sft-final")
    assert final.inputs == ("pretrain-final", "recaption-ocr", "filter-ocr"), "their digests enter its name"
    assert final.corpora == ("sft", "pretrain")
    assert named(before, "sft-final").inputs == ("pretrain-final",)
    assert named(before, "sft-final").corpora == ("sft",)
    retried = defaults(*REHEARSED, "layers.ocr=ocr-retry-1")
    assert "recaption-ocr-retry-1" in named(retried, "sft-final").inputs


@pytest.mark.parametrize(
    "override",
    ["skills.turns=apart", "skills.asks_statements=true", "skills.ocr.questions=[what?]", "skills.max_length=99"],
)
def test_what_decides_the_turns_decides_the_rehearsal(override: str) -> None:
    then, now = fingerprints(defaults(*REHEARSED)), fingerprints(defaults(*REHEARSED, override))
    assert {"pretrain-final", "sft-final"} <= {name for name in now if now[name] != then[name]}
    assert now["sft-1"] == then["sft-1"]


def test_a_rehearsal_has_room_for_the_turns() -> None:
    found = defaults(*REHEARSED, "train.sft.max_length=100", "skills.max_length=150")
    lengths = {name: plans.settings_of(named(found, name), found).max_length for name in ("sft-1", "sft-final")}
    assert lengths == {"sft-1": 100, "sft-final": 150}
    shorter = defaults(*REHEARSED, "train.sft.max_length=200", "skills.max_length=150")
    assert plans.settings_of(named(shorter, "sft-final"), shorter).max_length == 200
    none = defaults("rounds.max=1", "specialists=[ocr]", "train.sft.max_length=100", "skills.max_length=150")
    assert plans.settings_of(named(none, "sft-final"), none).max_length == 100


def test_screened_samples_are_not_rehearsed() -> None:
    assert "screen" in named(defaults(*REHEARSED, *ON), "sft-final").inputs
    assert "screen" not in named(defaults(*REHEARSED, *ON), "sft-1").inputs


def test_finished_conversations_need_no_build() -> None:
    found = defaults("specialists=[ocr]", "skills.ocr.data=/chat")
    assert "build-ocr" not in {stage.name for stage in plans.stages(found)}
    assert named(found, "sft-ocr").corpora == ("ocr.data",)
    assert named(found, "index").corpora[-1] == "ocr.data"
    built = defaults("specialists=[ocr]", "skills.ocr.images=/pictures")
    assert named(built, "build-ocr").corpora == ("ocr.images",)
    assert named(built, "sft-ocr").inputs == ("build-ocr",)


def test_the_best_round_is_read_where_it_matters() -> None:
    found = defaults("rounds.max=2", "specialists=[ocr]")
    read = {stage.name: plans.inputs_of(stage, found, 2) for stage in plans.stages(found)}
    assert read["sft-ocr"] == ("pretrain-2", "build-ocr")
    assert read["evaluate-ocr"] == ("sft-2", "sft-ocr")
    assert read["pretrain-final"] == ("recaption-2", "filter-2", "align", "recaption-ocr", "filter-ocr")
    final = named(found, "pretrain-final")
    assert plans.inputs_of(final, found, 0) == ("align", "recaption-ocr", "filter-ocr"), "no round was worth it"
    partly = defaults("rounds.max=2", "rounds.fraction=0.5", "specialists=[ocr]")
    assert plans.inputs_of(final, partly, 1)[:2] == ("recaption-full", "filter-full")
    assert plans.inputs_of(named(partly, "recaption-full"), partly, 1) == ("sft-1",)
    every = defaults("rounds.max=2", "specialists=[ocr]", "pick.by=agreement", "pick.layers=all")
    assert plans.inputs_of(final, every, 2)[:3] == ("recaption-1", "recaption-2", "filter-2")


def test_models_and_layers_of_specialists_have_names() -> None:
    found = defaults("rounds.max=1", *ALL)
    models = {stage.name: stage.model for stage in plans.stages(found) if stage.kind in ("sft", "align")}
    assert models == {
        "align": "base",
        "sft-0": "vlm-0",
        "sft-1": "vlm-1",
        "sft-final": "vlm-final",
        **{f"sft-{skill}": skill for skill in ("spatial", "grounding", "ocr")},
    }
    assert named(found, "recaption-ocr").layer == "ocr"
    for layer in ("ocr", "ocr-retry-2", "full", "round-2-retry-1"):
        assert plans.layer_sealed_by(plans.sealing_stage(layer)) == layer
    assert plans.trained_by("pretrain-final") == ("vlm-final", "pretrain")
    assert plans.trained_by("sft-ocr") == ("ocr", "sft")
    assert plans.trained_by("filter-ocr") is None


def test_a_retried_layer_of_a_specialist_is_read_in_its_place() -> None:
    chosen = defaults("rounds.max=1", "specialists=[ocr]", "layers.ocr=ocr-retry-1")
    assert named(chosen, "filter-ocr").inputs == ("recaption-ocr-retry-1",)
    assert "recaption-ocr-retry-1" in named(chosen, "pretrain-final").inputs


def test_specialists_learn_from_screened_samples_only() -> None:
    pretrain = defaults("rounds.max=1", "specialists=[ocr]", *ON)
    assert "screen" in named(pretrain, "build-ocr").inputs
    others = ("specialists=[ocr]", "skills.ocr.images=/pictures", "rounds.max=1")
    assert "screen" not in named(defaults(*others, *ON), "build-ocr").inputs
    assert "screen" in named(defaults(*others, "screen.heldout=true"), "build-ocr").inputs


def test_annotations_of_other_images_tell_nothing_of_the_corpus() -> None:
    own = ("specialists=[spatial]", "skills.spatial.annotations=/boxes")
    assert named(defaults(*own), "filter-spatial").reads_boxes
    assert not named(defaults(*own, "skills.spatial.images=/others"), "filter-spatial").reads_boxes


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["specialists=[ocr,ocr]"], "specialists.*names a skill twice"),
        (["specialists=[chess]"], "specialists"),
        (["specialists=[spatial]"], r"skills.spatial.annotations.*skills.spatial.detector"),
        (["specialists=[ocr]", "skills.ocr.prompt_ids=[nope]"], r"skills.ocr.prompt_ids = 'nope'.*recaption.prompts"),
        (
            ["specialists=[ocr]", "recaption.prompts.ocr=What is it?", "skills.ocr.questions=[what is  it]"],
            r"skills.ocr.questions.*another list",
        ),
        (["specialists=[ocr]", "skills.ocr.questions=['']"], r"skills.ocr.questions"),
        (["skills.rehearsal=1.1"], r"skills.rehearsal = 1.1.*between 0 and 1"),
        (["skills.rehearsal=-0.1"], r"skills.rehearsal = -0.1.*between 0 and 1"),
        (["skills.ocr.drop_lowest_min_logprob_share=2"], r"drop_lowest_min_logprob_share = 2.*between 0 and 1"),
        (
            [*REHEARSED, "corpus.pretrain=/p", "corpus.sources.pretrain.stages=[align,pretrain,sft]"],
            r"skills.rehearsal = 0.1.*corpus.sources.pretrain.stages",
        ),
    ],
)
def test_specialists_that_cannot_be_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        defaults(*overrides)


def test_skills_come_back_from_yaml() -> None:
    found = defaults(*ALL, "skills.ocr.questions=[what?]", "skills.turns=apart", "skills.rehearsal=0.25")
    assert from_yaml(to_yaml(found)) == found
