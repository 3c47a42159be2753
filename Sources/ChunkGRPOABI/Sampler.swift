public import CChunkGRPO
import ChunkGRPO

/// What a `cgrpo_sampler *` points to.
final class SamplerHandle {
  let sampler: Sampler
  init(_ sampler: Sampler) { self.sampler = sampler }
}

func sampler(_ handle: OpaquePointer?) throws -> Sampler {
  let handle: SamplerHandle = try borrowed(handle, "sampler")
  return handle.sampler
}

/// Those of its fields that are numbers; arrays are null.
func cSamplerOptions(_ o: SamplerOptions = SamplerOptions()) -> cgrpo_sampler_options {
  cgrpo_sampler_options(
    struct_size: MemoryLayout<cgrpo_sampler_options>.stride, dynamics: o.dynamics.rawValue,
    log_prob_form: o.logProbForm.rawValue, eta: o.eta, last_step: o.lastStep.rawValue, threads: Int32(o.threads),
    etas: nil, window: nil, window_count: 0, outside: o.outside.rawValue, after: o.after?.rawValue ?? 0,
    dpm_order: Int32(o.dpmOrder),
    reserved: 0)
}

private func samplerOptions(_ o: cgrpo_sampler_options, steps: Int) throws -> SamplerOptions {
  try require(o.reserved == 0, "options.reserved = \(o.reserved) must be 0")
  var options = SamplerOptions()
  options.dynamics = try enumeration(o.dynamics, "dynamics")
  options.logProbForm = try enumeration(o.log_prob_form, "log_prob_form")
  options.lastStep = try enumeration(o.last_step, "last_step")
  options.outside = try enumeration(o.outside, "outside")
  options.after = try o.after == 0 ? nil : enumeration(o.after, "after")
  options.eta = o.eta
  options.etas = try o.etas.map { try array($0, "etas", steps, 1) }
  if let window = o.window {
    let n = try count(o.window_count, "window_count", 1...steps)
    options.window = try (0..<n).map { try count(window[$0], "window[\($0)]", 0...steps - 1) }
  } else {
    try require(o.window_count == 0, "window is null, but window_count = \(o.window_count)")
  }
  options.dpmOrder = Int(o.dpm_order)
  options.threads = Int(o.threads)
  return options
}

@_cdecl("cgrpo_sampler_options_init") @implementation
public func cgrpo_sampler_options_init(_ options: UnsafeMutablePointer<cgrpo_sampler_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: cSamplerOptions())
}

@_cdecl("cgrpo_sampler_create") @implementation
public func cgrpo_sampler_create(
  _ sigmas: UnsafePointer<Double>!, _ sigmaCount: Int64, _ options: UnsafePointer<cgrpo_sampler_options>!,
  _ out: UnsafeMutablePointer<OpaquePointer?>!
) -> cgrpo_status {
  guarded {
    let out = try nonNull(out, "sampler")
    let sigmas = try nonNull(sigmas, "sigmas")
    let n = try count(sigmaCount, "sigma_count", 2...Schedule.maxSteps + 1)
    let o = try readStruct(options, "options", current: cSamplerOptions())
    let sampler = try Sampler(
      Schedule(Array(UnsafeBufferPointer(start: sigmas, count: n))), samplerOptions(o, steps: n - 1))
    out.pointee = retained(SamplerHandle(sampler))
  }
}

@_cdecl("cgrpo_sampler_destroy") @implementation
public func cgrpo_sampler_destroy(_ sampler: OpaquePointer!) { release(sampler) }

@_cdecl("cgrpo_sampler_coefficients") @implementation
public func cgrpo_sampler_coefficients(
  _ handle: OpaquePointer!, _ step: Int64, _ a: UnsafeMutablePointer<Double>!, _ b: UnsafeMutablePointer<Double>!,
  _ s: UnsafeMutablePointer<Double>!, _ h: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let c = sampler.coefficients[try count(step, "step", 0...sampler.steps - 1)]
    let (a, b, s) = (try nonNull(a, "a"), try nonNull(b, "b"), try nonNull(s, "s"))
    a.pointee = c.a
    b.pointee = c.b
    s.pointee = c.s
    h?.pointee = c.c
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
    struct_size: MemoryLayout<cgrpo_step_extras>.stride, unconditional: nil, guidance: 1, previous_image: nil)
}

@_cdecl("cgrpo_step_extras_init") @implementation
public func cgrpo_step_extras_init(_ extras: UnsafeMutablePointer<cgrpo_step_extras>!, _ structSize: Int) {
  initStruct(extras, size: structSize, defaults: defaultExtras())
}

private func stepExtras(_ extras: UnsafePointer<cgrpo_step_extras>?) throws -> StepExtras {
  let e = try readStruct(extras, "extras", current: defaultExtras())
  return StepExtras(
    unconditional: try e.unconditional.map { try latentsView($0, "unconditional") }, guidance: e.guidance,
    previousImage: try e.previous_image.map { try latentsView($0, "previous_image") })
}

@_cdecl("cgrpo_step") @implementation
public func cgrpo_step(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ noise: UnsafePointer<cgrpo_noise>!,
  _ nextLatents: UnsafePointer<cgrpo_tensor>!, _ logProb: UnsafeMutablePointer<Double>!,
  _ relativeL1: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  cgrpo_step_with_extras(handle, step, latents, velocity, nil, noise, nextLatents, logProb, relativeL1)
}

@_cdecl("cgrpo_step_with_extras") @implementation
public func cgrpo_step_with_extras(
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
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ nextLatents: UnsafePointer<cgrpo_tensor>!,
  _ logProb: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  cgrpo_log_prob_with_extras(handle, step, latents, velocity, nil, nextLatents, logProb)
}

@_cdecl("cgrpo_log_prob_with_extras") @implementation
public func cgrpo_log_prob_with_extras(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ extras: UnsafePointer<cgrpo_step_extras>!,
  _ nextLatents: UnsafePointer<cgrpo_tensor>!, _ logProb: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.logProb(
      count(step, "step", 0...sampler.steps - 1), latents: latentsView(latents, "latents"),
      velocity: latentsView(velocity, "velocity"), extras: stepExtras(extras),
      next: latentsView(nextLatents, "next_latents"), logProb: nonNull(logProb, "log_prob"))
  }
}

@_cdecl("cgrpo_log_prob_vjp") @implementation
public func cgrpo_log_prob_vjp(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ nextLatents: UnsafePointer<cgrpo_tensor>!,
  _ gradLogProb: UnsafePointer<Double>!, _ gradVelocity: UnsafePointer<cgrpo_tensor>!,
  _ logProb: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  cgrpo_log_prob_vjp_with_extras(
    handle, step, latents, velocity, nil, nextLatents, gradLogProb, gradVelocity, nil, logProb)
}

@_cdecl("cgrpo_log_prob_vjp_with_extras") @implementation
public func cgrpo_log_prob_vjp_with_extras(
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
