"""What a velocity callback does wrong comes out of the call, and the rollout can be taken up again."""

from __future__ import annotations

import subprocess
import sys
import traceback

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import ROOT, velocity


class Mine(Exception):
    pass


def failing(error, at=7):
    calls = []

    def broken(x, sigma, step):
        calls.append(step)
        if step == at and error is not None:
            raise error
        return velocity(x, sigma, step)

    return broken, calls


@pytest.mark.parametrize("error", [Mine("mine"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_a_callback_raises_comes_out_and_nothing_has_happened(sampler, x_init, error):
    whole = sampler.rollout(velocity, x_init, seed=1)
    trajectory = sampler.begin(x_init, seed=1)
    trajectory.advance(velocity, until=5)
    broken, calls = failing(error)
    with pytest.raises(type(error)) as caught:
        trajectory.advance(broken)
    assert caught.value is error
    assert calls == [5, 6, 7]  # it stopped at once
    assert trajectory.position == 5
    trajectory.advance(velocity)
    np.testing.assert_array_equal(trajectory.latents, whole.latents)
    np.testing.assert_array_equal(trajectory.log_probs, whole.log_probs)


def test_the_traceback_leads_to_the_line_that_raised(sampler, x_init):
    broken, _ = failing(Mine("mine"))
    with pytest.raises(Mine) as caught:
        sampler.rollout(broken, x_init, seed=1)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "broken" and frames[-1].line == "raise error"
    assert "rollout" in [frame.name for frame in frames]
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_the_causes_of_an_exception_stay_its_own(sampler, x_init):
    def broken(x, sigma, step):
        try:
            {}["missing"]
        except KeyError:
            raise Mine("mine")

    with pytest.raises(Mine) as caught:
        sampler.rollout(broken, x_init, seed=1)
    assert isinstance(caught.value.__context__, KeyError) and not caught.value.__suppress_context__


@pytest.mark.parametrize(
    "returned, kind, words",
    [
        (lambda x: x[:, :2], ValueError, r"velocity returned has shape \(6, 2, 4\); it must be \(6, 3, 4\)"),
        (lambda x: 0.0, TypeError, "velocity returned a float; it must return an array"),
        (lambda x: x.sum(), ValueError, r"velocity returned has shape \(\)"),
        (lambda x: x.reshape(6, 12), ValueError, "velocity returned has shape"),
        (lambda x: None, TypeError, "velocity returned None; it must return an array"),
        (lambda x: x.astype(complex), TypeError, "velocity returned has element type complex128"),
        (lambda x: x * np.nan, ArithmeticError, "sample 0 at step 0"),
        (lambda x: [[1, 2], [3]], ValueError, "velocity returned cannot be read"),
    ],
)
def test_a_wrong_velocity_is_an_error_that_says_so(sampler, x_init, returned, kind, words):
    trajectory = sampler.begin(x_init, seed=1)
    with pytest.raises(cg.Error, match=words) as caught:
        trajectory.advance(lambda x, sigma, step: returned(x))
    assert isinstance(caught.value, kind)
    assert trajectory.position == 0


def test_a_velocity_may_be_a_list_or_of_another_type(sampler, x_init):
    expected = sampler.rollout(lambda x, sigma, step: np.ones(x.shape, x.dtype), x_init, seed=1).images
    for value in (np.ones(x_init.shape).tolist(), np.ones(x_init.shape, int), np.ones(x_init.shape, np.float64)):
        np.testing.assert_array_equal(sampler.rollout(lambda x, sigma, step: value, x_init, seed=1).images, expected)


def test_a_callback_may_roll_out_itself(sampler, x_init):
    def nested(x, sigma, step):
        return sampler.rollout(velocity, x, seed=step).images

    inner = sampler.rollout(nested, x_init, seed=1)
    assert np.isfinite(inner.images).all()


INTERRUPTED = """
import os, signal, sys, threading, time
import numpy as np
sys.path[:0] = [{tests!r}, {package!r}]
import chunkgrpo as cg
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts with &
sampler = cg.Sampler(cg.Schedule.linear(100_000))
trajectory = sampler.begin(np.zeros((2, 50), np.float32), seed=0) if {small} else None
if trajectory is None:
    sampler = cg.Sampler(cg.Schedule.linear(100))
    trajectory = sampler.begin(np.zeros((4, 500_000), np.float32), seed=0)
still = trajectory.latents[:, 0] * 0
steps = []
def velocity(x, sigma, step):
    if not steps:
        threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
    steps.append(step)
    return still
try:
    trajectory.advance(velocity)
except KeyboardInterrupt:
    print("interrupted", trajectory.position, len(steps) < trajectory.sampler.schedule.steps)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""


@pytest.mark.parametrize("small", [True, False], ids=["time-in-python", "time-in-library"])
def test_control_c_ends_a_rollout_wherever_it_arrives(small):
    """Also between the library and the first line of the callback, where ctypes would swallow it."""
    code = INTERRUPTED.format(tests=str(ROOT / "Tests/python"), package=str(ROOT / "bindings/python"), small=small)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted 0 True\n", "")
