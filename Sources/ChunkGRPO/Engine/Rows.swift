internal import CSupport
internal import KernelTable

/// Half of the last cache; the rest is for the model.
private let cacheShare = Int(chunkgrpo_support_cache_size()) / 2

/// Latents as a pass has them: without their owner, because reference counts have no place in the inner loop.
/// `Pass.run` keeps the owners.
struct Rows {
  let base: UnsafeMutableRawPointer
  let type: ElementType
  let batch, elements: Int
  private let part: UnsafePointer<Part>?
  /// Distance of two samples, and size of an element, in bytes.
  private let stride, size: Int

  init(_ view: LatentsView) {
    base = view.base
    type = view.type
    batch = view.batch
    elements = view.elements
    part = view.part
    size = view.type.size
    stride = view.batchStride &* size
  }

  var isPart: Bool { part != nil }

  /// The number, in its sample, of the first element.
  var first: Int { part?.pointee.first ?? 0 }

  /// How many elements of a sample count, from its start on: what its means are over.
  @inline(__always)
  func length(_ sample: Int) -> Int { part == nil ? elements : ownLength(sample) }

  @inline(never)
  private func ownLength(_ sample: Int) -> Int {
    guard let part = part?.pointee else { return elements }
    return part.lengths?[sample] ?? part.wholeElements(elements)
  }

  /// Zeros.
  func clear(_ sample: Int, _ range: Range<Int>) {
    (row(sample) + range.lowerBound &* size).initializeMemory(as: UInt8.self, repeating: 0, count: range.count &* size)
  }

  func copy(_ sample: Int, _ range: Range<Int>, from other: Rows) {
    let offset = range.lowerBound &* size
    (row(sample) + offset).copyMemory(from: other.row(sample) + offset, byteCount: range.count &* size)
  }

  func row(_ sample: Int) -> UnsafeMutableRawPointer { base + sample &* stride }

  /// Distance of two samples, in elements.
  var batchStride: Int { stride / size }

  func at(_ block: Block) -> UnsafeMutableRawPointer {
    base + (block.sample &* stride &+ block.offset &* size)
  }
}

extension LatentsView {
  var rows: Rows { Rows(self) }

  /// Whether `count` arrays like this one are more than stays in the cache for the next reader.
  func exceedsCache(count: Int) -> Bool {
    let (bytes, overflow) = (batch &* elements &* type.size).multipliedReportingOverflow(by: count)
    return overflow || bytes > cacheShare
  }
}

/// Latents or velocities of several steps as a pass has them.
struct StepRows {
  let first: Rows
  /// Distance of two steps, in bytes.
  let stride: Int

  init(_ view: TrajectoryView, from step: Int) {
    first = view.latents(step).rows
    stride = view.stepStride &* view.type.size
  }

  func at(_ block: Block, step: Int) -> UnsafeMutableRawPointer { first.at(block) + step &* stride }

  /// Zeros.
  func clear(_ sample: Int, _ range: Range<Int>, step: Int) {
    (first.row(sample) + (step &* stride &+ range.lowerBound &* first.type.size)).initializeMemory(
      as: UInt8.self, repeating: 0, count: range.count &* first.type.size)
  }
}

extension BlockSums {
  /// mean|x' − x| / (mean|x| + 1e-8)
  func relativeL1(elements: Int) -> Double {
    (change / Double(elements)) / (magnitude / Double(elements) + 1e-8)
  }
}
