import Glibc

// Squared distances of two policies' velocities or means, and their gradients in the velocity.

/// Where the gradient of a distance goes: `scale[sample]` times the difference.
struct DistanceGradient {
  let view: LatentsView
  let scale: UnsafePointer<Double>
}

/// Σ (v − w)²
func velocityDistanceKernel<E: LatentElement>(
  v: LatentsView, w: LatentsView, gradient: DistanceGradient?, threads: Int, as type: E.Type,
  finish: (Int, SampleSums) -> Void
) {
  forEachSample(batch: v.batch, elements: v.elements, threads: threads, as: E.Compute.self) {
    sample, offset, count, sums in
    let g = E.Compute(gradient?.scale[sample] ?? 0)
    let pv = v.sample(sample, as: type) + offset
    padded(
      count, pv, w.sample(sample, as: type) + offset, pv,
      writing: gradient.map { $0.view.sample(sample, as: type) + offset }
    ) { v, w, _, out in
      let (v, w) = (load4(v), load4(w))
      add((v.0 - w.0, v.1 - w.1, v.2 - w.2, v.3 - w.3), &sums, g, out)
    }
  } finish: {
    finish($0, $1)
  }
}

/// Σ (m − m')² with m = a·x + b·v and m' = x' − s·ε, the mean that x' was drawn from.
func meanDistanceKernel<E: LatentElement>(
  _ coefficients: StepCoefficients, x: LatentsView, v: LatentsView, next: LatentsView, noise: NoiseSource,
  gradient: DistanceGradient?, threads: Int, as type: E.Type, finish: (Int, SampleSums) -> Void
) {
  let k = Affine<E.Compute>(coefficients)
  forEachSample(batch: x.batch, elements: x.elements, threads: threads, as: E.Compute.self) {
    sample, offset, count, sums in
    let normals = normals(noise, sample: sample, offset: offset, count: count, as: type)
    let g = E.Compute(gradient?.scale[sample] ?? 0)
    padded(
      count, x.sample(sample, as: type) + offset, v.sample(sample, as: type) + offset,
      next.sample(sample, as: type) + offset, writing: gradient.map { $0.view.sample(sample, as: type) + offset }
    ) { x, v, next, out in
      let (x, v, n) = (load4(x), load4(v), load4(next))
      add(
        (
          k.mean(x.0, v.0) - (n.0 - k.s * normals.0), k.mean(x.1, v.1) - (n.1 - k.s * normals.1),
          k.mean(x.2, v.2) - (n.2 - k.s * normals.2), k.mean(x.3, v.3) - (n.3 - k.s * normals.3)
        ), &sums, g, out)
    }
  } finish: {
    finish($0, $1)
  }
}

/// The noise of one turn; zeros where a rest of `count` has no elements.
@inline(__always)
private func normals<E: LatentElement>(
  _ noise: NoiseSource, sample: Int, offset: Int, count: Int, as type: E.Type
) -> Vectors4<E.Compute> {
  var result: Vectors4<E.Compute> = (.zero, .zero, .zero, .zero)
  switch noise {
  case .none: break
  case .given(let noise):
    let p = noise.sample(sample, as: type) + offset
    padded(count, p, p, p, writing: nil) { p, _, _, _ in result = load4(p) }
  case .library(let seed, let sampleIDs, let step):
    let stream = NormalStream(seed: seed, sampleID: sampleIDs?[sample] ?? UInt64(sample), step: step)
    result = stream.normals(group: UInt32(truncatingIfNeeded: offset / turn), as: E.Compute.self)
    if count < turn {
      withUnsafeMutableBytes(of: &result) {
        let present = count &* MemoryLayout<E.Compute>.size
        if let base = $0.baseAddress { memset(base + present, 0, $0.count &- present) }
      }
    }
  }
  return result
}

@inline(__always)
private func add<E: LatentElement>(
  _ d: Vectors4<E.Compute>, _ sums: inout LaneSums<E.Compute>, _ g: E.Compute, _ out: UnsafeMutablePointer<E>?
) {
  sums.addSquares(d.0, d.1, d.2, d.3)
  guard let out else { return }
  E.store(g * d.0, out)
  E.store(g * d.1, out + 8)
  E.store(g * d.2, out + 16)
  E.store(g * d.3, out + 24)
}
