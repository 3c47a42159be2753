import ChunkGRPO
import Foundation

/// Draws that depend on the name of a test alone.
func normals(_ count: Int, seed: UInt64) throws -> [Double] {
  let latents = try Latents(type: .float64, batch: 1, elements: count)
  try normal(seed: seed, into: latents.view)
  return try latents.values
}

/// The error that `body` throws.
func error(_ body: () throws -> Void) -> ChunkGRPOError? {
  do {
    try body()
    return nil
  } catch { return error as? ChunkGRPOError }
}

func mean(_ values: some Collection<Double>) -> Double { values.reduce(0, +) / Double(values.count) }

extension Sampler {
  /// Log-probabilities of one step of a batch.
  func logProb(_ k: Int, _ x: Latents, _ v: Latents, _ next: Latents) throws -> [Double] {
    var result = [Double](repeating: .nan, count: x.batch)
    try logProb(k, latents: x.view, velocity: v.view, next: next.view, logProb: &result)
    return result
  }
}

/// A file of Tests/fixtures.
func fixture(_ name: String) throws -> Data {
  try Data(
    contentsOf: URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .appendingPathComponent("fixtures/\(name)"))
}
