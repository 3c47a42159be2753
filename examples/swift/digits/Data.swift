import DemoSupport

/// An image of 8×8 pixels row by row, −1 (paper) … 1 (ink).
typealias Pixels = SIMD64<Float>

/// Rows of 64 numbers, as the trainer has images.
func numbers(_ images: [Pixels]) -> [Float] {
  images.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
}

/// Images from rows of 64 numbers.
func pixels(_ numbers: [Float]) -> [Pixels] {
  numbers.withUnsafeBytes { Array($0.bindMemory(to: Pixels.self)) }
}

/// Images and the digits that they show.
struct Digits {
  var images: [Pixels] = []
  var labels: [Int] = []

  init() {}

  /// Records of 65 bytes: 64 pixels of 0 … 16, then the digit.
  init(contentsOf path: String) throws {
    let bytes = try readFile(path)
    guard !bytes.isEmpty, bytes.count % 65 == 0 else {
      throw DemoError("\(path) has \(bytes.count) bytes, which are no records of 65: it is not the digits")
    }
    for record in stride(from: 0, to: bytes.count, by: 65) {
      guard bytes[record + 64] < 10, bytes[record..<record + 64].allSatisfy({ $0 <= 16 }) else {
        throw DemoError("\(path) has a wrong record at byte \(record): it is not the digits")
      }
      images.append(Pixels((0..<64).map { Float(bytes[record + $0]) / 8 - 1 }))
      labels.append(Int(bytes[record + 64]))
    }
  }

  var count: Int { images.count }

  /// Two halves at random, without an image in common.
  func halves(using random: inout SplitMix64) -> (Digits, Digits) {
    var parts = (Digits(), Digits())
    for (place, i) in images.indices.shuffled(using: &random).enumerated() {
      place % 2 == 0 ? parts.0.append(images[i], labels[i]) : parts.1.append(images[i], labels[i])
    }
    return parts
  }

  private mutating func append(_ image: Pixels, _ label: Int) {
    images.append(image)
    labels.append(label)
  }

  /// The labels, a share of them replaced by another digit: captions from the web are no better.
  func prompts(wrong share: Double, using random: inout SplitMix64) -> [Int] {
    labels.map { label in
      Double.random(in: 0..<1, using: &random) < share ? (label + Int.random(in: 1...9, using: &random)) % 10 : label
    }
  }
}

/// The condition of the model: for each digit a row of ten numbers, 1 at the digit.
func oneHot(_ digits: [Int]) -> [Float] {
  digits.flatMap { digit in (0..<10).map { $0 == digit ? 1 : 0 } }
}

/// Small, seeded, the same everywhere.
struct SplitMix64: RandomNumberGenerator {
  private var state: UInt64

  init(seed: UInt64) { state = seed }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ z >> 30) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ z >> 27) &* 0x94d0_49bb_1331_11eb
    return z ^ z >> 31
  }
}
