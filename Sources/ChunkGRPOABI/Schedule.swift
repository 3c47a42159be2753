public import CChunkGRPO
import ChunkGRPO

@_cdecl("cgrpo_schedule_linear") @implementation
public func cgrpo_schedule_linear(_ steps: Int64, _ sigmas: UnsafeMutablePointer<Double>!) -> cgrpo_status {
  guarded { try write(Schedule.linear(steps: scheduleSteps(steps)), to: sigmas) }
}

@_cdecl("cgrpo_schedule_shifted") @implementation
public func cgrpo_schedule_shifted(
  _ steps: Int64, _ shift: Double, _ sigmas: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded { try write(Schedule.shifted(steps: scheduleSteps(steps), shift: shift), to: sigmas) }
}

private func scheduleSteps(_ steps: Int64) throws -> Int { try count(steps, "steps", 1...Schedule.maxSteps) }

private func write(_ schedule: Schedule, to sigmas: UnsafeMutablePointer<Double>?) throws {
  let sigmas = try nonNull(sigmas, "sigmas")
  for (k, sigma) in schedule.sigmas.enumerated() { sigmas[k] = sigma }
}

func cScheduleOptions(_ o: ScheduleOptions = ScheduleOptions()) -> cgrpo_schedule_options {
  cgrpo_schedule_options(
    struct_size: MemoryLayout<cgrpo_schedule_options>.stride, base: o.base.rawValue, shift_kind: o.shiftKind.rawValue,
    shift: o.shift, mu: o.mu, terminal: o.terminal ?? 0, spacing: o.spacing.rawValue, reserved: 0)
}

@_cdecl("cgrpo_schedule_options_init") @implementation
public func cgrpo_schedule_options_init(_ options: UnsafeMutablePointer<cgrpo_schedule_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: cScheduleOptions())
}

@_cdecl("cgrpo_schedule_make") @implementation
public func cgrpo_schedule_make(
  _ steps: Int64, _ options: UnsafePointer<cgrpo_schedule_options>!, _ sigmas: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let o = try readStruct(options, "options", current: cScheduleOptions())
    try require(o.reserved == 0, "options.reserved = \(o.reserved) must be 0")
    let schedule = try Schedule.make(
      steps: scheduleSteps(steps),
      ScheduleOptions {
        $0.base = try enumeration(o.base, "base")
        $0.shiftKind = try enumeration(o.shift_kind, "shift_kind")
        ($0.shift, $0.mu, $0.terminal) = (o.shift, o.mu, o.terminal == 0 ? nil : o.terminal)
        $0.spacing = try enumeration(o.spacing, "spacing")
      })
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
      steps: scheduleSteps(steps), shift: shift, kept: count(kept, "kept", 1...Schedule.maxSteps), ratio: ratio)
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
    let result = try Schedule(array(sigmas, "sigmas", n, 1)).timesteps(
      scale: scale, truncated: flag(truncated, "truncated"))
    timesteps.update(from: result, count: n - 1)
  }
}
