internal import BlockKernels
internal import CSupport
import Glibc

// One pass over a batch for each thing that a sampler does. A pass reads every sample once, in blocks: sums are in the
// compute type within a block and in `Double` between blocks, in an order that depends on the number of elements alone.

typealias SampleSums = BlockSums

/// The part of a sample that one thread works on.
private let segmentSize = 16 * blockSize
/// Sums that are kept at a time.
private let maxSums = Int(CHUNKGRPO_SUPPORT_UNITS)
/// The most steps of a pass: few, for the more it has the fewer segments are worked on at a time.
let maxSteps = 16
/// Below this many elements a thread costs more than it brings.
private let threadingThreshold = 1 << 17

/// Up to `blockSize` elements of one sample, and this thread's memory for numbers of the compute type.
struct Block {
  let sample, step, offset, count: Int
  let extra, noise, scratch: UnsafeMutableRawPointer
}

/// What is done to the blocks of a batch. A structure and not a closure: threads get at it without memory from the heap.
protocol Pass {
  /// Latents of the batch's size.
  var x: Rows { get }
  /// 1 … `maxSteps`: a segment of a sample is taken through all of them before the next one, so that what a step reads
  /// that the last one has read is still in the cache. 1 by default.
  var steps: Int { get }
  func run(_ block: Block, _ kernels: BlockKernels, _ sums: inout BlockSums)
}

/// A pass over some of the units of a batch: the segments of its samples, in order.
private struct Work<P: Pass> {
  let pass: P
  let kernels: BlockKernels
  let segments, steps: Int
  let partial: UnsafeMutablePointer<BlockSums>
  var first = 0

  func run(_ units: Range<Int>) {
    let scratch = chunkgrpo_support_scratch(CHUNKGRPO_SUPPORT_BLOCK)
    var (sample, segment) = (first &+ units.lowerBound).quotientAndRemainder(dividingBy: segments)
    for unit in units {
      let end = min(pass.x.elements, (segment &+ 1) &* segmentSize)
      for step in 0..<steps {
        var offset = segment &* segmentSize
        var sums = BlockSums()
        while offset < end {
          let block = Block(
            sample: sample, step: step, offset: offset, count: min(blockSize, end &- offset), extra: scratch,
            noise: scratch + 8 &* blockSize, scratch: scratch + 16 &* blockSize)
          pass.run(block, kernels, &sums)
          offset &+= blockSize
        }
        (partial + (unit &* steps &+ step)).initialize(to: sums)
      }
      segment &+= 1
      if segment == segments { (sample, segment) = (sample &+ 1, 0) }
    }
    chunkgrpo_support_finish_streams()
  }
}

extension Pass {
  var steps: Int { 1 }

  /// Runs over every sample on up to `threads` threads, then calls `finish` with each sample's sums, in order.
  func run(threads: Int, finish: (_ sample: Int, SampleSums) -> Void) {
    run(threads: threads) { sample, _, sums in finish(sample, sums) }
  }

  /// The same for the sums of each step: all steps of a sample, then the next sample.
  func run(threads: Int, finish: (_ sample: Int, _ step: Int, SampleSums) -> Void) {
    let (batch, elements, steps) = (x.batch, x.elements, steps)
    let segments = (elements &+ segmentSize &- 1) / segmentSize
    let threads = batch &* elements &* steps < threadingThreshold ? 1 : threads
    let sums = chunkgrpo_support_scratch(CHUNKGRPO_SUPPORT_SUMS).assumingMemoryBound(to: BlockSums.self)
    let (totals, partial) = (sums, sums + steps)
    var work = Work(pass: self, kernels: x.type.kernels, segments: segments, steps: steps, partial: partial)
    totals.initialize(repeating: BlockSums(), count: steps)
    var (sample, segment) = (0, 0)
    while work.first < batch &* segments {
      let units = min((maxSums &- steps) / steps, batch &* segments &- work.first)
      withUnsafeMutablePointer(to: &work) {
        parallel(units: units, threads: threads, context: $0) { context, units in
          context.assumingMemoryBound(to: Work<Self>.self).pointee.run(units)
        }
      }
      for unit in 0..<units {
        segment &+= 1
        for step in 0..<steps {
          totals[step] += partial[unit &* steps &+ step]
          if segment == segments {
            finish(sample, step, totals[step])
            totals[step] = BlockSums()
          }
        }
        if segment == segments { (sample, segment) = (sample &+ 1, 0) }
      }
      work.first &+= units
    }
  }
}

/// Half of the last cache; the rest is for the model.
private let cacheShare = Int(chunkgrpo_support_cache_size()) / 2

/// Latents as a pass has them: without their owner, for a block should count no references. Whoever makes a pass keeps
/// them alive.
struct Rows {
  let base: UnsafeMutableRawPointer
  let type: ElementType
  let batch, elements: Int
  /// Distance of two samples, and size of an element, in bytes.
  private let stride, size: Int

  fileprivate init(_ view: LatentsView) {
    base = view.base
    type = view.type
    batch = view.batch
    elements = view.elements
    size = view.type.size
    stride = view.batchStride &* size
  }

  fileprivate func at(_ block: Block) -> UnsafeMutableRawPointer {
    base + (block.sample &* stride &+ block.offset &* size)
  }
}

extension LatentsView {
  var rows: Rows { Rows(self) }

  /// Whether `count` arrays like this one are more than stays in the cache for whoever reads them next.
  func exceedsCache(count: Int) -> Bool {
    let (bytes, overflow) = (batch &* elements &* type.size).multipliedReportingOverflow(by: count)
    return overflow || bytes >= cacheShare
  }
}

/// p·y + q·z, which a mean has beside a·x + b·v: the unconditional velocity of guidance, and the image that the step
/// before predicted.
struct LinearTerms {
  var y: Rows?
  var p = 0.0
  var z: Rows?
  var q = 0.0

  fileprivate func sum(_ block: Block, _ kernels: BlockKernels) -> UnsafeRawPointer? {
    guard let first = y ?? z else { return nil }
    if y == nil {
      kernels.combine(q, first.at(block), 0, nil, block.extra, block.count)
    } else {
      kernels.combine(p, first.at(block), q, z?.at(block), block.extra, block.count)
    }
    return UnsafeRawPointer(block.extra)
  }
}

/// Normals as a function of (seed, sample id, step, element).
struct LibraryNoise {
  let seed: UInt64
  let sampleIDs: UnsafePointer<UInt64>?
  let step: UInt32

  init(seed: UInt64, sampleIDs: UnsafePointer<UInt64>?, step: Int) {
    self.seed = seed
    self.sampleIDs = sampleIDs
    self.step = UInt32(truncatingIfNeeded: step)
  }

  fileprivate func draw(_ block: Block) -> Draw {
    Draw(
      seed: seed, sampleID: sampleIDs?[block.sample] ?? UInt64(block.sample), step: step, first: block.offset,
      scratch: block.scratch)
  }
}

/// Where the noise of a step comes from.
enum NoiseSource {
  case none
  case given(Rows)
  case library(LibraryNoise)

  /// In the compute type.
  fileprivate func numbers(_ block: Block, _ type: ElementType, _ kernels: BlockKernels) -> UnsafeRawPointer {
    switch self {
    case .none:
      memset(block.noise, 0, blockSize &* type.computeSize)
    case .given(let noise):
      if type.size == type.computeSize { return UnsafeRawPointer(noise.at(block)) }
      kernels.widen(noise.at(block), block.noise, block.count)
    case .library(let noise):
      kernels.normals(noise.draw(block), block.noise, block.count)
    }
    return UnsafeRawPointer(block.noise)
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

/// Latents or velocities of several steps as a pass has them.
struct StepRows {
  let first: Rows
  /// Distance of two steps, in bytes.
  private let stride: Int

  init(_ view: TrajectoryView, from step: Int) {
    first = view[step].rows
    stride = view.stepStride &* view.type.size
  }

  fileprivate func at(_ block: Block, step: Int) -> UnsafeMutableRawPointer { first.at(block) + step &* stride }
}

/// Σ (x_{t+1} − m)² of the steps of a trajectory, and in the same pass the gradients.
struct TrajectoryPass: Pass {
  struct Output {
    let gradients: StepRows
    /// ∂loss/∂ℓ of the first step's samples, `upstreamStride` apart; and for each step what it is multiplied by.
    let upstream: UnsafePointer<Double>
    let upstreamStride: Int
    let slopes: UnsafePointer<Double>
    let streams: Bool
  }

  /// Of the steps, all of first order.
  let coefficients: UnsafePointer<StepCoefficients>
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
    kernels.difference(
      a, b, x, v, nil, next, output.upstream[block.sample &* output.upstreamStride &+ step] * output.slopes[step],
      output.gradients.at(block, step: step), output.streams, block.count, &sums)
  }
}

/// Where the gradient of a distance goes: slope·upstream[sample] times the difference.
struct DistanceGradient {
  let view: Rows
  let upstream: UnsafePointer<Double>
  let slope: Double

  fileprivate func scale(_ block: Block) -> Double { slope * upstream[block.sample] }
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
