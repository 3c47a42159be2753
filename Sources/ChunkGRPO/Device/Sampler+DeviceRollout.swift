extension Sampler {
  /// A rollout on a CUDA device, which takes no memory: the model writes its velocity where later latents will lie. The
  /// arguments are checked.
  ///
  /// A step may write its latents over its velocity. A second-order step needs its velocity once more, for its image, and has
  /// the latents behind its own for it: the last step is of first order.
  func rolloutOnDevice(
    _ buffers: TrajectoryBuffers, range: Range<Int>, noise: Noise?, velocity: VelocityFunction
  ) throws {
    let x = buffers.latents
    let image = buffers.previousImage
    guard buffers.velocityType == x.type else {
      throw ChunkGRPOError.wrongType(
        "velocity_type = \(buffers.velocityType): on a CUDA device velocities are written where the next latents will be, in "
          + "their type, \(x.type); take the steps one by one for others")
    }
    try require(
      image != nil || !needsPreviousImage,
      "previous_image is null: on a CUDA device a sampler with second-order steps needs its memory")
    for k in range {
      let (latents, next) = (x.latents(k), x.latents(k + 1))
      let second = coefficients[k].c != 0
      let velocities = second ? x.latents(k + 2) : next
      try velocity(k, schedule.sigmas[k], latents, velocities)
      if let image, !second { try predictedImage(k, latents: latents, velocity: velocities, image: image) }
      let trained = k < trainedSteps
      try step(
        k, latents: latents, velocity: velocities, extras: StepExtras(previousImage: second ? image : nil),
        noise: noise,
        next: next, logProb: trained ? buffers.logProbs.map { $0 + k } : nil,
        relativeL1: trained ? buffers.relativeL1.map { $0 + k } : nil, stride: trainedSteps)
      if let image, second { try predictedImage(k, latents: latents, velocity: velocities, image: image) }
    }
  }
}
