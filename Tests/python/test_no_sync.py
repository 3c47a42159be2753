"""`no_sync` for the wrappers of several processes, and which of them `streamed_backward` finds in the function that it is
given. Here in one process, with classes that are named as DeepSpeed's and PyTorch's; test_distributed_torch has processes,
test_distributed_deepspeed has DeepSpeed."""

from __future__ import annotations

import contextlib
import functools

import numpy as np
import pytest
from conftest import ROOT  # noqa: F401  (puts the package on the path)

import chunkgrpo as cg

torch = pytest.importorskip("torch")
import chunkgrpo.torch as cgt  # noqa: E402
import chunkgrpo.torch.forward as cgf  # noqa: E402

SAMPLER = cg.Sampler(cg.Schedule.shifted(5, 3.0), "flow_sde", 0.7)
PLAN = cg.ChunkPlan([1, 3])


class Wrapper(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.log = torch.nn.Linear(3, 3), []

    def forward(self, x, *_):
        return self.layer(x)


class DeepSpeedEngine(Wrapper):
    __module__ = "deepspeed.runtime.engine"
    stage = 2
    _is_gradient_accumulation_boundary = None

    def zero_optimization_stage(self):
        return self.stage

    def set_gradient_accumulation_boundary(self, value):
        self.log.append(value)


class FSDPModule(Wrapper):
    __module__ = "torch.distributed.fsdp._fully_shard._fully_shard"

    def set_requires_gradient_sync(self, value):
        self.log.append(value)


class FullyShardedDataParallel(Wrapper):
    __module__ = "torch.distributed.fsdp.fully_sharded_data_parallel"

    @contextlib.contextmanager
    def no_sync(self):
        self.log.append(False)
        yield
        self.log.append(True)


class DistributedDataParallel(FullyShardedDataParallel):
    __module__ = "torch.nn.parallel.distributed"
    static_graph, require_backward_grad_sync = False, True


class Derived(DistributedDataParallel):
    __module__ = "my.engine"


WRAPPERS = [DistributedDataParallel, FullyShardedDataParallel, FSDPModule, DeepSpeedEngine, Derived]


def example():
    latents = SAMPLER.rollout(lambda x, s, k: 0.1 * x, cg.initial_noise((4, 3), seed=1, like=torch.empty(0)), seed=2)
    return latents.latents, latents.log_probs, torch.tensor([1.0, -1, 0.5, -0.5])


def streamed(velocity, **options):
    """The clip is wide, so that each step has a gradient, whatever the layer was drawn as."""
    return cgt.streamed_backward(velocity, SAMPLER, *example(), PLAN, clip=1.0, check=False, **options)


@pytest.fixture
def two(monkeypatch):
    """As if there were two processes."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda group=None: "gloo")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_: None)  # the other has the same count


# ----------------------------------------------------------------------------------------------------------------------
# The context


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_context_switches_once_and_back(wrapper):
    model = wrapper()
    context = cgt.no_sync(torch.nn.Sequential(torch.nn.Identity(), model))
    end = None if wrapper is DeepSpeedEngine else True  # the engine counts again by itself
    with context:
        assert model.log == [False]
    with pytest.raises(KeyError), context():
        raise KeyError
    assert model.log[:3] == [False, end, False]


@pytest.mark.parametrize("wrapper", [FSDPModule, DeepSpeedEngine])
def test_the_outermost_context_switches_back(wrapper):
    model = wrapper()
    with cgt.no_sync(model):
        for _ in range(2):
            with cgt.no_sync(model), cgt.no_sync(model)():
                pass
        assert model.log == [False]
    assert len(model.log) == 2


def test_a_model_of_one_process_needs_nothing():
    with cgt.no_sync(torch.nn.Linear(2, 2)) as context:
        assert context() is context
    with pytest.raises(cg.WrongType, match=r"model must be a torch\.nn\.Module, not function"):
        cgt.no_sync(lambda: 0)


def test_all_steps_but_the_last_are_in_the_context():
    model = DistributedDataParallel()
    streamed(model, no_sync=cgt.no_sync(model))
    assert model.log == [False, True] * 3


# ----------------------------------------------------------------------------------------------------------------------
# What is found

shared = FSDPModule()


def plain(x, sigma, step):
    return shared(x)


def through_another(x, sigma, step):
    return plain(x, sigma, step)


def inner(x, sigma, step):
    return [shared(row) for row in (x,)][0]


class Policy:
    def __init__(self):
        self.net = FSDPModule()

    def __call__(self, x, sigma, step):
        return self.net(x)

    def velocity(self, x, sigma, step):
        return self.net(x)


class Trainer:
    def __init__(self, net):
        self.pipe = type("Pipe", (), {})()
        self.pipe.transformer = net
        self.judge = DeepSpeedEngine()  # which the velocity does not name

    def velocity(self, x, sigma, step):
        return self.pipe.transformer(x)


def closure():
    net = torch.nn.Sequential(FSDPModule())
    return lambda x, sigma, step: net(x)


def decorated():
    @functools.wraps(plain)
    def call(*arguments):
        return plain(*arguments)

    return call


WAYS = {
    "the module": lambda: FSDPModule(),
    "a global": lambda: plain,
    "a function of the file": lambda: through_another,
    "a function within": lambda: inner,
    "a closure": closure,
    "a method": lambda: Policy().velocity,
    "an attribute of an attribute": lambda: Trainer(FSDPModule()).velocity,
    "an attribute in a closure": lambda: (lambda trainer: lambda x, *_: trainer.pipe.transformer(x))(Trainer(FSDPModule())),
    "an object": lambda: Policy(),
    "a partial": lambda: functools.partial(lambda net, x, sigma, step: net(x), FSDPModule()),
    "a wrapped function": decorated,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_sharded_parameters_are_found_however_the_function_has_them(two, way):
    velocity = way()
    with pytest.raises(cg.InvalidArgument, match="every_step is missing: the velocity's parameters or gradients are sharded"):
        streamed(velocity)
    streamed(velocity, every_step=True)
    streamed(velocity, every_step=np.array([False, True, True, False]))


def test_a_function_that_calls_no_wrapper_is_taken(two):
    net = Wrapper()
    streamed(lambda x, sigma, step: net(x))
    streamed(Trainer(net).velocity)


@pytest.mark.parametrize("average, count", [("chunk", 5), ("sample", 4), ("step", 7)])
def test_other_counts_on_another_process_are_refused_without_a_normaliser(two, monkeypatch, average, count):
    asked = []

    def all_reduce(ends, how, group):
        asked.append(ends.tolist())
        ends += 1 if len(asked) > 1 else 0  # of a process that has one more

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    model = DistributedDataParallel()
    options = {"no_sync": cgt.no_sync(model), "selection": [[0], [0], [0, 1], [0]], "average": average}
    streamed(model, **options)
    with pytest.raises(cg.InvalidArgument, match=rf"a mean over {count} here.*to weigh processes alike"):
        streamed(model, **options)
    assert asked == [[count, -count]] * 2
    streamed(model, **options, normaliser=5)
    model.require_backward_grad_sync = False  # in a context of the caller's: others may not be here
    streamed(model, **options)
    assert len(asked) == 2


REFUSED = {
    "a DeepSpeed engine": (DeepSpeedEngine, {"stage": 1}, {}, "takes each backward pass for a whole one"),
    "ZeRO 0": (DeepSpeedEngine, {"stage": 0}, {"no_sync": contextlib.nullcontext}, "ZeRO stage 0"),
    "ZeRO 2": (DeepSpeedEngine, {"stage": 2}, {"no_sync": contextlib.nullcontext}, "every_step is missing"),
    "ZeRO 3": (DeepSpeedEngine, {"stage": 3}, {"no_sync": contextlib.nullcontext}, "every_step is missing"),
    "FSDP1": (FullyShardedDataParallel, {}, {}, "every_step is missing"),
    "DDP": (DistributedDataParallel, {}, {}, "DistributedDataParallel sums gradients in each backward pass"),
    "a class of it": (Derived, {}, {}, "DistributedDataParallel sums gradients in each backward pass"),
    "a static graph": (DistributedDataParallel, {"static_graph": True}, {"every_step": True}, "static_graph=True"),
}


@pytest.mark.parametrize("wrapper, attributes, options, says", REFUSED.values(), ids=REFUSED)
def test_what_would_be_wrong_is_refused_before_the_model_runs(two, wrapper, attributes, options, says):
    model = wrapper()
    vars(model).update(attributes)
    model.layer.register_forward_pre_hook(lambda *_: pytest.fail("the model has run"))
    with pytest.raises(cg.InvalidArgument, match=says):
        streamed(model, **options)


def test_within_a_context_of_the_callers_nothing_is_summed(two):
    model = DistributedDataParallel()
    model.require_backward_grad_sync = False
    streamed(model)


def test_the_forward_process_refuses_the_same(two):
    clean, times, objective = torch.zeros(2, 3), np.full((2, 2), 0.5), lambda d, t: d.distance.mean()
    run = functools.partial(cgf.streamed_backward, clean=clean, times=times, objective=objective, seed=1)
    with pytest.raises(cg.InvalidArgument, match="takes each backward pass for a whole one"):
        run(DeepSpeedEngine())
    with pytest.raises(cg.InvalidArgument, match="processes that run other draws"):
        run(DistributedDataParallel(), joint=True)
    run(DistributedDataParallel())


def test_sharded_parameters_of_the_forward_process_run_all_draws(two):
    runs = []
    model = FSDPModule()
    model.layer.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    clean, times = torch.zeros(2, 3), np.full((2, 3), 0.5)
    cgf.streamed_backward(model, clean, times, lambda d, t: d.distance[:, :1].mean(), seed=1, joint=True)
    assert runs == [False] * 3 + [True] * 3


# ----------------------------------------------------------------------------------------------------------------------
# Steps


def test_the_named_steps_are_run_twice_needed_or_not():
    runs, net = [], Wrapper()

    def velocity(x, sigma, step):
        runs.append(step)
        return net(x)

    chosen = [[0]] * 4
    out = streamed(velocity, selection=chosen, every_step=np.array([True, False, True, False]))
    assert runs == [0, 2, 0, 2]
    alone = streamed(velocity, selection=chosen)
    assert torch.equal(out.loss, alone.loss) and torch.equal(out.ratios[:, 0], alone.ratios[:, 0])


def test_no_process_runs_further_steps_to_find_why_ratios_are_not_1():
    runs, net = [], Wrapper()
    net.layer.register_forward_hook(lambda *_: runs.append(1))
    sampler = cg.Sampler(cg.Schedule.shifted(5, 3.0), "flow_sde", 0.7)  # whose first loss this is
    with pytest.warns(cg.RatioWarning):
        cgt.streamed_backward(net, sampler, *example(), PLAN, every_step=True)
    assert len(runs) == 8


def test_a_process_with_nothing_selected_takes_part_with_a_gradient_of_zero():
    net, chosen = Wrapper(), np.zeros((4, 2), bool)
    for steps, run in ((False, [3]), (True, range(4)), (np.array([True, True, False, False]), [0, 1])):
        runs, kept = [], [j for j in range(4) if j not in run]
        handle = net.layer.register_forward_hook(lambda *_: runs.append(1))
        out = streamed(lambda x, sigma, step: net(x), selection=chosen, normaliser=3, every_step=steps)
        handle.remove()
        assert len(runs) == 2 * len(run) and out.loss == 0 and out.stats.selected == 0
        assert (net.layer.weight.grad == 0).all() and (out.ratios == 1).all()
        assert torch.equal(out.new_log_probs[:, kept], example()[1][:, kept])
    with pytest.raises(cg.InvalidArgument, match="where other processes have some, give the normaliser of all"):
        streamed(lambda x, sigma, step: net(x), selection=chosen)


def test_a_loss_of_nothing_has_a_graph():
    latents, old, advantages = example()
    v = torch.full((4, 4, 3), float("inf"), requires_grad=True)
    chosen = np.zeros((4, 2), bool)
    options = {"selection": chosen, "normaliser": 3.0}
    out = cgt.chunk_policy_loss(SAMPLER, latents, v, old, advantages, PLAN, **options)
    out.loss.backward()
    assert out.loss == 0 and out.loss.dtype == torch.float64 and (v.grad == 0).all() and out.stats.selected == 0


@pytest.mark.parametrize("wrong", [1, [1, 0, 1, 0], np.ones(3, bool), np.ones((4, 1), bool), "all", None])
def test_other_steps_are_refused(wrong):
    with pytest.raises(cg.Error, match=r"every_step has .*; it must be True, False or"):
        streamed(Wrapper(), every_step=wrong)
