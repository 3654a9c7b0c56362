"""Pairs and votes in a few words, for the tests beside this file."""

from __future__ import annotations

from vila2_ray.judge.study import Pair, Shown, Vote

ANSWERS = {"1": "first", "2": "second", "=": "tie"}


def pairs(number: int, first: str = "alt_text", second: str = "round-1") -> list[Pair]:
    """One pair on each of `number` images."""
    return [
        Pair(f"f{first[-1]}{second[-1]}{n:04}".replace("t", "0"), "pretrain", "00000", n, f"00000/{n}", *shown)
        for n in range(number)
        for shown in [(Shown(first, 0, f"{first} {n}"), Shown(second, 0, f"{second} {n}"))]
    ]


def votes(pairs: list[Pair], rater: str, said: str, swapped: bool = False, criterion: str = "detail") -> list[Vote]:
    """What a rater says of each pair in turn: 1, 2, = or a blank for nothing; `m…` are models."""
    kind = "model" if rater.startswith("m") else "person"
    return [
        Vote(pair.pair_id, rater, kind, swapped, {criterion: ANSWERS[answer]}, 1.0)  # type: ignore[arg-type, dict-item]
        for pair, answer in zip(pairs, said, strict=False)
        if answer != " "
    ]
