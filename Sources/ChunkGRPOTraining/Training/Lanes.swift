internal import CSupport
import ChunkGRPO

// A batch is cut into lanes: runs of samples, each with a network of its own. A thread works on one lane at a time.
// Their number is a function of sizes alone. So sums over lanes have one order, and the results are the same for any
// number of threads.

/// Samples that make a lane worth its products.
private let samplesPerLane = 24

/// Lanes of a batch. A network whose gradients take much memory has fewer.
func laneCount(_ samples: Int, _ shape: NetworkShape) -> Int {
  min(max(1, samples / samplesPerLane), max(1, min(8, (256 << 20) / (4 &* shape.parameterCount))))
}

/// The most rows that a pass of one of `lanes` lanes takes: 256 MB for all lanes, but 16 … 512 rows.
func boundedRows(_ shape: NetworkShape, lanes: Int) -> Int {
  let row = (5 &* shape.blocks &+ 5) &* shape.width &+ 5 &* shape.latentSize
  let context = 2 &* shape.modulationSize &+ 7 &* shape.embeddingSize &+ 2 &* shape.conditionSize
  return min(512, max(16, (256 << 20) / (4 &* (row &+ context)) / lanes))
}

extension Range<Int> {
  /// Slice `number` of `count` that are as equal as they can be.
  func slice(_ number: Int, of count: Int) -> Range {
    func start(_ number: Int) -> Int { lowerBound + self.count * number / count }
    return start(number)..<start(number + 1)
  }
}

/// Runs `body` for each of `count` lanes of `samples`, on up to `threads` threads.
///
/// - Throws: the error of the first lane in order that fails.
func forEachLane(
  of samples: Range<Int>, count: Int, threads: Int, _ body: (_ lane: Int, _ samples: Range<Int>) throws -> Void
) throws {
  chunkgrpo_support_rest()
  if count == 1 { return try body(0, samples) }
  var errors = [(any Error)?](repeating: nil, count: count)
  errors.withUnsafeMutableBufferPointer { errors in
    BLAS.onOneThread {
      parallel(units: count, threads: threads) {
        for lane in $0 {
          do { try body(lane, samples.slice(lane, of: count)) } catch { errors[lane] = error }
        }
      }
    }
  }
  if let error = errors.lazy.compactMap({ $0 }).first { throw error }
}
