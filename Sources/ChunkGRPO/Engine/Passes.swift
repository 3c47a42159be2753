internal import KernelTable

// The work on the blocks of a batch: one pass for each thing that a sampler does.

/// p·y + q·z, which a mean has beside a·x + b·v: the unconditional velocity of guidance, and the image that the step
/// before predicted, which only samples with q ≠ 0 have.
struct LinearTerms {
  var y: Rows?
  var z: Rows?

  func sum(_ n: SampleNumbers, _ block: Block, _ kernels: any LatentKernels.Type) -> UnsafeRawPointer? {
    let z = n.q == 0 ? nil : z
    if y == nil && z == nil { return nil }
    var arguments = CombineArguments(
      p: n.p, y: y.map { UnsafeRawPointer($0.at(block)) }, q: n.q, z: z.map { UnsafeRawPointer($0.at(block)) },
      extra: block.extra, count: block.count)
    kernels.combine(&arguments)
    return UnsafeRawPointer(block.extra)
  }
}

/// Where the numbers of samples go, `stride` apart, or nowhere. On a CUDA device, which the pass tells of them, they are
/// addresses there.
struct StepNumbers {
  var logProb, relativeL1: UnsafeMutablePointer<Double>?
  var stride = 1
}

/// next = m + s·ε with m = a·x + b·v + terms; the sums are taken from `next` as stored.
struct StepPass: Pass {
  let numbers: BatchNumbers
  let x, v: Rows
  let terms: LinearTerms?
  let noise: NoiseRows
  let next: Rows
  let results: StepNumbers

  /// Whether sums for the relative L1 change are wanted.
  var change: Bool { results.relativeL1 != nil || x.isPart }

  var kernels: any LatentKernels.Type { x.type.kernels(velocity: v.type) }

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout BlockSums) {
    let n = numbers[block.sample]
    if case .library(let noise) = noise, n.s != 0, terms == nil, block.count & 31 == 0,
      block.first & (blockSize &- 1) == 0,
      kernels.hasNoisyStep
    {
      var arguments = NoisyStepArguments(
        a: n.a, b: n.b, s: n.s, x: x.at(block), v: v.at(block), draw: noise.draw(block), words: block.noise,
        next: next.at(block), change: change, count: block.count)
      return kernels.noisyStep(&arguments, &sums)
    }
    var arguments = StepArguments(
      a: n.a, b: n.b, s: n.s, x: x.at(block), v: v.at(block), extra: terms?.sum(n, block, kernels),
      noise: (n.s == 0 ? .none : noise).numbers(block, x.type, kernels), next: next.at(block), change: change,
      count: block.count)
    kernels.step(&arguments, &sums)
  }

  func pad(_ sample: Int, _: Int, _ range: Range<Int>) { next.copy(sample, range, from: x) }
}

/// Where gradients go: w·slope·upstream[sample]·(x' − m), and for guidance the same with 1 − w for the unconditional
/// velocity.
struct GradientOutput {
  let gradient: Rows
  let unconditional: Rows?
  /// nil: the residual x' − m itself is written.
  let upstream: UnsafePointer<Double>?
  /// Stores past the caches, which need not read first what they overwrite.
  let streams: Bool

  func scales(_ sample: Int, elements: Int, _ numbers: BatchNumbers) -> (conditional: Double, unconditional: Double) {
    guard let upstream else { return (1, 0) }
    let n = numbers[sample]
    let slope = numbers.density(sample).slope(b: n.c.b, elements: elements)
    return (slope * n.guidance * upstream[sample], slope * (1 - n.guidance) * upstream[sample])
  }
}

/// Σ (x' − m)² of given next latents, and in the same pass the gradients.
struct DifferencePass: Pass {
  let numbers: BatchNumbers
  let x, v: Rows
  let terms: LinearTerms?
  let next: Rows
  let output: GradientOutput?
  let logProb: UnsafeMutablePointer<Double>?
  /// Whether x, v and x' are one array, a residual r that was kept: with the mean r − r = 0, x' − m is r to the bit.
  var ofResidual = false

  var kernels: any LatentKernels.Type { x.type.kernels(velocity: v.type) }

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout BlockSums) {
    let n = numbers[block.sample]
    let (a, b) = ofResidual ? (1, -1) : (n.a, n.b)
    var arguments = DifferenceArguments(
      a: a, b: b, x: x.at(block), v: v.at(block), extra: terms?.sum(n, block, kernels), next: next.at(block),
      scale: 0, gradient: nil, streams: output?.streams ?? false, count: block.count)
    if let output {
      let scales = output.scales(block.sample, elements: block.length, numbers)
      if let unconditional = output.unconditional {
        var unused = BlockSums()
        arguments.scale = scales.unconditional
        arguments.gradient = unconditional.at(block)
        kernels.difference(&arguments, &unused)
      }
      arguments.scale = scales.conditional
      arguments.gradient = output.gradient.at(block)
    }
    kernels.difference(&arguments, &sums)
  }

  func pad(_ sample: Int, _: Int, _ range: Range<Int>) {
    output?.gradient.clear(sample, range)
    output?.unconditional?.clear(sample, range)
  }
}

/// Σ (x_{t+1} − m)² of the steps of a trajectory, and in the same pass the gradients.
struct TrajectoryPass: Pass {
  struct Output {
    let gradients: StepRows
    /// ∂loss/∂ℓ of the first step's samples, `upstreamStride` apart. nil: the residuals x' − m themselves are written.
    let upstream: UnsafePointer<Double>?
    let upstreamStride: Int
    let streams: Bool

    func scale(_ sample: Int, _ step: Int, elements: Int, _ at: ScheduledStep) -> Double {
      guard let upstream else { return 1 }
      return upstream[sample &* upstreamStride &+ step] * at.density.slope(b: at.coefficients.b, elements: elements)
    }
  }

  /// Of the schedule; those of the steps that are taken are of first order.
  let table: UnsafePointer<ScheduledStep>
  /// One step more than `v`; of residuals that were kept, these, as `v` is.
  let latents: StepRows
  let v: StepRows
  /// Where each sample begins.
  let first: BatchSteps
  let steps: Int
  let output: Output?
  /// Of the first step, a sample's `stride` apart.
  let logProbs: UnsafeMutablePointer<Double>?
  let stride: Int
  /// As in `DifferencePass`.
  var ofResiduals = false

  var x: Rows { latents.first }
  var kernels: any LatentKernels.Type { x.type.kernels(velocity: v.first.type) }

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout BlockSums) {
    let step = block.step
    let at = table + (first[block.sample] &+ step)
    let (a, b) = ofResiduals ? (1, -1) : (at.pointee.coefficients.a, at.pointee.coefficients.b)
    var arguments = DifferenceArguments(
      a: a, b: b, x: latents.at(block, step: step), v: v.at(block, step: step), extra: nil,
      next: latents.at(block, step: ofResiduals ? step : step &+ 1), scale: 0, gradient: nil, streams: false,
      count: block.count)
    if let output {
      arguments.scale = output.scale(block.sample, step, elements: block.length, at.pointee)
      arguments.gradient = output.gradients.at(block, step: step)
      arguments.streams = output.streams
    }
    kernels.difference(&arguments, &sums)
  }

  func pad(_ sample: Int, _ step: Int, _ range: Range<Int>) { output?.gradients.clear(sample, range, step: step) }
}

/// Where the gradient of a distance goes: slope/D·upstream[sample] times the difference.
struct DistanceGradient {
  let view: Rows
  let upstream: UnsafePointer<Double>
  /// They give the slope; nil = 2, of mean d².
  var factors: DistanceFactors?

  /// - Parameter elements: that count of the sample.
  func scale(_ sample: Int, elements: Int) -> Double {
    (factors?.slope(sample) ?? 2) / Double(elements) * upstream[sample]
  }
}

/// Σ (x − w)², of velocities
struct VelocityDistancePass: Pass {
  let x, w: Rows
  let gradient: DistanceGradient?
  /// What becomes of the distances, and where; on a CUDA device it is asked for.
  var factors: DistanceFactors?
  var distance: UnsafeMutablePointer<Double>?

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout BlockSums) {
    var arguments = DistanceArguments(
      v: x.at(block), w: w.at(block), scale: gradient?.scale(block.sample, elements: block.length) ?? 0,
      gradient: gradient?.view.at(block),
      count: block.count)
    kernels.distance(&arguments, &sums)
  }

  func pad(_ sample: Int, _: Int, _ range: Range<Int>) { gradient?.view.clear(sample, range) }
}

/// Σ (m − m')² with m = a·x + b·v and m' = x' − s·ε, the mean that x' was drawn from.
struct MeanDistancePass: Pass {
  /// Of the schedule.
  let table: UnsafePointer<ScheduledStep>
  let steps: BatchSteps
  let x, v, next: Rows
  let noise: NoiseRows
  let gradient: DistanceGradient?
  let factors: DistanceFactors
  let distance: UnsafeMutablePointer<Double>?

  var kernels: any LatentKernels.Type { x.type.kernels(velocity: v.type) }

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout BlockSums) {
    let c = table[steps[block.sample]].coefficients
    var arguments = MeanDistanceArguments(
      a: c.a, b: c.b, s: c.s, x: x.at(block), v: v.at(block), noise: noise.numbers(block, x.type, kernels),
      next: next.at(block), scale: gradient?.scale(block.sample, elements: block.length) ?? 0,
      gradient: gradient?.view.at(block),
      count: block.count)
    kernels.meanDistance(&arguments, &sums)
  }

  func pad(_ sample: Int, _: Int, _ range: Range<Int>) { gradient?.view.clear(sample, range) }
}

/// Σ |x' − x| and Σ |x|.
struct ChangePass: Pass {
  let x, next: Rows
  /// The number of the first, in messages.
  let step: Int
  let results: StepNumbers

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout BlockSums) {
    kernels.change(from: x.at(block), to: next.at(block), count: block.count, &sums)
  }
}

/// The library's normals alone, into x.
struct NormalPass: Pass {
  let x: Rows
  let noise: NoiseRows.Library

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _: inout BlockSums) {
    if x.type.size == x.type.computeSize && block.count & 63 == 0 && block.first & (blockSize &- 1) == 0 {
      var draw = noise.draw(block)
      kernels.normals(&draw, into: x.at(block), count: block.count)
    } else {
      let numbers = NoiseRows.library(noise).numbers(block, x.type, kernels)
      kernels.narrow(numbers, into: x.at(block), count: block.count)
    }
  }

  func pad(_ sample: Int, _: Int, _ range: Range<Int>) { x.clear(sample, range) }
}
