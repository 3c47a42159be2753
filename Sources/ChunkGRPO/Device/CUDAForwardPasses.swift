internal import KernelTable
internal import KernelsCUDA

// The passes of the forward process on a CUDA device.

extension NoisedPass {
  func launch(on queue: CUDAQueue) throws {
    let launch = try CUDALaunch(queue, x, "clean")
    try launch.check(next, "noised")
    try launch.check(times, "times")
    try noise.check(launch)
    var arguments = CUDAStepArguments()
    try launch.run(.stepAny, x.type, x.type, most: mostSamples(noise.carriesIDs(queue)), &arguments) { k, samples in
      let first = samples.lowerBound
      (k.x, k.v, k.next) = (x.cuda(first), x.cuda(first), next.cuda(first))
      (k.y, k.z) = (noRows, noRows)
      k.times = times + first
      k.stride = 1
      k.shape = launch.shape(samples)
      k.workspace = try launch.workspace(samples, wanted: false)
      noise.fill(&k.noise, samples, queue)
      var n = CUDANumbers()
      n.step = noise.firstStep
      set(&k.numbers, 0, n)
    }
  }
}

extension NoiseRows {
  /// The step number of all samples' noise.
  fileprivate var firstStep: UInt32 {
    if case .library(let noise) = self { return UInt32(truncatingIfNeeded: noise.steps.first) }
    return 0
  }
}

/// Both passes of distances.
private func launchForward(
  _ queue: CUDAQueue, _ v: Rows, clean: Rows, noise: NoiseRows, old: Rows?, reference: Rows?, nftBeta: Double?,
  gradient: Rows?, _ numbers: ForwardNumbers
) throws {
  let launch = try CUDALaunch(queue, v, "velocity")
  try launch.check(clean, "clean")
  try noise.check(launch)
  try launch.check(old, "old_velocity")
  try launch.check(reference, "reference_velocity")
  try launch.check(gradient, "grad_velocity")
  try numbers.check(launch)
  var arguments = CUDAForwardArguments()
  let kernel: CUDAKernel = old == nil && reference == nil ? .forward : .forwardExtras
  try launch.run(kernel, clean.type, v.type, most: mostSamples(noise.carriesIDs(queue)), &arguments) { k, samples in
    let first = samples.lowerBound
    (k.clean, k.v) = (clean.cuda(first), v.cuda(first))
    (k.old, k.reference, k.gradient) = (old.cuda(first), reference.cuda(first), gradient.cuda(first))
    k.beta = nftBeta ?? 0
    (k.to, k.upstream) = (numbers.output.cuda(first), numbers.upstream.cuda(first))
    k.shape = launch.shape(samples)
    k.workspace = try launch.workspace(samples, wanted: !numbers.output.isEmpty)
    noise.fill(&k.noise, samples, queue)
    k.step = noise.firstStep
  }
}

extension ForwardPass {
  func launch(on queue: CUDAQueue) throws {
    try launchForward(
      queue, x, clean: clean, noise: noise, old: nil, reference: nil, nftBeta: nil, gradient: gradient?.view,
      numbers.pointee)
  }
}

extension ForwardExtrasPass {
  func launch(on queue: CUDAQueue) throws {
    try launchForward(
      queue, x, clean: clean, noise: noise, old: old, reference: reference, nftBeta: nftBeta, gradient: gradient,
      numbers)
  }
}

/// The arrays of numbers that a distance writes and reads.
struct ForwardNumbers {
  let output: ForwardOutput
  let upstream: ForwardUpstream

  fileprivate func check(_ launch: CUDALaunch) throws {
    for (name, place) in output.named { try launch.check(place, name) }
    for (name, place) in upstream.named { try launch.check(place, name) }
  }
}

extension ForwardOutput {
  fileprivate var named: [(String, Place)] {
    [
      ("distance", distance), ("absolute", absolute), ("old_distance", oldDistance), ("old_absolute", oldAbsolute),
      ("reference_distance", referenceDistance), ("positive_distance", positiveDistance),
      ("positive_absolute", positiveAbsolute), ("negative_distance", negativeDistance),
      ("negative_absolute", negativeAbsolute), ("old_divergence", oldDivergence),
      ("reference_divergence", referenceDivergence),
    ]
  }

  var isEmpty: Bool { named.allSatisfy { $0.1 == nil } }

  fileprivate func cuda(_ first: Int) -> CUDAForwardDistances {
    func at(_ place: Place) -> Place { place.map { $0 + first } }
    return CUDAForwardDistances(
      distance: at(distance), absolute: at(absolute), old_distance: at(oldDistance), old_absolute: at(oldAbsolute),
      reference_distance: at(referenceDistance), positive_distance: at(positiveDistance),
      positive_absolute: at(positiveAbsolute), negative_distance: at(negativeDistance),
      negative_absolute: at(negativeAbsolute), old_divergence: at(oldDivergence),
      reference_divergence: at(referenceDivergence))
  }
}

extension ForwardUpstream {
  fileprivate var named: [(String, Numbers)] {
    [
      ("grad_distance", distance), ("grad_positive_distance", positiveDistance),
      ("grad_negative_distance", negativeDistance), ("grad_old_divergence", oldDivergence),
      ("grad_reference_divergence", referenceDivergence),
    ]
  }

  fileprivate func cuda(_ first: Int) -> CUDAForwardUpstream {
    func at(_ numbers: Numbers) -> Numbers { numbers.map { $0 + first } }
    return CUDAForwardUpstream(
      distance: at(distance), positive_distance: at(positiveDistance), negative_distance: at(negativeDistance),
      old_divergence: at(oldDivergence), reference_divergence: at(referenceDivergence))
  }
}
