import ChunkGRPO
import ChunkGRPOTraining
import Testing

@Suite struct NetworkShapeTests {
  @Test func sizesOutOfBoundsAreErrors() throws {
    #expect(throws: ChunkGRPOError.self) { try NetworkShape(latentSize: 0, conditionSize: 1) }
    #expect(throws: ChunkGRPOError.self) { try NetworkShape(latentSize: 1, conditionSize: 1, embeddingSize: 7) }
    #expect(throws: ChunkGRPOError.self) { try NetworkShape(latentSize: 1, conditionSize: 1, blocks: .max) }
  }

  @Test func tensorsFollowOneAnotherWithoutGaps() throws {
    let shape = try NetworkShape(latentSize: 5, conditionSize: 3, width: 8, blocks: 2, embeddingSize: 6)
    var end = 0
    for tensor in shape.tensors {
      #expect(tensor.offset == end, "\(tensor.name)")
      end += tensor.count
    }
    #expect(end == shape.parameterCount && Set(shape.tensors.map(\.name)).count == shape.tensors.count)
  }
}
