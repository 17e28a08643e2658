"""Groups of rows: as large as gives every row the same bits."""

import math

import numpy as np
import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from recede.evaluation.groups import MOST_ROWS, ROWS, Groups, groups_of, padded
from recede.specification import Specification, Stream


@pytest.mark.parametrize(
    ("count", "threads", "sizes"),
    [
        (1, 2, [1]),
        (17, 1, [17]),
        (17, 2, [16, 1]),
        (64, 2, [32, 32]),
        (64, 16, [16] * 4),
        (96, 2, [32, 32, 16, 16]),
        (100, 2, [32, 32, 16, 16, 4]),
        (320, 4, [64] * 4 + [16] * 4),
        (120, 1, [120]),
        (500, 2, [128, 128, 128, 116]),
    ],
)
def test_groups_divide_the_work_among_the_threads(count, threads, sizes, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert [len(group) for group in Groups(most=MOST_ROWS).divided(range(count))] == sizes


@given(st.integers(0, 1000), st.integers(1, 64), st.sampled_from([ROWS, 2 * ROWS, MOST_ROWS]))
def test_groups_hold_every_row_once_and_have_few_sizes(count, threads, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: threads)
        groups = list(Groups(most=most).divided(range(count)))
    assert [row for group in groups for row in group] == list(range(count))
    assert {len(padded(group, ROWS)) for group in groups} <= {16, 32, 64, 128} & set(range(most + 1))
    loads = [0] * threads  # of threads that take a group as soon as they are free
    for group in groups:
        loads[loads.index(min(loads))] += len(padded(group, ROWS))
    assert max(loads) == ROWS * math.ceil(math.ceil(count / ROWS) / threads)


class Counted:
    """Chunks that are the rows themselves; in a group of more than `honest` rows, off by one."""

    def __init__(self, honest):
        self.honest, self.sizes = honest, []

    def __call__(self, rows):
        self.sizes.append(len(rows))
        return np.array(rows, np.float32)[:, None, None] + (len(rows) > self.honest)


def test_a_size_is_tried_once_for_each_kind():
    groups, chunks_of = Groups(most=MOST_ROWS), Counted(honest=MOST_ROWS)
    for kind in ("plain", "plain", "guided"):
        chunks = groups.predicted(range(30), chunks_of, kind=kind)
        assert chunks.flatten().tolist() == [*range(30), 0, 0]
    assert chunks_of.sizes == [16, 16, 32, 32, 16, 16, 32]


def test_a_size_that_gives_other_bits_is_never_used():
    groups, chunks_of = Groups(most=MOST_ROWS), Counted(honest=2 * ROWS)
    for _ in range(3):
        for group in groups.divided(range(128)):
            assert groups.predicted(group, chunks_of, kind="plain").flatten().tolist() == list(group)
    assert groups.most == 2 * ROWS
    assert chunks_of.sizes.count(2 * ROWS) > chunks_of.sizes.count(4 * ROWS)
    assert chunks_of.sizes[-1] == 2 * ROWS


def test_chunks_that_are_not_numbers_are_equal():
    groups = Groups(most=MOST_ROWS)
    groups.predicted(range(32), lambda rows: np.full((len(rows), 1, 1), np.nan), kind="plain")
    assert groups.most == MOST_ROWS


class Described:
    """As much of an engine as its groups ask of it."""

    def __init__(self, *observations):
        self.specification = Specification(observations, toys.SPECIFICATION.action, control_dt=0.1)


def test_an_engine_keeps_its_groups_and_images_are_predicted_few_at_a_time():
    state, camera = Stream("state", (2,)), Stream("camera", (8, 8, 3), "uint8")
    first, second = Described(state), Described(state)
    assert groups_of(first) is groups_of(first)
    assert groups_of(first) is not groups_of(second)
    assert groups_of(first).most == MOST_ROWS
    assert groups_of(Described(state, camera)).most == ROWS
