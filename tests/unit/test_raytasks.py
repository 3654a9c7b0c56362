"""How many tasks go to a cluster at once follows the cluster as it grows and shrinks."""

from __future__ import annotations

from vila2_ray.raytasks import Room


def test_room_follows_the_cluster_and_is_never_none() -> None:
    now, num_cpus, looks = [0.0], [0.0], []

    def look() -> float:
        looks.append(now[0])
        return num_cpus[0]

    room = Room(look, lambda: now[0])
    assert room.num_tasks() == 2, "with no node up, some tasks wait: they are what brings one"
    num_cpus[0] = 16.0
    assert room.num_tasks() == 2
    assert looks == [0.0], "asked once a second, not for each of a thousand tasks"
    now[0] = 1.0
    assert room.num_tasks() == 32
    now[0], num_cpus[0] = 2.0, 4.0
    assert room.num_tasks() == 8, "a node was lost"
