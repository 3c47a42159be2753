/// Where the ε of a step comes from.
public enum Noise {
  /// The library's: Philox4x32-10 with a Box–Muller transform in f32, a function of (seed, sample id, step, element)
  /// alone. `sampleIDs`: B of them, nil = 0 … B − 1.
  case library(seed: UInt64, sampleIDs: [UInt64]? = nil)
  /// The caller's, (B, D) like the latents.
  case given(LatentsView)
}

/// The step number that stands for the initial noise.
public let initialNoiseStep = -1

/// More elements than this have no counter of their own in the noise.
let maxElements = 1 << 34

/// Fills `out` with the library's normals for `step` (0 … 2³¹ − 1, or `initialNoiseStep`).
///
/// For one initial noise a group, give all samples of the group the same id.
public func normal(
  seed: UInt64, sampleIDs: [UInt64]? = nil, step: Int = initialNoiseStep, threads: Int = 1, into out: LatentsView
) throws {
  try checkSampleIDs(sampleIDs?.count, batch: out.batch)
  try sampleIDs.withOptionalPointer {
    try normal(seed: seed, sampleIDPointer: $0, step: step, threads: threads, into: out)
  }
}

/// The same for borrowed sample ids: nil, or `out.batch` of them.
public func normal(
  seed: UInt64, sampleIDPointer: UnsafePointer<UInt64>?, step: Int, threads: Int, into out: LatentsView
) throws {
  try require(
    step == initialNoiseStep || (0...Int(Int32.max)).contains(step),
    "step = \(step) is neither \(initialNoiseStep) nor in 0 … \(Int32.max)")
  try checkNoiseSize(out)
  let threads = try resolvedThreads(threads)
  let noise = LibraryNoise(seed: seed, sampleIDs: sampleIDPointer, step: step)
  withExtendedLifetime(out) { NormalPass(x: out.rows, noise: noise).run(threads: threads) { _, _ in } }
}

func checkNoiseSize(_ view: LatentsView) throws {
  try require(
    view.elements <= maxElements, "a sample of \(view.elements) elements is larger than the noise can fill, 2^34")
}

func checkSampleIDs(_ count: Int?, batch: Int) throws {
  try require(count == nil || count == batch, "sample_ids: \(count ?? 0) of them for a batch of \(batch)")
}

extension Optional where Wrapped == [UInt64] {
  func withOptionalPointer<R>(_ body: (UnsafePointer<UInt64>?) throws -> R) rethrows -> R {
    guard let self else { return try body(nil) }
    return try self.withUnsafeBufferPointer { try body($0.baseAddress) }
  }
}
