public import KernelTable

// The kernels of latents: see `LatentKernels` and `CKernelTable`. The arguments are copied before a loop: what a loop stores
// could be them.

/// m = a·x + b·v
private struct Affine<E: LatentElement> {
  let a, b: E.Compute

  @inline(__always) init(_ a: Double, _ b: Double) {
    self.a = E.Compute(a)
    self.b = E.Compute(b)
  }

  @inline(__always) func mean(_ x: Pair<E.Compute>, _ v: In) -> Pair<E.Compute> {
    plus(times(a, x), times(b, E.load(v)))
  }
}

/// Where a kernel writes a gradient. Always a constant, so that each has a loop of its own.
enum Destination {
  case nowhere, throughCaches, pastCaches

  @inline(__always) var writes: Bool { self != .nowhere }

  @inline(__always) func put<E: LatentElement>(_: E.Type, _ values: Pair<E.Compute>, _ out: Out) {
    switch self {
    case .nowhere: break
    case .throughCaches: E.store(values, out)
    case .pastCaches: E.stream(values, out)
    }
  }
}

/// A kernel that may write a gradient.
protocol GradientKernel {
  func run(_ destination: Destination, _ gradient: Out)
}

extension GradientKernel {
  /// - Parameter unused: some address where there is no gradient to write.
  @inline(__always)
  func run(gradient: Out?, else unused: In, past: Bool = false) {
    guard let gradient else { return run(.nowhere, Out(mutating: unused)) }
    if past { run(.pastCaches, gradient) } else { run(.throughCaches, gradient) }
  }
}

// The loops are in structs: in a method of the extension below, whose type is generic, their closures would not be inlined.

private struct Difference<E: LatentElement>: GradientKernel {
  typealias C = E.Compute
  let k: DifferenceArguments
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run(_ destination: Destination, _ gradient: Out) {
    let affine = Affine<E>(k.a, k.b)
    let scale = C(k.scale)
    var lanes = Lanes<C>()
    @inline(__always) func take(_ next: In, _ mean: Pair<C>, _ gradient: Out) {
      let d = minus(E.load(next), mean)
      lanes.addSquares(d)
      destination.put(E.self, times(scale, d), gradient)
    }
    if let extra = k.extra {
      let arrays = Arrays(E.self, k.x, k.v, extra, k.next, out: gradient, computed2: true)
      sixteens(k.count, arrays, writes: destination.writes) {
        take($3, plus(affine.mean(E.load($0), $1), C.load($2)), $4)
      }
    } else {
      let arrays = Arrays(E.self, k.x, k.v, k.x, k.next, out: gradient)
      sixteens(k.count, arrays, writes: destination.writes) { take($3, affine.mean(E.load($0), $1), $4) }
    }
    lanes.add(to: sums)
  }
}

private struct Distance<E: LatentElement>: GradientKernel {
  let k: DistanceArguments
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run(_ destination: Destination, _ gradient: Out) {
    let scale = E.Compute(k.scale)
    var lanes = Lanes<E.Compute>()
    sixteens(k.count, Arrays(E.self, k.v, k.w, k.v, k.v, out: gradient), writes: destination.writes) {
      v, w, _, _, out in
      let d = minus(E.load(v), E.load(w))
      lanes.addSquares(d)
      destination.put(E.self, times(scale, d), out)
    }
    lanes.add(to: sums)
  }
}

private struct MeanDistance<E: LatentElement>: GradientKernel {
  typealias C = E.Compute
  let k: MeanDistanceArguments
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run(_ destination: Destination, _ gradient: Out) {
    let (affine, s, scale) = (Affine<E>(k.a, k.b), C(k.s), C(k.scale))
    var lanes = Lanes<C>()
    let arrays = Arrays(E.self, k.x, k.v, k.noise, k.next, out: gradient, computed2: true)
    sixteens(k.count, arrays, writes: destination.writes) { x, v, noise, next, out in
      let d = minus(affine.mean(E.load(x), v), minus(E.load(next), times(s, C.load(noise))))
      lanes.addSquares(d)
      destination.put(E.self, times(scale, d), out)
    }
    lanes.add(to: sums)
  }
}

private struct Change<E: LatentElement> {
  let x, next: In
  let count: Int
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run() {
    var lanes = Lanes<E.Compute>()
    sixteens(count, Arrays(E.self, x, next, x, x, out: Out(mutating: x)), writes: false) { x, next, _, _, _ in
      lanes.addChange(E.load(next), E.load(x))
    }
    lanes.add(to: sums)
  }
}

/// The kernels of one element type.
protocol TypedKernels: LatentKernels {
  associatedtype E: LatentElement
}

extension TypedKernels {
  typealias C = E.Compute

  static func combine(_ arguments: UnsafePointer<CombineArguments>) {
    let k = arguments.pointee
    let (p, q) = (C(k.p), C(k.q))
    var i = 0
    while i < k.count {
      let left = min(16, k.count &- i)
      let offset = i &* MemoryLayout<E>.size
      var sum = times(p, part(E.self, k.y + offset, left))
      if let z = k.z { sum = plus(sum, times(q, part(E.self, z + offset, left))) }
      C.store(sum, k.extra + i &* MemoryLayout<C>.size)
      i &+= 16
    }
  }

  static func step(_ arguments: UnsafePointer<StepArguments>, _ sums: Sums) {
    let k = arguments.pointee
    let affine = Affine<E>(k.a, k.b)
    let s = C(k.s)
    var lanes = Lanes<C>()
    @inline(__always) func take(_ x: Pair<C>, _ mean: Pair<C>, _ noise: In, _ next: Out, change: Bool) {
      let stored = E.store(plus(mean, times(s, C.load(noise))), next)  // rounded: what a later recomputation will see
      lanes.addSquares(minus(stored, mean))
      if change { lanes.addChange(stored, x) }
    }
    if let extra = k.extra {
      let arrays = Arrays(E.self, k.x, k.v, extra, k.noise, out: k.next, computed2: true, computed3: true)
      sixteens(k.count, arrays, writes: true) {
        let x = E.load($0)
        take(x, plus(affine.mean(x, $1), C.load($2)), $3, $4, change: true)
      }
    } else {
      let arrays = Arrays(E.self, k.x, k.v, k.x, k.noise, out: k.next, computed3: true)
      @inline(__always) func run(change: Bool) {
        sixteens(k.count, arrays, writes: true) {
          let x = E.load($0)
          take(x, affine.mean(x, $1), $3, $4, change: change)
        }
      }
      if k.change { run(change: true) } else { run(change: false) }
    }
    lanes.add(to: sums)
  }

  static var hasNoisyStep: Bool { false }

  static func noisyStep(_ arguments: UnsafePointer<NoisyStepArguments>, _ sums: Sums) {}

  static func difference(_ arguments: UnsafePointer<DifferenceArguments>, _ sums: Sums) {
    let k = arguments.pointee
    let past = k.streams && k.count & 15 == 0 && UInt(bitPattern: k.gradient) & 31 == 0
    Difference<E>(k: k, sums: sums).run(gradient: k.gradient, else: k.x, past: past)
  }

  static func distance(_ arguments: UnsafePointer<DistanceArguments>, _ sums: Sums) {
    let k = arguments.pointee
    Distance<E>(k: k, sums: sums).run(gradient: k.gradient, else: k.v)
  }

  static func meanDistance(_ arguments: UnsafePointer<MeanDistanceArguments>, _ sums: Sums) {
    let k = arguments.pointee
    MeanDistance<E>(k: k, sums: sums).run(gradient: k.gradient, else: k.x)
  }

  static func change(from x: In, to next: In, count: Int, _ sums: Sums) {
    Change<E>(x: x, next: next, count: count, sums: sums).run()
  }

  static func normals(_ draw: UnsafePointer<Draw>, into noise: Out, count: Int) {
    if C.self == Double.self {
      doubleNormals(draw.pointee, noise, count)
    } else if E.splits {
      splitNormals(draw.pointee, noise, count)
    } else {
      floatNormals(draw.pointee, noise, count)
    }
  }

  static func unsplit(_ numbers: Out, count: Int) {
    guard E.splits else { return }
    var i = 0
    while i < count {
      let values = numbers.loadUnaligned(fromByteOffset: 4 &* i, as: SIMD16<Float>.self)
      var ordered = SIMD16<Float>()
      ordered.evenHalf = values.lowHalf
      ordered.oddHalf = values.highHalf
      numbers.storeBytes(of: ordered, toByteOffset: 4 &* i, as: SIMD16<Float>.self)
      i &+= 16
    }
  }

  static func widen(_ from: In, into numbers: Out, count: Int) {
    var i = 0
    while i < count {
      let values = part(E.self, from + i &* MemoryLayout<E>.size, min(16, count &- i))
      C.store(values, numbers + i &* MemoryLayout<C>.size)
      i &+= 16
    }
  }

  static func narrow(_ numbers: In, into out: Out, count: Int) {
    var i = 0
    while i < count {
      let values = C.load(numbers + i &* MemoryLayout<C>.size)
      let out = out + i &* MemoryLayout<E>.size
      if i &+ 16 <= count {
        E.store(values, out)
      } else {
        withUnsafeTemporaryAllocation(byteCount: 128, alignment: 16) { memory in
          guard let slot = memory.baseAddress else { return }
          E.store(values, slot)
          out.copyMemory(from: slot, byteCount: (count &- i) &* MemoryLayout<E>.size)
        }
      }
      i &+= 16
    }
  }
}

enum Float32Kernels: TypedKernels {
  typealias E = Float

  static var hasNoisyStep: Bool { true }

  static func noisyStep(_ arguments: UnsafePointer<NoisyStepArguments>, _ sums: Sums) {
    let k = arguments.pointee
    drawWords(k.draw, k.words, (k.count &+ 63) & ~63)
    let affine = Affine<Float>(k.a, k.b)
    let s = Float(k.s)
    let transform = BoxMuller.shared
    @inline(__always) func run(change: Bool) {
      var lanes = Lanes<Float>()
      @inline(__always) func take(_ i: Int, _ noise: SIMD16<Float>) {
        let x = Float.load(k.x + 4 &* i)
        let mean = affine.mean(x, k.v + 4 &* i)
        let stored = Float.store(plus(mean, times(s, (noise.lowHalf, noise.highHalf))), k.next + 4 &* i)
        lanes.addSquares(minus(stored, mean))
        if change { lanes.addChange(stored, x) }
      }
      var i = 0
      while i < k.count {
        let (first, second) = transform.pointee.normals(at: k.words + 4 &* i)
        take(i, first.lanes)
        take(i &+ 16, second.lanes)
        i &+= 32
      }
      lanes.add(to: sums)
    }
    if k.change { run(change: true) } else { run(change: false) }
  }
}

enum Float64Kernels: TypedKernels { typealias E = Double }
enum BFloat16Kernels: TypedKernels { typealias E = BFloat16 }
enum Float16Kernels: TypedKernels { typealias E = Half }

/// The kernels as this module was compiled.
public enum Kernels: KernelSet {
  public static var float32: any LatentKernels.Type { Float32Kernels.self }
  public static var float64: any LatentKernels.Type { Float64Kernels.self }
  public static var bfloat16: any LatentKernels.Type { BFloat16Kernels.self }
  public static var float16: any LatentKernels.Type { Float16Kernels.self }
  public static var network32: any NetworkKernels.Type { Network32.self }
  public static var network64: any NetworkKernels.Type { Network64.self }
}
