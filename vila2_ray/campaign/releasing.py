"""Before an export: hooks look at what they have not seen yet, images are compared with those that others score with.

What they find lies in the campaign's verdicts, shard by shard: an interrupted look goes on, a second export looks at
nothing again, another threshold or rule costs no look.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vila2_ray.campaign.layout import Layout
from vila2_ray.config import Config, HookConfig, ScreenConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.hookverdicts import Judged
from vila2_ray.corpus.layers import Layer
from vila2_ray.corpus.policy import Policy
from vila2_ray.corpus.screening import ImageVerdicts, ShardScreen, copy_lists, lists_digest
from vila2_ray.corpus.shards import Map, ShardRef
from vila2_ray.progress import Progress
from vila2_ray.storage import Store

_MAX_SCRIPT_BYTES = 1 << 20


def open_policy(
    layout: Layout, config: Config, corpus: Corpus, layers: Sequence[Layer], progress: Progress, run: Map
) -> Policy:
    """`export.policy` with all that it goes by, once everything has been looked at.

    Raises ConfigError, CheckpointError or StageFailed for a hook that does not work, CorpusError or StorageError for a
    list of hashes that cannot be read.
    """
    evaluation = _compare(layout, config, corpus, progress, run) if config.export.evaluation_hashes else None
    hooks = tuple(
        _look(layout, name, hook, corpus, tuple(layers), progress, run)
        for name, hook in sorted(config.export.hooks.items())
    )
    return Policy(config.export.policy, hooks, evaluation)


def _look(
    layout: Layout, name: str, hook: HookConfig, corpus: Corpus, layers: tuple[Layer, ...], progress: Progress, run: Map
) -> Judged:
    from vila2_ray.experts.hooks import ShardHook

    told = _identity(hook)
    seen: list[Any] = [*sorted(told.items()), hook.reads, corpus.max_pixels]
    seen += [layer.digest() for layer in layers] if hook.reads == "texts" else []
    verdicts = layout.hook_verdicts(name, _digest(seen))
    judge = ShardHook(name, hook, corpus, verdicts, layers if hook.reads == "texts" else ())
    counts = _each_shard(f"look {name}", judge, corpus, progress, run)
    numbers = {kind: f"{counts[kind]:,}" for kind in ("judged", "against", "not_judged")}
    rules = {"hook": name, "finds": str(hook.finds), "reads": str(hook.reads), "min_score": f"{hook.min_score:g}"}
    return Judged(name, hook.finds, verdicts, hook.min_score, {**rules, **told, **numbers})


def _identity(hook: HookConfig) -> dict[str, str]:
    """What it is, without where it lies: a checkpoint by its digest, a command by its words and the files they name."""
    if hook.command:
        files = [_content(word) for word in hook.command[1:]]
        return {"by": f"command {hook.command[0].rpartition('/')[2]}", "digest": _digest([hook.command, files])}
    from vila2_ray.model.loading import checkpoint_digest

    digest = checkpoint_digest(Store(hook.checkpoint).local_folder())
    return {"by": f"checkpoint, labels {', '.join(sorted(hook.labels))}", "digest": digest}


def _content(word: str) -> str:
    """Digest of a small file, a script for one; "" of any other word."""
    path = Path(word)
    is_script = len(word) < 256 and path.is_file() and path.stat().st_size < _MAX_SCRIPT_BYTES
    return hashlib.sha256(path.read_bytes()).hexdigest() if is_script else ""


def _compare(layout: Layout, config: Config, corpus: Corpus, progress: Progress, run: Map) -> ImageVerdicts:
    """Every sample beside the evaluation images, by bytes and looks."""
    hashes, distance = config.export.evaluation_hashes, config.screen.near_distance
    verdicts = layout.evaluation_images(_digest([lists_digest(hashes), distance, corpus.max_pixels]))
    copy_lists(hashes, verdicts)
    rules = ScreenConfig(heldout_hashes=hashes, near_distance=distance)
    _each_shard("compare", ShardScreen(corpus, verdicts, rules), corpus, progress, run)
    return verdicts


def _each_shard(
    title: str, work: Callable[[ShardRef], dict[str, int]], corpus: Corpus, progress: Progress, run: Map
) -> Counter[str]:
    progress.start(title, len(corpus.shards), "shards")
    counts: Counter[str] = Counter()
    for number, found in enumerate(run(work, corpus.shards), 1):
        counts.update(found)
        progress.update(number)
    progress.finish()
    return counts


def _digest(told: Any) -> str:
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()
