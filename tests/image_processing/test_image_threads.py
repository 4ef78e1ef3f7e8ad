"""Work on several images at once."""

import threading
import time

import pytest

from m2f.image_processing.image_threads import map_in_threads

pytest_plugins = ("thread_counts",)


def test_threads_are_those_of_pytorch(thread_count):
    lock, active, most = threading.Lock(), 0, 0

    def note(item, other):
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.05)  # in which others come, where there are threads for them
        with lock:
            active -= 1
        return item + other

    assert map_in_threads(note, range(9), range(9)) == list(range(0, 18, 2))
    assert most == thread_count
    assert map_in_threads(note, [], []) == []
    with pytest.raises(ValueError, match="shorter"):
        map_in_threads(note, range(3), range(2))
