"""Windows of stochastic steps that move along the trajectory."""

from __future__ import annotations

import copy
import pickle

import pytest

import chunkgrpo as cg


def test_windows_move_along_the_trajectory():
    window = cg.SDEWindow(4, 9, iterations=2, stride=2)
    assert [window[i] for i in (0, 1, 2, 8, 9, 10)] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [8],
        [8],
        [0, 1, 2, 3],
    ]
    subset = cg.SDEWindow(3, 12, strategy="subset", seed=5)
    assert len({tuple(subset[i]) for i in range(50)}) > 20 and all(len(set(subset[i])) == 3 for i in range(50))
    with pytest.raises(cg.InvalidArgument, match="iteration"):
        cg.SDEWindow(4, 8, iterations=1, at_end="stop")[2]


@pytest.mark.parametrize(
    "name, call",
    [
        ("size", lambda: cg.SDEWindow(9, 8)),
        ("stride is 0; it must be positive, or None", lambda: cg.SDEWindow(2, 8, stride=0)),
        ("stride is -1; it must be positive, or None", lambda: cg.SDEWindow(2, 4, stride=-1)),
        ("strategy", lambda: cg.SDEWindow(2, 8, strategy="sideways")),
        ("least", lambda: cg.SDEWindow(2, 8, strategy="linear_decay", least=30)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, call):
    with pytest.raises(cg.InvalidArgument, match=name):
        call()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_window_can_be_copied_and_pickled(copied):
    window = cg.SDEWindow(3, 15, strategy="random", seed=4)
    assert [copied(window)[i] for i in range(9)] == [window[i] for i in range(9)]
    assert repr(copied(window)) == repr(window) == "SDEWindow(size=3, end=15, strategy='random', seed=4)"


class Own(cg.SDEWindow):
    """At the module's level, for pickle."""


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_is_of_the_same_class(copied):
    own = Own(*(2, 4))
    twin = copied(own)
    assert type(twin) is Own and twin._given == own._given
