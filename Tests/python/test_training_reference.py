"""The embedded trainer's divergence from its frozen reference, against autograd of the same network in PyTorch."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

import chunkgrpo as cg

torch = pytest.importorskip("torch")
from safetensors import numpy as safetensors  # noqa: E402
from torch.nn import functional as F  # noqa: E402

CONDITIONS = np.eye(2, dtype=np.float32)
SIZES, STEPS, GROUP, SEED, BLOCKS, WIDTH, EMBEDDING = [1, 3], 5, 6, 3, 2, 16, 8
NETWORK = dict(width=WIDTH, blocks=BLOCKS, embedding_size=EMBEDDING, steps=STEPS, chunk_sizes=SIZES, group_size=GROUP)
ROLLOUT = SEED ^ 0x726F6C6C6F757420  # the seed of rollouts: its own stream of draws


def data():
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=256)
    images = np.where(label[:, None] == 0, 0.5, -0.5) + 0.5 * rng.normal(size=(256, 4))
    return images.astype(np.float32), CONDITIONS[label]


def pretrained(**options):
    trainer = cg.Trainer(4, 2, seed=SEED, threads=1, **{**NETWORK, **options})
    trainer.pretrain(*data(), steps=60, batch_size=64)
    return trainer


def reward(images, prompt):
    return np.where(prompt == 0, images.mean(1), -images.mean(1))


def tensors(trainer, folder, kind):
    """The tensors of one kind in the trainer's checkpoint."""
    trainer.save(folder)
    every = safetensors.load_file(folder / "model.safetensors")
    return {name[len(kind) + 1 :]: value for name, value in every.items() if name.startswith(kind + ".")}


def velocity(p, x, sigma, condition):
    """The network in float64, as the header describes it: DiT's adaLN-Zero over time and condition."""
    half = EMBEDDING // 2
    angles = 1000 * sigma * torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half)
    wave = torch.cat([angles.cos(), angles.sin()])

    def linear(name, value):
        return F.linear(value, p[name + ".weight"], p.get(name + ".bias"))

    def normed(value, shift, scale):
        return F.layer_norm(value, (WIDTH,), eps=1e-6) * (1 + scale) + shift

    context = F.silu(linear("time.output", F.silu(linear("time.hidden", wave))) + linear("condition", condition))
    parts = linear("modulation", context).chunk(3 * BLOCKS + 2, -1)
    h = linear("input", x)
    for b in range(BLOCKS):
        shift, scale, gate = parts[3 * b : 3 * b + 3]
        h = h + gate * linear(f"blocks.{b}.output", F.silu(linear(f"blocks.{b}.hidden", normed(h, shift, scale))))
    return linear("output", normed(h, *parts[-2:]))


def factor(kind, sampler, step):
    """Of mean (v - v')^2, by the header's formulas."""
    c, sigmas = sampler.coefficients(step), sampler.schedule.sigmas
    gaussian = c.b**2 / (2 * c.s**2)
    per_time = gaussian * (sigmas[step] - sigmas[step + 1])
    return {"gaussian": gaussian, "gaussian_per_time": per_time, "mean": c.b**2, "velocity": 1.0}[kind]


@pytest.mark.parametrize(
    "kind, weight, last",
    [("gaussian", 0.7, 0), ("gaussian_per_time", 0.7, 0), ("mean", 0.7, 0), ("velocity", 0.7, 0)]
    + [("velocity", 0, 0.4), ("gaussian", 0.7, 0.4)],
)
@pytest.mark.parametrize("weighted_selection", [False, True], ids=["recorded", "run again"])
def test_its_means_and_the_gradient_of_every_parameter_are_those_of_autograd(
    tmp_path, kind, weight, last, weighted_selection
):
    trainer = pretrained(
        reference_kl=weight, reference_divergence=kind, reference_last_step=last, beta1=0.0, max_grad_norm=float("inf"),
        updates_per_rollout=1, learning_rate=3e-3, weighted_selection=weighted_selection,
    )  # fmt: skip
    before = tensors(trainer, tmp_path, "parameters")
    for _ in range(5):  # away from the reference
        trainer.iterate(CONDITIONS, reward)
    reference, own = tensors(trainer, tmp_path, "reference"), tensors(trainer, tmp_path, "parameters")
    assert all((reference[name] == before[name]).all() for name in before)

    # The rollout of the next iteration, made again from public functions.
    prompt, batch = np.repeat([0, 1], GROUP), 2 * GROUP
    ids = 5 * batch + np.arange(batch)
    sampler = cg.Sampler(cg.Schedule.shifted(STEPS, 3.0), "flow_sde", 0.7)
    noise = cg.initial_noise((batch, 4), ROLLOUT, group_size=GROUP, sample_ids=ids)
    trajectory = sampler.rollout(
        lambda x, sigma, step: trainer.velocity(x, sigma, CONDITIONS[prompt], parameters="trained"), noise,
        seed=ROLLOUT, sample_ids=ids,
    )  # fmt: skip
    plan = cg.ChunkPlan(SIZES)
    weights = plan.weights(trajectory.relative_l1) if weighted_selection else None
    chosen = plan.select(batch, 0.5, weights=weights, seed=ROLLOUT, sample_ids=ids)
    assert 0 < chosen[:, 0].sum() < batch  # of both chunks
    trained = np.repeat(chosen, SIZES, axis=1)

    # Equal rewards have no advantage: what is left is the divergence.
    report = trainer.iterate(CONDITIONS, lambda images, prompt: np.ones(len(images)))
    gradient = tensors(trainer, tmp_path, "first_moment")  # beta1 = 0

    p, q = ({name: torch.tensor(value, dtype=torch.float64) for name, value in part.items()} for part in (own, reference))
    for value in p.values():
        value.requires_grad_()
    condition = torch.tensor(CONDITIONS[prompt], dtype=torch.float64)

    def squares(step):
        x, sigma = torch.tensor(trajectory.latents[:, step], dtype=torch.float64), sampler.schedule.sigmas[step]
        return (velocity(p, x, sigma, condition) - velocity(q, x, sigma, condition)).square().mean(1)

    of_steps = torch.stack([factor(kind, sampler, step) * squares(step) for step in range(STEPS - 1)], 1)
    mean, of_last = of_steps[torch.tensor(trained)].mean(), squares(STEPS - 1).mean()
    (weight * mean + last * of_last).backward()
    assert report.reference_divergence == (pytest.approx(mean.item(), rel=1e-4) if weight else 0) and mean.item() > 1e-4
    assert report.last_step_divergence == (pytest.approx(of_last.item(), rel=1e-4) if last else 0)
    assert of_last.item() > 1e-4
    total = weight * report.reference_divergence + last * report.last_step_divergence
    assert report.loss == pytest.approx(total, rel=1e-9)
    size = max(value.grad.abs().max().item() for value in p.values())
    for name, value in p.items():
        np.testing.assert_allclose(gradient[name], value.grad.numpy(), rtol=1e-3, atol=1e-4 * size, err_msg=name)


def test_a_larger_weight_keeps_the_policy_nearer():
    divergences = []
    for weight in (1e-6, 0.1, 10.0):
        trainer = pretrained(reference_kl=weight, learning_rate=3e-3)
        reports = [trainer.iterate(CONDITIONS, reward) for _ in range(30)]
        assert reports[0].reference_divergence < reports[-1].reference_divergence
        divergences.append(reports[-1].reference_divergence)
    assert divergences[0] > 2 * divergences[1] > 4 * divergences[2] > 0


def test_a_weight_of_the_last_step_keeps_its_velocities_nearer():
    """Which nothing else trains, and the reward moves through the network that all steps share."""

    def drift(weight):
        trainer = pretrained(reference_last_step=weight, learning_rate=3e-3)
        x = cg.initial_noise((2, 4), seed=5)
        sigma = trainer_sigma(STEPS - 1)
        before = trainer.velocity(x, sigma, CONDITIONS, parameters="trained")
        for _ in range(30):
            report = trainer.iterate(CONDITIONS, reward)
        assert (report.last_step_divergence > 0) == (weight > 0)
        return np.square(trainer.velocity(x, sigma, CONDITIONS, parameters="trained") - before).mean()

    free, held, tight = (drift(weight) for weight in (0, 0.3, 10.0))
    assert free > 2 * held > 4 * tight > 0


def trainer_sigma(step):
    return float(cg.Schedule.shifted(STEPS, 3.0).sigmas[step])


def gradient(folder, **options):
    """Of one optimiser step on the policy that sampled, all chunks trained."""
    folder.mkdir()
    options = {"chunk_fraction": 1.0, "updates_per_rollout": 1, "beta1": 0.0, "max_grad_norm": float("inf"), **options}
    trainer = pretrained(**options)
    trainer.iterate(CONDITIONS, reward)
    every = tensors(trainer, folder, "first_moment")
    return np.concatenate([value.ravel() for value in every.values()]).astype(float)


def test_chunk_weights_weigh_the_chunks_gradients(tmp_path):
    first, second, both, one = (
        gradient(tmp_path / str(weights), chunk_weights=weights) for weights in ([1, 0], [0, 1], [0.5, 3], [1, 1])
    )
    assert np.abs(first).max() > 1e-4 and np.abs(second).max() > 1e-4
    np.testing.assert_allclose(both, 0.5 * first + 3 * second, rtol=0, atol=1e-5 * np.abs(both).max())
    np.testing.assert_array_equal(one, gradient(tmp_path / "none"))


def test_steps_that_weigh_as_in_their_chunks_have_the_chunks_gradient_on_the_policy_that_sampled(tmp_path):
    steps, chunks = sum(SIZES), len(SIZES)
    weights = [steps / (chunks * size) for size in SIZES for _ in range(size)]
    of_steps = gradient(tmp_path / "steps", chunk_sizes=[1] * steps, chunk_weights=weights)
    of_chunks = gradient(tmp_path / "chunks")
    np.testing.assert_allclose(of_steps, of_chunks, rtol=0, atol=1e-5 * np.abs(of_chunks).max())
    plain = gradient(tmp_path / "plain", chunk_sizes=[1] * steps)
    assert np.abs(plain - of_chunks).max() > 0.1 * np.abs(of_chunks).max()


def test_without_a_weight_there_is_no_reference(tmp_path):
    trainer = pretrained(reference_divergence="gaussian")
    report = trainer.iterate(CONDITIONS, reward)
    assert report.reference_divergence == 0 and not tensors(trainer, tmp_path, "reference")
    with pytest.raises(cg.InvalidArgument, match="reference_kl = -1"):
        cg.Trainer(4, 2, reference_kl=-1)
    with pytest.raises(cg.InvalidArgument, match="reference_last_step = -1"):
        cg.Trainer(4, 2, reference_last_step=-1)
    with pytest.raises(ValueError, match="reference_divergence"):
        cg.Trainer(4, 2, reference_divergence="kl")


def test_it_goes_on_from_a_checkpoint_and_from_a_pickle_bit_for_bit(tmp_path):
    trainer = pretrained(reference_kl=0.01, reference_divergence="gaussian", reference_last_step=0.2)
    trainer.iterate(CONDITIONS, reward)
    trainer.save(tmp_path)
    others = [cg.Trainer.load(tmp_path), pickle.loads(pickle.dumps(trainer))]
    for other in others:
        assert other.options == trainer.options and other.options["reference_divergence"] == "gaussian"
    for _ in range(3):
        report = trainer.iterate(CONDITIONS, reward)
        for other in others:
            same = other.iterate(CONDITIONS, reward)
            assert (same.loss, same.last_step_divergence) == (report.loss, report.last_step_divergence)
            assert same.reference_divergence == report.reference_divergence > 0
    for other in others:
        np.testing.assert_array_equal(other.sample(CONDITIONS, seed=1), trainer.sample(CONDITIONS, seed=1))
