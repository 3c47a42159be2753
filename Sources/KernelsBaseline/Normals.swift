// How many counters of the noise are made at a time: what fills the registers.

#if CHUNKGRPO_AVX512
  typealias Words = SIMD16<UInt32>
  typealias SignedWords = SIMD16<Int32>
  typealias Floats = SIMD16<Float>
  typealias WideFloats = SIMD16<Double>
  typealias Counters = SIMD8<UInt64>
  let evenCounters = Counters(0, 2, 4, 6, 8, 10, 12, 14)
#else
  typealias Words = SIMD8<UInt32>
  typealias SignedWords = SIMD8<Int32>
  typealias Floats = SIMD8<Float>
  typealias WideFloats = SIMD8<Double>
  typealias Counters = SIMD4<UInt64>
  let evenCounters = Counters(0, 2, 4, 6)
#endif

/// Normals of a sample from element `first` on, a multiple of 64, into room for a multiple of 64.
@inline(__always)
func fillNormals(
  _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ count: Int,
  _ store: (_ values: Floats, _ element: Int) -> Void
) {
  let philox = Philox(seed: seed, sampleID: sampleID, step: step)
  var counter = UInt32(truncatingIfNeeded: first / 4)
  var element = 0
  while element < count {
    var lane = 0
    while lane < 16 {
      let (w0, w1, w2, w3) = philox.words(first: counter)
      let (n0, n1) = boxMuller(w0, w1)
      let (n2, n3) = boxMuller(w2, w3)
      store(n0, element &+ lane)
      store(n1, element &+ lane &+ 16)
      store(n2, element &+ lane &+ 32)
      store(n3, element &+ lane &+ 48)
      counter = counter &+ UInt32(truncatingIfNeeded: Words.scalarCount)
      lane &+= Words.scalarCount
    }
    element &+= 64
  }
}

/// As f32, and as f64 drawn in f32.
public func floatNormals(
  _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ noise: UnsafeMutableRawPointer, _ count: Int
) {
  fillNormals(seed, sampleID, step, first, count) {
    noise.storeBytes(of: $0, toByteOffset: 4 &* $1, as: Floats.self)
  }
}

public func doubleNormals(
  _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ noise: UnsafeMutableRawPointer, _ count: Int
) {
  fillNormals(seed, sampleID, step, first, count) { values, element in
    var wide = WideFloats()
    for lane in 0..<Words.scalarCount { wide[lane] = Double(values[lane]) }
    noise.storeBytes(of: wide, toByteOffset: 8 &* element, as: WideFloats.self)
  }
}

/// Uniform draws in (0, 1), 32 bits each: word 0 of the counters in order.
public func uniforms(seed: UInt64, sampleID: UInt64, step: UInt32, count: Int) -> [Double] {
  let philox = Philox(seed: seed, sampleID: sampleID, step: step)
  var result: [Double] = []
  result.reserveCapacity(count)
  while result.count < count {
    let word = philox.words(first: UInt32(truncatingIfNeeded: result.count)).0
    for lane in 0..<min(Words.scalarCount, count - result.count) { result.append((Double(word[lane]) + 0.5) * 0x1p-32) }
  }
  return result
}
