"""As much of CuPy as chunkgrpo uses, on the memory of a device that the host may not touch and whose work is done late:
the driver of Tests/gpu/driver. test_cuda.py runs this program; every function must have the CPU's bits, and none may wait.
"""

from __future__ import annotations

import ctypes
import sys
import types

import numpy as np

driver = ctypes.CDLL("libcuda.so.1")
WAITS = 1


class Device:
    def __init__(self, number):
        self.id = number

    def __eq__(self, other):
        return self.id == other.id

    def __enter__(self):
        context = ctypes.c_void_p()
        driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), self.id)
        driver.cuCtxPushCurrent_v2(context)

    def __exit__(self, *_):
        driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def ends(array):
    """The first byte of an array, and how many it spans."""
    spans = [(size - 1) * step for size, step in zip(array.shape, array.strides)]
    return array.__array_interface__["data"][0], sum(spans) + array.dtype.itemsize


class ndarray:
    """`view` is numpy's, over memory that nobody reads here: for shapes and addresses alone."""

    def __init__(self, view, device):
        self.view, self.device = view, device
        self.data = types.SimpleNamespace(ptr=view.__array_interface__["data"][0])
        self.shape, self.strides, self.dtype, self.ndim = view.shape, view.strides, view.dtype, view.ndim

    def _with(self, view):
        return ndarray(view, self.device)

    T = property(lambda self: self._with(self.view.T))

    def __len__(self):
        return len(self.view)

    def __getitem__(self, index):
        return self._with(self.view[index])

    def swapaxes(self, *axes):
        return self._with(self.view.swapaxes(*axes))

    def get(self):
        first, size = ends(self.view)
        host = np.empty(size, np.uint8)
        with self.device:
            assert driver.cuMemcpyDtoH_v2(host.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(first), size) == 0
        return np.ndarray(self.shape, self.dtype, host, strides=self.strides).copy()

    def put(self, values):
        first, size = ends(self.view)
        host = np.empty(size, np.uint8)
        with self.device:
            assert driver.cuMemcpyDtoH_v2(host.ctypes.data_as(ctypes.c_void_p), ctypes.c_uint64(first), size) == 0
            np.ndarray(self.shape, self.dtype, host, strides=self.strides)[...] = values
            assert driver.cuMemcpyHtoD_v2(ctypes.c_uint64(first), host.ctypes.data_as(ctypes.c_void_p), size) == 0

    def __setitem__(self, index, value):
        self[index].put(value.get())

    def fill(self, number):
        self.put(np.full(self.shape, number, self.dtype))

    def astype(self, dtype, copy):
        return self if self.dtype == dtype and not copy else made(self.get().astype(dtype), self.device)

    def __mul__(self, number):
        return made((self.get() * np.asarray(number, self.dtype)), self.device)


ndarray.__module__ = "cupy"
current = Device(0)
streams = {}


def empty(shape, dtype):
    size, address = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1), ctypes.c_uint64()
    with current:
        assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(size)) == 0
    memory = (ctypes.c_char * size).from_address(address.value)
    return ndarray(np.ndarray(shape, dtype, memory), current)


def made(values, device=None):
    array = empty(values.shape, values.dtype)
    array.put(values)
    return array


def asarray(value):
    return value if isinstance(value, ndarray) else made(np.asarray(value))


def ascontiguousarray(value, dtype=None):
    if value.view.flags.c_contiguous and dtype in (None, value.dtype):
        return value
    return made(np.ascontiguousarray(value.get(), dtype))


def stream():
    if current.id not in streams:
        handle = ctypes.c_void_p()
        with current:
            driver.cuStreamCreate(ctypes.byref(handle), 1)
        streams[current.id] = handle.value
    handle = streams[current.id]

    def wait():
        driver.cuStreamSynchronize(ctypes.c_void_p(handle))

    return types.SimpleNamespace(ptr=handle, is_capturing=lambda: False, synchronize=wait)


sys.modules["cupy"] = types.SimpleNamespace(
    ndarray=ndarray, empty=empty, zeros=lambda shape, dtype: made(np.zeros(shape, dtype)), asarray=asarray,
    ascontiguousarray=ascontiguousarray, cuda=types.SimpleNamespace(get_current_stream=stream),
    repeat=lambda array, count, axis: made(np.repeat(array.get(), count, axis)),
)  # fmt: skip

import chunkgrpo as cg  # noqa: E402
import chunkgrpo.forward  # noqa: E402

SAMPLER = cg.Sampler(cg.Schedule.shifted(steps=6, shift=3.0))


def kernels(place, kind, settled=True):
    """Results of calls of which none may wait, once a stream has its workspace."""
    draw = np.random.default_rng(4)
    x, v, e, u = (place(draw.standard_normal((3, 41, 30)).astype(kind)) for _ in range(4))
    whole = place(draw.standard_normal((3, 4, 70)).astype(kind))
    rows, grad, slopes = place(draw.standard_normal((3, 3, 70)).astype(kind)), place(np.ones(3)), place(np.ones((3, 3)))
    times = place(np.full(3, 0.4))
    driver.fake_count(WAITS)  # which sets it to 0
    d = cg.forward.distances(x, v, seed=2, old_velocity=u, reference_velocity=e, beta=0.5)
    results = [
        *SAMPLER.step(2, x, v, seed=1, sample_ids=[7, 8, 9]), *SAMPLER.step([0, 1, 2], x, v, noise=e, unconditional=u, guidance=2.0),
        SAMPLER.log_prob(2, x, v, e), SAMPLER.log_prob_vjp(2, x, v, e, grad), SAMPLER.predicted_image(2, x, v),
        *SAMPLER.log_prob_vjp(2, x, v, e, grad, unconditional=u, guidance=[0.5, 1.0, 2.0]),
        SAMPLER.log_probs(whole, rows, 1), SAMPLER.log_probs_vjp(whole, rows, slopes, [0, 1, 2]), cg.relative_l1(whole),
        cg.divergence(SAMPLER, 1, x, v), cg.divergence_vjp(SAMPLER, 1, x, v, grad), cg.normal((3, 70), 5, 1, like=x),
        cg.forward.noised(x, times, seed=2), d.distance, d.positive_absolute, d.reference_divergence,
        cg.forward.distances_vjp(x, v, cg.forward.Distances(distance=grad, positive_distance=grad), seed=2, old_velocity=u, beta=0.5),
    ]  # fmt: skip
    assert driver.fake_count(WAITS) == 0 or not settled, "a function has waited for the device"
    return results


def rollouts(place, kind):
    x = place(np.random.default_rng(5).standard_normal((3, 70)).astype(kind))
    trajectory = SAMPLER.rollout(lambda latents, sigma, step: latents * 0.5, x, seed=3)
    fork = trajectory.fork(2, 2)
    fork.advance(lambda latents, sigma, step: latents * 0.25)
    return [trajectory.latents, trajectory.log_probs, trajectory.relative_l1, fork.latents, fork.log_probs]


def main():
    equal = 0
    for number in (0, 1):
        current.id = number
        for kind in ("float32", "float64", "float16"):
            kernels(asarray, kind, settled=False)
            for work in (kernels, rollouts):
                for i, (found, expected) in enumerate(zip(work(asarray, kind), work(lambda value: value, kind))):
                    assert isinstance(found, ndarray) and found.device.id == number, (work.__name__, i)
                    assert found.get().tobytes() == np.ascontiguousarray(expected).tobytes(), (work.__name__, kind, i)
                    equal += 1
    x = np.ones((3, 70), np.float32)
    x[1, 3] = np.nan
    value = SAMPLER.log_prob(2, asarray(x), asarray(x), asarray(x))
    try:
        cg.advantages(value, group_size=3)
    except cg.NonFinite as error:
        assert "cuda:1" in str(error) and "sample 1 at step 2" in str(error), error
    else:
        raise AssertionError("what is not finite was not found")
    print(f"{equal} equal")


main()
