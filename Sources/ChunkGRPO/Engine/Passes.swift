internal import KernelTable

// What is done to the blocks of a batch: one pass for each thing that a sampler does.

/// p·y + q·z, which a mean has beside a·x + b·v: the unconditional velocity of guidance, and the image that the step
/// before predicted.
struct LinearTerms {
  var y: Rows?
  var p = 0.0
  var z: Rows?
  var q = 0.0

  func sum(_ block: Block, _ kernels: BlockKernels) -> UnsafeRawPointer? {
    guard let first = y ?? z else { return nil }
    if y == nil {
      kernels.combine(q, first.at(block), 0, nil, block.extra, block.count)
    } else {
      kernels.combine(p, first.at(block), q, z?.at(block), block.extra, block.count)
    }
    return UnsafeRawPointer(block.extra)
  }
}

/// next = m + s·ε with m = a·x + b·v + terms; the sums are taken from `next` as stored.
struct StepPass: Pass {
  let c: StepCoefficients
  let x, v: Rows
  let terms: LinearTerms?
  let noise: NoiseSource
  let next: Rows
  /// Whether sums for the relative L1 change are wanted.
  let change: Bool

  func run(_ block: Block, _ kernels: BlockKernels, _ sums: inout BlockSums) {
    if case .library(let noise) = noise, terms == nil, block.count & 31 == 0, let noisyStep = kernels.noisyStep {
      return noisyStep(
        c.a, c.b, c.s, x.at(block), v.at(block), noise.draw(block), block.noise, next.at(block), change, block.count,
        &sums)
    }
    kernels.step(
      c.a, c.b, c.s, x.at(block), v.at(block), terms?.sum(block, kernels), noise.numbers(block, x.type, kernels),
      next.at(block), change, block.count, &sums)
  }
}

/// Where gradients go: scale·upstream[sample]·(x' − m), and for guidance the same with another scale for the unconditional
/// velocity.
struct GradientOutput {
  let gradient: Rows
  let unconditional: Rows?
  let upstream: Column
  let scale, unconditionalScale: Double
  /// Stores past the caches, which need not read first what they overwrite.
  let streams: Bool
}

/// Σ (x' − m)² of given next latents, and in the same pass the gradients.
struct DifferencePass: Pass {
  let c: StepCoefficients
  let x, v: Rows
  let terms: LinearTerms?
  let next: Rows
  var output: GradientOutput?

  func run(_ block: Block, _ kernels: BlockKernels, _ sums: inout BlockSums) {
    let extra = terms?.sum(block, kernels)
    func difference(_ gradient: Rows?, _ scale: Double, _ sums: inout BlockSums) {
      kernels.difference(
        c.a, c.b, x.at(block), v.at(block), extra, next.at(block), scale, gradient?.at(block), output?.streams ?? false,
        block.count, &sums)
    }
    guard let output else { return difference(nil, 0, &sums) }
    let upstream = output.upstream[block.sample]
    if let unconditional = output.unconditional {
      var unused = BlockSums()
      difference(unconditional, output.unconditionalScale * upstream, &unused)
    }
    difference(output.gradient, output.scale * upstream, &sums)
  }
}

/// Σ (x_{t+1} − m)² of the steps of a trajectory, and in the same pass the gradients.
struct TrajectoryPass: Pass {
  struct Output {
    let gradients: StepRows
    /// ∂loss/∂ℓ of the first step's samples, `upstreamStride` apart.
    let upstream: UnsafePointer<Double>
    let upstreamStride: Int
    let streams: Bool
  }

  /// Of the steps, all of first order.
  let coefficients: UnsafePointer<StepCoefficients>
  let densities: UnsafePointer<StepDensity>
  /// One step more than `v`.
  let latents: StepRows
  let v: StepRows
  let steps: Int
  let output: Output?

  var x: Rows { latents.first }

  func run(_ block: Block, _ kernels: BlockKernels, _ sums: inout BlockSums) {
    let step = block.step
    let (a, b) = (coefficients[step].a, coefficients[step].b)
    let (x, v, next) = (latents.at(block, step: step), v.at(block, step: step), latents.at(block, step: step &+ 1))
    guard let output else { return kernels.difference(a, b, x, v, nil, next, 0, nil, false, block.count, &sums) }
    let upstream = output.upstream[block.sample &* output.upstreamStride &+ step]
    kernels.difference(
      a, b, x, v, nil, next, upstream * densities[step].slope(b: b, elements: self.x.elements),
      output.gradients.at(block, step: step), output.streams, block.count, &sums)
  }
}

/// Where the gradient of a distance goes: slope·upstream[sample] times the difference.
struct DistanceGradient {
  let view: Rows
  let upstream: UnsafePointer<Double>
  let slope: Double

  func scale(_ block: Block) -> Double { slope * upstream[block.sample] }
}

/// Σ (x − w)², of velocities
struct VelocityDistancePass: Pass {
  let x, w: Rows
  let gradient: DistanceGradient?

  func run(_ block: Block, _ kernels: BlockKernels, _ sums: inout BlockSums) {
    kernels.distance(
      x.at(block), w.at(block), gradient?.scale(block) ?? 0, gradient?.view.at(block), block.count, &sums)
  }
}

/// Σ (m − m')² with m = a·x + b·v and m' = x' − s·ε, the mean that x' was drawn from.
struct MeanDistancePass: Pass {
  let c: StepCoefficients
  let x, v, next: Rows
  let noise: NoiseSource
  let gradient: DistanceGradient?

  func run(_ block: Block, _ kernels: BlockKernels, _ sums: inout BlockSums) {
    kernels.meanDistance(
      c.a, c.b, c.s, x.at(block), v.at(block), noise.numbers(block, x.type, kernels), next.at(block),
      gradient?.scale(block) ?? 0, gradient?.view.at(block), block.count, &sums)
  }
}

/// Σ |x' − x| and Σ |x|.
struct ChangePass: Pass {
  let x, next: Rows

  func run(_ block: Block, _ kernels: BlockKernels, _ sums: inout BlockSums) {
    kernels.change(x.at(block), next.at(block), block.count, &sums)
  }
}

/// The library's normals alone, into x.
struct NormalPass: Pass {
  let x: Rows
  let noise: LibraryNoise

  func run(_ block: Block, _ kernels: BlockKernels, _: inout BlockSums) {
    if x.type.size == x.type.computeSize && block.count & 63 == 0 {
      kernels.normals(noise.draw(block), x.at(block), block.count)
    } else {
      kernels.narrow(NoiseSource.library(noise).numbers(block, x.type, kernels), x.at(block), block.count)
    }
  }
}
