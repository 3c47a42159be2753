import ChunkGRPO
import Testing

@Suite("Options")
struct OptionsTests {
  @Test("Options are their defaults, but for what is changed")
  func changes() {
    #expect(SamplerOptions { _ in } == SamplerOptions())
    let o = SamplerOptions { $0.eta = 0.3 }
    #expect(o.eta == 0.3 && o.with { $0.eta = SamplerOptions().eta } == SamplerOptions())
    #expect(o.with { $0.threads = 2 }.eta == 0.3 && o.threads == 1)
  }
}
