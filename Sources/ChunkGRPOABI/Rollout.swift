public import CChunkGRPO
import ChunkGRPO

private func defaultTrajectory() -> cgrpo_trajectory {
  cgrpo_trajectory(
    struct_size: MemoryLayout<cgrpo_trajectory>.stride,
    latents: cgrpo_tensor(
      data: nil, shape: nil, strides: nil, ndim: 0, type: 0, device: 0, reserved: 0, cuda: nil, part: nil),
    log_probs: nil, relative_l1: nil, position: 0, previous_image: nil, velocity_type: 0,
    reserved: 0)
}

@_cdecl("cgrpo_trajectory_init") @implementation
public func cgrpo_trajectory_init(_ trajectory: UnsafeMutablePointer<cgrpo_trajectory>!, _ structSize: Int) {
  initStruct(trajectory, size: structSize, defaults: defaultTrajectory())
}

@_cdecl("cgrpo_rollout") @implementation
public func cgrpo_rollout(
  _ handle: OpaquePointer!, _ trajectory: UnsafeMutablePointer<cgrpo_trajectory>!, _ end: Int64,
  _ noise: UnsafePointer<cgrpo_noise>!, _ velocity: cgrpo_velocity_fn!, _ user: UnsafeMutableRawPointer!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let pointer = try nonNull(trajectory, "trajectory")
    let velocity = try nonNull(velocity, "velocity")
    var t = try readStruct(UnsafePointer(pointer), "trajectory", current: defaultTrajectory())
    let position = try count(t.position, "trajectory.position", 0...sampler.steps - 1)
    let end = try count(end, "end", position + 1...sampler.steps)
    try require(t.reserved == 0, "trajectory.reserved = \(t.reserved) must be 0")
    let buffers = TrajectoryBuffers(
      latents: try trajectoryView(&t.latents, "trajectory.latents", writable: true), logProbs: t.log_probs,
      relativeL1: t.relative_l1,
      previousImage: try t.previous_image.map { try latentsView($0, "trajectory.previous_image", writable: true) },
      velocityType: t.velocity_type == 0 ? nil : try enumeration(t.velocity_type, "trajectory.velocity_type"))
    let noise: Noise? = try readNoise(noise).map {
      try $0.given.map { .given(try trajectoryView($0, "noise")) }
        ?? .library(seed: $0.seed, borrowing: $0.sample_ids)
    }
    // The caller's sizes after batch and step: what the model expects to see.
    let trailing = try (2..<Int(t.latents.ndim)).map { try nonNull(t.latents.shape, "trajectory.latents.shape")[$0] }
    try sampler.rollout(buffers, range: position..<end, noise: noise) { step, sigma, x, v in
      let status = x.withTensor(trailingShape: trailing) { x in
        v.withTensor(trailingShape: trailing) { v in outside { velocity(user, Int64(step), sigma, x, v) } }
      }
      if status != 0 {
        throw ChunkGRPOError(.callbackFailed, "the velocity callback returned \(status) at step \(step)")
      }
    }
    pointer.pointee.position = Int64(end)
  }
}

@_cdecl("cgrpo_trajectory_log_probs") @implementation
public func cgrpo_trajectory_log_probs(
  _ handle: OpaquePointer!, _ firstStep: Int64, _ firstSteps: UnsafePointer<Int64>!,
  _ latents: UnsafePointer<cgrpo_tensor>!, _ velocities: UnsafePointer<cgrpo_tensor>!,
  _ logProbs: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let x = try trajectoryView(latents, "latents")
    try sampler.logProbs(
      firstStep: count(firstStep, "first_step", 0...sampler.steps - 1),
      firstSteps: firstSteps.map(ints), latents: x, velocities: trajectoryView(velocities, "velocities"),
      into: numbers(logProbs, "log_probs", isPart: x.part != nil))
  }
}

@_cdecl("cgrpo_trajectory_log_probs_vjp") @implementation
public func cgrpo_trajectory_log_probs_vjp(
  _ handle: OpaquePointer!, _ firstStep: Int64, _ firstSteps: UnsafePointer<Int64>!,
  _ latents: UnsafePointer<cgrpo_tensor>!, _ velocities: UnsafePointer<cgrpo_tensor>!,
  _ gradLogProbs: UnsafePointer<Double>!,
  _ gradVelocities: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.logProbsVJP(
      firstStep: count(firstStep, "first_step", 0...sampler.steps - 1),
      firstSteps: firstSteps.map(ints), latents: trajectoryView(latents, "latents"),
      velocities: trajectoryView(velocities, "velocities"), gradLogProbs: nonNull(gradLogProbs, "grad_log_probs"),
      gradVelocities: trajectoryView(gradVelocities, "grad_velocities", writable: true))
  }
}

@_cdecl("cgrpo_trajectory_residuals") @implementation
public func cgrpo_trajectory_residuals(
  _ handle: OpaquePointer!, _ firstStep: Int64, _ firstSteps: UnsafePointer<Int64>!,
  _ latents: UnsafePointer<cgrpo_tensor>!, _ velocities: UnsafePointer<cgrpo_tensor>!,
  _ residuals: UnsafePointer<cgrpo_tensor>!, _ logProbs: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let x = try trajectoryView(latents, "latents")
    try sampler.logProbsResiduals(
      firstStep: count(firstStep, "first_step", 0...sampler.steps - 1),
      firstSteps: firstSteps.map(ints), latents: x, velocities: trajectoryView(velocities, "velocities"),
      residuals: trajectoryView(residuals, "residuals", writable: true),
      into: numbers(logProbs, "log_probs", isPart: x.part != nil))
  }
}

@_cdecl("cgrpo_trajectory_residuals_vjp") @implementation
public func cgrpo_trajectory_residuals_vjp(
  _ handle: OpaquePointer!, _ firstStep: Int64, _ firstSteps: UnsafePointer<Int64>!,
  _ residuals: UnsafePointer<cgrpo_tensor>!, _ gradLogProbs: UnsafePointer<Double>!,
  _ gradVelocities: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.residualsVJP(
      firstStep: count(firstStep, "first_step", 0...sampler.steps - 1),
      firstSteps: firstSteps.map(ints), residuals: trajectoryView(residuals, "residuals"),
      gradLogProbs: nonNull(gradLogProbs, "grad_log_probs"),
      gradVelocities: trajectoryView(gradVelocities, "grad_velocities", writable: true))
  }
}

@_cdecl("cgrpo_relative_l1") @implementation
public func cgrpo_relative_l1(
  _ latents: UnsafePointer<cgrpo_tensor>!, _ threads: Int32, _ result: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let x = try trajectoryView(latents, "latents")
    try relativeL1(x, threads: Int(threads), into: numbers(result, "relative_l1", isPart: x.part != nil))
  }
}
