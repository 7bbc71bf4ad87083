"""Signals that ask to stop are noted once, told on, and never lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from dcgan_core.errors import TrainingStopped
from dcgan_core.train.stopping import StopRequest, stop_requests


class Ended(BaseException):
    """What a signal does outside."""


@pytest.fixture(autouse=True)
def _outside() -> Iterator[None]:
    def end(number: int, _frame: object) -> None:
        raise Ended(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_stopped_training_says_which_signal_it_was() -> None:
    with pytest.raises(TrainingStopped) as stopped, stop_requests(signal.SIGTERM, signal.SIGINT) as request:
        assert not request()
        signal.raise_signal(signal.SIGTERM)
        assert request()
        raise TrainingStopped(3, 8)
    assert (stopped.value.step, stopped.value.steps) == (3, 8)
    assert stopped.value.signal_number == signal.SIGTERM
    with pytest.raises(Ended):  # what handles signals outside does so again
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_what_it_does_outside(second: signal.Signals) -> None:
    with pytest.raises(Ended, match=str(int(second))), stop_requests(signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(second)


def test_a_signal_that_nobody_acted_on_is_sent_on_in_the_end() -> None:
    done = False
    with pytest.raises(Ended), stop_requests(signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
        done = True
    assert done


def test_an_error_is_not_hidden_by_a_request_to_stop() -> None:
    with pytest.raises(ValueError, match="mine"), stop_requests(signal.SIGTERM):
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("mine")


def test_outside_the_main_thread_nothing_is_asked() -> None:
    requests: list[StopRequest] = []

    def work() -> None:
        with stop_requests(signal.SIGTERM) as request:
            requests.append(request)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not requests[0]()
