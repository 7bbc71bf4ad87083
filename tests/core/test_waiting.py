"""GPUs that are asked for are waited for, with a word; nobody gets a processor in their place."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from dcgan_core.errors import NotEnoughResources
from dcgan_core.models.sampling import chosen_device
from dcgan_core.pipeline import load_pipeline
from dcgan_core.progress import silent
from dcgan_core.stage import Part
from dcgan_core.storage import Store
from dcgan_core.train.runtime import local_device
from dcgan_core.waiting import take_gpu


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("DCGAN_GPU_WAIT_SECONDS", "0.05")


def test_without_a_gpu_the_processor_is_taken_where_none_is_asked_for() -> None:
    for gpus in (0, -1):
        assert local_device(gpus).type == "cpu"
        assert chosen_device("auto", gpus) == "cpu"


@pytest.mark.parametrize("take", [local_device, lambda gpus: chosen_device("auto", gpus)])
def test_a_gpu_that_is_asked_for_and_does_not_come_is_an_error_in_one_sentence(take: Any) -> None:
    with pytest.raises(NotEnoughResources) as refused:
        take(1)
    said = str(refused.value)
    assert "asks for a GPU (DCGAN_GPUS=1) and torch finds none here, also after 0.05 s" in said
    assert "DCGAN_GPUS=0" in said
    assert "DCGAN_GPU_WAIT_SECONDS" in said


def test_a_gpu_that_comes_late_is_taken_and_the_wait_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DCGAN_GPU_WAIT_SECONDS", "0.9")
    found = iter((False, False, True))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: next(found))
    notes: list[str] = []
    monkeypatch.setattr("dcgan_core.waiting._POLL_SECONDS", 0.01)
    with caplog.at_level(logging.WARNING):
        assert take_gpu(1, "training", lambda done, total, note: notes.append(note))
    assert len(notes) == 2
    assert notes[0] == "training asks for a GPU (DCGAN_GPUS=1) and torch finds none here; waiting, 1 s left"
    assert [record.message for record in caplog.records] == [
        "training asks for a GPU (DCGAN_GPUS=1) and torch finds none here; waiting for up to 1 s"
    ]


def test_training_here_takes_no_processor_for_a_gpu_that_is_asked_for(store: Store) -> None:
    train = load_pipeline("demo", upto="train", gpus=1).stages[-1]
    with pytest.raises(NotEnoughResources, match="training asks for a GPU"):
        train.work(store, Part(0, "key", None), silent)
