// The kernels called from Swift, for bench.py to time: a line "step f32 12 129600 1" (kernel, type, B, D, threads) is
// answered by the nanoseconds of one call, made once before.
import ChunkGRPO
import Glibc

struct Job {
  let sampler: Sampler
  let x, v, next, gradient: Latents
  let weights: [Double]

  init(_ type: ElementType, batch: Int, elements: Int, threads: Int) throws {
    sampler = try Sampler(.shifted(steps: 17, shift: 3), dynamics: .flowSDE, eta: 0.7, threads: threads)
    x = try Latents(type: type, batch: batch, elements: elements)
    v = try Latents(type: type, batch: batch, elements: elements)
    next = try Latents(type: type, batch: batch, elements: elements)
    gradient = try Latents(type: type, batch: batch, elements: elements)
    weights = [Double](repeating: 1, count: batch)
    try normal(seed: 1, into: x.view)
    try normal(seed: 2, into: v.view)
  }

  func run(_ kernel: String) throws {
    switch kernel {
    case "step":
      try sampler.step(
        3, latents: x.view, velocity: v.view, noise: .library(seed: 1), next: next.view)
    case "log_prob":
      _ = try sampler.logProb(3, latents: x.view, velocity: v.view, next: next.view)
    default:
      try sampler.logProbVJP(
        3, latents: x.view, velocity: v.view, next: next.view, gradLogProb: weights, gradVelocity: gradient.view)
    }
  }
}

func nanoseconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return 1e9 * Double(time.tv_sec) + Double(time.tv_nsec)
}

var job: (key: String, value: Job)?
while let line = readLine() {
  let words = line.split(separator: " ").map(String.init)
  let sizes = words.dropFirst(2).compactMap { Int($0) }
  let key = words.dropFirst().joined(separator: " ")
  if job?.key != key {
    let type = words[1] == "f32" ? ElementType.float32 : .bfloat16
    job = (key, try Job(type, batch: sizes[0], elements: sizes[1], threads: sizes[2]))
    try job?.value.run("step")  // makes `next`
  }
  try job?.value.run(words[0])
  let start = nanoseconds()
  try job?.value.run(words[0])
  print(nanoseconds() - start)
  fflush(nil)
}
