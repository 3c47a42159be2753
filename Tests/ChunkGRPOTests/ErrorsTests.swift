import ChunkGRPO
import Foundation
import Testing

@Suite("Errors")
struct ErrorsTests {
  @Test("Foundation shows an error's own sentence")
  func localized() {
    let thrown: any Error = ChunkGRPOError(.invalidArgument, "eta = -1.0 must be at least 0")
    #expect(thrown.localizedDescription == "eta = -1.0 must be at least 0")
    #expect("\(thrown)" == "eta = -1.0 must be at least 0")
  }
}
