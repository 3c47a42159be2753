import ChunkGRPOTraining
import Testing

@Suite("FNV-1a")
struct FNV1aTests {
  @Test("Known hashes, and a hash that goes on is that of the whole")
  func known() {
    #expect(fnv1a("".utf8) == 0xcbf2_9ce4_8422_2325)
    #expect(fnv1a("a".utf8) == 0xaf63_dc4c_8601_ec8c)
    #expect(fnv1a("foobar".utf8) == 0x8594_4171_f739_67e8)
    #expect(fnv1a("bar".utf8, from: fnv1a("foo".utf8)) == fnv1a("foobar".utf8))
  }
}
