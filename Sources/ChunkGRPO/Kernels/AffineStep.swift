import Glibc

/// The kernels behind every sampler: `x' = a·x + b·v + s·ε` and the sums that its log-probability and relative L1 need.
///
/// A sample is read once, in blocks: sums are in the compute type within a block of 1,024 elements and in `Double`
/// between blocks, in an order that depends on the number of elements alone.

/// Elements that one turn of the inner loop takes.
let turn = 32
private let blockSize = 1024
/// The part of a sample that one thread works on.
private let segmentSize = 16 * blockSize
/// Segments whose sums are kept at a time.
private let maxUnits = 1 << 16
/// Below this many elements a thread costs more than it brings.
private let threadingThreshold = 1 << 17

/// a, b, s in the compute type.
struct Affine<C: ComputeScalar> {
  let a, b, s: C

  init(_ step: StepCoefficients) {
    a = C(step.a)
    b = C(step.b)
    s = C(step.s)
  }

  @inline(__always) func mean(_ x: SIMD8<C>, _ v: SIMD8<C>) -> SIMD8<C> { a * x + b * v }
}

/// What a mean has beside a·x + b·v.
protocol ExtraTerms<Compute> {
  associatedtype Compute: ComputeScalar
  /// Their sum over `count` ≤ 32 elements from `offset` on; the lanes beyond are 0.
  func vectors(_ sample: Int, _ offset: Int, _ count: Int) -> Vectors4<Compute>
}

/// None. −0 is what an addition leaves as it is, so that the compiler takes it out.
struct NoTerms<Compute: ComputeScalar>: ExtraTerms {
  @inline(__always)
  func vectors(_ sample: Int, _ offset: Int, _ count: Int) -> Vectors4<Compute> {
    let nothing = SIMD8<Compute>(repeating: -0.0)
    return (nothing, nothing, nothing, nothing)
  }
}

/// p·y + q·z: the unconditional velocity of guidance, and the image that the step before predicted.
struct LinearTerms {
  var y: LatentsView?
  var p = 0.0
  var z: LatentsView?
  var q = 0.0

  func typed<E: LatentElement>(_: E.Type) -> TypedTerms<E> {
    TypedTerms(y: y, p: E.Compute(p), z: z, q: E.Compute(q))
  }
}

struct TypedTerms<E: LatentElement>: ExtraTerms {
  typealias Compute = E.Compute
  let y: LatentsView?
  let p: E.Compute
  let z: LatentsView?
  let q: E.Compute

  @inline(__always)
  func vectors(_ sample: Int, _ offset: Int, _ count: Int) -> Vectors4<E.Compute> {
    var sum: Vectors4<E.Compute> = (.zero, .zero, .zero, .zero)
    if let y { add(p, y, sample, offset, count, &sum) }
    if let z { add(q, z, sample, offset, count, &sum) }
    return sum
  }

  @inline(__always)
  private func add(
    _ factor: E.Compute, _ view: LatentsView, _ sample: Int, _ offset: Int, _ count: Int,
    _ sum: inout Vectors4<E.Compute>
  ) {
    let pointer = UnsafePointer(view.sample(sample, as: E.self) + offset)
    padded(count, pointer, pointer, pointer, writing: nil) { p, _, _, _ in
      let v = load4(p)
      sum = (sum.0 + factor * v.0, sum.1 + factor * v.1, sum.2 + factor * v.2, sum.3 + factor * v.3)
    }
  }
}

/// Over the elements of one sample.
struct SampleSums {
  /// Σ (x' − m)²
  var squaredError = 0.0
  /// Σ |x' − x|
  var change = 0.0
  /// Σ |x|
  var magnitude = 0.0

  static func += (left: inout SampleSums, right: SampleSums) {
    left.squaredError += right.squaredError
    left.change += right.change
    left.magnitude += right.magnitude
  }
}

/// The sums of one block, eight lanes each.
struct LaneSums<C: ComputeScalar> {
  var squaredError = SIMD8<C>.zero, squaredError2 = SIMD8<C>.zero
  var change = SIMD8<C>.zero
  var magnitude = SIMD8<C>.zero

  @inline(__always) var total: SampleSums {
    SampleSums(
      squaredError: sum(squaredError + squaredError2), change: sum(change), magnitude: sum(magnitude))
  }

  @inline(__always) private func sum(_ v: SIMD8<C>) -> Double {
    let pairs = v.lowHalf + v.highHalf
    return (Double(pairs[0]) + Double(pairs[1])) + (Double(pairs[2]) + Double(pairs[3]))
  }
}

/// Where the noise of a step comes from.
enum NoiseSource {
  case none
  case given(LatentsView)
  case library(seed: UInt64, sampleIDs: UnsafePointer<UInt64>?, step: UInt32)
}

/// Calls `body` for the turns of every sample on up to `threads` threads, then `finish` with each sample's sums, in order.
///
/// - Parameter body: (sample, offset, count ≤ 32, sums).
@inline(__always)
func forEachSample<C: ComputeScalar>(
  batch: Int, elements: Int, threads: Int, as _: C.Type,
  body: (Int, Int, Int, inout LaneSums<C>) -> Void, finish: (Int, SampleSums) -> Void
) {
  let segments = (elements &+ segmentSize &- 1) / segmentSize
  let threads = batch &* elements < threadingThreshold ? 1 : threads
  // So many samples at a time that their sums take little memory, however large the batch claims to be.
  let part = max(1, maxUnits / segments)
  var first = 0
  while first < batch {
    let samples = min(part, batch &- first)
    forEachSample(
      first..<first &+ samples, segments: segments, elements: elements, threads: threads, as: C.self, body: body,
      finish: finish)
    first &+= samples
  }
}

@inline(__always)
private func forEachSample<C: ComputeScalar>(
  _ samples: Range<Int>, segments: Int, elements: Int, threads: Int, as _: C.Type,
  body: (Int, Int, Int, inout LaneSums<C>) -> Void, finish: (Int, SampleSums) -> Void
) {
  withUnsafeTemporaryAllocation(of: SampleSums.self, capacity: samples.count &* segments) { partial in
    guard let partial = partial.baseAddress else { return }
    parallel(units: samples.count &* segments, threads: threads) { units in
      for unit in units {
        let sample = unit / segments
        let start = (unit &- sample &* segments) &* segmentSize
        let end = min(elements, start &+ segmentSize)
        var total = SampleSums()
        var block = start
        while block < end {
          let blockEnd = min(end, block &+ blockSize)
          var sums = LaneSums<C>()
          var offset = block
          while offset &+ turn <= blockEnd {
            body(samples.lowerBound &+ sample, offset, turn, &sums)
            offset &+= turn
          }
          if offset < blockEnd { body(samples.lowerBound &+ sample, offset, blockEnd &- offset, &sums) }
          total += sums.total
          block = blockEnd
        }
        (partial + unit).initialize(to: total)
      }
    }
    for sample in 0..<samples.count {
      var total = SampleSums()
      for segment in 0..<segments { total += partial[sample &* segments &+ segment] }
      finish(samples.lowerBound &+ sample, total)
    }
  }
}

/// Calls `body` with pointers to whole turns: the elements themselves, or for the rest of a sample, padded copies.
/// Zeros add nothing to any sum, for then m = x' = 0.
@inline(__always)
func padded<E: LatentElement>(
  _ count: Int, _ p0: UnsafePointer<E>, _ p1: UnsafePointer<E>, _ p2: UnsafePointer<E>,
  writing p3: UnsafeMutablePointer<E>?,
  body: (UnsafePointer<E>, UnsafePointer<E>, UnsafePointer<E>, UnsafeMutablePointer<E>?) -> Void
) {
  if count == turn { return body(p0, p1, p2, p3) }
  withUnsafeTemporaryAllocation(of: E.self, capacity: 4 * turn) { copy in
    guard let copy = copy.baseAddress else { return }
    copy.initialize(repeating: E.zero, count: 4 * turn)
    copy.update(from: p0, count: count)
    (copy + turn).update(from: p1, count: count)
    (copy + 2 * turn).update(from: p2, count: count)
    body(UnsafePointer(copy), UnsafePointer(copy + turn), UnsafePointer(copy + 2 * turn), copy + 3 * turn)
    p3?.update(from: copy + 3 * turn, count: count)
  }
}

/// Zeros the elements that a rest of `count` does not have.
private func clear<C: ComputeScalar>(_ vectors: inout Vectors4<C>, from count: Int) {
  withUnsafeMutableBytes(of: &vectors) {
    let present = count &* MemoryLayout<C>.size
    if let base = $0.baseAddress { memset(base + present, 0, $0.count &- present) }
  }
}

@inline(__always)
func load4<E: LatentElement>(_ p: UnsafePointer<E>) -> Vectors4<E.Compute> {
  (E.load(p), E.load(p + 8), E.load(p + 16), E.load(p + 24))
}

// MARK: - Step

/// next = m + s·ε with m = a·x + b·v + terms; the sums are taken from `next` as stored.
func stepKernel<E: LatentElement>(
  _ coefficients: StepCoefficients, x: LatentsView, v: LatentsView, terms: LinearTerms?, noise: NoiseSource,
  next: LatentsView, threads: Int, as type: E.Type, finish: (Int, SampleSums) -> Void
) {
  if let terms {
    stepKernel(
      coefficients, x, v, terms.typed(type), noise, next, threads: threads, as: type, finish: finish)
  } else {
    stepKernel(
      coefficients, x, v, NoTerms<E.Compute>(), noise, next, threads: threads, as: type, finish: finish)
  }
}

@inline(__always)
private func stepKernel<E: LatentElement, X: ExtraTerms<E.Compute>>(
  _ coefficients: StepCoefficients, _ x: LatentsView, _ v: LatentsView, _ terms: X, _ noise: NoiseSource,
  _ next: LatentsView, threads: Int, as type: E.Type, finish: (Int, SampleSums) -> Void
) {
  let k = Affine<E.Compute>(coefficients)
  switch noise {
  case .none:
    forEachSample(batch: x.batch, elements: x.elements, threads: threads, as: E.Compute.self) {
      sample, offset, count, sums in
      let extra = terms.vectors(sample, offset, count)
      let px = x.sample(sample, as: type) + offset
      padded(count, px, v.sample(sample, as: type) + offset, px, writing: next.sample(sample, as: type) + offset) {
        if let out = $3 { step32($0, $1, extra, (.zero, .zero, .zero, .zero), out, k, &sums) }
      }
    } finish: {
      finish($0, $1)
    }
  case .given(let noise):
    forEachSample(batch: x.batch, elements: x.elements, threads: threads, as: E.Compute.self) {
      sample, offset, count, sums in
      let extra = terms.vectors(sample, offset, count)
      padded(
        count, x.sample(sample, as: type) + offset, v.sample(sample, as: type) + offset,
        noise.sample(sample, as: type) + offset, writing: next.sample(sample, as: type) + offset
      ) {
        if let out = $3 { step32($0, $1, extra, load4($2), out, k, &sums) }
      }
    } finish: {
      finish($0, $1)
    }
  case .library(let seed, let sampleIDs, let step):
    forEachSample(batch: x.batch, elements: x.elements, threads: threads, as: E.Compute.self) {
      sample, offset, count, sums in
      let stream = NormalStream(seed: seed, sampleID: sampleIDs?[sample] ?? UInt64(sample), step: step)
      var normals = stream.normals(group: UInt32(truncatingIfNeeded: offset / turn), as: E.Compute.self)
      if count < turn { clear(&normals, from: count) }
      let extra = terms.vectors(sample, offset, count)
      let px = x.sample(sample, as: type) + offset
      padded(count, px, v.sample(sample, as: type) + offset, px, writing: next.sample(sample, as: type) + offset) {
        if let out = $3 { step32($0, $1, extra, normals, out, k, &sums) }
      }
    } finish: {
      finish($0, $1)
    }
  }
}

@inline(__always)
private func step32<E: LatentElement>(
  _ x: UnsafePointer<E>, _ v: UnsafePointer<E>, _ extra: Vectors4<E.Compute>, _ noise: Vectors4<E.Compute>,
  _ next: UnsafeMutablePointer<E>, _ k: Affine<E.Compute>, _ sums: inout LaneSums<E.Compute>
) {
  let d0 = step8(x, v, extra.0, noise.0, next, k, &sums)
  let d1 = step8(x + 8, v + 8, extra.1, noise.1, next + 8, k, &sums)
  let d2 = step8(x + 16, v + 16, extra.2, noise.2, next + 16, k, &sums)
  let d3 = step8(x + 24, v + 24, extra.3, noise.3, next + 24, k, &sums)
  sums.addSquares(d0, d1, d2, d3)
}

/// Returns x' − m.
@inline(__always)
private func step8<E: LatentElement>(
  _ px: UnsafePointer<E>, _ pv: UnsafePointer<E>, _ extra: SIMD8<E.Compute>, _ noise: SIMD8<E.Compute>,
  _ next: UnsafeMutablePointer<E>, _ k: Affine<E.Compute>, _ sums: inout LaneSums<E.Compute>
) -> SIMD8<E.Compute> {
  let x = E.load(px)
  let mean = k.mean(x, E.load(pv)) + extra
  E.store(mean + k.s * noise, next)
  let stored = E.load(next)  // rounded: what a later recomputation will see
  sums.change += E.Compute.magnitude(stored - x)
  sums.magnitude += E.Compute.magnitude(x)
  return stored - mean
}

extension LaneSums {
  /// The same order in every kernel: it makes the ratio on the policy that sampled exactly 1.
  @inline(__always)
  mutating func addSquares(_ d0: SIMD8<C>, _ d1: SIMD8<C>, _ d2: SIMD8<C>, _ d3: SIMD8<C>) {
    squaredError += d0 * d0
    squaredError2 += d1 * d1
    squaredError += d2 * d2
    squaredError2 += d3 * d3
  }
}

// MARK: - Log-probability and gradient

/// Σ (x' − m)² of given next latents.
func squaredErrorKernel<E: LatentElement>(
  _ coefficients: StepCoefficients, x: LatentsView, v: LatentsView, terms: LinearTerms?, next: LatentsView,
  threads: Int, as type: E.Type, finish: (Int, SampleSums) -> Void
) {
  if let terms {
    differenceKernel(
      coefficients, x, v, terms.typed(type), next, threads: threads, as: type, gradients: nil, finish: finish)
  } else {
    differenceKernel(
      coefficients, x, v, NoTerms<E.Compute>(), next, threads: threads, as: type, gradients: nil, finish: finish)
  }
}

/// Where gradients go: scale[sample]·(x' − m), and for guidance the same with another scale for the unconditional velocity.
struct GradientOutput {
  let gradient: LatentsView
  let scale: UnsafePointer<Double>
  let unconditional: LatentsView?
  let unconditionalScale: UnsafePointer<Double>
}

/// The gradients, and Σ (x' − m)² in the same pass.
func gradientKernel<E: LatentElement>(
  _ coefficients: StepCoefficients, x: LatentsView, v: LatentsView, terms: LinearTerms?, next: LatentsView,
  output: GradientOutput, threads: Int, as type: E.Type, finish: (Int, SampleSums) -> Void
) {
  if let terms {
    differenceKernel(
      coefficients, x, v, terms.typed(type), next, threads: threads, as: type, gradients: output, finish: finish)
  } else {
    differenceKernel(
      coefficients, x, v, NoTerms<E.Compute>(), next, threads: threads, as: type, gradients: output, finish: finish)
  }
}

@inline(__always)
private func differenceKernel<E: LatentElement, X: ExtraTerms<E.Compute>>(
  _ coefficients: StepCoefficients, _ x: LatentsView, _ v: LatentsView, _ terms: X, _ next: LatentsView,
  threads: Int, as type: E.Type, gradients: GradientOutput?, finish: (Int, SampleSums) -> Void
) {
  let k = Affine<E.Compute>(coefficients)
  forEachSample(batch: x.batch, elements: x.elements, threads: threads, as: E.Compute.self) {
    sample, offset, count, sums in
    let extra = terms.vectors(sample, offset, count)
    let out = gradients.map { $0.gradient.sample(sample, as: type) + offset }
    var d: Vectors4<E.Compute> = (.zero, .zero, .zero, .zero)
    padded(
      count, x.sample(sample, as: type) + offset, v.sample(sample, as: type) + offset,
      next.sample(sample, as: type) + offset, writing: out
    ) { x, v, next, out in
      d = differences(x, v, extra, next, k)
      if let out, let gradients { store4(E.Compute(gradients.scale[sample]), d, out) }
    }
    sums.addSquares(d.0, d.1, d.2, d.3)
    if let gradients, let second = gradients.unconditional {
      let out = second.sample(sample, as: type) + offset
      padded(count, out, out, out, writing: out) { _, _, _, out in
        if let out { store4(E.Compute(gradients.unconditionalScale[sample]), d, out) }
      }
    }
  } finish: {
    finish($0, $1)
  }
}

@inline(__always)
private func store4<E: LatentElement>(_ g: E.Compute, _ d: Vectors4<E.Compute>, _ out: UnsafeMutablePointer<E>) {
  E.store(g * d.0, out)
  E.store(g * d.1, out + 8)
  E.store(g * d.2, out + 16)
  E.store(g * d.3, out + 24)
}

@inline(__always)
private func differences<E: LatentElement>(
  _ x: UnsafePointer<E>, _ v: UnsafePointer<E>, _ extra: Vectors4<E.Compute>, _ next: UnsafePointer<E>,
  _ k: Affine<E.Compute>
) -> Vectors4<E.Compute> {
  let n = load4(next)
  return (
    n.0 - (k.mean(E.load(x), E.load(v)) + extra.0), n.1 - (k.mean(E.load(x + 8), E.load(v + 8)) + extra.1),
    n.2 - (k.mean(E.load(x + 16), E.load(v + 16)) + extra.2),
    n.3 - (k.mean(E.load(x + 24), E.load(v + 24)) + extra.3)
  )
}

// MARK: - Relative L1 and noise

/// Σ |x' − x| and Σ |x|.
func changeKernel<E: LatentElement>(
  x: LatentsView, next: LatentsView, threads: Int, as type: E.Type, finish: (Int, SampleSums) -> Void
) {
  forEachSample(batch: x.batch, elements: x.elements, threads: threads, as: E.Compute.self) {
    sample, offset, count, sums in
    let px = x.sample(sample, as: type) + offset
    padded(count, px, next.sample(sample, as: type) + offset, px, writing: nil) { x, next, _, _ in
      for i in 0..<4 {
        let value = E.load(x + 8 * i)
        sums.change += E.Compute.magnitude(E.load(next + 8 * i) - value)
        sums.magnitude += E.Compute.magnitude(value)
      }
    }
  } finish: {
    finish($0, $1)
  }
}

/// The library's normals alone.
func normalKernel<E: LatentElement>(
  seed: UInt64, sampleIDs: UnsafePointer<UInt64>?, step: UInt32, into out: LatentsView, threads: Int, as type: E.Type
) {
  forEachSample(batch: out.batch, elements: out.elements, threads: threads, as: E.Compute.self) {
    sample, offset, count, sums in
    let stream = NormalStream(seed: seed, sampleID: sampleIDs?[sample] ?? UInt64(sample), step: step)
    let n = stream.normals(group: UInt32(truncatingIfNeeded: offset / turn), as: E.Compute.self)
    let p = out.sample(sample, as: type) + offset
    padded(count, p, p, p, writing: p) { _, _, _, out in
      if let out {
        E.store(n.0, out)
        E.store(n.1, out + 8)
        E.store(n.2, out + 16)
        E.store(n.3, out + 24)
      }
    }
  } finish: { _, _ in
  }
}
