"""What a part that takes a whole machine asks a cluster for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tasks.cluster import machine_share

HEAD, LARGE, LOST = {"CPU": 2.0}, {"CPU": 16.0}, {"CPU": 64.0, "GPU": 8.0}
ONE_GPU, FOUR_GPUS = {"CPU": 16.0, "GPU": 1.0}, {"CPU": 24.0, "GPU": 4.0}


def cluster(*nodes: dict[str, float]) -> SimpleNamespace:
    """What Ray tells of its nodes; one more is lost."""
    told = [{"Alive": True, "Resources": each} for each in nodes] + [{"Alive": False, "Resources": LOST}]
    return SimpleNamespace(nodes=lambda: told)


@pytest.mark.parametrize(
    ("nodes", "gpus", "share"),
    [
        ([HEAD], True, (2, 0)),
        ([HEAD, LARGE, {}], True, (16, 0)),
        ([HEAD, ONE_GPU], True, (16, 1)),
        ([HEAD, ONE_GPU, FOUR_GPUS], True, (6, 1)),
        ([HEAD, ONE_GPU, FOUR_GPUS], False, (24, 0)),
        ([{"GPU": 1.0}], True, (1, 1)),
        ([{}], True, (1, 0)),
    ],
)
def test_no_two_parts_fit_on_one_machine_or_on_one_gpu(
    nodes: list[dict[str, float]], gpus: bool, share: tuple[int, int]
) -> None:
    assert machine_share(cluster(*nodes), gpus=gpus) == share
