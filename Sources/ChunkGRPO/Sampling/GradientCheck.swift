/// Finds the first sample, of the earliest step, whose gradient scale·d is not finite in the type that it is written in.
struct GradientCheck {
  private var broken: Broken?

  /// To be called when the gradient has been written.
  ///
  /// - Parameter squares: Σ d² of the sample, from the pass. No |d| is larger than its root, but for roundings, and squares
  ///   that are too small for the type: only where that bound does not do, the gradient is read again.
  @inline(__always)
  mutating func look(at gradient: Rows, _ sample: Int, step: Int = 0, scale: Double, squares: Double) {
    let largest = 1.01 * squares.squareRoot() + 1e-18
    let type = gradient.type
    if abs(scale) <= type.computeMax && abs(scale) * largest <= type.max { return }
    lookAgain(at: gradient, sample, step)
  }

  @inline(never)
  private mutating func lookAgain(at gradient: Rows, _ sample: Int, _ step: Int) {
    if step < broken?.step ?? .max && !gradient.isFinite(sample) { broken = Broken(sample: sample, step: step) }
  }

  /// For what has no steps.
  func throwIfBroken(_ upstream: String, _ gradient: LatentsView) throws {
    if let broken {
      throw ChunkGRPOError.nonFinite("\(upstream) of sample \(broken.sample) is too large for \(gradient.type)")
    }
  }

  /// - Parameter steps: that the pass counts from.
  func throwIfBroken(from steps: BatchSteps, _ upstream: String, _ gradient: LatentsView) throws {
    if let broken {
      throw ChunkGRPOError.nonFinite(
        "\(upstream) of sample \(broken.sample) at step \(steps[broken.sample] + broken.step) makes a gradient too large for "
          + "\(gradient.type)")
    }
  }
}

extension ElementType {
  /// The largest finite number.
  fileprivate var max: Double {
    switch self {
    case .float32: Double(Float.greatestFiniteMagnitude)
    case .float64: .greatestFiniteMagnitude
    case .bfloat16: 0x1.fep127
    case .float16: 65504
    }
  }

  /// The same of the type of arithmetic.
  fileprivate var computeMax: Double {
    self == .float64 ? .greatestFiniteMagnitude : Double(Float.greatestFiniteMagnitude)
  }
}

extension Rows {
  fileprivate func isFinite(_ sample: Int) -> Bool {
    let row = self.row(sample)
    func all<Bits: FixedWidthInteger & UnsignedInteger>(below exponent: Bits) -> Bool {
      UnsafeBufferPointer(start: row.assumingMemoryBound(to: Bits.self), count: elements).allSatisfy {
        $0 & exponent != exponent
      }
    }
    switch type {
    case .float32: return all(below: 0x7f80_0000 as UInt32)
    case .float64: return all(below: 0x7ff0_0000_0000_0000 as UInt64)
    case .bfloat16: return all(below: 0x7f80 as UInt16)
    case .float16: return all(below: 0x7c00 as UInt16)
    }
  }
}
