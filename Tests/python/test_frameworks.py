"""Arrays of other frameworks: the same numbers as numpy's, in the framework, type and device of the latents, without a
copy where the library can read them; and a clear exception for what it cannot read."""

from __future__ import annotations

import collections
import dataclasses
import gc
import sys
import types
import weakref

import numpy as np
import pytest

import chunkgrpo as cg
import chunkgrpo.torch as cgt
from chunkgrpo import _arrays, _dlpack, _frameworks, _library, _staging, _storage
from conftest import ROOT  # noqa: F401  (puts the package on the path)

torch = pytest.importorskip("torch")
ml_dtypes = pytest.importorskip("ml_dtypes")

SAMPLER = cg.Sampler(cg.Schedule.shifted(17, 3.0))
NUMPY_TYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


# ----------------------------------------------------------------------------------------------------------------------
# One entry a framework: from numpy, to numpy, of which type


class Torch:
    def of(self, array):
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(np.array(array.view(np.int16))).view(torch.bfloat16)
        return torch.from_numpy(np.array(array))

    def numpy(self, value):
        assert type(value) is torch.Tensor
        if value.dtype == torch.bfloat16:
            return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        return value.numpy()

    def address(self, value):
        return value.data_ptr()


class Jax:
    doubles = np.float32  # without jax_enable_x64

    def __init__(self):
        self.jax = pytest.importorskip("jax")

    def of(self, array):
        if array.dtype == np.float64:
            pytest.skip("JAX has no float64 without jax_enable_x64")
        return self.jax.numpy.array(array, copy=True)

    def numpy(self, value):
        assert isinstance(value, self.jax.Array)
        return np.asarray(value)

    def address(self, value):
        return value.unsafe_buffer_pointer()


class MLX:
    def __init__(self):
        self.mlx = pytest.importorskip("mlx.core")

    def of(self, array):
        mx = self.mlx
        if array.dtype.name == "bfloat16":
            value = mx.array(array.view(np.uint16)).view(mx.bfloat16)
        else:
            value = mx.array(array, dtype=getattr(mx, array.dtype.name))
        mx.eval(value)
        return value

    def numpy(self, value):
        mx = self.mlx
        assert isinstance(value, mx.array)
        if value.dtype == mx.bfloat16:
            return np.asarray(value.view(mx.uint16)).view(ml_dtypes.bfloat16)
        return np.asarray(value)

    def address(self, value):
        return _dlpack.read(value, "value").ctypes.data


class Exporting:
    """An array of no framework that the package knows, which has DLPack alone."""

    def __init__(self, array, versioned=True):
        self.tensor, self.versioned, self.array = Torch().of(array), versioned, array
        self.shape = array.shape

    def __dlpack__(self, **options):
        if not self.versioned and options:
            raise TypeError("no options")
        return self.tensor.__dlpack__(**options)


class Exported:
    """Results are of numpy."""

    def of(self, array):
        return Exporting(array)

    def numpy(self, value):
        assert type(value) is np.ndarray
        return value

    def address(self, value):
        return value.tensor.data_ptr()


FRAMEWORKS = {"torch": Torch, "jax": Jax, "mlx": MLX, "dlpack": Exported}


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    return FRAMEWORKS[request.param]()


types_of_elements = pytest.mark.parametrize("dtype", NUMPY_TYPES.values(), ids=NUMPY_TYPES)


def example(dtype, *shape, seed=0):
    return cg.normal(shape or (4, 3, 5), seed, 0, dtype=dtype)


def same(framework, value, expected):
    """Bit for bit, in the framework, with the type of numpy's result (or what the framework has for float64)."""
    array = framework.numpy(value)
    if expected.dtype == np.float64 and hasattr(framework, "doubles"):
        expected = expected.astype(framework.doubles)
    assert array.dtype == expected.dtype and array.shape == expected.shape
    np.testing.assert_array_equal(array.view(np.uint8), np.ascontiguousarray(expected).view(np.uint8))


# ----------------------------------------------------------------------------------------------------------------------
# The same numbers, where they belong


@types_of_elements
def test_steps_give_the_numbers_of_numpy_in_the_framework_and_type_of_the_latents(framework, dtype):
    x, v, u, e = (example(dtype, seed=seed) for seed in range(4))
    fx, fv, fu, fe = map(framework.of, (x, v, u, e))
    extras, foreign = {"unconditional": u, "guidance": 2.0}, {"unconditional": fu, "guidance": 2.0}

    next_x, log_prob = SAMPLER.step(3, x, v, noise=e, **extras)
    theirs = SAMPLER.step(3, fx, fv, noise=fe, **foreign)
    for value, expected in zip(theirs, (next_x, log_prob)):
        same(framework, value, expected)
    for value, expected in zip(SAMPLER.step(3, fx, fv, seed=5), SAMPLER.step(3, x, v, seed=5)):
        same(framework, value, expected)
    same(framework, SAMPLER.log_prob(3, fx, fv, framework.of(next_x), **foreign), log_prob)
    same(framework, SAMPLER.predicted_image(3, fx, fv), SAMPLER.predicted_image(3, x, v))
    upstream = np.linspace(-1, 1, 4)
    expected = SAMPLER.log_prob_vjp(3, x, v, next_x, upstream, **extras)
    grads = SAMPLER.log_prob_vjp(3, fx, fv, framework.of(next_x), upstream, **foreign)
    for value, gradient in zip(grads, expected):
        same(framework, value, gradient)


@types_of_elements
def test_trajectories_give_the_numbers_of_numpy_in_the_framework_and_type_of_the_latents(framework, dtype):
    latents, velocities = example(dtype, 4, 6, 3, seed=1), example(dtype, 4, 5, 3, seed=2)
    other, e = example(dtype, 4, 5, 3, seed=3), example(dtype, 4, 5, 3, seed=4)
    fl, fv, fo, fe = map(framework.of, (latents, velocities, other, e))
    upstream = np.linspace(-1, 1, 20).reshape(4, 5)
    same(framework, SAMPLER.log_probs(fl, fv, 2), SAMPLER.log_probs(latents, velocities, 2))
    same(framework, SAMPLER.log_probs_vjp(fl, fv, upstream), SAMPLER.log_probs_vjp(latents, velocities, upstream))
    same(framework, cg.relative_l1(fl), cg.relative_l1(latents))
    same(framework, cg.divergences(SAMPLER, fv, fo), cg.divergences(SAMPLER, velocities, other))
    same(
        framework,
        cg.divergences_vjp(SAMPLER, fv, fo, upstream, kind="mean"),
        cg.divergences_vjp(SAMPLER, velocities, other, upstream, kind="mean"),
    )
    same(
        framework,
        cg.divergences_from_sampled(SAMPLER, fl, fv, noise=fe),
        cg.divergences_from_sampled(SAMPLER, latents, velocities, noise=e),
    )
    same(
        framework,
        cg.divergences_from_sampled_vjp(SAMPLER, fl, fv, upstream, seed=3),
        cg.divergences_from_sampled_vjp(SAMPLER, latents, velocities, upstream, seed=3),
    )


@types_of_elements
def test_a_rollout_gives_the_numbers_of_numpy_and_its_model_gets_arrays_of_the_framework(framework, dtype):
    x_init = example(dtype, 4, 3, 2)
    velocities = [example(dtype, 4, 3, 2, seed=9 + k) for k in range(17)]
    expected = SAMPLER.rollout(lambda x, sigma, k: velocities[k], x_init, seed=8)
    seen = []

    def velocity(x, sigma, k):
        seen.append(framework.numpy(x).tobytes())
        assert sigma == SAMPLER.schedule.sigmas[k]
        return framework.of(velocities[k])

    trajectory = SAMPLER.begin(framework.of(x_init), seed=8)
    trajectory.advance(velocity, until=4)
    assert np.isnan(framework.numpy(trajectory.log_probs)[:, 4:]).all()  # what is shown is as old as it was
    trajectory.advance(velocity)
    same(framework, trajectory.latents, expected.latents)
    same(framework, trajectory.images, expected.images)
    same(framework, trajectory.log_probs, expected.log_probs)
    same(framework, trajectory.relative_l1, expected.relative_l1)
    assert seen == [np.ascontiguousarray(expected.latents[:, k]).tobytes() for k in range(17)]


def test_a_rollout_of_second_order_goes_on_from_its_previous_image(framework):
    sampler = cg.Sampler(SAMPLER.schedule, "dpm_sde")
    x_init = example(NUMPY_TYPES["bfloat16"])

    def velocity(x, sigma, k):
        return framework.of((np.tanh(framework.numpy(x).astype(np.float32)) * sigma).astype(ml_dtypes.bfloat16))

    whole = sampler.rollout(velocity, framework.of(x_init), seed=1)
    part = sampler.begin(framework.of(x_init), seed=1)
    part.advance(velocity, until=6)
    rest = sampler.begin(part.latents[:, 6], seed=1, position=6, previous_image=part.previous_image)
    rest.advance(velocity)
    np.testing.assert_array_equal(framework.numpy(rest.images), framework.numpy(whole.images))


@types_of_elements
def test_noise_can_be_made_like_an_array(framework, dtype):
    like = framework.of(example(dtype, 1))
    same(
        framework, cg.normal((4, 3), 7, 2, [3, 4, 5, 6], like=like), cg.normal((4, 3), 7, 2, [3, 4, 5, 6], dtype=dtype)
    )
    same(
        framework,
        cg.initial_noise((4, 3), 7, group_size=2, like=like),
        cg.initial_noise((4, 3), 7, group_size=2, dtype=dtype),
    )
    with pytest.raises(cg.InvalidArgument, match="like and dtype exclude each other"):
        cg.normal((4,), 0, 0, like=like, dtype=np.float32)


@pytest.mark.parametrize("name", ["torch", "jax", "mlx"])
def test_what_is_made_from_small_arrays_is_of_their_framework(name):
    framework = FRAMEWORKS[name]()
    rewards = np.array([0.5, 1.5, -2.0, 0.25, 1.0, 3.0], np.float32)
    same(framework, cg.advantages(framework.of(rewards), 3), cg.advantages(rewards, 3))
    assert framework.numpy(cg.best_of_n(framework.of(rewards), 2)).tolist() == cg.best_of_n(rewards, 2).tolist()
    same(
        framework,
        cg.RewardHistory().update("aabbcc", framework.of(rewards)),
        cg.RewardHistory().update("aabbcc", rewards),
    )

    plan = cg.ChunkPlan([2, 1])
    curve = np.array([[0.5, 0.25, 0.125], [1, 2, 3]], np.float32)
    weights = plan.weights(framework.of(curve))
    same(framework, weights, plan.weights(curve))
    chosen = plan.select(2, 0.5, weights=weights, seed=3)
    assert framework.numpy(chosen).tolist() == plan.select(2, 0.5, weights=plan.weights(curve), seed=3).tolist()
    assert cg.ChunkPlan.adaptive(framework.of(curve)) == cg.ChunkPlan.adaptive(curve)

    new, old = curve / 100, curve / 90
    expected = cg.chunk_loss(new, old, [1, -1], plan, ratio_bias=old, selection=np.array([[True, False], [True, True]]))
    mask = framework.of(np.array([[1, 0], [1, 1]], np.float32)) > 0
    arrays = framework.of(new), framework.of(old), framework.of(np.array([1, -1], np.float32))
    out = cg.chunk_loss(*arrays, plan, ratio_bias=framework.of(old), selection=mask)
    assert out.loss == expected.loss and out.stats == expected.stats
    same(framework, out.grad_log_probs, expected.grad_log_probs)
    same(framework, out.ratios, expected.ratios)
    same(framework, out.grad_ratio_bias, expected.grad_ratio_bias)


def test_bfloat16_small_arrays_and_integers_are_read_too():
    rewards = torch.tensor([0.5, 1.5, -2.0, 0.25])
    assert cg.advantages(rewards.bfloat16(), len(rewards)).tolist() == cg.advantages(rewards, len(rewards)).tolist()
    ids = torch.tensor([5, 6, 7, 8])
    x = example(np.float32)
    np.testing.assert_array_equal(
        SAMPLER.step(0, x, x, seed=1, sample_ids=ids)[0], SAMPLER.step(0, x, x, seed=1, sample_ids=[5, 6, 7, 8])[0]
    )
    np.testing.assert_array_equal(
        cg.advantages([1, 2, 3, 4], groups=torch.tensor([0, 1, 0, 1])), cg.advantages([1, 2, 3, 4], groups=[0, 1, 0, 1])
    )


def test_frameworks_can_be_mixed_on_the_cpu():
    x, v = example(np.float32), example(np.float32, seed=1)
    value = SAMPLER.log_prob(3, Torch().of(x), v, MLX().of(x))
    same(Torch(), value, SAMPLER.log_prob(3, x, v, x))


@pytest.mark.parametrize("source", ["torch", "jax", "mlx", "dlpack", "numpy"])
@pytest.mark.parametrize("target", ["torch", "jax", "mlx", "dlpack", "numpy"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_velocity_of_any_framework_and_type_is_converted_to_that_of_the_latents(source, target, dtype):
    """To nearest, ties to even, as ml_dtypes rounds."""

    class Numpy:
        of = staticmethod(np.array)

    kinds = {**FRAMEWORKS, "numpy": Numpy}
    x_init = np.zeros((2, 40), NUMPY_TYPES[dtype])
    velocity = np.float32(1) + np.arange(80, dtype=np.float32).reshape(2, 40) * np.float32(2**-10)  # ties of bfloat16
    expected = cg.Sampler([1, 0.5], "ode").rollout(lambda *_: velocity.astype(NUMPY_TYPES[dtype]), x_init).images
    value = kinds[source]().of(velocity)
    images = cg.Sampler([1, 0.5], "ode").rollout(lambda *_: value, kinds[target]().of(x_init)).images
    images = np.asarray(images) if target == "numpy" else FRAMEWORKS[target]().numpy(images)
    np.testing.assert_array_equal(images.astype(np.float32), expected.astype(np.float32))


def test_a_velocity_that_is_not_a_number_stays_so_when_it_is_rounded_by_hand():
    bits = np.array([[0x7FFFFFFF, 0x7F800001, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F808000, 0x3F818000]], np.uint32)
    target = np.empty(bits.shape, _storage.BFLOAT16.dtype)
    _storage.BFLOAT16.copy(target, bits.view(np.float32))
    rounded = target.view(np.uint16)[0]
    assert np.isnan(rounded.view(ml_dtypes.bfloat16)[:2].astype(float)).all()
    expected = bits[:, 2:].view(np.float32).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(rounded[2:], expected.view(np.uint16)[0])


def test_bfloat16_tensors_need_no_ml_dtypes():
    import subprocess

    code = """
import sys
sys.modules["ml_dtypes"] = None
import torch, chunkgrpo as cg
x = torch.arange(12.0).reshape(3, 4).bfloat16() / 8
s = cg.Sampler([1, 0.5, 0.25, 0])
t = s.rollout(lambda x, sigma, k: x.float() / 2, x, seed=1)
assert t.latents.dtype == torch.bfloat16 and (s.log_probs(t.latents, t.latents[:, :2] / 2) == t.log_probs).all()
"""
    path = str(ROOT / "bindings/python")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r})\n{code}"], capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()


# ----------------------------------------------------------------------------------------------------------------------
# Borrowed, not copied, and alive as long as needed


@types_of_elements
def test_contiguous_arrays_are_not_copied(framework, dtype):
    value = framework.of(example(dtype))
    borrowed = _arrays.borrow(value, "x")
    assert borrowed.array.ctypes.data == borrowed.tensor().data == framework.address(value)


def test_tensors_whose_samples_are_contiguous_are_not_copied():
    base = torch.zeros(4, 6, 3, 5)
    for value in (base[::2], base[:, 0], base[1:, 2:3], base[0].expand(4, 6, 3, 5), base.as_strided((2, 90), (180, 1))):
        assert _arrays.borrow(value, "x").array.ctypes.data == value.data_ptr()
    for value in (base.transpose(0, 1), base[:, 2:]):
        assert _arrays.borrow(value, "x", 2).array.ctypes.data == value.data_ptr()


def test_other_layouts_give_the_numbers_of_the_contiguous_ones():
    x, v, n = (torch.from_numpy(example(np.float32, 4, 2, 3, 5, seed=seed)) for seed in range(3))
    expected = SAMPLER.log_prob(3, x, v, n)
    layouts = (
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(1, 3).contiguous().transpose(1, 3),
        lambda t: t.repeat_interleave(2, 3)[..., ::2],
        lambda t: torch.view_as_complex(torch.stack([t, -t], -1)).conj().imag,  # the negative bit
        lambda t: torch.nn.Parameter(t, requires_grad=False),
        lambda t: t.numpy()[:, :, ::-1].copy()[:, :, ::-1],  # negative strides
        lambda t: t.numpy()[::-1].copy()[::-1],
    )
    for layout in layouts:
        value = SAMPLER.log_prob(3, layout(x), layout(v), layout(n))
        assert torch.equal(torch.as_tensor(value), expected)
    row = x[:1].expand(4, -1, -1, -1)
    assert torch.equal(SAMPLER.log_prob(3, row, v, n), SAMPLER.log_prob(3, row.contiguous(), v, n))
    column = x[..., :1].expand(-1, -1, -1, 5)
    assert torch.equal(SAMPLER.log_prob(3, column, v, n), SAMPLER.log_prob(3, column.contiguous(), v, n))


def test_dlpack_is_read_with_any_strides_version_and_offset():
    base = torch.arange(60.0).reshape(3, 4, 5)
    for tensor in (
        base,
        base[1:],
        base.transpose(0, 2),
        base[:, 1::2],
        base[:0],
        torch.tensor(3.0),
        base.to(torch.int8),
    ):
        for versioned in (True, False):
            value = Exporting(np.zeros(1), versioned)
            value.tensor = tensor
            array = _dlpack.read(value, "value")
            np.testing.assert_array_equal(array, tensor.numpy())
            assert array.dtype == tensor.numpy().dtype and not array.flags.writeable
    reversed_ = np.arange(20.0).reshape(4, 5)[::-1, ::-2]
    assert _dlpack.read(reversed_, "value").tolist() == reversed_.tolist()
    with pytest.raises(cg.WrongType, match="element type"):
        _dlpack.read(torch.zeros(3, dtype=torch.complex64), "value")


def test_borrowed_memory_stays_alive_while_it_is_needed(framework):
    x = example(np.float32)
    velocity = framework.of(np.zeros_like(x))
    noise = framework.of(example(np.float32, 4, 17, 3, 5))
    trajectory = SAMPLER.begin(framework.of(x), noise=noise)
    given = noise.array if isinstance(noise, Exporting) else framework.numpy(noise)
    expected = SAMPLER.rollout(lambda *_: np.zeros_like(x), x, noise=given)
    del noise
    gc.collect()
    filler = [framework.of(np.full((4, 17, 3, 5), np.nan, np.float32)) for _ in range(4)]
    trajectory.advance(lambda *_: velocity)
    same(framework, trajectory.images, expected.images)
    del filler


def test_what_is_borrowed_is_released(framework):
    value = framework.of(example(np.float32))
    holder = value.tensor if isinstance(value, Exporting) else value
    before = sys.getrefcount(holder)
    SAMPLER.log_prob(3, value, value, value)
    gc.collect()
    assert sys.getrefcount(holder) == before
    if not isinstance(framework, MLX):  # which has no weak references
        alive = weakref.ref(holder)
        del value, holder
        gc.collect()
        assert alive() is None


def test_results_do_not_change_when_the_trajectory_goes_on():
    """Immutable arrays must not share memory that the library writes to."""
    for kind in (Jax, MLX):
        framework = kind()
        trajectory = SAMPLER.begin(framework.of(example(np.float32)), seed=1)
        zero = framework.of(np.zeros((4, 3, 5), np.float32))
        trajectory.advance(lambda *_: zero, steps=1)
        first, before = trajectory.latents, framework.numpy(trajectory.latents).copy()
        seen = []
        trajectory.advance(lambda x, *_: seen.append((x, framework.numpy(x).copy())) or zero)
        np.testing.assert_array_equal(framework.numpy(first), before)
        assert all((framework.numpy(x) == copy).all() for x, copy in seen)


def test_arguments_are_never_written_to(framework):
    x, v, e = (example(np.float32, seed=seed) for seed in range(3))
    fx, fv, fe = map(framework.of, (x, v, e))
    SAMPLER.step(0, fx, fv, noise=fe)
    SAMPLER.log_prob_vjp(0, fx, fv, fe, np.ones(4))
    SAMPLER.rollout(lambda *_: fv, fx, seed=0)
    for value, expected in zip((fx, fv, fe), (x, v, e)):
        value = value.array if isinstance(value, Exporting) else framework.numpy(value)
        np.testing.assert_array_equal(value, expected)


# ----------------------------------------------------------------------------------------------------------------------
# Small calls


def test_arrays_that_are_not_plain_give_the_numbers_of_plain_ones():
    x = example(np.float32)
    read_only = x.copy()
    read_only.flags.writeable = False
    one = torch.view_as_complex(torch.tensor([[1.0, 2.0]])).conj().imag[None]  # -2, stored as 2
    assert one.is_neg() and one.is_contiguous()
    for value in (read_only, x[:, ::2], x.astype(">f4"), np.ma.array(x), x[:, :, :1]):
        other = np.zeros(value.shape, np.float32)
        expected = SAMPLER.log_prob(3, np.array(value, np.float32), other, other)
        np.testing.assert_array_equal(SAMPLER.log_prob(3, value, other, other), expected)
    zero = torch.zeros(1, 1)
    assert torch.equal(SAMPLER.log_prob(3, one, zero, zero), SAMPLER.log_prob(3, torch.tensor([[-2.0]]), zero, zero))
    assert not torch.equal(SAMPLER.log_prob(3, one, zero, one), SAMPLER.log_prob(3, -one, zero, one))
    lone = torch.view_as_complex(torch.tensor([[1.0, 2.0]], dtype=torch.float64)).conj().imag
    arrays = [torch.randn(1, 8) for _ in range(3)]
    expected = SAMPLER.log_prob_vjp(3, *arrays, torch.tensor([-2.0], dtype=torch.float64))
    assert lone.is_neg() and torch.equal(SAMPLER.log_prob_vjp(3, *arrays, lone), expected)


def test_the_address_is_that_of_the_first_element():
    read_only = np.ones(3)
    read_only.flags.writeable = False
    plain = np.zeros((4, 5), np.float32)
    strange = np.zeros((2, 3), ml_dtypes.bfloat16), np.zeros((2, 3), _storage.BFLOAT16.dtype), np.zeros(3, np.float16)
    for array in (plain, plain[1:], plain[:, 2:], plain[::-1], read_only, *strange, np.frombuffer(bytearray(64))):
        assert _library.address(array) == array.ctypes.data


def test_threads_do_not_share_what_a_call_uses():
    from concurrent.futures import ThreadPoolExecutor

    inputs = [[example(np.float32, 4, 300, seed=3 * i + j) for j in range(3)] for i in range(8)]
    expected = [SAMPLER.log_prob(3, *arrays) for arrays in inputs]
    steps = [SAMPLER.step(3, *arrays[:2], seed=i)[0] for i, arrays in enumerate(inputs)]

    def work(i):
        for _ in range(50):
            np.testing.assert_array_equal(SAMPLER.log_prob(3, *inputs[i]), expected[i])
            np.testing.assert_array_equal(SAMPLER.step(3, *inputs[i][:2], seed=i)[0], steps[i])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_few_layouts_are_remembered():
    most = _arrays._layout.cache_info().maxsize
    for size in range(2, most + 100):
        _arrays.borrow(np.zeros((1, size), np.float32), "x")
    assert _arrays._layout.cache_info().currsize <= most <= 1024


# ----------------------------------------------------------------------------------------------------------------------
# A device that copies only when it is waited for


class Delayed(_staging.Staging):
    """Stands for a GPU: what comes down is NaN until `wait`, what goes up is another tensor."""

    copies: list = []

    def __init__(self, torch, device):
        super().__init__(torch, device)
        self.pending = []

    def down(self, tensor):
        host = self.empty(tensor.shape, tensor.dtype)
        host.fill_(float("nan") if tensor.dtype.is_floating_point else 99)
        self.pending.append((host, tensor.clone()))
        return host

    def wait(self):
        for to, tensor in self.pending:
            to.copy_(tensor)
        self.copies.append(len(self.pending))
        self.pending.clear()

    def up(self, host):
        """Goes up when it is waited for, with what `host` then has."""
        tensor = host.clone()
        self.pending.append((tensor, host))
        return tensor


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(_frameworks, "staging", Delayed)
    monkeypatch.setattr(_frameworks, "_make_torch_on_cpu", lambda value: [_frameworks.Torch(value.device)])
    monkeypatch.setattr(_frameworks, "_torch_on_cpu", [])
    Delayed.copies = []
    yield
    assert sum(Delayed.copies) > 0


@types_of_elements
def test_tensors_on_a_device_are_staged_and_waited_for(device, dtype):
    for test in (
        test_steps_give_the_numbers_of_numpy_in_the_framework_and_type_of_the_latents,
        test_trajectories_give_the_numbers_of_numpy_in_the_framework_and_type_of_the_latents,
        test_a_rollout_gives_the_numbers_of_numpy_and_its_model_gets_arrays_of_the_framework,
    ):
        test(Torch(), dtype)


def test_everything_else_is_staged_and_waited_for_too(device):
    test_a_rollout_of_second_order_goes_on_from_its_previous_image(Torch())
    test_what_is_made_from_small_arrays_is_of_their_framework("torch")
    test_other_layouts_give_the_numbers_of_the_contiguous_ones()
    test_arguments_are_never_written_to(Torch())


def test_staging_on_cuda_waits_for_its_copies_on_the_current_stream_alone(monkeypatch):
    """The order of the calls, with the device's part replaced by a record of them."""
    calls = []

    class Event:
        def record(self, stream):
            calls.append(("record", stream))

        def synchronize(self):
            calls.append(("synchronize",))

    class Host:
        def copy_(self, tensor, non_blocking):
            calls.append(("copy", tensor, non_blocking))

        def to(self, device, non_blocking):
            calls.append(("to", device.type, non_blocking))

    def empty(shape, dtype, pin_memory, device):
        assert device == "cpu"
        calls.append(("empty", shape, pin_memory))
        return Host()

    device = types.SimpleNamespace(type="cuda")
    cuda = types.SimpleNamespace(Event=Event, current_stream=lambda device: f"stream of {device.type}")
    stage = _staging.Staging(types.SimpleNamespace(empty=empty, cuda=cuda), device)
    tensor = types.SimpleNamespace(shape=(3,), dtype=None)
    host = stage.down(tensor)
    stage.wait()
    stage.wait()
    stage.up(host)
    stage.wait()
    down = [("empty", (3,), True), ("copy", tensor, True)]
    event = [("record", "stream of cuda"), ("synchronize",)]
    assert calls == [*down, *event, ("to", "cuda", True), *event]


def test_arrays_of_cupy_come_and_go_by_its_own_copies(monkeypatch):
    class Device:
        id, entered = 1, 0

        def __enter__(self):
            Device.entered += 1

        def __exit__(self, *_):
            pass

    class ndarray:
        def __init__(self, array):
            self.array, self.device = array, Device()

        def get(self):
            return self.array

    ndarray.__module__ = "cupy"
    monkeypatch.setattr(_frameworks, "kernels", [])
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(asarray=lambda array: ndarray(array)))
    x = example(np.float32)
    value = SAMPLER.log_prob(3, ndarray(x), ndarray(x), ndarray(x))
    assert isinstance(value, ndarray) and Device.entered == 1
    np.testing.assert_array_equal(value.array, SAMPLER.log_prob(3, x, x, x))
    with pytest.raises(cg.WrongType, match="velocity is on cpu; it must be on cuda:1, like latents"):
        SAMPLER.log_prob(3, ndarray(x), x, ndarray(x))


# ----------------------------------------------------------------------------------------------------------------------
# What cannot be read is refused, and never ends the process

X = torch.ones(2, 3, 4)


def freed(tensor):
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


def freed_slice(tensor):
    base = torch.zeros(3, *tensor.shape)
    view = base[2]
    base.untyped_storage().resize_(64)
    return view


def fake(tensor):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        return torch.ones(tensor.shape)


class Subclass(torch.Tensor):
    """Has no memory that its data_ptr tells of."""

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise NotImplementedError("no such function")


def wrapped(tensor):
    return torch.Tensor._make_wrapper_subclass(Subclass, tensor.shape)


def deleted(tensor):
    import jax

    array = jax.numpy.ones(tensor.shape)
    array.delete()
    return array


BAD = {
    "requires grad": (lambda x: x.clone().requires_grad_(), ValueError, "requires grad.*chunkgrpo.torch"),
    "a parameter": (torch.nn.Parameter, ValueError, "requires grad.*chunkgrpo.torch"),
    "a result of autograd": (lambda x: x.clone().requires_grad_() * 2, ValueError, "requires grad.*chunkgrpo.torch"),
    "integers": (lambda x: x.int(), TypeError, "element type int32"),
    "booleans": (lambda x: x.bool(), TypeError, "element type bool"),
    "complex": (lambda x: x.to(torch.complex64), TypeError, "element type complex64"),
    "eight bits": (lambda x: x.to(torch.float8_e4m3fn), TypeError, "Float8"),
    "sparse": (lambda x: x.to_sparse(), TypeError, "layout torch.sparse_coo"),
    "compressed": (lambda x: x[0].to_sparse_csr(), TypeError, "layout torch.sparse_csr"),
    "nested": (
        lambda x: torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged),
        TypeError,
        "layout torch.jagged",
    ),
    "quantised": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), TypeError, "quantised"),
    "meta": (lambda x: x.to("meta"), TypeError, "meta device"),
    "fake": (fake, TypeError, "FakeTensor that cannot be read"),
    "a wrapper": (wrapped, TypeError, "Subclass that cannot be read"),
    "freed": (freed, ValueError, "lost its memory"),
    "a slice of what was freed": (freed_slice, ValueError, "lost its memory"),
    "deleted by JAX": (deleted, ValueError, "lost its memory"),
    "empty": (lambda x: x[:0], ValueError, "has shape"),
    "without dimensions": (lambda x: x[0, 0, 0], ValueError, "has shape"),
}


CONVERTED = ("compressed", "integers", "booleans", "eight bits")
"""What a velocity may be, or has no shape for."""


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor", "ignore:Sparse CSR", "ignore:The PyTorch API of nested")
@pytest.mark.parametrize("spoil, kind, words", BAD.values(), ids=BAD)
def test_tensors_that_cannot_be_read_are_refused(spoil, kind, words):
    bad = spoil(X)
    for name, call in (
        ("latents", lambda: SAMPLER.step(0, bad, X, seed=0)),
        ("velocity", lambda: SAMPLER.log_prob(0, X, bad, X)),
        ("noise", lambda: SAMPLER.step(0, X, X, noise=bad)),
        ("x_init", lambda: SAMPLER.begin(bad, seed=0)),
        ("latents", lambda: SAMPLER.log_probs(bad, X[:, :2])),
    ):
        with pytest.raises(kind, match=f"^{name} .*{words}|^{name} has shape") as caught:
            call()
        assert isinstance(caught.value, cg.Error)


@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
@pytest.mark.parametrize("name", [name for name in BAD if name not in CONVERTED])
def test_velocities_that_cannot_be_read_are_refused_by_a_rollout_that_can_be_made_again(name):
    spoil, kind, _ = BAD[name]
    trajectory = SAMPLER.begin(X, seed=0)
    if "grad" not in name and name != "a parameter":  # of which there is none in a rollout
        with pytest.raises((kind, ValueError), match="the velocity returned"):
            trajectory.advance(lambda x, *_: spoil(x))
        assert trajectory.position == 0
    trajectory.advance(lambda x, *_: x / 2)
    assert trajectory.done


def test_a_velocity_that_writes_to_the_latents_is_refused():
    with pytest.raises(cg.InvalidArgument, match="written to its latents"):
        SAMPLER.rollout(lambda x, *_: x.mul_(2), X, seed=0)
    with pytest.raises(ValueError, match="read-only"):
        SAMPLER.rollout(lambda x, *_: np.multiply(x, 2, out=x), X.numpy(), seed=0)


def test_a_velocity_that_requires_grad_is_taken_without_its_graph():
    weight = torch.nn.Parameter(torch.ones(4))
    states = []

    def velocity(x, sigma, k):
        states.append(torch.is_grad_enabled())
        with torch.enable_grad():
            return x * weight

    trajectory = SAMPLER.rollout(velocity, X, seed=0)
    assert not any(states) and not trajectory.latents.requires_grad
    assert torch.equal(trajectory.images, SAMPLER.rollout(lambda x, *_: x, X, seed=0).images)


def test_tensors_that_require_grad_are_read_under_no_grad():
    x = X.clone().requires_grad_()
    with torch.no_grad():
        value = SAMPLER.log_prob(3, x, x, x)
    assert torch.equal(value, SAMPLER.log_prob(3, X, X, X))
    with pytest.raises(cg.InvalidArgument, match=r"rewards requires grad.*detach\(\) it"):
        cg.advantages(torch.ones(4, requires_grad=True), 4)
    with pytest.raises(cg.InvalidArgument, match="new_log_probs requires grad.*chunkgrpo.torch"):
        cg.chunk_loss(torch.zeros(2, 2, requires_grad=True), torch.zeros(2, 2), [1, -1], [2])


@dataclasses.dataclass
class ModelOutput(collections.OrderedDict):
    """As those of diffusers."""

    sample: object = None


def test_what_a_model_wraps_its_velocity_in_is_named_with_the_way_to_take_it_out():
    hints = {
        "the velocity returned a tuple of 1; return its \\[0\\]": lambda x: (torch.nn.Parameter(x),),
        "the velocity returned a tuple of 2; return its \\[0\\]": lambda x: (x, x),
        "the velocity returned a list of 1; return its \\[0\\]": lambda x: [x],
        "the velocity returned a ModelOutput; return its .sample": lambda x: ModelOutput(sample=x),
        "the velocity returned a dict; return the array in it": lambda x: {"v": x},
        "the velocity returned None; it must return an array": lambda x: None,
        "the velocity returned a float; it must return an array": lambda x: 0.5,
    }
    for words, returned in hints.items():
        with pytest.raises(cg.WrongType, match=words):
            SAMPLER.rollout(lambda x, *_: returned(x), torch.zeros(2, 3, 4), seed=0)


def test_lists_of_arrays_are_refused_with_the_ways_to_stack_them():
    """Scripts keep a list with the latents of each step, and torch.stack puts the steps first."""
    frames = [torch.randn(4, 3, 2) for _ in range(18)]
    stacked = torch.stack(frames, dim=1)
    v = torch.zeros(4, 16, 3, 2)
    rows = [torch.zeros(4) for _ in range(16)]
    plan = cg.ChunkPlan([2, 3, 4, 7])
    calls = {
        "latents": (lambda: cg.relative_l1(frames), lambda: SAMPLER.log_probs(frames, v)),
        "velocities": (lambda: SAMPLER.log_probs(stacked, list(v.unbind(1))),),
        "x_init": (lambda: SAMPLER.begin(frames, seed=0),),
        "new_log_probs": (lambda: cg.chunk_loss(rows, np.zeros((4, 16)), np.ones(4), plan),),
        "rewards": (lambda: cg.advantages(rows, 4), lambda: cg.advantages([[r] for r in rows], 4)),
        "relative_l1": (lambda: plan.weights([row.numpy() for row in rows]),),
    }
    for name, of_one in calls.items():
        for call in of_one:
            with pytest.raises(cg.InvalidArgument, match=rf"{name} is a .*stack\({name}, (dim|axis)=1\) where each is one"):
                call()
    assert cg.advantages([torch.tensor(1.0), torch.tensor(0.0)], group_size=2).shape == (2,)  # numbers are no arrays
    with pytest.raises(cg.InvalidArgument, match="The batch comes first: stack steps along dimension 1"):
        SAMPLER.log_probs(torch.stack(frames), v.transpose(0, 1))
    with pytest.raises(cg.InvalidArgument, match="The batch comes first: stack steps along dimension 1"):
        SAMPLER.log_probs(torch.stack(frames), v)
    with pytest.raises(cg.InvalidArgument, match="The batch comes first: stack steps along dimension 1"):
        cgt.streamed_backward(lambda x, *_: x, SAMPLER, torch.stack(frames), torch.zeros(4, 16), np.ones(4), plan)
    with pytest.raises(cg.InvalidArgument, match=r"must be \(4, 16\), so transpose it"):
        cg.chunk_loss(np.zeros((4, 16)), np.zeros((16, 4)), np.ones(4), plan)
    with pytest.raises(cg.InvalidArgument, match=r"new_log_probs .* must be \(B, 16\), so transpose it"):
        cg.chunk_loss(np.zeros((16, 4)), np.zeros((16, 4)), np.ones(4), plan)
    with pytest.raises(cg.InvalidArgument, match=r"relative_l1 .* must be \(B, 16\), so transpose it"):
        plan.weights(np.ones((16, 4)))
    for call in (
        lambda: cgt.log_probs(SAMPLER, frames, v),
        lambda: cgt.chunk_policy_loss(SAMPLER, stacked, list(v.unbind(1)), torch.zeros(4, 16), np.ones(4), plan),
        lambda: cgt.streamed_backward(lambda x, *_: x, SAMPLER, frames, torch.zeros(4, 16), np.ones(4), plan),
        lambda: cgt.chunk_loss(rows, torch.zeros(4, 16), np.ones(4), plan),
    ):
        with pytest.raises(cg.InvalidArgument, match=r"torch.stack\(\w+, dim=1\) where each is one step"):
            call()


def test_latents_without_dimensions_beside_the_batch_are_ambiguous():
    flat = np.zeros(6, np.float32)
    for call in (lambda: SAMPLER.step(0, flat, flat, seed=0), lambda: SAMPLER.begin(torch.zeros(6), seed=0)):
        with pytest.raises(cg.InvalidArgument, match=r"shape \(6,\); .*reshape\(-1, 1\).*reshape\(1, -1\)"):
            call()
    for call in (lambda: cg.relative_l1(np.zeros((3, 6))), lambda: SAMPLER.log_probs(np.zeros((3, 6)), np.zeros((3, 2)))):
        with pytest.raises(cg.InvalidArgument, match=r"latents has shape \(3, 6\); .*\[\.\.\., None\].*\[None\]"):
            call()
    for shape in ((6, 1), (1, 6)):
        assert SAMPLER.step(0, flat.reshape(shape), flat.reshape(shape), seed=0)[0].shape == shape


def test_masked_elements_are_refused():
    rewards = np.ma.array([1.0, 2.0, 3.0], mask=[False, True, False])
    with pytest.raises(cg.WrongType, match=r"rewards has masked elements.*present=~rewards.mask"):
        cg.advantages(rewards, 3)
    for call in (
        lambda: cg.RewardHistory().update("abc", rewards),
        lambda: cg.best_of_n(rewards, 2),
        lambda: cg.chunk_loss(np.zeros((3, 2)), np.zeros((3, 2)), rewards, [2]),
    ):
        with pytest.raises(cg.WrongType, match="has masked elements.*filled"):
            call()
    whole = np.ma.array(rewards.data, mask=False)  # nothing would be lost
    np.testing.assert_array_equal(cg.advantages(whole, 3), cg.advantages(rewards.data, 3))
    several = np.ma.array([[1.0, 2.0], [3.0, 9.0], [4.0, 4.0]], mask=[[0, 0], [0, 1], [0, 0]])
    found = cg.advantages(several.filled(0), 3, present=~several.mask)
    np.testing.assert_allclose(found, cg.advantages([3.0, 3.0, 8.0], 3))
    with pytest.raises(cg.WrongType, match="has masked elements.*filled"):
        SAMPLER.step(0, rewards[:, None], rewards[:, None], seed=0)
    np.testing.assert_array_equal(cg.advantages(rewards.filled(0), group_size=3), cg.advantages([1.0, 0.0, 3.0], group_size=3))


def test_the_default_device_of_torch_changes_nothing():
    """meta stands for cuda: a tensor made there by mistake has no elements on the CPU."""
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))

    def numbers():
        trajectory = SAMPLER.rollout(lambda x, *_: x * 0.5, x, seed=1)
        latents, velocities = trajectory.latents, trajectory.latents[:, :3] * 0.5
        stepped = SAMPLER.step(2, x, x, seed=4)
        results = [latents, trajectory.log_probs, trajectory.relative_l1, *stepped]
        results += [SAMPLER.log_probs(latents, velocities), cg.relative_l1(latents), cg.initial_noise((2, 3), 1, like=x)]
        results += [SAMPLER.log_probs_vjp(latents, velocities, np.ones((2, 3))), SAMPLER.predicted_image(1, x, x)]
        results += [cgt.step(SAMPLER, 2, x, x, seed=4)[0], cgt.log_probs(SAMPLER, latents, velocities)]
        return results

    expected = numbers()
    with torch.device("meta"):
        within = numbers()
    torch.set_default_device("meta")
    try:
        default = numbers()
    finally:
        torch.set_default_device(None)
    for one, other, plain in zip(within, default, expected):
        assert torch.equal(one, plain) and torch.equal(other, plain)


def test_numpys_error_state_does_not_reach_a_rollout():
    """A velocity whose float64 numbers are too small or large for float16."""
    x = np.zeros((1, 4), np.float16)
    tiny = SAMPLER.rollout(lambda x, *_: np.full(x.shape, 0.0), x, seed=1).images
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(SAMPLER.rollout(lambda x, *_: np.full(x.shape, 1e-300), x, seed=1).images, tiny)
        for dtype in (np.float16, ml_dtypes.bfloat16):
            with pytest.raises(cg.NonFinite):
                SAMPLER.rollout(lambda x, *_: np.full(x.shape, 1e300), x.astype(dtype), seed=1)


def test_noise_of_tensors_is_asked_for_by_an_array_that_it_is_like():
    with pytest.raises(cg.WrongType, match=r"like=torch.empty\(0, dtype=torch.float32, device=...\)"):
        cg.initial_noise((2, 3), 1, dtype=torch.float32)
    for function, arguments in ((cg.initial_noise, (1,)), (cg.normal, (1, 0))):
        with pytest.raises(cg.WrongType, match=rf"{function.__name__}.*like=torch.empty\(0, device='cuda'\)"):
            function((2, 3), *arguments, device="cuda")


def test_tensors_of_two_devices_are_refused(monkeypatch):
    class Elsewhere(_frameworks.Torch):
        def __init__(self, device):
            super().__init__(device)
            self.device = "cuda:0" if Elsewhere.next else "cpu"
            Elsewhere.next = not Elsewhere.next

    monkeypatch.setattr(_frameworks, "Torch", Elsewhere)
    monkeypatch.setattr(_frameworks, "_make_torch_on_cpu", lambda value: [_frameworks.Torch(value.device)])
    monkeypatch.setattr(_frameworks, "_torch_on_cpu", [])
    Elsewhere.next = True
    with pytest.raises(cg.WrongType, match="velocity is on cpu; it must be on cuda:0, like latents"):
        SAMPLER.log_prob(3, X, X, X)
    Elsewhere.next = True
    with pytest.raises(cg.WrongType, match="velocities is on cpu; it must be on cuda:0, like latents"):
        SAMPLER.log_probs(X, X[:, :2])


def test_tracers_of_jax_are_referred_to_its_own_module():
    jax = pytest.importorskip("jax")
    x = jax.numpy.ones((2, 3))
    with pytest.raises(cg.WrongType, match="chunkgrpo.jax"):
        jax.jit(lambda x: SAMPLER.log_prob(3, x, x, x))(x)


def test_tensors_inside_a_transform_of_torch_are_refused():
    with pytest.raises(cg.WrongType, match="latents is a Tensor that cannot be read"):
        torch.vmap(lambda x: SAMPLER.log_prob(3, x, x, x))(X)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_a_rollout_makes_without_grad_can_be_trained_on(mode):
    with mode():
        trajectory = SAMPLER.rollout(lambda x, *_: x / 2, cg.initial_noise((2, 4), 1, like=X), seed=1)
        latents = trajectory.latents
    layer = torch.nn.Linear(4, 4)
    layer(latents).sum().backward()  # saves the latents
    assert layer.weight.grad is not None


def test_compiled_code_around_the_functions_gets_their_numbers():
    x = torch.from_numpy(example(np.float32))

    def surrounding(x):
        next_x, _ = SAMPLER.step(3, x, x.sin(), seed=4)
        return next_x * 2

    assert torch.equal(torch.compile(surrounding, backend="eager")(x), surrounding(x))
