import pytest

from vila2_ray.errors import CorpusError
from vila2_ray.screening.lists import HashList, parse_hashes, parse_takedown

SHA, PHASH = "0123456789abcdef" * 4, "00ff00ff00ff00ff"


def test_hashes_of_both_kinds_with_comments_and_names_behind() -> None:
    text = f"\ufeff# made by hand\n\n{SHA.upper()}  pictures/cat.jpg\n {PHASH} \n"
    assert parse_hashes(text, "list.txt") == HashList(frozenset({SHA}), frozenset({PHASH}))


@pytest.mark.parametrize("line", ["cat.jpg", SHA[:40], "0x" + PHASH, "zz" * 32])
def test_a_line_that_is_no_hash_is_named(line: str) -> None:
    with pytest.raises(CorpusError, match=r"list.txt: line 2 .*vila2 hash"):
        parse_hashes(f"{SHA}\n{line}\n", "list.txt")


def test_takedowns_by_three_names() -> None:
    found = parse_takedown(f"00000/a b/c\n{SHA}\nhttps://x.example/a?b=1#c\n# no\n", "t")
    assert (found.sample_ids, found.sha256) == ({"00000/a b/c"}, {SHA})
    assert found.urls == {"https://x.example/a?b=1#c"}
    assert parse_takedown("\n".join(found.lines()), "t") == found
    assert not parse_takedown("# nothing\n", "t")


@pytest.mark.parametrize("line", ["cat", "/", PHASH])
def test_a_takedown_that_names_nothing_is_refused(line: str) -> None:
    with pytest.raises(CorpusError, match=r"t: line 1 .*<shard>/<key>"):
        parse_takedown(line, "t")
