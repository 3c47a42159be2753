"""Tensors of CUDA devices, with tensors of the CPU standing for them: kernels are the CPU's functions, memory of the
device is the CPU's, and copies arrive when they are waited for."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import shutil
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from conftest import ROOT
from test_calls import calls

import chunkgrpo as cg
import chunkgrpo.forward
import chunkgrpo.torch as cgt
from chunkgrpo import _arrays, _cuda, _frameworks, _on_device, _queues, _status
from chunkgrpo._staging import Staging

SAMPLER = cg.Sampler(cg.Schedule.shifted(steps=6, shift=3.0))
PLAN = cg.ChunkPlan([2, 3])


class Copies(Staging):
    """What comes down is NaN until `wait`."""

    waits = 0

    def __init__(self, torch, device):
        super().__init__(torch, device)
        self.pending = []

    def down(self, tensor):
        host = torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else torch.full_like(tensor, 77)
        self.pending.append((host, tensor))
        return host

    def wait(self):
        Copies.waits += bool(self.pending)
        for host, tensor in self.pending:
            host.copy_(tensor)
        self.pending.clear()
        word = _status.of("torch", 0)
        if word is not None:
            _status.check(int(word), "torch", 0)


class Device(_cuda.TorchCuda):
    stream_number = capture_number = 0

    def __init__(self, device):
        super().__init__(device)
        self.index, self.device, self._copies = 0, "cuda:0", Copies(torch, device)

    def stream(self):
        return Device.stream_number

    def capture(self):
        return Device.capture_number

    def wait(self):
        pass

    def queue(self, shape, leading):
        """The library gets tensors of the CPU; the queue that a kernel would get is kept."""
        Device.latest = super().queue(shape, leading).contents


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(_on_device, "DEVICE", {"cuda": 0})
    monkeypatch.setattr(_frameworks, "_make_torch_on_cpu", lambda value: [])
    monkeypatch.setattr(_frameworks, "_torch_on_cpu", [None])
    monkeypatch.setattr(_frameworks, "of", lambda value, name, of=_frameworks.of: on_device(value) or of(value, name))
    monkeypatch.setattr(_status, "words", {})
    monkeypatch.setattr(_queues, "_queues", {})
    monkeypatch.setattr(_queues, "_status", _status)
    Device.stream_number = Device.capture_number = Copies.waits = 0


def on_device(value):
    return Device(value.device) if isinstance(value, torch.Tensor) else None


def tensors(count=3, shape=(3, 5, 7)):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


DRIVER = ROOT / "build" / "gpu" / "lib"


def checked(mode, *command):
    """The results of a program of Tests/gpu/check."""
    if mode == "emulated" and not (DRIVER / "libcuda.so.1").exists():
        pytest.skip("the driver that emulates a device is not built; `make test-gpu` builds it")
    check = ROOT / "Tests" / "gpu" / "check"
    environment = {**os.environ, "GPU_CHECK_DEVICE": mode, "PYTHONPATH": f"{ROOT / 'bindings/python'}:{check}"}
    if mode == "emulated":
        environment.update(LD_LIBRARY_PATH=str(DRIVER), FAKE_CUDA_ANY_POINTER="1")
    ran = subprocess.run([sys.executable, check / command[0], *command[1:]], env=environment, capture_output=True, text=True)
    rows = [json.loads(line) for line in ran.stdout.splitlines()]
    assert rows and all(row["ok"] for row in rows), ran.stdout + ran.stderr
    return rows


@pytest.mark.parametrize("kind, mode", [("float32", "pretended"), ("float32", "emulated"), ("bfloat16", "emulated")])
def test_every_function_on_a_device_has_the_bits_of_the_cpu(kind, mode):
    """Over 600 comparisons a type: rollouts are made step by step there, and on the CPU in one call. Emulated, it is the
    source of the CUDA kernels that computes."""
    assert sum(row["equal"] for row in checked(mode, "bits.py", kind)) > 600


def test_kernels_find_what_is_not_finite_and_threads_do_not_meet():
    names = [row["name"] for row in checked("emulated", "graphs.py")]
    assert "NaN is named at the next wait" in names and "streams: four threads" in names


def test_an_iteration_on_emulated_kernels():
    rows = {row["name"]: row for row in checked("emulated", "iteration.py")}
    assert "iteration, Nothing, kernels in place" in rows


def test_variants_of_kernels_are_timed_and_compared_with_the_cpu(tmp_path):
    """Pretended, all of them go their way without a kernel; emulated, the arguments give the library's source its bits."""
    if not shutil.which("clang++-19"):
        pytest.skip("clang++-19 compiles the variants, and is not here")
    subprocess.run([ROOT / "scripts" / "build-ptx", "--variants", tmp_path], check=True)
    names = json.loads((tmp_path / "variants.json").read_text())
    assert checked("pretended", "tune.py", tmp_path)[-1]["done"] == 2 * len(names)
    rows = [row for row in checked("emulated", "tune.py", tmp_path) if "wrong" in row]
    assert len(rows) == 10 and not any(row["wrong"] for row in rows)


def test_a_call_has_the_stream_and_a_workspace_of_zeros_that_is_large_enough(device):
    x, v, _ = tensors()
    size = ctypes.c_size_t()
    assert cg._library.lib.cgrpo_cuda_workspace(3, 35, 1, ctypes.byref(size)) == 0
    Device.stream_number = 123
    SAMPLER.log_prob(2, x, v, x)
    queue = Device.latest
    assert queue.stream == 123 and queue.workspace_size >= size.value and queue.status
    assert not any(ctypes.string_at(queue.workspace, queue.workspace_size))
    again = ctypes.addressof(queue)
    SAMPLER.log_prob(2, x, v, x)
    assert ctypes.addressof(Device.latest) == again  # nothing is made for the second call


def test_each_stream_and_each_capture_has_a_workspace_of_its_own(device):
    x, v, _ = tensors()
    seen = []
    for stream, capture in ((1, 0), (2, 0), (1, 7), (2, 7), (1, 8), (1, 0), (2, 0)):
        Device.stream_number, Device.capture_number = stream, capture
        SAMPLER.log_prob(2, x, v, x)
        seen.append(Device.latest.workspace)
    assert len(set(seen[:5])) >= 4 and seen[5:] == seen[:2]
    assert len({seen[0], seen[1], seen[2], seen[3]}) == 4
    assert {key[3] for key in _queues._queues} == {0, 8}  # those of captures that have ended are let go


def test_a_larger_batch_gets_a_larger_workspace(device):
    x, v, _ = tensors()
    SAMPLER.log_prob(2, x, v, x)
    small = Device.latest.workspace_size
    large = torch.randn(40, 5000)
    SAMPLER.log_prob(2, large, large, large)
    assert Device.latest.workspace_size > small


def test_the_first_call_in_a_capture_is_refused(device):
    x, v, _ = tensors()
    Device.capture_number = 5
    with pytest.raises(cg.InvalidArgument, match="first call on cuda:0 is inside the capture.*make one call before"):
        SAMPLER.log_prob(2, x, v, x)


def test_seed_and_sample_ids_on_the_device_are_left_there(device):
    x, v, _ = tensors()
    seed, ids = torch.tensor([5]), torch.tensor([4, 5, 6])
    SAMPLER.step(2, x, v, seed=seed, sample_ids=ids)
    assert (Device.latest.seed, Device.latest.sample_ids) == (seed.data_ptr(), ids.data_ptr())
    SAMPLER.step(2, x, v, seed=5, sample_ids=ids)
    assert (Device.latest.seed, Device.latest.sample_ids) == (None, ids.data_ptr())
    SAMPLER.step(2, x, v, seed=5)
    assert (Device.latest.seed, Device.latest.sample_ids) == (None, None)
    cg.normal((3, 4), seed, 2, ids, like=x)
    assert (Device.latest.seed, Device.latest.sample_ids) == (seed.data_ptr(), ids.data_ptr())
    assert Copies.waits == 0
    with pytest.raises(cg.InvalidArgument, match=r"sample_ids has shape \(3,\); it must be \(2,\)"):
        SAMPLER.step(2, x[:2], v[:2], seed=5, sample_ids=ids)
    with pytest.raises(cg.WrongType, match="seed has element type int32; on a device it must be int64 or uint64"):
        SAMPLER.step(2, x, v, seed=seed.int())


def test_no_function_waits_for_the_device(device):
    x, v, e = tensors()
    after, value = SAMPLER.step(2, x, v, seed=1)
    SAMPLER.log_prob_vjp(2, x, v, after, torch.ones(3))
    trajectory = SAMPLER.rollout(lambda latents, sigma, step: latents * 0.5, x, seed=1)
    velocities = trajectory.latents[:, :5] * 0.45
    SAMPLER.log_probs_vjp(trajectory.latents, velocities, SAMPLER.log_probs(trajectory.latents, velocities))
    cg.divergences_vjp(SAMPLER, velocities, velocities * 0.9, cg.divergences(SAMPLER, velocities, velocities * 0.9))
    d = cg.forward.distances(x, v, seed=1, old_velocity=e)
    cg.forward.distances_vjp(x, v, cg.forward.Distances(distance=d.distance), seed=1)
    cg.forward.noised(x, torch.full((3,), 0.5), seed=1)
    assert Copies.waits == 0


def iteration(x, **options):
    """The gradient of a chunk loss, of a model with weights."""
    model = torch.nn.Linear(7, 7)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-0.5, 0.5, 49).view(7, 7))
        model.bias.fill_(0.1)
    velocity = lambda latents, sigma, step: model(latents)  # noqa: E731
    trajectory = SAMPLER.rollout(velocity, x, seed=1)
    advantages = trajectory.images.double().flatten(1).mean(1)
    rows = trajectory.latents, trajectory.log_probs - 1e-5, advantages, PLAN
    out = cgt.streamed_backward(velocity, SAMPLER, *rows, check=False, clip=1.0, **options)
    return [out.loss, out.ratios, out.new_log_probs, out.grad_log_probs, model.weight.grad, trajectory.log_probs]


def test_an_iteration_waits_once_and_has_the_gradient_of_the_cpu(request):
    x = tensors(1)[0]
    expected = iteration(x)
    request.getfixturevalue("device")
    found = iteration(x)
    assert Copies.waits == 1
    for one, other in zip(found, expected):
        assert torch.equal(one, other)


def test_autograd_on_a_device_has_the_gradients_of_the_cpu(request):
    x, v, _ = tensors()
    trajectory = SAMPLER.rollout(lambda latents, sigma, step: latents * 0.5, x, seed=1)

    def gradients():
        velocities = (trajectory.latents[:, :5] * 0.45).clone().requires_grad_()
        out = cgt.chunk_policy_loss(
            SAMPLER, trajectory.latents, velocities, trajectory.log_probs, torch.ones(3), PLAN, check=False, clip=1.0
        )
        out.loss.backward()
        w = v.clone().requires_grad_()
        after, value = cgt.step(SAMPLER, 1, x, w, seed=3)
        (value.sum() + cgt.divergence(SAMPLER, 1, w, x).sum()).backward()
        return [out.loss.detach(), velocities.grad, w.grad, after]

    expected = gradients()
    request.getfixturevalue("device")
    for one, other in zip(gradients(), expected):
        assert torch.equal(one, other)


def test_what_is_not_finite_is_named_where_the_host_waits_and_forgotten_then(device):
    x, v, _ = tensors()
    value = SAMPLER.log_prob(2, x, v, x)[:, None]
    word = _status.of("torch", 0)
    assert int(word) == 0
    word.fill_((4 << 32) | 3)
    with pytest.raises(cg.NonFinite, match="an earlier call on cuda:0: .*sample 2 at step 3.*not finite"):
        cg.chunk_loss(value, value, [1.0, 2.0, 3.0], cg.ChunkPlan([1]))
    cg.chunk_loss(value, value, [1.0, 2.0, 3.0], cg.ChunkPlan([1]))
    assert int(word) == 0


def test_a_penalty_that_is_not_finite_is_noted_unless_something_was_before(device, monkeypatch):
    word = torch.zeros(1, dtype=torch.int64)
    monkeypatch.setitem(_status.words, ("torch", None), word)
    _status.note(torch.tensor(True), 4)
    assert int(word) == 0
    _status.note(torch.tensor(False), 4)
    _status.note(torch.tensor(False), 2)
    with pytest.raises(cg.NonFinite, match="the penalty of step 4 is not finite"):
        _status.check(int(word), "torch", None)
    _status.note(torch.tensor(False), None)
    with pytest.raises(cg.NonFinite, match="the penalty is not finite"):
        _status.check(int(word), "torch", None)


def test_a_trajectory_on_a_device_is_pickled_and_goes_on(device):
    x = tensors(1)[0]
    model = lambda latents, sigma, step: latents * 0.5  # noqa: E731
    trajectory = SAMPLER.begin(x, seed=1)
    trajectory.advance(model, steps=2)
    copy = pickle.loads(pickle.dumps(trajectory))
    for one in (trajectory, copy):
        one.advance(model)
    assert torch.equal(copy.latents, trajectory.latents) and torch.equal(copy.log_probs, trajectory.log_probs)


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    """Which operations of PyTorch's run on whole latents."""

    def __init__(self, size):
        super().__init__()
        self.size, self.seen = size, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.numel() >= self.size:
            self.seen.append(function.overloadpacket.__name__)
        return out


def train(model, x):
    rolled = SAMPLER.rollout(model, x, seed=3)
    cgt.streamed_backward(model, SAMPLER, rolled.latents, rolled.log_probs, torch.ones(3), PLAN, check=False)


def test_an_iteration_on_a_device_copies_latents_into_the_trajectory_and_a_step_for_the_model(device):
    """In each pass: a copy of all steps at once would take the memory of another rollout."""
    (x,), weight = tensors(1), torch.nn.Parameter(torch.tensor(0.3))
    with Operations(x.numel()) as operations:
        train(lambda latents, sigma, step: weight * latents, x)
    copies = [name for name in operations.seen if name in ("copy_", "clone", "contiguous", "_to_copy", "fill_")]
    assert copies == ["copy_"] + 2 * PLAN.steps * ["clone"]


def test_an_iteration_on_a_device_runs_little_python(device):
    (x,), weight = tensors(1), torch.nn.Parameter(torch.tensor(0.3))
    found = calls(lambda: train(lambda latents, sigma, step: weight * latents, x))
    assert found <= 2000, found


def test_a_velocity_is_converted_and_checked_on_the_device(device):
    x = tensors(1)[0].bfloat16()
    given = SAMPLER.rollout(lambda latents, sigma, step: latents.float() * 0.5, x, seed=1).latents
    assert torch.equal(given, SAMPLER.rollout(lambda latents, sigma, step: latents * 0.5, x, seed=1).latents)
    with pytest.raises(cg.InvalidArgument, match=r"the velocity returned has shape \(3, 5\); it must be \(3, 5, 7\)"):
        SAMPLER.rollout(lambda latents, sigma, step: latents[..., 0], x, seed=1)
    with pytest.raises(cg.WrongType, match="the velocity returned has element type torch.complex64"):
        SAMPLER.rollout(lambda latents, sigma, step: latents.to(torch.complex64), x, seed=1)
    with pytest.raises(cg.InvalidArgument, match="written to its latents"):
        SAMPLER.rollout(lambda latents, sigma, step: latents.mul_(0.5), x, seed=1)


def test_layouts_and_shapes_that_a_device_cannot_take_are_refused_or_copied(device):
    x, v, _ = tensors(3, (4, 5, 7))
    turned = x.transpose(1, 2)
    assert torch.equal(SAMPLER.predicted_image(1, turned, turned), SAMPLER.predicted_image(1, x, x).transpose(1, 2))
    with pytest.raises(cg.InvalidArgument, match=r"latents has shape \(4,\)"):
        SAMPLER.predicted_image(1, x[:, 0, 0], x[:, 0, 0])
    with pytest.raises(cg.InvalidArgument, match="each size must be at least 1"):
        SAMPLER.predicted_image(1, x[:0], x[:0])
    with pytest.raises(cg.InvalidArgument, match="requires grad"):
        SAMPLER.predicted_image(1, x, v.clone().requires_grad_())
    with pytest.raises(cg.InvalidArgument, match=r"grad_log_prob has shape \(3,\); it must be \(4,\)"):
        SAMPLER.log_prob_vjp(1, x, v, x, torch.ones(3))
    with pytest.raises(cg.WrongType, match="int64"):
        SAMPLER.predicted_image(1, x.long(), x.long())


def test_functions_without_kernels_copy_to_the_cpu(device):
    x, v, _ = tensors()
    found = cg.norm_hinge(v, x).hinges
    assert Copies.waits >= 1
    np.testing.assert_array_equal(found, cg.norm_hinge(v.numpy(), x.numpy()).hinges)


def test_a_scheduler_and_a_scripts_step_on_a_device_have_the_numbers_of_the_cpu(request):
    diffusers = pytest.importorskip("chunkgrpo.diffusers")
    from chunkgrpo.compat import gcpo

    x, v, _ = tensors()

    def work():
        scheduler = diffusers.FlowMatchSDEScheduler(eta=0.7, seed=3)
        scheduler.set_timesteps(5)
        latents = x
        for t in scheduler.timesteps:
            latents = scheduler.step(latents * 0.5, t, latents).prev_sample
        record = scheduler.trajectory
        velocity = v.clone().requires_grad_()
        after, image, log_prob = gcpo.flow_grpo_step(velocity, x, 0.7, scheduler.sigmas, 2, x + 0.1)
        log_prob.sum().backward()
        return [latents, record.latents, record.log_probs, record.relative_l1, log_prob.detach(), velocity.grad]

    expected = work()
    request.getfixturevalue("device")
    for one, other in zip(work(), expected):
        assert torch.equal(one, other)


def test_rows_and_runs_on_a_device_are_those_of_the_cpu(request):
    x, _, _ = tensors()
    velocity = lambda latents, sigma, step: latents * 0.5 - sigma  # noqa: E731

    def work():
        runs = [SAMPLER.begin(x[rows], seed=3, sample_ids=ids) for rows, ids in ((slice(0, 1), [5]), (slice(1, 3), [0, 2**40]))]
        for run in runs:
            run.advance(velocity, steps=2)
        both = cg.concatenate(runs)
        part = both[[2, 0]]
        for trajectory in (part, both):
            trajectory.advance(velocity)
        masked, moved = both[torch.tensor([True, False, True])], part.to("cpu")
        assert len(masked) == 2
        return [a for t in (part, both, masked, moved) for a in (t.latents, t.log_probs, t.relative_l1)]

    expected = work()
    request.getfixturevalue("device")
    for one, other in zip(work(), expected):
        assert torch.equal(one, other)


class OnCuda(torch.Tensor):
    """A tensor of the CPU that says it is on a device."""

    is_cuda = property(lambda self: True)


def on_cuda(tensor):
    return tensor.as_subclass(OnCuda)


def test_a_recorded_run_knows_its_own_latents_without_a_look_at_them():
    diffusers = pytest.importorskip("chunkgrpo.diffusers")
    x, y, _ = tensors()
    record = diffusers.RecordedTrajectory(SAMPLER, 0, x, [0, 1, 2])
    own = on_cuda(y)
    record._append(own, torch.zeros(3))
    assert record._is_own(own)
    record._expect(1, own)
    assert not record._is_own(on_cuda(y))
    own.add_(1.0)
    assert not record._is_own(own)
    with pytest.raises(cg.InvalidArgument, match="the latents were changed between steps 0 and 1"):
        record._expect(1, own)
    assert not pickle.loads(pickle.dumps(record))._is_own(own)


def test_a_timestep_of_the_run_is_known_without_a_look_at_it(monkeypatch):
    pytest.importorskip("diffusers")
    from chunkgrpo._own_timesteps import numbers_of

    timesteps = on_cuda(torch.tensor([0.0, 900.0, 500.0, 100.0]))[1:]
    times = [900.0, 500.0, 100.0]
    waits = []
    monkeypatch.setattr(OnCuda, "tolist", lambda self: waits.append(1) or torch.Tensor.tolist(self), raising=False)
    assert [numbers_of(timesteps[k], timesteps, times) for k in range(3)] == [[900.0], [500.0], [100.0]]
    assert not waits
    assert numbers_of(on_cuda(torch.tensor(123.0)), timesteps, times) == [123.0] and len(waits) == 1
    assert numbers_of(7.0, timesteps, times) == [7.0]


def test_sigmas_of_a_script_are_read_once_while_they_stay():
    pytest.importorskip("diffusers")
    from chunkgrpo.compat import _step

    sigmas = on_cuda(torch.tensor([1.0, 0.5, 0.0]))
    first = _step.sampler(sigmas, dynamics="flow_sde")
    sigmas.tolist = None  # nobody may read it again
    assert _step.sampler(sigmas, dynamics="flow_sde") is first
    del sigmas.tolist
    sigmas[1] = 0.25
    assert _step.sampler(sigmas, dynamics="flow_sde").schedule.sigmas[1] == 0.25


@pytest.mark.parametrize("hip, capability, kernels", [(None, (7, 5), True), (None, (7, 0), False), ("6.4", (9, 4), False)])
def test_amds_and_older_devices_get_copies(monkeypatch, hip, capability, kernels):
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    _cuda.has_kernels.cache_clear()
    assert _cuda.has_kernels(0) is kernels
    _cuda.has_kernels.cache_clear()


# ----------------------------------------------------------------------------------------------------------------------
# CuPy's arrays


class CuPyArray:
    """As much of an array of CuPy as is used, over one of numpy's."""

    def __init__(self, array):
        self.array, self.device = array, CuPyDevice()
        self.data = types.SimpleNamespace(ptr=array.__array_interface__["data"][0])

    shape, strides, dtype, ndim = (property(lambda self, n=n: getattr(self.array, n)) for n in ("shape", "strides", "dtype", "ndim"))
    T = property(lambda self: CuPyArray(self.array.T))
    __mul__ = lambda self, number: CuPyArray(self.array * np.asarray(number, self.dtype))  # noqa: E731
    __getitem__ = lambda self, index: CuPyArray(self.array[index])  # noqa: E731
    __len__ = lambda self: len(self.array)  # noqa: E731

    def __setitem__(self, index, value):
        self.array[index] = value.array

    def get(self):
        return self.array.copy()

    def fill(self, number):
        self.array.fill(number)

    def astype(self, dtype, copy):
        return CuPyArray(self.array.astype(dtype, copy=copy))

    def swapaxes(self, *axes):
        return CuPyArray(self.array.swapaxes(*axes))


CuPyArray.__module__ = "cupy"


class CuPyDevice:
    id = 1
    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda self, *_: None  # noqa: E731
    __eq__ = lambda self, other: self.id == other.id  # noqa: E731


class FakeCuPy:
    ndarray = CuPyArray
    stream = types.SimpleNamespace(ptr=99, is_capturing=lambda: False, synchronize=lambda: None)
    cuda = types.SimpleNamespace(get_current_stream=lambda: FakeCuPy.stream)

    def asarray(self, value):
        return value if isinstance(value, CuPyArray) else CuPyArray(np.array(value))

    def ascontiguousarray(self, value, dtype=None):
        return CuPyArray(np.ascontiguousarray(value.array, dtype))

    def empty(self, shape, dtype):
        return CuPyArray(np.empty(shape, dtype))

    def zeros(self, shape, dtype):
        return CuPyArray(np.zeros(shape, dtype))

    def repeat(self, array, count, axis):
        return CuPyArray(np.repeat(array.array, count, axis))


def test_arrays_of_cupy_are_taken_in_place_on_their_current_stream(monkeypatch):
    cupy = FakeCuPy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(_on_device, "DEVICE", {"cuda": 0})
    monkeypatch.setattr(_status, "words", {})
    monkeypatch.setattr(_queues, "_queues", {})
    streams = []

    def queue(self, shape, leading, own=_cuda.CuPyCuda.queue):
        streams.append(own(self, shape, leading).contents.stream)

    monkeypatch.setattr(_cuda.CuPyCuda, "queue", queue)
    x, v, e = (tensor.numpy() for tensor in tensors())

    def work(x, v, e):
        trajectory = SAMPLER.rollout(lambda latents, sigma, step: latents * 0.5, x, seed=1)
        fork = trajectory.fork(2, 2)
        return [
            *SAMPLER.step(2, x, v, seed=1), SAMPLER.log_prob(2, x, v, e), SAMPLER.log_prob_vjp(2, x, v, e, np.ones(3)),
            trajectory.latents, trajectory.log_probs, fork.latents, cg.forward.distances(x, v, noise=e).distance,
            cg.normal((3, 4), 1, 2, like=x),
        ]  # fmt: skip

    expected = work(x, v, e)
    found = work(*map(cupy.asarray, (x, v, e)))
    for one, other in zip(found, expected):
        assert isinstance(one, CuPyArray)
        np.testing.assert_array_equal(one.array, other)
    assert set(streams) == {99}
    with pytest.raises(cg.WrongType, match="velocity is on cpu; it must be on cuda:1, like latents"):
        SAMPLER.log_prob(2, cupy.asarray(x), v, cupy.asarray(x))
    assert _arrays.doubles(cupy.asarray(e), "e").dtype == np.float64


def test_arrays_in_memory_that_the_host_may_not_touch_have_the_bits_of_the_cpu_and_no_function_waits():
    """On the two devices of a driver that does its work late, in a process of its own."""
    if not (DRIVER / "libcuda.so.1").exists():
        pytest.skip("the driver that emulates devices is not built; `make test-gpu` builds it")
    program = ROOT / "Tests" / "python" / "cupy_on_a_driver.py"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(DRIVER), "PYTHONPATH": str(ROOT / "bindings/python")}
    ran = subprocess.run([sys.executable, program], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert int(ran.stdout.split()[0]) > 100


# ----------------------------------------------------------------------------------------------------------------------
# Arrays that PyTorch borrows by DLPack


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_arrays_of_jax_on_a_device_are_lent_to_torch_and_results_are_its_own(kind, request, monkeypatch):
    jax = pytest.importorskip("jax")
    arrays = [jax.numpy.asarray(tensor.numpy()).astype(kind) for tensor in tensors()]

    def work():
        x, v, e = arrays
        after, value = SAMPLER.step(2, x, v, seed=1)
        trajectory = SAMPLER.rollout(lambda latents, sigma, step: latents * 0.5, x, seed=1)
        return [
            after, value, SAMPLER.log_prob(2, x, v, e), SAMPLER.log_prob_vjp(2, x, v, e, jax.numpy.ones(3)),
            SAMPLER.log_prob_vjp(2, x, v, e, [1.0, 2.0, 3.0]), SAMPLER.log_prob_vjp(2, x, v, e, np.ones(3)),
            trajectory.latents, trajectory.log_probs, cg.forward.distances(x, v, noise=e).distance,
            cg.forward.noised(x, jax.numpy.full((3,), 0.5), seed=1), cg.normal((3, 4), 1, 2, like=x),
            SAMPLER.log_probs(trajectory.latents, trajectory.latents[:, :5]),
        ]  # fmt: skip

    expected = work()
    lent = []
    request.getfixturevalue("device")
    from chunkgrpo import _bridged

    class OnDevice(_bridged.Bridged, Device):
        def __init__(self, value, back, copied):
            Device.__init__(self, torch.device("cpu"))
            self._back, self.copied = back, copied
            lent.append(self)

    monkeypatch.setattr(_bridged, "on_cuda", lambda value: isinstance(value, jax.Array))
    monkeypatch.setattr(_bridged, "Bridged", OnDevice)
    for one, other in zip(work(), expected):
        assert isinstance(one, jax.Array) and one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    assert len(lent) > 10
