"""The design's rules of import: downward only; what the method is loads no engine; importing the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vila2_ray

PACKAGE = Path(vila2_ray.__file__).parent
TREE = PACKAGE.parent

LEVELS = (
    ("errors", "schema", "progress", "logs", "metrics"),
    (
        "captions",
        "skills",
        "screening",
        "config",
        "recipe",
        "campaign.plan",
        "engines.base",
        "engines.fake",
        "engines.live",
        "train.guard",
        "train.packplan",
        "train.throughput",
        "evaluate.ranking",
    ),
    ("nodecache", "raydata", "raytasks", "references", "storage", "s3", "globs"),
    ("corpus",),
    ("engines", "engines.live_batching", "engines.live_vllm", "model"),
    ("recaption", "train", "evaluate", "experts", "judge", "recipes"),
    ("campaign", "report"),
    ("cli", "jobs", "judge.app", "judge.page", "serve", "submission"),
)
"""Upper ones import lower ones or their equals, never the other way round. The longest fitting name counts."""

PURE = ("errors", "schema", "progress", "logs", "metrics", "config", "captions", "skills", "screening")
PURE += ("campaign.plan", "engines.base")
PURE += (
    "engines.fake",
    "engines.live",
    "engines.live_fake",
    "serve.captioner",
    "train.guard",
    "train.packplan",
    "train.throughput",
    "evaluate.ranking",
    "evaluate.truth",
)
PURE += ("train.memory", "model.architecture", "evaluate.items", "evaluate.rules")
PURE += (
    "campaign.budget",
    "campaign.clusterfile",
    "campaign.clusterplan",
    "campaign.ledger",
    "campaign.nodeuse",
    "campaign.paces",
    "campaign.pricelist",
    "campaign.spending",
)
PURE += ("judge.study", "judge.pairs", "judge.rubric", "judge.winning", "judge.agreement", "judge.export")
PURE += ("judge.asking", "judge.endpoint", "judge.openanswers", "judge.verdict")
PURE += ("judge.desks", "judge.gallery", "judge.pictures")
PURE += ("references", "submission.endings", "submission.job", "submission.package", "submission.supervise")
PURE += ("serve.addresses", "serve.fetch", "serve.hiding", "serve.intake", "serve.rim", "serve.safety")
HEAVY = ("ray", "torch", "transformers", "vllm")


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted names below the package, with the folders beside it; the package's own `__init__` only points upward."""
    for file in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            yield name, file
    for folder in ("jobs", "serve"):
        for file in sorted((TREE / folder).rglob("*.py")):
            yield f"{folder}.{file.stem}", file


def imports(file: Path) -> Iterator[str]:
    """Every absolute name that a file imports anywhere, inside functions and for type checkers as well."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(name: str) -> int:
    fits = [
        (len(prefix), number)
        for number, prefixes in enumerate(LEVELS)
        for prefix in prefixes
        if name == prefix or name.startswith((prefix + ".", prefix + "_"))
    ]
    assert fits, f"vila2_ray.{name} belongs to no level; add its room to LEVELS"
    return max(fits)[1]


def ours(file: Path) -> Iterator[str]:
    """Modules of this package that a file imports."""
    for name in imports(file):
        found = name.removeprefix("vila2_ray.")
        if found == "Campaign":  # the package's one shortcut
            yield "campaign"
        elif found not in (name, "__version__"):
            path = PACKAGE.joinpath(*found.split("."))
            is_module = path.with_suffix(".py").is_file() or path.is_dir()
            yield found if is_module else found.rpartition(".")[0] or found


@pytest.mark.parametrize(("name", "file"), list(modules()), ids=lambda v: v if isinstance(v, str) else "")
def test_imports_run_downward(name: str, file: Path) -> None:
    upward = [other for other in ours(file) if level(other) > level(name)]
    assert not upward, f"vila2_ray.{name} imports {upward}, which lie above it"


def test_the_pure_rooms_never_name_an_engine() -> None:
    for name, file in modules():
        if any(name == p or name.startswith(p + ".") for p in PURE):
            named = {other.split(".")[0] for other in imports(file)} & set(HEAVY)
            assert not named, f"vila2_ray.{name} imports {named}"


def loaded_by(statements: str, *names: str) -> set[str]:
    """Which of the packages `names` a fresh interpreter has loaded after `statements`."""
    code = f"{statements}\nimport sys\nprint(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=TREE)
    return set(done.stdout.split())


def test_the_pure_rooms_and_every_package_load_no_engine() -> None:
    names = [n for n, f in modules() if f.name == "__init__.py" or any(n == p or n.startswith(p + ".") for p in PURE)]
    code = "import vila2_ray\n" + "\n".join(f"import vila2_ray.{name}" for name in names if not name.startswith("jobs"))
    assert loaded_by(code, *HEAVY) == set()


def test_the_command_line_loads_rooms_only_when_a_command_runs() -> None:
    assert loaded_by("import vila2_ray.cli", *HEAVY, "pyarrow", "omegaconf", "openai", "pandas", "PIL") == set()


def test_public_names_can_be_had() -> None:
    assert vila2_ray.__all__ == ["Campaign", "__version__"]
    assert all(getattr(vila2_ray, name) for name in vila2_ray.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Rounds'"):
        _ = vila2_ray.Rounds  # type: ignore[attr-defined]
