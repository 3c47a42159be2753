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

private func defaultScheduleOptions() -> cgrpo_schedule_options {
  cgrpo_schedule_options(
    struct_size: MemoryLayout<cgrpo_schedule_options>.stride, base: ScheduleBase.linear.rawValue, shift_kind: 1,
    shift: 1, mu: 0, terminal: 0, spacing: ScheduleSpacing.shifted.rawValue, reserved: 0)
}

@_cdecl("cgrpo_schedule_options_init") @implementation
public func cgrpo_schedule_options_init(_ options: UnsafeMutablePointer<cgrpo_schedule_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: defaultScheduleOptions())
}

@_cdecl("cgrpo_schedule_make") @implementation
public func cgrpo_schedule_make(
  _ steps: Int64, _ options: UnsafePointer<cgrpo_schedule_options>!, _ sigmas: UnsafeMutablePointer<Double>!
) -> cgrpo_status {
  guarded {
    let o = try readStruct(options, "options", current: defaultScheduleOptions())
    try require(o.reserved == 0, "options.reserved = \(o.reserved) must be 0")
    let shift: ScheduleShift
    switch o.shift_kind {
    case 1: shift = .fixed(o.shift)
    case 2: shift = .exponential(mu: o.mu)
    case 3: shift = .linear(mu: o.mu)
    default: throw ChunkGRPOError.invalidArgument("shift_kind = \(o.shift_kind) is none of its values")
    }
    let schedule = try Schedule.make(
      steps: scheduleSteps(steps), base: enumeration(o.base, "base"), shift: shift,
      terminal: o.terminal == 0 ? nil : o.terminal, spacing: enumeration(o.spacing, "spacing"))
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
