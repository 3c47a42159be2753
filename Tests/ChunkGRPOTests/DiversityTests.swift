import ChunkGRPO
import Testing

@Suite("Diversity")
struct DiversityTests {
  private func features(_ values: [Double], batch: Int) throws -> Latents {
    let latents = try Latents(type: .float64, batch: batch, elements: values.count / batch)
    for i in 0..<batch {
      let own = try latents.view.doubles(i)
      for j in own.indices { own[j] = values[i * own.count + j] }
    }
    return latents
  }

  @Test("It is the mean distance from the others of the group, and its mean that of the pairs")
  func pairs() throws {
    // A triangle of sides 3, 4 and 5, and three equal points.
    let corners = try features([0, 0, 3, 0, 0, 4, 7, 7, 7, 7, 7, 7], batch: 6)
    #expect(try diversity(corners.view, groupSize: 3) == [3.5, 4, 4.5, 0, 0, 0])
    #expect(try diversity(features([1, 3, 7], batch: 3).view) == [4, 3, 5])
  }

  @Test("Groups of one, groups that do not divide the samples and features that are not finite are refused")
  func refusals() throws {
    let three = try features([1, .nan, 7], batch: 3)
    for (size, code, words) in [
      (1, ChunkGRPOError.Code.invalidArgument, "at least two"), (2, .invalidArgument, "does not divide the 3"),
      (3, .nonFinite, "sample 1"),
    ] {
      let thrown = #expect(throws: ChunkGRPOError.self) { try diversity(three.view, groupSize: size) }
      #expect(thrown?.code == code && thrown?.message.contains(words) == true, "\(thrown?.message ?? "")")
    }
    let far = try features([-1.5e308, 1.5e308], batch: 2)
    let thrown = #expect(throws: ChunkGRPOError.self) { try diversity(far.view) }
    #expect(thrown?.message.contains("samples 0 and 1 are too far apart") == true)
  }
}
