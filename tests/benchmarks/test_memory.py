"""Programs that run for long: right statuses, memory flat within 2 %, a meter that can say no."""

import pytest

from benchmarks import memory


@pytest.mark.proof
@pytest.mark.parametrize("case", memory.CASES)
def test_statuses_are_right_and_memory_is_flat(case):
    """Each case lay between 0.995 and 1.003 of what the warm process had in five trials or more."""
    found = memory.measure(case)
    assert found["statuses_right"], found
    assert found["flat"], found


def test_memory_that_is_kept_is_seen():
    before = memory.resident()
    kept = bytearray(32 << 20)
    kept[::4096] = b"x" * len(kept[::4096])  # touched, so that it is there
    assert memory.resident() - before > 30 << 20


def test_a_report_names_what_grew():
    found = memory._report(100 << 20, 103 << 20)
    assert found["ratio"] == 1.03
    assert found["ratio"] > memory.BAR


def test_a_camera_ends_as_often_as_it_is_opened():
    with memory.camera(2, 0, 1):
        counts = []
        for _ in range(4):
            camera = memory.frames._opened(None, "0")
            number = 0
            while camera.read()[0]:
                number += 1
            counts.append(number)
    assert counts == [2, 0, 1, 0]
