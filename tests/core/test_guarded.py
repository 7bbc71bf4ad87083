"""Whatever an item does to the child, the others have their results and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from dcgan_core.errors import ClusterError, ConfigError
from dcgan_core.guarded import Died, end_children, guarded

OBEY = "tests.core.hostile:obey"
PATIENT = 60.0
"""Seconds: long, so that only what hangs is ever late."""


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    end_children()
    children, files = children_now(), files_now()
    yield
    end_children()
    assert children_now() == children
    assert files_now() == files


def children_now() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


def files_now() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208


def outcomes(items: Sequence[Any], seconds: float = PATIENT, prefix: str = "") -> list[Any]:
    answered = list(guarded(OBEY, prefix, items, seconds=seconds))
    assert [item for item, _ in answered] == list(items)
    return [outcome for _, outcome in answered]


def pid_of_child(prefix: str = "") -> int:
    (pid,) = outcomes(["pid"], prefix=prefix)
    return pid


def test_every_item_has_its_result_in_order() -> None:
    items = [f"item {number}" for number in range(100)]
    assert outcomes(items, prefix="seen: ") == [f"seen: {item}" for item in items]


def test_no_items_start_no_child() -> None:
    before = children_now()
    assert outcomes([]) == []
    assert children_now() == before


def test_items_larger_than_a_pipe_do_not_block_each_other() -> None:
    items = [bytes([number]) * 2**21 for number in range(8)]
    assert outcomes(items) == items


@pytest.mark.parametrize(
    ("deed", "why"), [("exit", "exit status 5"), ("segfault", "SIGSEGV"), ("kill", "SIGKILL")]
)
@pytest.mark.parametrize("place", [0, 3, 6])
def test_an_item_that_ends_the_child_is_told_of_and_the_others_are_unaffected(
    deed: str, why: str, place: int
) -> None:
    items = [f"{number}" for number in range(7)]
    items[place] = deed
    found = outcomes(items)
    assert found[place] == Died("crashed", f"its process ended with {why}")
    assert [each for each in found if not isinstance(each, Died)] == [item for item in items if item != deed]


@pytest.mark.parametrize("deed", ["hang", "hang deaf"])
def test_an_item_that_takes_too_long_is_given_up(deed: str) -> None:
    found = outcomes(["a", deed, "b", "c"], seconds=0.5)
    assert found == ["a", Died("timeout", "not done after 0.5 s"), "b", "c"]


def test_every_item_may_be_a_bad_one() -> None:
    found = outcomes(["exit", "kill", "exit"])
    assert [each.how for each in found] == ["crashed"] * 3


def test_a_child_ended_from_outside_costs_no_item(tmp_path: Path) -> None:
    once = ("die once", str(tmp_path / "died"))
    assert outcomes(["a", once, "b"]) == ["a", once, "b"]


def test_a_child_is_kept_for_the_next_call_with_the_same_argument() -> None:
    first = pid_of_child()
    assert pid_of_child() == first
    assert pid_of_child("other") != first
    assert pid_of_child() == first


def test_few_children_are_kept() -> None:
    before = children_now()
    for number in range(5):
        pid_of_child(f"{number}")
    assert len(children_now() - before) == 2


def test_a_kept_child_that_has_died_is_replaced() -> None:
    first = pid_of_child()
    os.kill(first, signal.SIGKILL)
    assert pid_of_child() != first


def test_two_calls_at_once_have_a_child_each() -> None:
    one, other = (guarded(OBEY, "", ["pid", "pid"], seconds=PATIENT) for _ in range(2))
    pids = [next(each)[1] for each in (one, other, one, other)]
    assert pids[0] == pids[2] != pids[1] == pids[3]
    one.close()
    other.close()


def test_threads_do_not_mix_up_each_others_results() -> None:
    seen: dict[int, list[Any]] = {}

    def call(number: int) -> None:
        seen[number] = outcomes([f"{number}.{item}" for item in range(200)])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {number: [f"{number}.{item}" for item in range(200)] for number in range(4)}


def test_an_error_of_the_set_up_is_raised_and_not_tried_again() -> None:
    with pytest.raises(ConfigError, match="no network"):
        list(guarded("tests.core.hostile:refuse", "no network", ["a"], seconds=PATIENT))
    with pytest.raises(ClusterError, match="did not start: its process ended with exit status 3"):
        list(guarded("tests.core.hostile:vanish", None, ["a"], seconds=PATIENT))
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        list(guarded("nowhere:at_all", None, ["a"], seconds=PATIENT))


def test_an_error_of_the_function_is_raised_with_its_place() -> None:
    with pytest.raises(ValueError, match="asked to") as caught:
        outcomes(["a", "fail", "b"])
    assert "hostile.py" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match=r"(?s)hostile\.py.*Unsendable: askedto"):
        outcomes(["fail oddly"])
    assert outcomes(["a"]) == ["a"]


def test_an_error_of_the_items_is_raised_and_the_child_ended() -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise OSError("the store is gone")

    with pytest.raises(OSError, match="the store is gone"):
        list(guarded(OBEY, "", broken(), seconds=PATIENT))


def test_a_call_given_up_half_way_leaves_no_answers_for_the_next() -> None:
    answered = guarded(OBEY, "", ["a", "b", "c"], seconds=PATIENT)
    assert next(answered) == ("a", "a")
    answered.close()
    assert outcomes(["d", "e"]) == ["d", "e"]


PARENT = """
import signal, sys
from dcgan_core.guarded import guarded
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell in the background has switched off
for _, outcome in guarded("tests.core.hostile:obey", "", ["pid", *sys.argv[1:]], seconds=600):
    print(outcome, flush=True)
input()
"""


@pytest.fixture
def parent(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", PARENT, *request.param]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("parent", [[], ["hang"]], ids=["idle", "at work"], indirect=True)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_child_ends_quietly_with_its_parents_group(
    parent: subprocess.Popen[str], number: signal.Signals
) -> None:
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.killpg(parent.pid, number)
    _, words = parent.communicate(timeout=60)
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()
    assert words.count("Traceback") == (number == signal.SIGINT)  # the parent's own


@pytest.mark.parametrize("parent", [[]], indirect=True)
def test_a_child_ends_when_its_parent_is_killed(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    assert parent.wait(60) == -signal.SIGKILL
    psutil.wait_procs([child], timeout=60)
    assert not child.is_running()


def test_a_forked_process_neither_uses_nor_keeps_up_its_parents_children() -> None:
    mine = pid_of_child()
    forked = os.fork()
    if forked == 0:
        own = pid_of_child()
        end_children()
        os._exit(0 if own != mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0
    assert pid_of_child() == mine
