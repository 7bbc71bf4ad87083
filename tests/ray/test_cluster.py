"""What a part that takes a whole machine asks a cluster for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.cluster import holds, machine_share

HEAD, LARGE, LOST = {"CPU": 2.0}, {"CPU": 16.0}, {"CPU": 64.0, "GPU": 8.0}
ONE_GPU, FOUR_GPUS = {"CPU": 16.0, "GPU": 1.0}, {"CPU": 24.0, "GPU": 4.0}


def cluster(*nodes: dict[str, float]) -> SimpleNamespace:
    """What Ray tells of its nodes; one more is lost."""
    told = [{"Alive": -1, "Resources": each} for each in nodes] + [{"Alive": 0, "Resources": LOST}]
    return SimpleNamespace(nodes=lambda: told)


@pytest.mark.parametrize(
    ("nodes", "gpus", "share"),
    [
        ([HEAD], -1, (2, 0)),
        ([HEAD, LARGE, {}], -1, (16, 0)),
        ([HEAD, ONE_GPU], -1, (16, 1)),
        ([HEAD, ONE_GPU, FOUR_GPUS], -1, (6, 1)),
        ([HEAD, ONE_GPU, FOUR_GPUS], 0, (24, 0)),
        ([{"GPU": 1.0}], -1, (1, 1)),
        ([{}], -1, (1, 0)),
        ([HEAD], 1, (1, 1)),  # one that is still to come
        ([HEAD, ONE_GPU], 1, (16, 1)),
    ],
)
def test_no_two_parts_fit_on_one_machine_or_on_one_gpu(
    nodes: list[dict[str, float]], gpus: int, share: tuple[int, int]
) -> None:
    assert machine_share(cluster(*nodes), gpus=gpus) == share


@pytest.mark.parametrize(
    ("nodes", "gpus", "most"),
    [
        ([], 0, 0),
        ([HEAD], 0, 2),
        ([HEAD], 1, 0),
        ([HEAD, ONE_GPU, FOUR_GPUS], 0, 42),
        ([HEAD, ONE_GPU, FOUR_GPUS], 1, 5),
        ([{"GPU": 4.0, "CPU": 2.0}, {"CPU": 8.0}], 1, 2),  # each needs a processor beside its GPU
    ],
)
def test_room_is_counted_node_by_node(nodes: list[dict[str, float]], gpus: int, most: int) -> None:
    ray = cluster(*nodes)
    assert holds(ray, most, gpus=gpus)
    assert not holds(ray, most + 1, gpus=gpus)
