import ChunkGRPO
import Testing

@Suite("Views of latents")
struct LatentsViewTests {
  @Test("A sample is read and written as an array, and in place")
  func samples() throws {
    let latents = try Latents([1, 2, 3, 4, 5, 6] as [Float], batch: 2)
    #expect(try latents.view[1] == [4, 5, 6])
    try latents.view.set(0, to: [7, 8, 9])
    let sum = try latents.view.withFloats(1) { values in
      values[2] = 10
      return values[0] + values[2]
    }
    #expect(try sum == 14 && latents.values == [7, 8, 9, 4, 5, 10])
  }

  @Test("What is not there is an error that names it, not a trap")
  func bounds() throws {
    let latents = try Latents(steps: 2, batch: 2, elements: 3)
    for (name, body) in [
      ("sample = 2", { _ = try latents.view[2] }), ("sample = -1", { try latents.view.set(-1, to: [1, 2, 3]) }),
      ("values: 2", { try latents.view.set(0, to: [1, 2]) }), ("step = 2", { _ = try latents[2] }),
      ("step = -1", { _ = try latents.trajectory[-1] }),
    ] as [(String, () throws -> Void)] {
      #expect(error(body)?.message.contains(name) == true, "\(name)")
    }
    #expect(error { _ = try latents.view.doubles(0) }?.code == .wrongType)
  }
}
