internal import KernelTable

// Element e of a sample is word (e/16) mod 4 of counter 16·(e/64) + (e mod 16): sixteen counters make 64 elements without
// a transposition.

/// Normals as f32, then zeros to the next multiple of 64.
func floatNormals(_ draw: Draw, _ noise: UnsafeMutableRawPointer, _ count: Int) {
  floatNormals(draw, noise, count, splitting: false)
}

/// The same in the order of the types that split: of each sixteen, the even elements before the odd ones.
func splitNormals(_ draw: Draw, _ noise: UnsafeMutableRawPointer, _ count: Int) {
  floatNormals(draw, noise, count, splitting: true)
}

/// All words first, then all normals in their place: each loop alone keeps its numbers in registers.
@inline(__always)
private func floatNormals(_ draw: Draw, _ noise: UnsafeMutableRawPointer, _ count: Int, splitting: Bool) {
  let end = (count &+ 63) & ~63
  drawWords(draw, noise, end)
  let transform = BoxMuller.shared
  func store(_ values: SIMD16<Float>, _ element: Int) {
    let halves = splitting ? (values.evenHalf, values.oddHalf) : (values.lowHalf, values.highHalf)
    noise.storeBytes(of: halves.0, toByteOffset: 4 &* element, as: SIMD8<Float>.self)
    noise.storeBytes(of: halves.1, toByteOffset: 4 &* element &+ 32, as: SIMD8<Float>.self)
  }
  var element = 0
  while element < end {
    let (cosine, sine) = transform.pointee.normals(at: noise + 4 &* element)
    store(cosine.lanes, element)
    store(sine.lanes, element &+ 16)
    element &+= 32
  }
  for element in count..<end {
    let place = splitting ? element & ~15 | (element & 1) &<< 3 | (element & 15) &>> 1 : element
    noise.storeBytes(of: 0, toByteOffset: 4 &* place, as: Float.self)
  }
}

/// The same as f64.
func doubleNormals(_ draw: Draw, _ noise: UnsafeMutableRawPointer, _ count: Int) {
  // In the upper half of the memory they are read before anything is written there.
  let end = (count &+ 63) & ~63
  let floats = noise + 4 &* end
  floatNormals(draw, floats, count)
  var element = 0
  while element < end {
    let values = floats.loadUnaligned(fromByteOffset: 4 &* element, as: SIMD16<Float>.self)
    var wide = SIMD16<Double>()
    for lane in 0..<16 { wide[lane] = Double(values[lane]) }
    noise.storeBytes(of: wide, toByteOffset: 8 &* element, as: SIMD16<Double>.self)
    element &+= 16
  }
}

/// The words of `count` elements, a multiple of 64, each in its element's place.
@inline(__always)
func drawWords(_ draw: Draw, _ words: UnsafeMutableRawPointer, _ count: Int) {
  let philox = Philox(
    seed: draw.seed, sampleID: draw.sampleID, step: draw.step,
    constants: draw.scratch.assumingMemoryBound(to: Counters.self))
  var counter = UInt32(truncatingIfNeeded: draw.first / 4)
  var element = 0
  while element < count {
    var lane = 0
    while lane < 16 {
      let (w0, w1, w2, w3) = philox.words(first: counter)
      let place = words + 4 &* (element &+ lane)
      place.storeBytes(of: w0, as: Counters.Halves.self)
      place.storeBytes(of: w1, toByteOffset: 64, as: Counters.Halves.self)
      place.storeBytes(of: w2, toByteOffset: 128, as: Counters.Halves.self)
      place.storeBytes(of: w3, toByteOffset: 192, as: Counters.Halves.self)
      counter = counter &+ UInt32(truncatingIfNeeded: Philox.count)
      lane &+= Philox.count
    }
    element &+= 64
  }
}

extension BoxMuller {
  /// Normals of 32 elements, the first sixteen and the others, from the words in their place.
  @inline(__always)
  func normals(at words: UnsafeRawPointer) -> (Floats, Floats) {
    normals(
      Words(words.loadUnaligned(as: SIMD16<UInt32>.self)),
      Words(words.loadUnaligned(fromByteOffset: 64, as: SIMD16<UInt32>.self)))
  }
}

extension Kernels {
  public static func uniforms(
    seed: UInt64, sampleID: UInt64, step: UInt32, scratch: UnsafeMutableRawPointer,
    into draws: UnsafeMutableBufferPointer<Double>
  ) {
    let constants = scratch.bindMemory(to: Counters.self, capacity: Philox.constantCount)
    let philox = Philox(seed: seed, sampleID: sampleID, step: step, constants: constants)
    for first in stride(from: 0, to: draws.count, by: Philox.count) {
      let word = philox.words(first: UInt32(truncatingIfNeeded: first)).0
      for lane in 0..<min(Philox.count, draws.count - first) {
        draws[first + lane] = (Double(word[lane]) + 0.5) * 0x1p-32
      }
    }
  }
}
