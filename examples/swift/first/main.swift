// Chunk-GRPO in one file. The model is the exact velocity field of Gaussian data plus a bias that we train; the reward is
// how close a sample comes to a target. Your model takes the place of `velocity`, and your optimiser that of one line.
//
//     swift run -c release --package-path examples/swift first
import ChunkGRPO

let (groupSize, batch, dimensions) = (12, 48, 2)
let target: [Float] = [2, -1]

struct Model {
  var bias: [Float]  // the weights of our model

  /// Optimal for x0 ~ N(0, 1); the bias moves it.
  func velocity(step: Int, sigma: Double, latents: LatentsView, velocity: LatentsView) throws {
    let slope = Float((2 * sigma - 1) / ((1 - sigma) * (1 - sigma) + sigma * sigma))
    for i in 0..<latents.batch {
      try velocity.set(i, to: zip(latents[i], bias).map { slope * $0 + $1 })
    }
  }
}
var model = Model(bias: [0, 0])

let schedule = try Schedule.shifted(steps: 17, shift: 3)
let sampler = try Sampler(schedule, dynamics: .flowSDE, eta: 0.7)
let plan = try ChunkPlan([2, 3, 4, 7])
print(plan)

for iteration in 0...100 {
  let seed = UInt64(iteration)
  let noise = try Latents(batch: batch, elements: dimensions)
  try normal(seed: seed, into: noise.view)
  let trajectory = try sampler.rollout(from: noise.view, noise: .library(seed: seed), velocity: model.velocity)

  let rewards = try (0..<batch).map { i in
    -zip(try trajectory.current[i], target).reduce(0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
  }
  let advantages = try advantages(rewards, groupSize: groupSize)
  // We train on the policy that sampled, so new and old log-probabilities are the same.
  let loss = try chunkLoss(
    new: trajectory.logProbs, old: trajectory.logProbs, advantages: advantages, plan: plan)
  if iteration % 20 == 0 {
    print("iteration \(iteration)   mean reward \(rewards.reduce(0, +) / Double(batch))   bias \(model.bias)")
  }

  // One step's velocity gradient at a time: nothing of the other steps is in memory.
  let (v, gradient) = (try Latents(batch: batch, elements: dimensions), try Latents(batch: batch, elements: dimensions))
  var step = [Float](repeating: 0, count: dimensions)
  for k in 0..<sampler.trainedSteps {
    try model.velocity(step: k, sigma: schedule.sigmas[k], latents: trajectory.latents[k], velocity: v.view)
    let weights = (0..<batch).map { loss.gradLogProbs[$0 * sampler.trainedSteps + k] }
    try sampler.logProbVJP(
      k, latents: trajectory.latents[k], velocity: v.view, next: trajectory.latents[k + 1], gradLogProb: weights,
      gradVelocity: gradient.view)
    // d loss / d bias is the sum of d loss / d velocity; yours goes on through your model.
    for i in 0..<batch { step = zip(step, try gradient.view[i]).map { $0 + $1 } }
  }
  for j in 0..<dimensions { model.bias[j] -= 0.5 * step[j] }
}
