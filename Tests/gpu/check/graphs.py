"""CUDA graphs, streams, and numbers that are not finite."""

from __future__ import annotations

import threading
from typing import Any

import torch
from common import DEVICE, MODE, PRETENDED, bits, on_device, part, report, synchronize

import chunkgrpo as cg

SAMPLER = cg.Sampler(cg.Schedule.shifted(steps=8, shift=3.0))
SHAPE = (4, 300, 17)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool(torch.equal(bits(one.cpu()), bits(other.cpu())))


def replay() -> None:
    """A captured step and log-probability: replays have new inputs, a new seed and new ids, without a new capture."""
    x, v = torch.randn(SHAPE, device=DEVICE), torch.randn(SHAPE, device=DEVICE)
    seed = torch.tensor([5], dtype=torch.int64, device=DEVICE)
    ids = torch.arange(4, device=DEVICE)
    SAMPLER.step(3, x, v, seed=seed, sample_ids=ids)  # loads the kernels
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        after, log_prob = SAMPLER.step(3, x, v, seed=seed, sample_ids=ids)
        gradient = SAMPLER.log_prob_vjp(3, x, v, after, torch.ones(4, dtype=torch.float64, device=DEVICE))
        again = SAMPLER.log_prob(3, x, v, after)
    right = 0
    for number in (5, 6, 2**40 + 1):
        seed.fill_(number)
        ids.add_(number % 7)
        x.normal_(), v.normal_()
        captured.replay()
        torch.cuda.synchronize()
        on_cpu = SAMPLER.step(3, x.cpu(), v.cpu(), seed=number, sample_ids=ids.tolist())
        slope = SAMPLER.log_prob_vjp(3, x.cpu(), v.cpu(), on_cpu[0], [1.0] * 4)
        pairs = ((after, on_cpu[0]), (log_prob, on_cpu[1]), (again, on_cpu[1]), (gradient, slope))
        right += all(same(*pair) for pair in pairs)
    report("graph: replays with new noise have the CPU's bits", right == 3, right=right, of=3)


def two_graphs() -> None:
    """Graphs that are replayed at once on two streams, and calls between: none may use another's workspace."""
    pairs = [(torch.randn(SHAPE, device=DEVICE), torch.randn(SHAPE, device=DEVICE)) for _ in range(3)]
    expected = [SAMPLER.log_prob(3, x.cpu(), v.cpu(), x.cpu()) for x, v in pairs]
    graphs, results, streams = [], [], [torch.cuda.Stream() for _ in range(2)]
    for x, v in pairs[:2]:
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            results.append([SAMPLER.log_prob(3, x, v, x) for _ in range(20)])
        graphs.append(captured)
    wrong = 0
    for _ in range(20):
        for captured, stream in zip(graphs, streams):
            with torch.cuda.stream(stream):
                captured.replay()
        eager = [SAMPLER.log_prob(3, *pairs[2], pairs[2][0]) for _ in range(20)]
        torch.cuda.synchronize()
        wrong += sum(not same(value, expected[i]) for i in range(2) for value in results[i])
        wrong += sum(not same(value, expected[2]) for value in eager)
    report("graph: two graphs and calls at once", wrong == 0, wrong=wrong, of=1200)


def streams() -> None:
    """Work of two threads on streams of their own."""
    wrong: list[int] = []

    def work(number: int) -> None:
        stream = torch.cuda.Stream() if not PRETENDED else None
        x, v = torch.randn(SHAPE), torch.randn(SHAPE)
        expected = SAMPLER.step(2, x, v, seed=number)
        with torch.cuda.stream(stream):
            there = x.to(DEVICE), v.to(DEVICE)
            results = [SAMPLER.step(2, *there, seed=number) for _ in range(200)]
            for result in results:
                wrong.append(sum(not same(one, other) for one, other in zip(result, expected)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    report("streams: four threads", len(wrong) == 800 and not any(wrong), wrong=sum(wrong), of=1600)


def not_finite() -> None:
    """Where numbers are not finite, the next wait names sample and step."""
    x, v = torch.randn(SHAPE, device=DEVICE), torch.randn(SHAPE, device=DEVICE)
    v[2, 7, 3] = float("nan")
    log_prob = SAMPLER.step(3, x, v, seed=1)[1]
    plan = cg.ChunkPlan([1])
    try:
        cg.chunk_loss(log_prob[:, None], log_prob[:, None], [1.0] * 4, plan)
    except cg.NonFinite as error:
        text = str(error)
        report("NaN is named at the next wait", "sample 2" in text and "step 3" in text, text=text)
    else:
        report("NaN is named at the next wait", False)
    v.nan_to_num_()
    log_prob = SAMPLER.step(3, x, v, seed=1)[1]
    cg.chunk_loss(log_prob[:, None], log_prob[:, None], [1.0] * 4, plan)
    report("after it all is well again", True)


def numpy_of(tensor: torch.Tensor) -> Any:
    return tensor.cpu().numpy()


def refused() -> None:
    """Arguments that a device cannot take, by sentences."""
    x = torch.randn(SHAPE, device=DEVICE)
    for name, call, words in (
        ("a velocity on the CPU", lambda: SAMPLER.log_prob(3, x, numpy_of(x), x), "velocity is on cpu"),
        ("a deterministic step", lambda: cg.Sampler(SAMPLER.schedule, "ode").log_prob(3, x, x, x), "log-probability"),
        ("a step out of range", lambda: SAMPLER.log_prob(30, x, x, x), "step"),
    ):
        try:
            call()
        except cg.Error as error:
            report(f"refused: {name}", words in str(error), text=str(error))
        else:
            report(f"refused: {name}", False)


if __name__ == "__main__":
    parts = {"cuda": (replay, two_graphs, streams, not_finite, refused), "emulated": (streams, not_finite, refused)}
    for work in parts.get(MODE, (streams,)):
        with part(work.__name__), on_device():
            work()
            synchronize()
