"""`help(chunkgrpo)` is the manual: its example runs as printed, and every public name says what it is."""

from __future__ import annotations

import inspect
import re
import textwrap
import typing

import numpy as np
import pytest
from conftest import ROOT, velocity

import chunkgrpo as cg

PUBLIC = {name: getattr(cg, name) for name in cg.__all__ if callable(getattr(cg, name))}


def methods(kind):
    return {
        f"{kind.__name__}.{name}": member
        for name, member in vars(kind).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, (classmethod, property)))
    }


def code(text):
    """The first block that is indented."""
    return textwrap.dedent(re.search(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)[0])


def model():
    return {"velocity": velocity, "reward": lambda images: images.reshape(len(images), -1).mean(axis=1)}


def test_the_example_of_the_package_runs():
    names = model()
    exec(code(cg.__doc__), names)
    assert names["grad_v"].shape == names["new_v"].shape == (24, 16, 16, 64, 64)
    np.testing.assert_array_equal(names["out"].ratios, 1)  # the policy has not moved
    assert np.abs(names["grad_v"]).max() > 0


def test_the_example_of_the_wheels_page_runs():
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "bindings" / "python" / "README.md").read_text(), re.DOTALL)
    names = {**model(), "new_v": np.ones((24, 16, 16, 64, 64), np.float32)}
    exec(program, names)
    assert names["grad_v"].shape == names["new_v"].shape


def test_the_package_names_what_it_does_for_each_framework():
    for module in ("chunkgrpo.torch", "chunkgrpo.diffusers", "chunkgrpo.jax"):
        assert module in cg.__doc__


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_a_public_name_and_its_methods_say_what_they_are(name):
    assert inspect.getdoc(PUBLIC[name])
    if inspect.isclass(PUBLIC[name]) and not issubclass(PUBLIC[name], cg.Error):
        for member, what in methods(PUBLIC[name]).items():
            assert inspect.getdoc(what), f"{member} does not say what it is"


def test_the_modules_of_frameworks_say_what_their_classes_and_members_are():
    pytest.importorskip("diffusers")
    from chunkgrpo import diffusers, distributed

    for module in (diffusers, distributed):
        for name in module.__all__:
            assert inspect.getdoc(getattr(module, name)), name
            if inspect.isclass(getattr(module, name)):
                for member, what in methods(getattr(module, name)).items():
                    assert inspect.getdoc(what), f"{member} does not say what it is"


def test_the_example_of_the_jax_module_runs():
    jax = pytest.importorskip("jax")
    import chunkgrpo.jax

    sampler, plan = cg.Sampler(cg.Schedule.shifted(9, 3.0)), cg.ChunkPlan([2, 3, 3])
    names = dict(
        **dict(jax=jax, jnp=jax.numpy, sampler=sampler, plan=plan, sigmas=sampler.schedule.sigmas),
        model=lambda params, x, sigma: params * x,
    )
    exec(code(chunkgrpo.jax.__doc__), names)
    traj = sampler.rollout(lambda x, sigma, k: 0.5 * x, cg.initial_noise((4, 3), seed=1), seed=2)
    adv = cg.advantages(traj.images.mean(axis=1), 4)
    found = names["gradient"](0.5, jax.numpy.asarray(traj.latents), jax.numpy.asarray(traj.log_probs), adv)
    new = traj.latents[:, :8] * 0.5
    loss = cg.chunk_loss(sampler.log_probs(traj.latents, new), traj.log_probs, adv, plan)
    expected = np.sum(sampler.log_probs_vjp(traj.latents, new, loss.grad_log_probs) * traj.latents[:, :8])
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_type_hints_of_a_public_name_can_be_read(name):
    kind = PUBLIC[name]
    if not inspect.isclass(kind):
        assert typing.get_type_hints(kind)
    elif not issubclass(kind, cg.Error):
        typing.get_type_hints(kind.__init__)
        for member, what in methods(kind).items():
            get = getattr(what, "fget", None) or getattr(what, "__func__", what)
            assert "return" in typing.get_type_hints(get), member
