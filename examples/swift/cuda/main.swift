// A rollout and a gradient on a CUDA device, and on the CPU: the same functions, the same bits. It needs the driver alone.
//
//     swift run -c release --package-path examples/swift cuda
import ChunkGRPO

let (batch, elements) = (4, 4096)
let sampler = try Sampler(Schedule.shifted(steps: 8, shift: 3))

/// The model's place: here v = x − σ·x, by a function that takes latents of either. Yours runs its network on the stream of
/// `latents.cuda`.
func velocity(step: Int, sigma: Double, latents: LatentsView, velocity: LatentsView) throws {
  try sampler.predictedImage(step, latents: latents, velocity: latents, image: velocity)
}

/// Log-probabilities and latents of a rollout, and the gradient of the log-probability of step 2 in the velocity.
///
/// - Parameter queue: of the device to run on; nil = the CPU.
func run(on queue: CUDAQueue?) throws -> (logProbs: [Double], latents: [Double], gradient: [Double]) {
  func latents() throws -> Latents { try Latents(batch: batch, elements: elements, on: queue) }
  let (noise, v, gradient) = (try latents(), try latents(), try latents())
  try normal(seed: 7, into: noise.view)
  // On a device the host waits once: at the end of the rollout.
  let trajectory = try sampler.rollout(from: noise.view, noise: .library(seed: 7), velocity: velocity)
  let (x, next) = (try trajectory.latents[2], try trajectory.latents[3])
  try velocity(step: 2, sigma: sampler.schedule.sigmas[2], latents: x, velocity: v.view)
  try sampler.logProbVJP(
    2, latents: x, velocity: v.view, next: next, gradLogProb: [1, -0.5, 0.25, 2], gradVelocity: gradient.view)
  return (trajectory.logProbs, try trajectory.latents.values, try gradient.values)
}

let here = try run(on: nil)
do {
  let there = try run(on: .make(batch: batch, elements: elements))
  func compared(_ same: Bool) -> String { same ? "the same bits as" : "OTHER BITS than" }
  print(
    "rollout of \(sampler.steps) steps: \(compared(there.latents == here.latents && there.logProbs == here.logProbs)) on the CPU"
  )
  print("gradient of step 2: \(compared(there.gradient == here.gradient)) on the CPU")
} catch let error as ChunkGRPOError where error.code == .deviceFailed {
  print("nothing to compare: \(error)")
}
