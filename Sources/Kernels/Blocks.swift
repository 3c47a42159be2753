public import KernelTable

// The kernels of latents: see `LatentKernels` and `CKernelTable`. The arguments are copied before a loop: what a loop stores
// could be them. E is the type of the latents, V that of the velocities and their gradients, in the same order.

/// m = a·x + b·v
private struct Affine<V: LatentElement> {
  let a, b: V.Compute

  @inline(__always) init(_ a: Double, _ b: Double) {
    self.a = V.Compute(a)
    self.b = V.Compute(b)
  }

  @inline(__always) func mean(_ x: Pair<V.Compute>, _ v: In) -> Pair<V.Compute> {
    plus(times(a, x), times(b, V.load(v)))
  }
}

/// Where a kernel writes a gradient. Always a constant, so that each has a loop of its own.
enum Destination {
  case nowhere, throughCaches, pastCaches

  @inline(__always) var writes: Bool { self != .nowhere }

  @inline(__always) func put<V: LatentElement>(_: V.Type, _ values: Pair<V.Compute>, _ out: Out) {
    switch self {
    case .nowhere: break
    case .throughCaches: V.store(values, out)
    case .pastCaches: V.stream(values, out)
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

private struct Difference<E: LatentElement, V: LatentElement>: GradientKernel where V.Compute == E.Compute {
  typealias C = E.Compute
  let k: DifferenceArguments
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run(_ destination: Destination, _ gradient: Out) {
    let affine = Affine<V>(k.a, k.b)
    let scale = C(k.scale)
    var lanes = Lanes<C>()
    @inline(__always) func take(_ next: In, _ mean: Pair<C>, _ gradient: Out) {
      let d = minus(E.load(next), mean)
      lanes.addSquares(d)
      destination.put(V.self, times(scale, d), gradient)
    }
    let (x, v, next) = (Source.of(E.self, k.x), Source.of(V.self, k.v), Source.of(E.self, k.next))
    if let extra = k.extra {
      let arrays = Arrays(x, v, .made(C.self, extra), next, out: gradient, of: V.self)
      sixteens(k.count, arrays, writes: destination.writes) {
        take($3, plus(affine.mean(E.load($0), $1), C.load($2)), $4)
      }
    } else {
      let arrays = Arrays(x, v, nil, next, out: gradient, of: V.self)
      sixteens(k.count, arrays, writes: destination.writes) { take($3, affine.mean(E.load($0), $1), $4) }
    }
    lanes.add(to: sums)
  }
}

private struct Distance<V: LatentElement>: GradientKernel {
  let k: DistanceArguments
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run(_ destination: Destination, _ gradient: Out) {
    let scale = V.Compute(k.scale)
    var lanes = Lanes<V.Compute>()
    let arrays = Arrays(.of(V.self, k.v), .of(V.self, k.w), out: gradient, of: V.self)
    sixteens(k.count, arrays, writes: destination.writes) { v, w, _, _, out in
      let d = minus(V.load(v), V.load(w))
      lanes.addSquares(d)
      destination.put(V.self, times(scale, d), out)
    }
    lanes.add(to: sums)
  }
}

private struct MeanDistance<E: LatentElement, V: LatentElement>: GradientKernel where V.Compute == E.Compute {
  typealias C = E.Compute
  let k: MeanDistanceArguments
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run(_ destination: Destination, _ gradient: Out) {
    let (affine, s, scale) = (Affine<V>(k.a, k.b), C(k.s), C(k.scale))
    var lanes = Lanes<C>()
    let arrays = Arrays(
      .of(E.self, k.x), .of(V.self, k.v), .noise(beside: E.self, k.noise), .of(E.self, k.next), out: gradient,
      of: V.self)
    sixteens(k.count, arrays, writes: destination.writes) { x, v, noise, next, out in
      let d = minus(affine.mean(E.load(x), v), minus(E.load(next), times(s, C.load(noise))))
      lanes.addSquares(d)
      destination.put(V.self, times(scale, d), out)
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
    let arrays = Arrays(.of(E.self, x), .of(E.self, next), out: Out(mutating: x), of: E.self)
    sixteens(count, arrays, writes: false) { x, next, _, _, _ in
      lanes.addChange(E.load(next), E.load(x))
    }
    lanes.add(to: sums)
  }
}

/// The kernels of one type of latents and one of velocities.
protocol TypedKernels: LatentKernels {
  associatedtype E: LatentElement
  associatedtype V: LatentElement = E where V.Compute == E.Compute
}

extension TypedKernels {
  typealias C = E.Compute

  static func combine(_ arguments: UnsafePointer<CombineArguments>) {
    let k = arguments.pointee
    let (p, q) = (C(k.p), C(k.q))
    var i = 0
    while i < k.count {
      let left = min(16, k.count &- i)
      let extra = k.extra + i &* MemoryLayout<C>.size
      // No optional vectors: the code that moves one is shared by the three sets, with the widest instructions.
      func image(_ z: In) -> Pair<C> { times(q, part(E.self, z + i &* MemoryLayout<E>.size, left)) }
      if let y = k.y {
        var sum = times(p, part(V.self, y + i &* MemoryLayout<V>.size, left))
        if let z = k.z { sum = plus(sum, image(z)) }
        C.store(sum, extra)
      } else if let z = k.z {
        C.store(image(z), extra)
      }
      i &+= 16
    }
  }

  static func step(_ arguments: UnsafePointer<StepArguments>, _ sums: Sums) {
    let k = arguments.pointee
    let affine = Affine<V>(k.a, k.b)
    let s = C(k.s)
    var lanes = Lanes<C>()
    @inline(__always) func take(_ x: Pair<C>, _ mean: Pair<C>, _ noise: In, _ next: Out, change: Bool) {
      let stored = E.store(plus(mean, times(s, C.load(noise))), next)  // rounded: what a later recomputation will see
      lanes.addSquares(minus(stored, mean))
      if change { lanes.addChange(stored, x) }
    }
    let (x, v, noise) = (Source.of(E.self, k.x), Source.of(V.self, k.v), Source.noise(beside: E.self, k.noise))
    if let extra = k.extra {
      let arrays = Arrays(x, v, .made(C.self, extra), noise, out: k.next, of: E.self)
      sixteens(k.count, arrays, writes: true) {
        let x = E.load($0)
        take(x, plus(affine.mean(x, $1), C.load($2)), $3, $4, change: true)
      }
    } else {
      let arrays = Arrays(x, v, nil, noise, out: k.next, of: E.self)
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
    Difference<E, V>(k: k, sums: sums).run(gradient: k.gradient, else: k.x, past: past)
  }

  static func distance(_ arguments: UnsafePointer<DistanceArguments>, _ sums: Sums) {
    let k = arguments.pointee
    Distance<V>(k: k, sums: sums).run(gradient: k.gradient, else: k.v)
  }

  static func meanDistance(_ arguments: UnsafePointer<MeanDistanceArguments>, _ sums: Sums) {
    let k = arguments.pointee
    MeanDistance<E, V>(k: k, sums: sums).run(gradient: k.gradient, else: k.x)
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
    reorder(numbers, count) { ($0.evenHalf, $0.oddHalf) = ($1.lowHalf, $1.highHalf) }
  }

  static func split(_ numbers: Out, count: Int) {
    reorder(numbers, count) { ($0.lowHalf, $0.highHalf) = ($1.evenHalf, $1.oddHalf) }
  }

  /// Sixteen at a time, where the elements are not in the order of memory.
  @inline(__always)
  private static func reorder(_ numbers: Out, _ count: Int, _ move: (inout SIMD16<Float>, SIMD16<Float>) -> Void) {
    guard E.splits else { return }
    var i = 0
    while i < count {
      var moved = SIMD16<Float>()
      move(&moved, numbers.loadUnaligned(fromByteOffset: 4 &* i, as: SIMD16<Float>.self))
      numbers.storeBytes(of: moved, toByteOffset: 4 &* i, as: SIMD16<Float>.self)
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

/// Those of f32 latents.
protocol Float32TypedKernels: TypedKernels where E == Float {}

extension Float32TypedKernels {
  static var hasNoisyStep: Bool { true }

  static func noisyStep(_ arguments: UnsafePointer<NoisyStepArguments>, _ sums: Sums) {
    let k = arguments.pointee
    drawWords(k.draw, k.words, (k.count &+ 63) & ~63)
    let (a, b, s) = (Floats(Float(k.a)), Floats(Float(k.b)), Floats(Float(k.s)))
    let transform = BoxMuller.shared
    @inline(__always) func run(change: Bool) {
      var (squares, changes, magnitudes): (Floats, Floats, Floats) = (0.0, 0.0, 0.0)
      @inline(__always) func take(_ i: Int, _ noise: Floats) {
        let x = Floats(Float.load(k.x + 4 &* i))
        let mean = a * x + b * Floats(V.load(k.v + i &* MemoryLayout<V>.size))
        let next = mean + s * noise
        (k.next + 4 &* i).storeBytes(of: next.lanes, as: SIMD16<Float>.self)
        let d = next - mean
        squares = squares + d * d
        if change { (changes, magnitudes) = (changes + (next - x).magnitude, magnitudes + x.magnitude) }
      }
      var i = 0
      while i < k.count {
        let (first, second) = transform.pointee.normals(at: k.words + 4 &* i)
        take(i, first)
        take(i &+ 16, second)
        i &+= 32
      }
      Lanes<Float>(squares: squares.pair, change: changes.pair, magnitude: magnitudes.pair).add(to: sums)
    }
    if k.change { run(change: true) } else { run(change: false) }
  }
}

enum Float32Kernels: Float32TypedKernels { typealias E = Float }
enum Float32BFloat16Kernels: Float32TypedKernels { typealias V = OrderedBFloat16 }
enum Float32Float16Kernels: Float32TypedKernels { typealias V = Half }
enum Float64Kernels: TypedKernels { typealias E = Double }
enum BFloat16Kernels: TypedKernels { typealias E = BFloat16 }
enum Float16Kernels: TypedKernels { typealias E = Half }

/// The kernels as this module was compiled.
public enum Kernels: KernelSet {
  public static var float32: any LatentKernels.Type { Float32Kernels.self }
  public static var float32BFloat16: any LatentKernels.Type { Float32BFloat16Kernels.self }
  public static var float32Float16: any LatentKernels.Type { Float32Float16Kernels.self }
  public static var float64: any LatentKernels.Type { Float64Kernels.self }
  public static var bfloat16: any LatentKernels.Type { BFloat16Kernels.self }
  public static var float16: any LatentKernels.Type { Float16Kernels.self }
  public static var network32: any NetworkKernels.Type { Network32.self }
  public static var network64: any NetworkKernels.Type { Network64.self }
}
