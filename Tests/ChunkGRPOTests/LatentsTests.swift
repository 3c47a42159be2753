import ChunkGRPO
import Testing

@Suite("Latents")
struct LatentsTests {
  @Test("New latents are zeros on a 64-byte boundary", arguments: ElementType.allCases)
  func zeros(type: ElementType) throws {
    let latents = try Latents(type: type, steps: 3, batch: 2, elements: 7)
    #expect(try latents.values == Array(repeating: 0, count: 42) && UInt(bitPattern: latents.view.base) % 64 == 0)
  }

  @Test("Sizes that overflow or are none are errors")
  func sizes() {
    #expect(error { _ = try Latents(steps: .max, batch: 2, elements: 2) }?.message.contains("overflow") == true)
    #expect(error { _ = try Latents(batch: 1 << 30, elements: 1 << 30) }?.code == .outOfMemory)
    #expect(error { _ = try Latents(batch: 0, elements: 2) }?.code == .invalidArgument)
    #expect(error { _ = try Latents([1, 2, 3] as [Float], batch: 2) }?.message.contains("values") == true)
  }
}
