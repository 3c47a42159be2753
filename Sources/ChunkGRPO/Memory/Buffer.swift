internal import CSupport
internal import Platform

/// Owned memory for `count` elements, zeros at first, 64-byte aligned.
package final class Buffer<Element: BitwiseCopyable> {
  package let count: Int
  package let base: UnsafeMutablePointer<Element>

  private let memory: UnsafeMutableRawPointer

  /// Throws `.outOfMemory` where an array would end the process.
  package init(count: Int, for purpose: String) throws {
    let bytes = try checkedProduct([count, MemoryLayout<Element>.stride], purpose)
    // Pages of a large `calloc` take no memory until they are written to.
    let (room, overflow) = bytes.addingReportingOverflow(64)
    guard !overflow, let memory = calloc(room, 1) else {
      throw ChunkGRPOError.outOfMemory("no memory for \(purpose), \(bytes) bytes")
    }
    // A large buffer does not take the last memory: small allocations of the Swift runtime end the process where they fail.
    if bytes >= 1 << 16, chunkgrpo_support_has_room(120 << 10) == 0 {
      free(memory)
      throw ChunkGRPOError.outOfMemory("no memory beside \(purpose), \(bytes) bytes")
    }
    self.memory = memory
    self.count = count
    base = memory.alignedUp(toMultipleOf: 64).bindMemory(to: Element.self, capacity: count)
  }

  package convenience init(copying values: UnsafeBufferPointer<Element>, for purpose: String) throws {
    try self.init(count: values.count, for: purpose)
    _ = self.values.update(fromContentsOf: values)
  }

  deinit { free(memory) }

  /// Keeps the buffer alive until the element is read or written, as `base` alone does not.
  package subscript(index: Int) -> Element {
    get {
      defer { withExtendedLifetime(self) {} }
      return base[index]
    }
    set {
      base[index] = newValue
      withExtendedLifetime(self) {}
    }
  }

  package var values: UnsafeMutableBufferPointer<Element> { UnsafeMutableBufferPointer(start: base, count: count) }

  package func fillWithZeros() { memset(base, 0, count &* MemoryLayout<Element>.stride) }

  /// Both buffers have the same count.
  package func copy(from other: Buffer) {
    memcpy(base, other.base, min(count, other.count) &* MemoryLayout<Element>.stride)
  }
}

/// The product of sizes that are not negative; an error instead of a trap where it leaves the address space.
package func checkedProduct(_ factors: [Int], _ what: String) throws -> Int {
  var product = 1
  for factor in factors {
    let (next, overflow) = product.multipliedReportingOverflow(by: factor)
    guard !overflow, factor >= 0 else {
      throw ChunkGRPOError.invalidArgument(
        "\(what): \(factors.map(String.init).joined(separator: " × ")) overflows the address space")
    }
    product = next
  }
  return product
}
