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

private func defaultOptions() -> cgrpo_sampler_options {
  cgrpo_sampler_options(
    struct_size: MemoryLayout<cgrpo_sampler_options>.stride, dynamics: Dynamics.flowSDE.rawValue,
    log_prob_form: LogProbForm.gaussian.rawValue, eta: 0.7, last_step: LastStep.asOthers.rawValue, threads: 1)
}

@_cdecl("cgrpo_sampler_options_init") @implementation
public func cgrpo_sampler_options_init(_ options: UnsafeMutablePointer<cgrpo_sampler_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: defaultOptions())
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
    let o = try readStruct(options, "options", current: defaultOptions())
    let sampler = try Sampler(
      Schedule(Array(UnsafeBufferPointer(start: sigmas, count: n))),
      dynamics: enumeration(o.dynamics, "dynamics"), eta: o.eta,
      logProbForm: enumeration(o.log_prob_form, "log_prob_form"), lastStep: enumeration(o.last_step, "last_step"),
      threads: Int(o.threads))
    out.pointee = retained(SamplerHandle(sampler))
  }
}

@_cdecl("cgrpo_sampler_destroy") @implementation
public func cgrpo_sampler_destroy(_ sampler: OpaquePointer!) { release(sampler) }

@_cdecl("cgrpo_sampler_coefficients") @implementation
public func cgrpo_sampler_coefficients(
  _ handle: OpaquePointer!, _ step: Int64, _ a: UnsafeMutablePointer<Double>!, _ b: UnsafeMutablePointer<Double>!,
  _ s: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let c = sampler.coefficients[try count(step, "step", 0...sampler.steps - 1)]
    let (a, b, s) = (try nonNull(a, "a"), try nonNull(b, "b"), try nonNull(s, "s"))
    a.pointee = c.a
    b.pointee = c.b
    s.pointee = c.s
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

@_cdecl("cgrpo_normal") @implementation
public func cgrpo_normal(
  _ seed: UInt64, _ sampleIDs: UnsafePointer<UInt64>!, _ step: Int64, _ threads: Int32,
  _ out: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    try normal(
      seed: seed, sampleIDPointer: sampleIDs, step: count(step, "step", initialNoiseStep...Int(Int32.max)),
      threads: Int(threads), into: latentsView(out, "out", writable: true))
  }
}

// MARK: - Step and log-probability

@_cdecl("cgrpo_step") @implementation
public func cgrpo_step(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ noise: UnsafePointer<cgrpo_noise>!,
  _ nextLatents: UnsafePointer<cgrpo_tensor>!, _ logProb: UnsafeMutablePointer<Double>!,
  _ relativeL1: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    let k = try count(step, "step", 0...sampler.steps - 1)
    let x = try latentsView(latents, "latents")
    let v = try latentsView(velocity, "velocity")
    let next = try latentsView(nextLatents, "next_latents", writable: true)
    let noise = try readNoise(noise)
    if let noise, noise.given == nil {
      try sampler.step(
        k, latents: x, velocity: v, seed: noise.seed, sampleIDPointer: noise.sample_ids, next: next, logProb: logProb,
        relativeL1: relativeL1)
    } else {
      try sampler.step(
        k, latents: x, velocity: v, noise: noise.map { .given(try latentsView($0.given, "noise")) }, next: next,
        logProb: logProb, relativeL1: relativeL1)
    }
  }
}

@_cdecl("cgrpo_log_prob") @implementation
public func cgrpo_log_prob(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ nextLatents: UnsafePointer<cgrpo_tensor>!,
  _ logProb: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.logProb(
      count(step, "step", 0...sampler.steps - 1), latents: latentsView(latents, "latents"),
      velocity: latentsView(velocity, "velocity"), next: latentsView(nextLatents, "next_latents"),
      logProb: nonNull(logProb, "log_prob"))
  }
}

@_cdecl("cgrpo_log_prob_vjp") @implementation
public func cgrpo_log_prob_vjp(
  _ handle: OpaquePointer!, _ step: Int64, _ latents: UnsafePointer<cgrpo_tensor>!,
  _ velocity: UnsafePointer<cgrpo_tensor>!, _ nextLatents: UnsafePointer<cgrpo_tensor>!,
  _ gradLogProb: UnsafePointer<Double>!, _ gradVelocity: UnsafePointer<cgrpo_tensor>!,
  _ logProb: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let sampler = try sampler(handle)
    try sampler.logProbVJP(
      count(step, "step", 0...sampler.steps - 1), latents: latentsView(latents, "latents"),
      velocity: latentsView(velocity, "velocity"), next: latentsView(nextLatents, "next_latents"),
      gradLogProb: nonNull(gradLogProb, "grad_log_prob"),
      gradVelocity: latentsView(gradVelocity, "grad_velocity", writable: true), logProb: logProb)
  }
}
