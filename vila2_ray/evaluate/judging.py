"""Commands of the user's: a judge of single answers, a scorer that asks the model by itself."""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vila2_ray.errors import StageFailed

_SHOWN_CHARS = 300


@dataclass(frozen=True)
class CommandJudge:
    """Asks a command once per answer: question, truth and answer go in as one JSON object, a number from 0 to 1 comes
    out.

    Where a truth has several parts, MM-Vet's <AND> and <OR> stand between them.
    """

    command: tuple[str, ...]
    timeout_seconds: float

    def __call__(self, question: str, truth: str, answer: str) -> float:
        """Raises StageFailed where the command fails or says something else."""
        asked = json.dumps({"question": question, "truth": truth, "answer": answer})
        said = _run(self.command, self.timeout_seconds, asked).strip()
        try:
            score = float(said.split()[-1]) if said else math.nan
        except ValueError:
            score = math.nan
        if not 0 <= score <= 1:
            raise StageFailed(f"the judge {self.command[0]} said {said[:80]!r}: let it write a number from 0 to 1")
        return score


def run_scorer(command: Sequence[str], timeout_seconds: float, checkpoint: Path, data: str) -> dict[str, Any]:
    """What a user's scorer says of a checkpoint: `scores`, and as far as it gives them `intervals` and `main`.

    In its words `{checkpoint}` becomes the folder, `{data}` the benchmark's path, `{out}` the file that it writes.
    Raises StageFailed where it fails, or writes something else.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "scores.json")
        known = {"{checkpoint}": str(checkpoint), "{data}": data, "{out}": str(out)}
        words = [_filled(word, known) for word in command]
        _run(words, timeout_seconds, "")
        try:
            found = json.loads(out.read_text("utf-8"))
            return _checked(found)
        except (OSError, ValueError, RecursionError, TypeError, AttributeError) as error:
            wanted = 'let it write {"scores": {"name": number}} as JSON to the file {out}'
            raise StageFailed(f"the scorer {words[0]} wrote no scores ({type(error).__name__}): {wanted}") from error


def _checked(found: Any) -> dict[str, Any]:
    scores = {str(name): float(value) for name, value in found["scores"].items()} if "scores" in found else {}
    if not scores or not all(math.isfinite(value) for value in scores.values()):
        raise ValueError("no finite number")
    intervals = {str(n): (float(low), float(high)) for n, (low, high) in found.get("intervals", {}).items()}
    main = str(found.get("main") or next(iter(scores)))
    if main not in scores:
        raise ValueError("main is no score")
    return {"scores": scores, "intervals": intervals, "main": main}


def _filled(word: str, known: dict[str, str]) -> str:
    for place, value in known.items():
        word = word.replace(place, value)
    return word


def _run(words: Sequence[str], timeout_seconds: float, given: str) -> str:
    """Standard output. Of its words only the first is told: others may be secret."""
    try:
        done = subprocess.run(
            list(words), input=given, capture_output=True, text=True, timeout=timeout_seconds, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise StageFailed(f"{words[0]} took more than {timeout_seconds:g} s: raise timeout_seconds") from error
    except OSError as error:
        raise StageFailed(
            f"{words[0]} cannot be started ({error.strerror}): name a command that is installed"
        ) from error
    if done.returncode:
        told = " ".join(done.stderr.split())[-_SHOWN_CHARS:]
        raise StageFailed(f"{words[0]} ended with exit code {done.returncode}: {told or 'it said nothing'}")
    return done.stdout
