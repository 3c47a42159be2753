// What the functions that take and return arrays do for latents on a CUDA device.

extension LatentsView {
  /// The number of the device that they are memory of.
  private func device() throws -> Int {
    guard let number = try CUDADriver.shared().device(of: base) else {
      throw ChunkGRPOError.invalidArgument("the latents have a CUDA queue, but are no memory of a device")
    }
    return number
  }

  /// `count` numbers that the kernels of `body` write; waits for them, and for what they found that is not finite.
  @inline(never)
  func numbersOnDevice(_ count: Int, _ body: (UnsafeMutablePointer<Double>?) throws -> Void) throws -> [Double] {
    if count < 1 {
      try body(nil)
      return []
    }
    let memory = try CUDADoubles(count: count, device: device())
    try body(memory.base)
    let values = try memory.values()
    try cuda?.checkFinite()
    if let i = values.firstIndex(where: { !$0.isFinite }) {
      throw ChunkGRPOError.nonFinite(
        "a result of sample \(i / max(1, count / max(1, batch))) is \(values[i]): latents, velocity, noise or a gradient "
          + "are not finite, or too large to square")
    }
    return values
  }

  /// Numbers that kernels of `body` read; waits until they have.
  @inline(never)
  func withNumbersOnDevice<R>(_ values: [Double], _ body: (UnsafePointer<Double>) throws -> R) throws -> R {
    let memory = try CUDADoubles(values, device: device())
    let result = try body(memory.base)
    try memory.wait()
    try cuda?.checkFinite()
    return result
  }

  /// Numbers for as long as their owner.
  func ownedOnDevice(_ values: [Double]) throws -> (UnsafePointer<Double>, AnyObject) {
    let memory = try CUDADoubles(values, device: device())
    return (UnsafePointer(memory.base), memory)
  }

  /// Copies `count` samples of one size and type, on the queue.
  @inline(never)
  func copyOnDevice(_ sample: Int, from other: LatentsView, _ source: Int, count: Int) throws {
    let device = try CUDADevice.device(device())
    try device.within {
      for i in 0..<count {
        let (to, from) = (row(sample &+ i), other.row(source &+ i))
        try device.driver.check(
          device.driver.between(
            UInt(bitPattern: to), UInt(bitPattern: from), elements &* type.size, cuda?.stream),
          "copying on CUDA device \(device.number)")
      }
    }
  }
}
