// Element e of a sample is word (e/16) mod 4 of counter 16·(e/64) + (e mod 16): sixteen counters make 64 elements without
// a transposition.

/// Normals of a sample from element `first` on, a multiple of 64, then zeros to the next multiple of 64.
@inline(__always)
private func fillNormals(
  _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ count: Int,
  _ store: (_ values: FloatLanes, _ element: Int) -> Void
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
      store(n0.lanes, element &+ lane)
      store(n1.lanes, element &+ lane &+ 16)
      store(n2.lanes, element &+ lane &+ 32)
      store(n3.lanes, element &+ lane &+ 48)
      counter = counter &+ UInt32(truncatingIfNeeded: Words.count)
      lane &+= Words.count
    }
    element &+= 64
  }
}

/// As f32.
public func floatNormals(
  _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ noise: UnsafeMutableRawPointer, _ count: Int
) {
  fillNormals(seed, sampleID, step, first, count) {
    noise.storeBytes(of: $0, toByteOffset: 4 &* $1, as: FloatLanes.self)
  }
  clear(noise, Float.self, from: count)
}

/// As f64, drawn in f32.
public func doubleNormals(
  _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ noise: UnsafeMutableRawPointer, _ count: Int
) {
  fillNormals(seed, sampleID, step, first, count) { values, element in
    var wide = DoubleLanes()
    for lane in 0..<Words.count { wide[lane] = Double(values[lane]) }
    noise.storeBytes(of: wide, toByteOffset: 8 &* element, as: DoubleLanes.self)
  }
  clear(noise, Double.self, from: count)
}

@inline(__always)
private func clear<T: BitwiseCopyable>(_ numbers: UnsafeMutableRawPointer, _: T.Type, from count: Int) {
  let end = (count &+ 63) & ~63
  (numbers + count &* MemoryLayout<T>.size).initializeMemory(
    as: UInt8.self, repeating: 0, count: (end &- count) &* MemoryLayout<T>.size)
}

/// Uniform draws in (0, 1), 32 bits each: word 0 of the counters in order.
public func uniforms(seed: UInt64, sampleID: UInt64, step: UInt32, count: Int) -> [Double] {
  let philox = Philox(seed: seed, sampleID: sampleID, step: step)
  var result: [Double] = []
  result.reserveCapacity(count)
  while result.count < count {
    let word = philox.words(first: UInt32(truncatingIfNeeded: result.count)).0.lanes
    for lane in 0..<min(Words.count, count - result.count) { result.append((Double(word[lane]) + 0.5) * 0x1p-32) }
  }
  return result
}
