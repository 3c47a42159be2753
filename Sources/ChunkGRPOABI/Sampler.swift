public import CChunkGRPO
import ChunkGRPO

/// The object behind a `cgrpo_sampler *`.
final class SamplerHandle {
  let sampler: Sampler
  /// The window that it was made from, as `cgrpo_sampler_info` shows it to the caller.
  let window: Buffer<Int64>?

  init(_ sampler: Sampler) throws {
    self.sampler = sampler
    window = try sampler.options.window.map { steps in
      let window = try Buffer<Int64>(count: steps.count, for: "a window")
      for (i, k) in steps.enumerated() { window.values[i] = Int64(k) }
      return window
    }
  }
}

func sampler(_ handle: OpaquePointer?) throws -> Sampler {
  let handle: SamplerHandle = try borrowed(handle, "sampler")
  return handle.sampler
}

@_cdecl("cgrpo_sampler_options_init") @implementation
public func cgrpo_sampler_options_init(_ options: UnsafeMutablePointer<cgrpo_sampler_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_sampler_create") @implementation
public func cgrpo_sampler_create(
  _ sigmas: UnsafePointer<Double>!, _ sigmaCount: Int64, _ options: UnsafePointer<cgrpo_sampler_options>!,
  _ out: UnsafeMutablePointer<OpaquePointer?>!
) -> cgrpo_status {
  guarded {
    let out = try nonNull(out, "sampler")
    let n = try count(sigmaCount, "sigma_count", 2...Schedule.maxSteps + 1)
    let schedule = try schedule(sigmas, "sigmas", n)
    let sampler = try Sampler(schedule, read(options, Extent(steps: n - 1)))
    out.pointee = retained(try SamplerHandle(sampler))
  }
}

@_cdecl("cgrpo_sampler_destroy") @implementation
public func cgrpo_sampler_destroy(_ sampler: OpaquePointer!) { release(sampler) }

@_cdecl("cgrpo_sampler_info") @implementation
public func cgrpo_sampler_info(
  _ handle: OpaquePointer!, _ options: UnsafeMutablePointer<cgrpo_sampler_options>!,
  _ sigmas: UnsafeMutablePointer<UnsafePointer<Double>?>!, _ sigmaCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let handle: SamplerHandle = try borrowed(handle, "sampler")
    if let options {
      var made = cgrpo_sampler_options(handle.sampler.options)
      made.etas = handle.sampler.options.etas?.pointer
      made.window = handle.window.map { UnsafePointer($0.base) }
      made.window_count = Int64(handle.window?.count ?? 0)
      try writeStruct(made, to: options, "options")
    }
    sigmas?.pointee = handle.sampler.schedule.sigmas.pointer
    sigmaCount?.pointee = Int64(handle.sampler.schedule.sigmas.count)
  }
}

@_cdecl("cgrpo_sampler_coefficients") @implementation
public func cgrpo_sampler_coefficients(
  _ handle: OpaquePointer!, _ step: Int64, _ a: UnsafeMutablePointer<Double>!, _ b: UnsafeMutablePointer<Double>!,
  _ s: UnsafeMutablePointer<Double>!, _ c: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let step = sampler.coefficients[try count(step, "step", 0...sampler.steps - 1)]
    let (a, b, s) = (try nonNull(a, "a"), try nonNull(b, "b"), try nonNull(s, "s"))
    a.pointee = step.a
    b.pointee = step.b
    s.pointee = step.s
    c?.pointee = step.c
  }
}

// MARK: - Noise

private func defaultNoise() -> cgrpo_noise {
  cgrpo_noise(struct_size: MemoryLayout<cgrpo_noise>.stride, given: nil, seed: 0, sample_ids: nil)
}

@_cdecl("cgrpo_noise_init") @implementation
public func cgrpo_noise_init(_ noise: UnsafeMutablePointer<cgrpo_noise>!, _ structSize: Int) {
  initStruct(noise, size: structSize, defaults: defaultNoise())
}

func readNoise(_ noise: UnsafePointer<cgrpo_noise>?) throws -> cgrpo_noise? {
  try noise.map { try readStruct($0, "noise", current: defaultNoise()) }
}

/// The noise of one step.
func stepNoise(_ noise: UnsafePointer<cgrpo_noise>?, _ name: String) throws -> Noise? {
  try readNoise(noise).map {
    try $0.given.map { .given(try latentsView($0, name)) }
      ?? .library(seed: $0.seed, borrowing: $0.sample_ids)
  }
}

@_cdecl("cgrpo_normal") @implementation
public func cgrpo_normal(
  _ seed: UInt64, _ sampleIDs: UnsafePointer<UInt64>!, _ step: Int64, _ threads: Int32,
  _ out: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    try normal(
      .library(seed: seed, borrowing: sampleIDs), step: count(step, "step", initialNoiseStep...Int(Int32.max)),
      threads: Int(threads), into: latentsView(out, "out", writable: true))
  }
}

// MARK: - Step and log-probability

private func defaultExtras() -> cgrpo_step_extras {
  cgrpo_step_extras(
    struct_size: MemoryLayout<cgrpo_step_extras>.stride, unconditional: nil, guidance: 1, previous_image: nil,
    steps: nil, guidances: nil)
}

@_cdecl("cgrpo_step_extras_init") @implementation
public func cgrpo_step_extras_init(_ extras: UnsafeMutablePointer<cgrpo_step_extras>!, _ structSize: Int) {
  initStruct(extras, size: structSize, defaults: defaultExtras())
}

private func stepExtras(_ extras: UnsafePointer<cgrpo_step_extras>?) throws -> StepExtras {
  let e = try readStruct(extras, "extras", current: defaultExtras())
  return StepExtras(
    unconditional: try e.unconditional.map { try latentsView($0, "unconditional") }, guidance: e.guidance,
    previousImage: try e.previous_image.map { try latentsView($0, "previous_image") },
    borrowing: e.steps.map(ints), guidances: e.guidances)
}

@_cdecl("cgrpo_step") @implementation
public func cgrpo_step(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ extras: UnsafePointer<cgrpo_step_extras>!,
  _ noise: UnsafePointer<cgrpo_noise>!, _ nextLatents: UnsafePointer<cgrpo_tensor>!,
  _ logProb: UnsafeMutablePointer<Double>!, _ relativeL1: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let k = try count(step, "step", 0...sampler.steps - 1)
    let x = try latentsView(latents, "latents")
    let v = try latentsView(velocity, "velocity")
    let extras = try stepExtras(extras)
    let next = try latentsView(nextLatents, "next_latents", writable: true)
    let noise = try stepNoise(noise, "noise")
    try sampler.step(
      k, latents: x, velocity: v, extras: extras, noise: noise, next: next, logProb: logProb, relativeL1: relativeL1)
  }
}

@_cdecl("cgrpo_predicted_image") @implementation
public func cgrpo_predicted_image(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ extras: UnsafePointer<cgrpo_step_extras>!,
  _ image: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.predictedImage(
      count(step, "step", 0...sampler.steps - 1), latents: latentsView(latents, "latents"),
      velocity: latentsView(velocity, "velocity"), extras: stepExtras(extras),
      image: latentsView(image, "image", writable: true))
  }
}

@_cdecl("cgrpo_log_prob") @implementation
public func cgrpo_log_prob(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ extras: UnsafePointer<cgrpo_step_extras>!,
  _ nextLatents: UnsafePointer<cgrpo_tensor>!, _ logProb: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let x = try latentsView(latents, "latents")
    try sampler.logProb(
      count(step, "step", 0...sampler.steps - 1), latents: x, velocity: latentsView(velocity, "velocity"),
      extras: stepExtras(extras), next: latentsView(nextLatents, "next_latents"),
      logProb: numbers(logProb, "log_prob", isPart: x.part != nil))
  }
}

@_cdecl("cgrpo_log_prob_vjp") @implementation
public func cgrpo_log_prob_vjp(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ extras: UnsafePointer<cgrpo_step_extras>!,
  _ nextLatents: UnsafePointer<cgrpo_tensor>!, _ gradLogProb: UnsafePointer<Double>!,
  _ gradVelocity: UnsafePointer<cgrpo_tensor>!, _ gradUnconditional: UnsafePointer<cgrpo_tensor>!,
  _ logProb: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.logProbVJP(
      count(step, "step", 0...sampler.steps - 1), latents: latentsView(latents, "latents"),
      velocity: latentsView(velocity, "velocity"), extras: stepExtras(extras),
      next: latentsView(nextLatents, "next_latents"), gradLogProb: nonNull(gradLogProb, "grad_log_prob"),
      gradVelocity: latentsView(gradVelocity, "grad_velocity", writable: true),
      gradUnconditional: gradUnconditional.map { try latentsView($0, "grad_unconditional", writable: true) },
      logProb: logProb)
  }
}

// MARK: - Residuals

@_cdecl("cgrpo_log_prob_residual") @implementation
public func cgrpo_log_prob_residual(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ extras: UnsafePointer<cgrpo_step_extras>!,
  _ nextLatents: UnsafePointer<cgrpo_tensor>!, _ residual: UnsafePointer<cgrpo_tensor>!,
  _ logProb: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let x = try latentsView(latents, "latents")
    try sampler.logProbResidual(
      count(step, "step", 0...sampler.steps - 1), latents: x, velocity: latentsView(velocity, "velocity"),
      extras: stepExtras(extras), next: latentsView(nextLatents, "next_latents"),
      residual: latentsView(residual, "residual", writable: true),
      logProb: numbers(logProb, "log_prob", isPart: x.part != nil))
  }
}

@_cdecl("cgrpo_residual_vjp") @implementation
public func cgrpo_residual_vjp(
  _ handle: OpaquePointer!, _ step: Int64, _ residual: UnsafePointer<cgrpo_tensor>!,
  _ extras: UnsafePointer<cgrpo_step_extras>!, _ gradLogProb: UnsafePointer<Double>!,
  _ gradVelocity: UnsafePointer<cgrpo_tensor>!, _ gradUnconditional: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.residualVJP(
      count(step, "step", 0...sampler.steps - 1), residual: latentsView(residual, "residual"),
      extras: stepExtras(extras), gradLogProb: nonNull(gradLogProb, "grad_log_prob"),
      gradVelocity: latentsView(gradVelocity, "grad_velocity", writable: true),
      gradUnconditional: gradUnconditional.map { try latentsView($0, "grad_unconditional", writable: true) })
  }
}
