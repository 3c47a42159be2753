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
