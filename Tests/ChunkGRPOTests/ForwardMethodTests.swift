import ChunkGRPO
import Testing

@Suite("Methods of the forward process by name")
struct ForwardMethodTests {
  private static let distances = (0..<48).map { 0.5 + 0.01 * Double($0 % 7) }

  /// The loss of a method's own options, on two groups of twelve samples at two times each.
  private func loss(_ method: ForwardMethod) throws -> Double {
    let (d, advantages) = (Self.distances, (0..<24).map { Double($0 % 5) - 2 })
    let kl = Numbers(Array(repeating: 0.1, count: 48))
    switch method.objective {
    case .nft(let options):
      let t = Numbers(Array(repeating: 0.5, count: 48))
      let own = options.with {
        ($0.times, $0.positiveAbsolute, $0.negativeAbsolute, $0.referenceDivergence) = (t, t, t, kl)
      }
      return try nftLoss(positive: d, negative: d.reversed(), advantages: advantages, options: own).loss
    case .matching(let own):
      let t = Array(repeating: 0.5, count: 48)
      let new = try matchingLogProbs(d, times: t, weighting: own.weighting, power: own.power).logProbs
      let old = try matchingLogProbs(d.reversed(), times: t, weighting: own.weighting, power: own.power).logProbs
      let plan = try ChunkPlan.fixed(steps: 2, size: min(2, own.drawsPerChunk))
      return try chunkLoss(new: new, old: old, advantages: advantages, plan: plan, options: own.chunkLoss).loss
    case .dgpo(let options):
      let own = options.with { ($0.groupSize, $0.referenceDivergence) = (12, kl) }
      return try dgpoLoss(distance: d, reference: d.reversed(), advantages: advantages, options: own).loss
    case .crd(let options, let isAdaptive):
      let absolute = isAdaptive ? Numbers(d) : nil
      let own = options.with { ($0.absolute, $0.oldAbsolute, $0.referenceDivergence) = (absolute, absolute, kl) }
      return try crdLoss(distance: d, old: d.reversed(), advantages: advantages, options: own).loss
    case .dpo(let options):
      return try dpoLoss(
        chosen: d, rejected: d.reversed(), chosenReference: d, rejectedReference: d, options: options
      ).loss
    }
  }

  @Test("Every method has times of its schedule, and a loss that its options fit", arguments: ForwardMethod.names)
  func methodsRun(name: String) throws {
    let method = try ForwardMethod.named(name)
    #expect(method.name == name && method.description.hasPrefix("\(name)  (") && !method.notes.isEmpty)
    #expect(try loss(method).isFinite)
    let schedule = try Schedule.shifted(steps: method.steps, shift: 3)
    let times = try forwardTimes(batch: 2, count: method.draws, options: method.times(of: schedule))
    #expect(times.allSatisfy { $0.count == method.draws && $0.allSatisfy { $0 > 0 && $0 <= 1 } })
    if let steps = method.timeSteps {
      #expect(times.joined().allSatisfy(schedule.sigmas[steps].contains))
    }
  }

  @Test("NFT draws each of the nine steps that its scripts train once")
  func nft() throws {
    let method = try ForwardMethod.named("nft")
    let schedule = try Schedule.shifted(steps: 10, shift: 3)
    let times = try forwardTimes(batch: 1, count: method.draws, options: method.times(of: schedule))[0]
    #expect(times.sorted(by: >) == Array(schedule.sigmas[..<9]))
  }

  @Test("A schedule that lacks the steps of a method is refused with their number")
  func short() throws {
    let schedule = try Schedule.shifted(steps: 8, shift: 3)
    let thrown = #expect(throws: ChunkGRPOError.self) { try ForwardMethod.named("awm").times(of: schedule) }
    #expect(thrown?.message.contains("steps 1 ..< 13") == true && thrown?.message.contains("make one of 14") == true)
  }

  @Test("An unknown name is answered with those there are")
  func unknown() {
    let thrown = #expect(throws: ChunkGRPOError.self) { try ForwardMethod.named("gcpo") }
    #expect(thrown?.message.contains("nft, awm, fpo, dgpo, crd, dpo") == true)
  }
}
