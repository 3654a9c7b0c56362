"""Ray Data's settings that all our jobs share."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray.data import DataContext


def quiet_context(max_errored_blocks: int = 0) -> DataContext:
    """A copy of the context for one job, without bars and logs: what goes wrong is raised, in a sentence.

    Of `max_errored_blocks` blocks the actor may die without an end to the job; they are seen by their absence.
    """
    from ray.data import DataContext

    for logger in ("ray.data", "ray.anyscale.data"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # copying a context warns of its own old fields
        context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = max_errored_blocks
    return context
