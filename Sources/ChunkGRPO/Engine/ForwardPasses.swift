internal import KernelTable

// The work of the forward process on the blocks of a batch: noised latents, distances and their gradients.

/// next = (1 − t)·x + t·ε with a t for each sample.
struct NoisedPass: Pass {
  let x: Rows
  let times: UnsafePointer<Double>
  let noise: NoiseRows
  let next: Rows

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout BlockSums) {
    let t = times[block.sample]
    var arguments = StepArguments(
      a: 1 - t, b: 0, s: t, x: x.at(block), v: x.at(block), extra: nil, noise: noise.numbers(block, x.type, kernels),
      next: next.at(block), change: false, count: block.count)
    kernels.step(&arguments, &sums)
  }

  func pad(_ sample: Int, _: Int, _ range: Range<Int>) { next.copy(sample, range, from: x) }
}

/// Σ (v − u)² and Σ |v − u| with u = ε − x0, and in the same pass the gradient.
struct ForwardPass: Pass {
  /// v
  let x: Rows
  let clean: Rows
  let noise: NoiseRows
  let gradient: DistanceGradient?
  /// Stores the gradient past the caches.
  let streams: Bool
  let numbers: UnsafePointer<ForwardNumbers>

  var kernels: any LatentKernels.Type { clean.type.kernels(velocity: x.type) }

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout BlockSums) {
    let given = noise.lent(block)
    var arguments = ForwardArguments(
      v: x.at(block), clean: clean.at(block), noise: given ?? noise.numbers(block, clean.type, kernels),
      given: given != nil,
      scale: gradient?.scale(block.sample, elements: block.length) ?? 0, gradient: gradient?.view.at(block),
      streams: streams,
      count: block.count)
    kernels.forward(&arguments, &sums)
  }

  func pad(_ sample: Int, _: Int, _ range: Range<Int>) { gradient?.view.clear(sample, range) }
}

/// The sums of a sample's distances from u, and from other velocities.
struct ForwardSums: Totals {
  var policy = BlockSums(), old = BlockSums(), reference = BlockSums()
  var positive = BlockSums(), negative = BlockSums()
  /// Of v − v_old and v − v_ref.
  var fromOld = BlockSums(), fromReference = BlockSums()

  mutating func add(_ other: ForwardSums) {
    policy.add(other.policy)
    old.add(other.old)
    reference.add(other.reference)
    positive.add(other.positive)
    negative.add(other.negative)
    fromOld.add(other.fromOld)
    fromReference.add(other.fromReference)
  }
}

extension ForwardSums {
  /// Those that a part keeps, a bit for each number: Σ d² and Σ |d| of the policy.
  static var ofPolicy: UInt32 { 0o5 }
  /// The same beside other velocities: what `ForwardDistances` names, in its order.
  static var ofAll: UInt32 { 0o1_1_5_5_1_5_5 }
}

/// Which of those sums are wanted, beside the policy's.
struct ForwardTerms: OptionSet {
  let rawValue: Int

  static let old = ForwardTerms(rawValue: 1), fromOld = ForwardTerms(rawValue: 2)
  static let mixtures = ForwardTerms(rawValue: 4)
  static let reference = ForwardTerms(rawValue: 8), fromReference = ForwardTerms(rawValue: 16)
  static let all: ForwardTerms = [.old, .fromOld, .mixtures, .reference, .fromReference]
}

/// What a gradient takes from each difference: policy·(v − u) + old·(v_old − u) + reference·(v − v_ref).
struct ForwardCoefficients {
  var policy = 0.0, old = 0.0, reference = 0.0
}

/// The same beside other velocities, and with the mixtures of NFT. The block's u is made once, and its velocities stay in
/// the cache from one sum to the next.
struct ForwardExtrasPass: Pass {
  /// v
  let x: Rows
  let clean: Rows
  let noise: NoiseRows
  let old, reference: Rows?
  /// β of v⁺ = (1 − β)·v_old + β·v and v⁻ = (1 + β)·v_old − β·v.
  let nftBeta: Double?
  let wanted: ForwardTerms
  let gradient: Rows?
  let numbers: ForwardNumbers

  var kernels: any LatentKernels.Type { clean.type.kernels(velocity: x.type) }

  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout ForwardSums) {
    let (v, u) = (UnsafeRawPointer(x.at(block)), block.extra)
    var target = TargetArguments(
      clean: clean.at(block), noise: noise.numbers(block, clean.type, kernels), u: u, count: block.count)
    kernels.target(&target)
    func distance(_ p: Double, _ v: UnsafeRawPointer, _ q: Double, _ w: UnsafeRawPointer?, _ sums: inout BlockSums) {
      var arguments = MixtureArguments(p: p, v: v, q: q, w: w, u: u, count: block.count)
      kernels.mixture(&arguments, &sums)
    }
    func divergence(from w: UnsafeRawPointer, _ sums: inout BlockSums) {
      var arguments = DistanceArguments(v: v, w: w, scale: 0, gradient: nil, count: block.count)
      kernels.distance(&arguments, &sums)
    }
    let old = old.map { UnsafeRawPointer($0.at(block)) }
    let reference = reference.map { UnsafeRawPointer($0.at(block)) }
    distance(1, v, 0, nil, &sums.policy)
    if let old {
      if wanted.contains(.old) { distance(1, old, 0, nil, &sums.old) }
      if wanted.contains(.fromOld) { divergence(from: old, &sums.fromOld) }
      if let beta = nftBeta, wanted.contains(.mixtures) {
        distance(beta, v, 1 - beta, old, &sums.positive)
        distance(-beta, v, 1 + beta, old, &sums.negative)
      }
    }
    if let reference {
      if wanted.contains(.reference) { distance(1, reference, 0, nil, &sums.reference) }
      if wanted.contains(.fromReference) { divergence(from: reference, &sums.fromReference) }
    }
    if let gradient {
      let c = numbers.upstream.coefficients(block.sample, elements: block.length, nftBeta: nftBeta ?? 0)
      var arguments = ForwardGradientArguments(
        policy: c.policy, old: c.old, reference: c.reference, v: v, oldVelocity: old, referenceVelocity: reference,
        u: u,
        gradient: gradient.at(block), count: block.count)
      kernels.forwardGradient(&arguments)
    }
  }

  func pad(_ sample: Int, _: Int, _ range: Range<Int>) { gradient?.clear(sample, range) }
}
