"""A stop request ends the work it is for, and no other work of the same process."""

import threading
from contextvars import copy_context

import pytest

from nuggets.errors import Interrupted
from nuggets.stopping import check_stop, clear_stop, request_stop, stop_requested, stopped_by


def test_a_request_to_the_process_stops_all_until_it_is_forgotten() -> None:
    request_stop()
    try:
        with stopped_by(threading.Event()):
            assert stop_requested()
        with pytest.raises(Interrupted, match="stopped on request"):
            check_stop()
    finally:
        clear_stop()
    check_stop()


def test_the_first_reason_is_the_one_that_is_reported() -> None:
    request_stop("stopped because its flow run was deleted")
    request_stop()
    try:
        with pytest.raises(Interrupted, match="stopped because its flow run was deleted"):
            check_stop()
    finally:
        clear_stop()


def test_a_piece_of_work_is_stopped_and_its_neighbours_and_successors_continue() -> None:
    ours, theirs = threading.Event(), threading.Event()
    seen: dict[str, bool] = {}
    both_there = threading.Barrier(2, timeout=10)

    def work(name: str, event: threading.Event) -> None:
        with stopped_by(event):
            both_there.wait()
            ours.set()
            both_there.wait()
            seen[name] = stop_requested()
        seen[f"after {name}"] = stop_requested()

    threads = [
        threading.Thread(target=copy_context().run, args=(work, name, event))
        for name, event in (("ours", ours), ("theirs", theirs))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"ours": True, "theirs": False, "after ours": False, "after theirs": False}
