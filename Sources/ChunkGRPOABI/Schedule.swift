public import CChunkGRPO
import ChunkGRPO

/// The caller's, copied.
func schedule(_ sigmas: UnsafePointer<Double>?, _ name: String, _ count: Int) throws -> Schedule {
  try Schedule(copying: UnsafeBufferPointer(start: nonNull(sigmas, name), count: count))
}

private func write(_ schedule: Schedule, to sigmas: UnsafeMutablePointer<Double>?) throws {
  let sigmas = try nonNull(sigmas, "sigmas")
  for (k, sigma) in schedule.sigmas.enumerated() { sigmas[k] = sigma }
}

@_cdecl("cgrpo_schedule_options_init") @implementation
public func cgrpo_schedule_options_init(_ options: UnsafeMutablePointer<cgrpo_schedule_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_schedule_make") @implementation
public func cgrpo_schedule_make(
  _ steps: Int64, _ options: UnsafePointer<cgrpo_schedule_options>!, _ sigmas: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let schedule = try Schedule.make(steps: stepCount(steps), read(options))
    try write(schedule, to: sigmas)
  }
}

@_cdecl("cgrpo_flux_mu") @implementation
public func cgrpo_flux_mu(
  _ pixels: Double, _ baseShift: Double, _ maxShift: Double, _ mu: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    try nonNull(mu, "mu").pointee = Schedule.fluxMu(pixels: pixels, baseShift: baseShift, maxShift: maxShift)
  }
}

@_cdecl("cgrpo_schedule_flash") @implementation
public func cgrpo_schedule_flash(
  _ steps: Int64, _ shift: Double, _ kept: Int64, _ ratio: Double, _ sigmas: UnsafeMutablePointer<Double>!,
  _ capacity: Int64, _ sigmaCount: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let sigmaCount = try nonNull(sigmaCount, "sigma_count")
    let schedule = try Schedule.flash(
      steps: stepCount(steps), shift: shift, kept: count(kept, "kept", 1...Schedule.maxSteps), ratio: ratio)
    try require(
      capacity >= Int64(schedule.sigmas.count),
      "capacity = \(capacity) is too small for \(schedule.sigmas.count) sigmas")
    try write(schedule, to: sigmas)
    sigmaCount.pointee = Int64(schedule.sigmas.count)
  }
}

@_cdecl("cgrpo_timesteps") @implementation
public func cgrpo_timesteps(
  _ sigmas: UnsafePointer<Double>!, _ sigmaCount: Int64, _ scale: Double, _ truncated: Int32,
  _ timesteps: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let timesteps = try nonNull(timesteps, "timesteps")
    try require(scale.isFinite, "scale = \(scale) is not finite")
    let n = try count(sigmaCount, "sigma_count", 2...Schedule.maxSteps + 1)
    let truncated = try flag(truncated, "truncated")
    let schedule = try schedule(sigmas, "sigmas", n)
    for k in 0..<n - 1 { timesteps[k] = schedule.timestep(k, scale: scale, truncated: truncated) }
  }
}
