public import CChunkGRPO
import ChunkGRPO

private func forwardNoise(_ noise: UnsafePointer<cgrpo_noise>?) throws -> Noise {
  guard let noise = try stepNoise(noise, "noise.given") else {
    throw ChunkGRPOError.invalidArgument("noise is null: give the noise of this draw, or its seed and sample ids")
  }
  return noise
}

private func forwardDraw(_ draw: Int64) throws -> Int { try count(draw, "draw", 0...ForwardDraw.count - 1) }

@_cdecl("cgrpo_forward_noised") @implementation
public func cgrpo_forward_noised(
  _ clean: UnsafePointer<cgrpo_tensor>!, _ times: UnsafePointer<Double>!, _ noise: UnsafePointer<cgrpo_noise>!,
  _ draw: Int64, _ threads: Int32, _ noised: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let clean = try latentsView(clean, "clean")
    try forwardNoised(
      clean: clean, times: numbers(times, "times", clean.batch), noise: forwardNoise(noise), draw: forwardDraw(draw),
      threads: Int(threads), into: latentsView(noised, "noised", writable: true))
  }
}

private func defaultExtras() -> cgrpo_forward_extras {
  var extras = cgrpo_forward_extras()
  extras.struct_size = MemoryLayout<cgrpo_forward_extras>.stride
  return extras
}

@_cdecl("cgrpo_forward_extras_init") @implementation
public func cgrpo_forward_extras_init(_ extras: UnsafeMutablePointer<cgrpo_forward_extras>!, _ structSize: Int) {
  initStruct(extras, size: structSize, defaults: defaultExtras())
}

extension cgrpo_forward_extras {
  fileprivate func output(_ distance: UnsafeMutablePointer<Double>?) -> ForwardOutput {
    var output = ForwardOutput()
    output.distance = distance
    output.absolute = absolute
    output.oldDistance = old_distance
    output.oldAbsolute = old_absolute
    output.referenceDistance = reference_distance
    output.positiveDistance = positive_distance
    output.positiveAbsolute = positive_absolute
    output.negativeDistance = negative_distance
    output.negativeAbsolute = negative_absolute
    output.oldDivergence = old_divergence
    output.referenceDivergence = reference_divergence
    return output
  }

  fileprivate func upstream(_ distance: UnsafePointer<Double>?) -> ForwardUpstream {
    var upstream = ForwardUpstream()
    upstream.distance = distance
    upstream.positiveDistance = grad_positive_distance
    upstream.negativeDistance = grad_negative_distance
    upstream.oldDivergence = grad_old_divergence
    upstream.referenceDivergence = grad_reference_divergence
    return upstream
  }
}

@_cdecl("cgrpo_forward_distance") @implementation
public func cgrpo_forward_distance(
  _ clean: UnsafePointer<cgrpo_tensor>!, _ velocity: UnsafePointer<cgrpo_tensor>!, _ noise: UnsafePointer<cgrpo_noise>!,
  _ draw: Int64, _ threads: Int32, _ extras: UnsafePointer<cgrpo_forward_extras>!,
  _ distance: UnsafeMutablePointer<Double>!, _ gradDistance: UnsafePointer<Double>!,
  _ gradVelocity: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let e = try readStruct(extras, "extras", current: defaultExtras())
    try forwardDistance(
      clean: latentsView(clean, "clean"), velocity: latentsView(velocity, "velocity"), noise: forwardNoise(noise),
      draw: forwardDraw(draw),
      extras: ForwardExtras(
        oldVelocity: e.old_velocity.map { try latentsView($0, "old_velocity") },
        referenceVelocity: e.reference_velocity.map { try latentsView($0, "reference_velocity") },
        nftBeta: e.nft_beta == 0 ? nil : e.nft_beta),
      to: e.output(distance), upstream: e.upstream(gradDistance),
      gradVelocity: gradVelocity.map { try latentsView($0, "grad_velocity", writable: true) }, threads: Int(threads))
  }
}
