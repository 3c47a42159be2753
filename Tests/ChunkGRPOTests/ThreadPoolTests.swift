import ChunkGRPO
import Testing

@Suite("Thread pool", .serialized)
struct ThreadPoolTests {
  @Test("Every unit is done once, for any number of threads", arguments: [1, 2, 3, 8])
  func everyUnitOnce(threads: Int) throws {
    let counts = try Buffer<Int32>(count: 1000, for: "counts")
    for _ in 0..<50 {
      counts.fillWithZeros()
      parallel(units: 1000, threads: threads) { for unit in $0 { counts.base[unit] += 1 } }
      #expect(counts.values.allSatisfy { $0 == 1 })
    }
  }

  @Test("A call within a call runs on its own thread")
  func nested() throws {
    let counts = try Buffer<Int32>(count: 64, for: "counts")
    parallel(units: 8, threads: 2) { outer in
      for i in outer { parallel(units: 8, threads: 2) { for j in $0 { counts.base[8 * i + j] += 1 } } }
    }
    #expect(counts.values.allSatisfy { $0 == 1 })
  }

  @Test("The limit is checked")
  func limit() {
    for limit in [0, -1, 257] {
      #expect(error { try setThreadLimit(limit) }?.message.contains("thread limit = \(limit)") == true)
    }
    #expect(threadLimit == 256)
  }
}
