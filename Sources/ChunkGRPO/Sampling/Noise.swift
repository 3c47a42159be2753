internal import CSupport
internal import KernelTable

/// Where the ε of a step comes from.
public struct Noise {
  enum Source {
    case library(seed: UInt64)
    case given(TrajectoryView)
  }

  let source: Source
  /// Borrowed as the memory of a `LatentsView` is: `owner` holds it, or the caller keeps it alive. nil = 0, 1, ….
  private var sampleIDs: UnsafePointer<UInt64>?
  /// nil where the caller vouches for it.
  private var idCount: Int?
  private var owner: AnyObject?

  private init(_ source: Source) { self.source = source }

  /// The library's: Philox4x32-10 with a Box–Muller transform in f32, a function of (seed, sample id, step, element)
  /// alone. `sampleIDs`: B of them, nil = 0 … B − 1.
  public static func library(seed: UInt64, sampleIDs: [UInt64]? = nil) -> Noise {
    var noise = Noise(.library(seed: seed))
    if let sampleIDs {
      let copy = CArray(sampleIDs)
      (noise.sampleIDs, noise.idCount, noise.owner) = (copy.pointer, sampleIDs.count, copy)
    }
    return noise
  }

  /// The same for as many ids as there are samples, which the caller keeps alive; nil = 0 … B − 1.
  package static func library(seed: UInt64, borrowing sampleIDs: UnsafePointer<UInt64>?) -> Noise {
    var noise = Noise(.library(seed: seed))
    noise.sampleIDs = sampleIDs
    return noise
  }

  /// The caller's for one step, (B, D) like the latents.
  public static func given(_ noise: LatentsView) -> Noise {
    given(TrajectoryView(noise))
  }

  /// The caller's for all T steps, (B, T, …).
  public static func given(_ noise: TrajectoryView) -> Noise { Noise(.given(noise)) }

  /// That of the samples' steps for latents like `x`, as a pass has it.
  func rows(_ steps: BatchSteps, like x: LatentsView) throws -> NoiseRows {
    switch source {
    case .library(let seed):
      try checkIDs(batch: x.batch)
      try require(
        x.wholeElements <= maxElements,
        "a sample of \(x.wholeElements) elements is larger than the noise can fill, 2^34")
      return .library(.init(seed: seed, sampleIDs: sampleIDs, steps: steps))
    case .given(let noise):
      try x.checkSame(noise.latents(0), "noise")
      if noise.count == 1 { return .given(noise.latents(0).rows) }
      if let i = steps.sample(batch: x.batch, where: { !(0..<noise.count).contains($0) }) {
        throw ChunkGRPOError.invalidArgument("noise holds \(noise.count) steps, and none for \(steps[i])")
      }
      return steps.isMixed
        ? .givenByStep(StepRows(noise, from: 0), steps) : .given(noise.latents(steps.first).rows)
    }
  }

  /// The library's of `branches` samples in place of each; see `forkedIDs`.
  func forked(batch: Int, step: Int, branches: Int) throws -> Noise {
    guard case .library = source else {
      throw ChunkGRPOError.invalidArgument("noise: that of the trajectory is given, so give that of the fork too")
    }
    let ids = try Buffer<UInt64>(count: checkedProduct([batch, branches], "branches"), for: "sample ids")
    forkedIDs(sampleIDs, batch: batch, step: step, branches: branches, into: ids.base)
    var noise = Noise(source)
    (noise.sampleIDs, noise.idCount, noise.owner) = (UnsafePointer(ids.base), ids.count, ids)
    return noise
  }

  func checkIDs(batch: Int) throws { try checkSampleIDs(idCount, batch: batch) }
}

func checkSampleIDs(_ count: Int?, batch: Int) throws {
  try require(count == nil || count == batch, "sample_ids: \(count ?? 0) of them for a batch of \(batch)")
}

/// The step number that stands for the initial noise.
public let initialNoiseStep = Int(Int32(bitPattern: ReservedStep.initialNoise.rawValue))

/// More elements than this have no counter of their own in the noise.
private let maxElements = 1 << 34

/// Fills `out` with the library's normals for `step` (0 … 2³¹ − 1, or `initialNoiseStep`).
///
/// For one initial noise per group, give all samples of the group the same id.
public func normal(
  seed: UInt64, sampleIDs: [UInt64]? = nil, step: Int = initialNoiseStep, threads: Int = 1, into out: LatentsView
) throws {
  try normal(.library(seed: seed, sampleIDs: sampleIDs), step: step, threads: threads, into: out)
}

/// The same for any of the library's noise.
public func normal(_ noise: Noise, step: Int = initialNoiseStep, threads: Int = 1, into out: LatentsView) throws {
  try require(
    step == initialNoiseStep || (0...Int(Int32.max)).contains(step),
    "step = \(step) is neither \(initialNoiseStep) nor in 0 … \(Int32.max)")
  let threads = try resolvedThreads(threads)
  try out.checkPart(numbers: false, "out", writes: true)
  guard case .library(let rows) = try noise.rows(BatchSteps(step), like: out) else {
    throw ChunkGRPOError.invalidArgument("noise: only the library's can be drawn, and this is given")
  }
  try NormalPass(x: out.rows, noise: rows).run(over: out, threads: threads, keeping: (noise, out)) { _, _, _ in 0 }
}

/// Uniform draws in (0, 1), 32 bits each: word 0 of Philox's counters in order.
package func uniforms(seed: UInt64, sampleID: UInt64, step: UInt32, count: Int) -> [Double] {
  [Double](unsafeUninitializedCapacity: count) { draws, initialized in
    uniforms(seed: seed, sampleID: sampleID, step: step, into: UnsafeMutableBufferPointer(rebasing: draws[..<count]))
    initialized = count
  }
}

package func uniforms(seed: UInt64, sampleID: UInt64, step: UInt32, into draws: UnsafeMutableBufferPointer<Double>) {
  // No pass is under way on this thread.
  kernelSet.uniforms(
    seed: seed, sampleID: sampleID, step: step, scratch: chunkgrpo_support_scratch(CHUNKGRPO_SUPPORT_BLOCK), into: draws
  )
}
