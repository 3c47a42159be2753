internal import KernelTable
internal import KernelsCUDA

// The passes of a sampler on a CUDA device: which kernel, and its arguments. Numbers of samples travel with the launch, so that
// more samples with numbers or ids of their own than fit are split.

extension BatchNumbers {
  /// Of the samples of a launch; one set where all have the same.
  ///
  /// - Parameter adjust: changes a set before it is stored.
  fileprivate func fill<Numbers>(
    _ numbers: inout Numbers, _ each: inout UInt32, _ samples: Range<Int>, _ x: Rows,
    adjust: (inout CUDANumbers) -> Void = { _ in }
  ) {
    each = areOwn ? 1 : 0
    for i in areOwn ? samples : samples.lowerBound..<samples.lowerBound + 1 {
      var n = CUDANumbers(self[i], step: step(i), x.type)
      n.take(density(i), self[i], elements: x.elements)
      adjust(&n)
      set(&numbers, i - samples.lowerBound, n)
    }
  }
}

extension CUDALaunch {
  /// Of a step, or of what compares one: every array by the name of its argument.
  fileprivate init(_ queue: CUDAQueue, step x: Rows, _ v: Rows, _ next: Rows, _ terms: LinearTerms? = nil) throws {
    try self.init(queue, x, "latents")
    try check(v, "velocity")
    try check(next, "next_latents")
    try check(terms?.y, "unconditional")
    try check(terms?.z, "previous_image")
  }
}

extension StepPass {
  func launch(on queue: CUDAQueue) throws {
    let launch = try CUDALaunch(queue, step: x, v, next, terms)
    try noise.check(launch)
    try launch.check(results.logProb, "log_prob")
    try launch.check(results.relativeL1, "relative_l1")
    var fast = terms == nil && !numbers.areOwn && numbers[0].s != 0 && queue.seed == nil
    if case .library = noise {} else { fast = false }
    let kernel: CUDAKernel = !fast ? .stepAny : change ? .stepChange : .step
    var arguments = CUDAStepArguments()
    try launch.run(
      kernel, x.type, v.type, most: mostSamples(numbers.areOwn || noise.carriesIDs(queue)), &arguments
    ) { k, samples in
      let first = samples.lowerBound
      (k.x, k.v, k.next) = (x.cuda(first), v.cuda(first), next.cuda(first))
      (k.y, k.z) = (terms?.y.cuda(first) ?? noRows, terms?.z.cuda(first) ?? noRows)
      k.log_prob = results.logProb.map { $0 + first &* results.stride }
      k.relative_l1 = results.relativeL1.map { $0 + first &* results.stride }
      k.stride = Int64(results.stride)
      k.shape = launch.shape(samples)
      k.workspace = try launch.workspace(samples, wanted: results.logProb != nil || results.relativeL1 != nil)
      noise.fill(&k.noise, samples, queue)
      numbers.fill(&k.numbers, &k.each, samples, x)
    }
  }
}

extension DifferencePass {
  func launch(on queue: CUDAQueue) throws {
    let launch = try CUDALaunch(queue, step: x, v, next, terms)
    try launch.check(output?.gradient, "grad_velocity")
    try launch.check(output?.unconditional, "grad_unconditional")
    try launch.check(output?.upstream, "grad_log_prob")
    try launch.check(logProb, "log_prob")
    let plain = terms == nil && !numbers.areOwn && output?.unconditional == nil
    let ofPlain: CUDAKernel = output == nil ? .difference : logProb == nil ? .gradient : .differenceGradient
    let kernel = plain ? ofPlain : .differenceAny
    var arguments = CUDADifferenceArguments()
    try launch.run(kernel, x.type, v.type, most: mostSamples(numbers.areOwn), &arguments) { k, samples in
      let first = samples.lowerBound
      (k.x, k.v, k.next) = (x.cuda(first), v.cuda(first), next.cuda(first))
      (k.y, k.z) = (terms?.y.cuda(first) ?? noRows, terms?.z.cuda(first) ?? noRows)
      k.gradient = output?.gradient.cuda(first) ?? noRows
      k.unconditional = output?.unconditional.cuda(first) ?? noRows
      k.upstream = output?.upstream.map { $0 + first }
      k.log_prob = logProb.map { $0 + first }
      (k.upstream_stride, k.stride) = (1, 1)
      k.shape = launch.shape(samples)
      k.workspace = try launch.workspace(samples, wanted: logProb != nil, looks: output == nil)
      numbers.fill(&k.numbers, &k.each, samples, x) { if ofResidual { $0.takeResidual(x.type) } }
    }
  }
}

extension TrajectoryPass {
  func launch(on queue: CUDAQueue) throws {
    let launch = try CUDALaunch(queue, x, "latents")
    try launch.check(v.first, "velocities")
    try launch.check(output?.gradients.first, "grad_velocities")
    try launch.check(output?.upstream, "grad_log_probs")
    try launch.check(logProbs, "log_probs")
    if !first.isMixed {
      let both: CUDAKernel = logProbs == nil ? .gradient : .differenceGradient
      return try self.launch(launch, 0..<steps, output == nil ? .difference : both)
    }
    for t in 0..<steps { try self.launch(launch, t..<t + 1, .differenceAny) }
  }

  /// All samples at the steps of `columns`: one set of numbers a step, or for one step one a sample.
  private func launch(_ launch: CUDALaunch, _ columns: Range<Int>, _ kernel: CUDAKernel) throws {
    let (t, mixed) = (columns.lowerBound, first.isMixed)
    var arguments = CUDADifferenceArguments()
    try launch.run(
      kernel, x.type, v.first.type, most: mostSamples(mixed), steps: columns.count, &arguments
    ) { k, samples in
      let sample = samples.lowerBound
      (k.x, k.next) = (latents.cuda(sample, from: t), latents.cuda(sample, from: ofResiduals ? t : t + 1))
      k.v = v.cuda(sample, from: t)
      (k.y, k.z, k.unconditional) = (noRows, noRows, noRows)
      k.gradient = output?.gradients.cuda(sample, from: t) ?? noRows
      k.upstream = output.flatMap { o in o.upstream.map { $0 + (sample &* o.upstreamStride &+ t) } }
      k.log_prob = logProbs.map { $0 + (sample &* stride &+ t) }
      (k.upstream_stride, k.stride) = (Int64(output?.upstreamStride ?? 1), Int64(stride))
      k.shape = launch.shape(samples)
      k.workspace = try launch.workspace(samples, steps: columns.count, wanted: logProbs != nil, looks: output == nil)
      (k.each, k.idle_zeros) = (mixed ? 1 : 0, 1)
      for place in 0..<(mixed ? samples.count : columns.count) {
        let step = mixed ? first[sample + place] + t : first[0] + t + place
        let (c, density) = (table[step].coefficients, table[step].density)
        let n = SampleNumbers(c: c, guidance: 1)
        var numbers = CUDANumbers(n, step: step, x.type)
        numbers.take(density, n, elements: x.elements)
        if ofResiduals { numbers.takeResidual(x.type) }
        set(&k.numbers, place, numbers)
      }
    }
  }
}

extension StepRows {
  fileprivate func cuda(_ sample: Int, from step: Int) -> CUDARows {
    var rows = cuda(sample)
    rows.base = rows.base.map { $0 + step &* stride }
    return rows
  }
}

extension VelocityDistancePass {
  func launch(on queue: CUDAQueue) throws {
    guard let factors else { return try refuseDevice() }
    let launch = try CUDALaunch(queue, x, "velocity")
    try launch.check(w, "other_velocity")
    try launch.check(gradient?.view, "grad_velocity")
    try launch.check(gradient?.upstream, "grad_divergence")
    try launch.check(distance, "divergence")
    var arguments = CUDADistanceArguments()
    try launch.run(.distance, x.type, x.type, most: mostSamples(factors.steps.isMixed), &arguments) { k, samples in
      let first = samples.lowerBound
      (k.v, k.w, k.gradient) = (x.cuda(first), w.cuda(first), gradient?.view.cuda(first) ?? noRows)
      k.upstream = gradient.map { $0.upstream + first }
      k.distance = distance.map { $0 + first }
      k.shape = launch.shape(samples)
      k.workspace = try launch.workspace(samples, wanted: distance != nil)
      factors.fill(&k.numbers, &k.each, samples, x)
    }
  }
}

extension MeanDistancePass {
  func launch(on queue: CUDAQueue) throws {
    let launch = try CUDALaunch(queue, step: x, v, next)
    try noise.check(launch)
    try launch.check(gradient?.view, "grad_velocity")
    try launch.check(gradient?.upstream, "grad_divergence")
    try launch.check(distance, "divergence")
    var arguments = CUDADistanceArguments()
    try launch.run(
      .meanDistance, x.type, v.type, most: mostSamples(steps.isMixed || noise.carriesIDs(queue)), &arguments
    ) { k, samples in
      let first = samples.lowerBound
      (k.x, k.v, k.next) = (x.cuda(first), v.cuda(first), next.cuda(first))
      k.gradient = gradient?.view.cuda(first) ?? noRows
      k.upstream = gradient.map { $0.upstream + first }
      k.distance = distance.map { $0 + first }
      k.shape = launch.shape(samples)
      k.workspace = try launch.workspace(samples, wanted: distance != nil)
      noise.fill(&k.noise, samples, queue)
      factors.fill(&k.numbers, &k.each, samples, x)
    }
  }
}

extension DistanceFactors {
  /// The result of a sample is factor·mean d², with the gradient slope/D·upstream·d.
  fileprivate func fill<Numbers>(_ numbers: inout Numbers, _ each: inout UInt32, _ samples: Range<Int>, _ x: Rows) {
    each = steps.isMixed ? 1 : 0
    for i in steps.isMixed ? samples : samples.lowerBound..<samples.lowerBound + 1 {
      let c = table[steps[i]].coefficients
      var n = CUDANumbers(SampleNumbers(c: c, guidance: 1), step: steps[i], x.type)
      n.factor = factor(i)
      n.slope = slope(i) / Double(x.elements)
      set(&numbers, i - samples.lowerBound, n)
    }
  }
}

extension ChangePass {
  func launch(on queue: CUDAQueue) throws {
    let launch = try CUDALaunch(queue, x, "latents")
    try launch.check(results.relativeL1, "relative_l1")
    let step = (Int(bitPattern: next.base) - Int(bitPattern: x.base)) / x.type.size
    var arguments = CUDAChangeArguments()
    try launch.run(.change, x.type, x.type, &arguments) { k, samples in
      k.x = x.cuda(samples.lowerBound, step: step)
      k.relative_l1 = results.relativeL1.map { $0 + samples.lowerBound &* results.stride }
      k.stride = Int64(results.stride)
      k.shape = launch.shape(samples)
      k.workspace = try launch.workspace(samples, wanted: true)
      k.place = UInt32(truncatingIfNeeded: self.step &+ 1)
    }
  }
}

extension NormalPass {
  func launch(on queue: CUDAQueue) throws {
    let launch = try CUDALaunch(queue, x, "out")
    let noise = NoiseRows.library(noise)
    var arguments = CUDANormalArguments()
    try launch.run(.normal, x.type, x.type, most: mostSamples(noise.carriesIDs(queue)), &arguments) { k, samples in
      k.x = x.cuda(samples.lowerBound)
      k.shape = launch.shape(samples)
      noise.fill(&k.noise, samples, queue)
      k.step = UInt32(truncatingIfNeeded: self.noise.steps.first)
    }
  }
}
