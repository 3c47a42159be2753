// Element e of a sample is word (e/16) mod 4 of counter 16·(e/64) + (e mod 16): sixteen counters make 64 elements without
// a transposition.

/// Normals of a sample from element `first` on, a multiple of 64, as f32; then zeros to the next multiple of 64.
///
/// All words first, then all normals in their place: each loop alone keeps its numbers in registers.
public func floatNormals(
  _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ noise: UnsafeMutableRawPointer,
  _ scratch: UnsafeMutableRawPointer, _ count: Int
) {
  let end = (count &+ 63) & ~63
  let philox = Philox(seed: seed, sampleID: sampleID, step: step, keys: scratch.assumingMemoryBound(to: Counters.self))
  var counter = UInt32(truncatingIfNeeded: first / 4)
  var element = 0
  while element < end {
    var lane = 0
    while lane < 16 {
      let words = philox.words(first: counter)
      let memory = noise + 4 &* (element &+ lane)
      memory.storeBytes(of: words.0, as: Counters.Halves.self)
      memory.storeBytes(of: words.1, toByteOffset: 64, as: Counters.Halves.self)
      memory.storeBytes(of: words.2, toByteOffset: 128, as: Counters.Halves.self)
      memory.storeBytes(of: words.3, toByteOffset: 192, as: Counters.Halves.self)
      counter = counter &+ UInt32(truncatingIfNeeded: Philox.count)
      lane &+= Philox.count
    }
    element &+= 64
  }
  let transform = BoxMuller.shared
  element = 0
  while element < end {
    let memory = noise + 4 &* element
    let (cosine, sine) = transform.pointee.normals(
      Words(memory.loadUnaligned(as: SIMD16<UInt32>.self)),
      Words(memory.loadUnaligned(fromByteOffset: 64, as: SIMD16<UInt32>.self)))
    memory.storeBytes(of: cosine.lanes, as: SIMD16<Float>.self)
    memory.storeBytes(of: sine.lanes, toByteOffset: 64, as: SIMD16<Float>.self)
    element &+= 32
  }
  (noise + 4 &* count).initializeMemory(as: UInt8.self, repeating: 0, count: 4 &* (end &- count))
}

/// The same as f64.
public func doubleNormals(
  _ seed: UInt64, _ sampleID: UInt64, _ step: UInt32, _ first: Int, _ noise: UnsafeMutableRawPointer,
  _ scratch: UnsafeMutableRawPointer, _ count: Int
) {
  // In the upper half of the memory they are read before anything is written there.
  let end = (count &+ 63) & ~63
  let floats = noise + 4 &* end
  floatNormals(seed, sampleID, step, first, floats, scratch, count)
  var element = 0
  while element < end {
    let values = floats.loadUnaligned(fromByteOffset: 4 &* element, as: SIMD16<Float>.self)
    var wide = SIMD16<Double>()
    for lane in 0..<16 { wide[lane] = Double(values[lane]) }
    noise.storeBytes(of: wide, toByteOffset: 8 &* element, as: SIMD16<Double>.self)
    element &+= 16
  }
}

/// Uniform draws in (0, 1), 32 bits each: word 0 of the counters in order.
public func uniforms(seed: UInt64, sampleID: UInt64, step: UInt32, count: Int) -> [Double] {
  withUnsafeTemporaryAllocation(of: Counters.self, capacity: Philox.keyCount) { keys in
    guard let keys = keys.baseAddress else { return [] }
    let philox = Philox(seed: seed, sampleID: sampleID, step: step, keys: keys)
    var result: [Double] = []
    result.reserveCapacity(count)
    while result.count < count {
      let word = philox.words(first: UInt32(truncatingIfNeeded: result.count)).0
      for lane in 0..<min(Philox.count, count - result.count) { result.append((Double(word[lane]) + 0.5) * 0x1p-32) }
    }
    return result
  }
}
