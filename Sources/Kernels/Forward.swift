internal import KernelTable

// The kernels of the forward process, x_t = (1 − t)·x0 + t·ε, whose velocity is u = ε − x0.

/// d = v − u, with noise of the type N
private struct ForwardDistance<E: LatentElement, V: LatentElement, N: LatentElement>: GradientKernel
where V.Compute == E.Compute, N.Compute == E.Compute {
  typealias C = E.Compute
  let k: ForwardArguments
  let noise: Source
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run(_ destination: Destination, _ gradient: Out) {
    let scale = C(k.scale)
    var lanes = Lanes<C>()
    let arrays = Arrays(
      .of(V.self, k.v), .of(E.self, k.clean), nil, noise, out: gradient, of: V.self)
    sixteens(k.count, arrays, writes: destination.writes) { v, clean, _, noise, out in
      let d = minus(V.load(v), minus(N.load(noise), E.load(clean)))
      lanes.addSquares(d)
      lanes.addMagnitude(d)
      destination.put(V.self, times(scale, d), out)
    }
    lanes.add(to: sums)
  }
}

/// d = p·v + q·w − u, or v − u
private struct MixtureDistance<V: LatentElement> {
  typealias C = V.Compute
  let k: MixtureArguments
  let sums: UnsafeMutablePointer<BlockSums>

  @inline(__always)
  func run(mixed: Bool) {
    let (p, q) = (C(k.p), C(k.q))
    var lanes = Lanes<C>()
    let arrays = Arrays(
      .of(V.self, k.v), .of(V.self, k.w ?? k.v), .made(C.self, k.u), out: Out(mutating: k.v), of: V.self)
    sixteens(k.count, arrays, writes: false) { v, w, u, _, _ in
      let prediction = mixed ? plus(times(p, V.load(v)), times(q, V.load(w))) : V.load(v)
      let d = minus(prediction, C.load(u))
      lanes.addSquares(d)
      lanes.addMagnitude(d)
    }
    lanes.add(to: sums)
  }
}

/// policy·(v − u) + old·(v_old − u) + reference·(v − v_ref)
private struct ForwardGradient<V: LatentElement> {
  typealias C = V.Compute
  let k: ForwardGradientArguments

  @inline(__always)
  func run(old hasOld: Bool, reference hasReference: Bool) {
    let (ofPolicy, ofOld, ofReference) = (C(k.policy), C(k.old), C(k.reference))
    let arrays = Arrays(
      .of(V.self, k.v), .of(V.self, k.oldVelocity ?? k.v), .of(V.self, k.referenceVelocity ?? k.v), .made(C.self, k.u),
      out: k.gradient, of: V.self)
    sixteens(k.count, arrays, writes: true) { v, old, reference, u, gradient in
      let (v, u) = (V.load(v), C.load(u))
      var sum = times(ofPolicy, minus(v, u))
      if hasOld { sum = plus(sum, times(ofOld, minus(V.load(old), u))) }
      if hasReference { sum = plus(sum, times(ofReference, minus(v, V.load(reference)))) }
      V.store(sum, gradient)
    }
  }
}

extension TypedKernels {
  static func forward(_ arguments: UnsafePointer<ForwardArguments>, _ sums: Sums) {
    let k = arguments.pointee
    let past = k.streams && k.count & 15 == 0 && UInt(bitPattern: k.gradient) & 31 == 0
    if k.given || E.self == C.self {
      ForwardDistance<E, V, E>(k: k, noise: .of(E.self, k.noise), sums: sums)
        .run(gradient: k.gradient, else: k.v, past: past)
    } else {
      ForwardDistance<E, V, C>(k: k, noise: .made(C.self, k.noise), sums: sums)
        .run(gradient: k.gradient, else: k.v, past: past)
    }
  }

  static func target(_ arguments: UnsafePointer<TargetArguments>) {
    let k = arguments.pointee
    var i = 0
    while i < k.count {
      let left = min(16, k.count &- i)
      let noise = k.noise + i &* MemoryLayout<C>.size
      // Noise of a wider type than the latents' was made here, with zeros to the end.
      let e = C.self == E.self ? part(C.self, noise, left) : C.load(noise)
      let u = minus(e, part(E.self, k.clean + i &* MemoryLayout<E>.size, left))
      C.store(u, k.u + i &* MemoryLayout<C>.size)
      i &+= 16
    }
  }

  static func mixture(_ arguments: UnsafePointer<MixtureArguments>, _ sums: Sums) {
    let kernel = MixtureDistance<V>(k: arguments.pointee, sums: sums)
    if kernel.k.w == nil { kernel.run(mixed: false) } else { kernel.run(mixed: true) }
  }

  static func forwardGradient(_ arguments: UnsafePointer<ForwardGradientArguments>) {
    let kernel = ForwardGradient<V>(k: arguments.pointee)
    switch (kernel.k.oldVelocity, kernel.k.referenceVelocity) {
    case (nil, nil): kernel.run(old: false, reference: false)
    case (_, nil): kernel.run(old: true, reference: false)
    case (nil, _): kernel.run(old: false, reference: true)
    default: kernel.run(old: true, reference: true)
    }
  }
}
