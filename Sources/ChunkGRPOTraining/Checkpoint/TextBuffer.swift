import ChunkGRPO

/// A text that grows, in memory that may be missing: a `String` would end the process.
final class TextBuffer {
  private var memory: Buffer<UInt8>
  private(set) var count = 0

  var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory.base, count: count) }

  init() throws { memory = try Buffer(count: 4096, for: "the header of a checkpoint") }

  func append(_ text: String) throws {
    let needed = count + text.utf8.count
    if needed > memory.count {
      let larger = try Buffer<UInt8>(count: 2 * needed, for: "the header of a checkpoint")
      larger.copy(from: memory)
      memory = larger
    }
    for byte in text.utf8 {
      memory[count] = byte
      count += 1
    }
  }
}
