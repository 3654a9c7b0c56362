"""What travels: the code, small; nothing that is ignored, nothing secret, nothing from elsewhere."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from vila2_ray.errors import ConfigError
from vila2_ray.submission import package
from vila2_ray.submission.job import ROOT, SCRIPT


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VILA2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in ("code/a.py", "code/b.py", "code/deep/c.py", "data/big.tar", "code/deep/scratch/x", "notes.log"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / ".gitignore").write_text("/data\n*.log\n")
    (root / ".rayignore").write_text("b.py\n")
    (root / "code" / "deep" / ".gitignore").write_text("scratch/\n!b.py\n")
    return root


def names(root: Path) -> list[str]:
    return [name for name, _ in package.travelling(root) if "ignore" not in name]


def test_ignore_files_of_every_folder_count(tree: Path) -> None:
    assert names(tree) == ["code/a.py", "code/deep/c.py"]


@pytest.mark.parametrize(
    "name",
    [".env", "code/.env.prod", "tls.key", "code/id_rsa", ".aws/config", "credentials", "service-account-1.json"],
)
def test_what_is_named_like_a_secret_stays_even_if_it_is_asked_for(tree: Path, name: str) -> None:
    (tree / name).parent.mkdir(exist_ok=True)
    (tree / name).write_text("x")
    (tree / ".rayignore").write_text(f"!{name}\n")
    assert name not in names(tree)


def test_links_that_lead_outside_stay(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    (tree / "code" / "link").symlink_to(tmp_path / "outside")
    (tree / "code" / "inner").symlink_to(tree / "code" / "a.py")
    assert names(tree) == ["code/a.py", "code/inner", "code/deep/c.py"]


@pytest.mark.parametrize(
    "text",
    [
        "-----BEGIN RSA PRIVATE " + "KEY-----",
        "id = AKIA" + "Q" * 16,
        "aws_secret_access_key: '" + "a1/+" * 10 + "'",
    ],
)
def test_a_secret_in_a_file_stops_it_and_the_file_is_named(tree: Path, text: str) -> None:
    (tree / "code" / "a.py").write_text(f"x\n{text}\n")
    with pytest.raises(ConfigError, match=r"code/a\.py") as refused:
        package.pack(tree)
    assert text not in str(refused.value)


def test_the_same_files_are_the_same_package(tree: Path) -> None:
    first = package.pack(tree)
    written = first.path.read_bytes()
    first.path.unlink()
    (tree / "code" / "a.py").touch()
    assert package.pack(tree).path.read_bytes() == written
    other = package.pack(tree, {"submitted/mine.yaml": b"rounds: {}"})
    assert other.path != first.path
    assert "submitted/mine.yaml" in zipfile.ZipFile(other.path).namelist()
    assert other.num_files == first.num_files + 1


def test_too_much_names_what_is_largest(tree: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "LIMIT_BYTES", 600)
    (tree / "code" / "weights.bin").write_bytes(bytes(range(256)) * 3)
    with pytest.raises(ConfigError, match=r"in .rayignore. Largest: code/weights.bin \(0.0 MB\)"):
        package.pack(tree)
    assert list(cache.rglob("*.zip")) == []


def test_this_checkout_is_small_and_whole() -> None:
    packed = package.pack(ROOT)
    found = set(zipfile.ZipFile(packed.path).namelist())
    assert packed.num_bytes < 12e6
    assert {SCRIPT, "vila2_ray/cli.py", "vila2_ray/recipes/tiny.yaml", "vila2_ray/serve/page/index.html"} <= found
    unwanted = ("tests/", "benchmarks/", "runs/", "data/", ".git/", ".venv")
    assert not [name for name in found if name.startswith(unwanted)]
    assert packed.sentence == f"{len(found)} files, {packed.num_bytes / 1e6:.1f} MB"


def test_rays_own_packing_leaves_the_same_secrets_at_home() -> None:
    assert set(package.SECRET_NAMES) <= set((ROOT / ".rayignore").read_text().splitlines())
