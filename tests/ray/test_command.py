"""A campaign whose training a team's own command does, as far as its first SFT."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.train import small
from vila2_ray.campaign import runner
from vila2_ray.errors import StageFailed
from vila2_ray.progress import NullProgress
from vila2_ray.recipe import load_config
from vila2_ray.recipes.tiny import BASE_FOLDER

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_the_command_trains_each_stage_from_the_one_before(tmp_path: Path) -> None:
    script = tmp_path / "train.sh"
    script.write_text(
        'grep -o \'"stage": "[a-z]*"\\|"init_uri": ".*"\' "$1" >> ' + str(tmp_path / "told") + "\n"
        f"[ -e {tmp_path}/broken ] && exit 5\n"
        f'cp {BASE_FOLDER}/config.json {BASE_FOLDER}/*.safetensors "$(dirname "$1")/out"\n'
    )
    pairs, chat = small.write_shards(tmp_path / "pairs"), small.write_shards(tmp_path / "chat", sft=True)
    settings = [f"campaign={tmp_path / 'campaign'}", f"corpus.pretrain={pairs}", f"corpus.sft={chat}"]
    settings += ["corpus.heldout=", "specialists=[]", f"train.command=[sh,{script}]"]
    config = load_config("tiny", settings)
    (tmp_path / "broken").touch()
    with pytest.raises(StageFailed, match="align base: sh ended with exit code 5"):
        runner.run(config, until="sft-0", progress=NullProgress())
    (tmp_path / "broken").unlink()
    (tmp_path / "told").unlink()
    outcome = runner.run(config, until="sft-0", progress=NullProgress())
    assert outcome.ran == ["align", "pretrain-0", "sft-0"]
    told = (tmp_path / "told").read_text().splitlines()
    assert [line.split('"')[3] for line in told[::2]] == ["align", "pretrain", "sft"]
    checkpoints = tmp_path / "campaign" / "checkpoints"
    starts = [line.split('"')[3] for line in told[1::2]]
    assert starts == [str(BASE_FOLDER), str(checkpoints / "base/align"), str(checkpoints / "vlm-0/pretrain")]
    assert (checkpoints / "vlm-0" / "sft" / "tokenizer.json").is_file()
    assert not runner.run(config, until="sft-0", progress=NullProgress()).ran
