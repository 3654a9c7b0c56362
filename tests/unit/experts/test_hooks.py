"""Export hooks: what a command is given and may give back, what becomes of it, and that no shard is judged twice."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vila2_ray.config import HookConfig
from vila2_ray.corpus.corpus import Corpus
from vila2_ray.corpus.hookverdicts import HookVerdicts, Judged
from vila2_ray.corpus.layers import Layer
from vila2_ray.errors import StageFailed
from vila2_ray.experts.hooks import ShardHook
from vila2_ray.schema import CAPTION
from vila2_ray.storage import Store

WRITE = "import json, sys; out = sys.argv[2]; "
READ = "import json, sys, pyarrow.parquet as pq; rows = pq.read_table(sys.argv[1]).to_pylist(); out = sys.argv[2]; "
LINES = (
    READ + "open(out, 'w').write(''.join(json.dumps(dict(id=r['id'], score={score})) + chr(10) for r in rows{some}))"
)


def command(code: str, *words: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *words)


def picture(color: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    """Pictures a (red), b (blue); c is no picture's bytes, d has none, e is a document with two pictures."""
    document = {"texts": ["a text", None], "images": [None, "x"]}
    members = {
        "a.png": picture("red"), "a.txt": b"alt a",
        "b.png": picture("blue"), "b.txt": b"alt b",
        "c.png": b"nothing", "c.txt": b"alt c",
        "d.txt": b"alt d",
        "e.json": json.dumps(document).encode(), "e.0.png": picture("red"), "e.1.png": picture("green"),
    }  # fmt: skip
    (tmp_path / "s").mkdir()
    with tarfile.open(tmp_path / "s" / "0.tar", "w") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return Corpus.open(str(tmp_path / "s"), "pretrain", Store(tmp_path / "index"))


def look(corpus: Corpus, to: Path, layers: Any = (), **settings: Any) -> tuple[dict[str, int], list[dict[str, Any]]]:
    verdicts = HookVerdicts(Store(to))
    counts = ShardHook("mine", HookConfig(**settings), corpus, verdicts, layers)(corpus.shards[0])
    return counts, verdicts.read("pretrain", "0").to_pylist()


def test_a_command_reads_images_and_writes_scores(corpus: Corpus, tmp_path: Path) -> None:
    red = "float(__import__('PIL.Image').Image.open(__import__('io').BytesIO(r['image'])).getpixel((0, 0))[0] > 99)"
    code = LINES.format(score=red, some=" if not r['id'].endswith('/c')")
    counts, rows = look(corpus, tmp_path / "v", command=command(code))
    assert [(row["sample_id"], row["score"], row["problem"]) for row in rows] == [
        ("0/a", 1.0, None),
        ("0/b", 0.0, None),
        ("0/c", None, "no verdict"),
        ("0/d", None, None),
        ("0/e", 1.0, None),
    ]
    assert counts == {"samples": 5, "judged": 3, "against": 2, "not_judged": 1}
    judged = Judged("mine", "nsfw", HookVerdicts(Store(tmp_path / "v")), 0.5)
    assert judged.against("pretrain", "0") == {0: "nsfw", 2: "nsfw not judged", 4: "nsfw"}


def test_parquet_labels_and_paths_within_words(corpus: Corpus, tmp_path: Path) -> None:
    code = (
        "import sys, pyarrow as pa, pyarrow.parquet as pq; i, o = sys.argv[1][3:], sys.argv[2][4:]; "
        "t = pq.read_table(i); assert t.schema.names == ['id', 'image'], t.schema; n = len(t); "
        "pq.write_table(pa.table({'id': t['id'], 'score': [k / 10 for k in range(n)], 'label': ['face'] * n}), o)"
    )
    _, rows = look(corpus, tmp_path / "v", command=command(code, "in={input}", "out={output}"))
    assert [round(row["score"], 1) if row["score"] is not None else None for row in rows] == [0.0, 0.1, 0.2, None, 0.4]
    assert rows[0]["label"] == "face"


def test_texts_are_alt_text_captions_and_documents(corpus: Corpus, tmp_path: Path) -> None:
    import pyarrow as pa

    layer = Layer(Store(tmp_path / "layer"))
    key = {"source": "pretrain", "shard": "0", "row": 1, "sample_id": "0/b", "variant": 0}
    layer.write("pretrain", "0", pa.Table.from_pylist([{**key, "status": "captioned", "text": "Call 555."}], CAPTION))
    code = LINES.format(score="('555' in r['text'] or 'a text' == r['text'])", some="")
    _, rows = look(corpus, tmp_path / "v", (layer,), command=command(code), reads="texts", finds="people")
    assert [row["score"] for row in rows] == [0.0, 1.0, 0.0, None, 1.0]


def test_a_shard_is_judged_once_until_it_changes(corpus: Corpus, tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = [json.dumps({"id": f"0/{name}", "score": 0.7}) for name in ("a", "b", "c", "e#0", "e#1")]
    code = f"open({str(log)!r}, 'a').write('x'); " + WRITE + f"open(out, 'w').write({chr(10).join(said)!r})"
    first, _ = look(corpus, tmp_path / "v", command=command(code))
    again, _ = look(corpus, tmp_path / "v", command=command(code), min_score=0.8)
    assert log.read_text() == "x"
    assert (first["against"], again["against"]) == (4, 0), "another threshold needs no second look"
    with tarfile.open(tmp_path / "s" / "0.tar", "a") as archive:
        member = tarfile.TarInfo("f.png")
        member.size = len(picture("red"))
        archive.addfile(member, io.BytesIO(picture("red")))
    changed = Corpus.open(str(tmp_path / "s"), "pretrain", Store(tmp_path / "index"))
    counts, _ = look(changed, tmp_path / "v", command=command(code))
    assert (log.read_text(), counts["samples"]) == ("xx", 6)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; print('no model here'); sys.exit(3)", "exit code 3: no model here"),
        ("pass", "wrote nothing to its output path"),
        (WRITE + "open(out, 'w').write('half a line')", "neither JSON Lines nor Parquet"),
        (
            WRITE + "open(out, 'w').write(json.dumps(dict(id='0/a', score=1.5)))",
            r"row 1 of the command's output has the score 1\.5; it must be a number",
        ),
        (WRITE + "open(out, 'w').write(json.dumps(dict(score=1)))", "row 1 of the command's output has no id"),
        (WRITE + "open(out, 'w').write(json.dumps(dict(id='9/z', score=1)))", "'9/z', which it was not asked about"),
    ],
)
def test_a_command_that_goes_wrong_is_told(corpus: Corpus, tmp_path: Path, code: str, said: str) -> None:
    with pytest.raises(StageFailed, match=rf"export\.hooks\.mine: .*{said}"):
        look(corpus, tmp_path / "v", command=command(code))
    assert not (tmp_path / "v").exists()


def test_a_command_that_is_not_there(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"no-such-program"):
        look(corpus, tmp_path / "v", command=("no-such-program",))
