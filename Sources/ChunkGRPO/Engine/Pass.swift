internal import CSupport
internal import KernelTable

// A pass over a batch reads every sample once, in blocks, on one thread or several. Sums are in the compute type within a
// block and in `Double` between blocks, in an order that depends on the number of elements alone.

/// The part of a sample that one thread works on.
let segmentBlocks = 16
private let segmentSize = segmentBlocks * blockSize
/// Sums that are kept at a time.
private let maxSums = Int(CHUNKGRPO_SUPPORT_MAX_SUMS)
/// The most steps of a pass: few, for the more it has the fewer segments are worked on at a time.
let maxSteps = 16
/// Below this many elements a thread costs more than it brings.
private let threadingThreshold = 1 << 17

/// Up to `blockSize` elements of one sample, and this thread's memory for numbers of the compute type.
struct Block {
  let sample, step, offset, count: Int
  /// The number of its first element in the whole sample. Blocks begin at multiples of their size, but for the first one
  /// of a part.
  let first: Int
  /// How many elements of its sample count, which the means are over.
  let length: Int
  let extra, noise, scratch: UnsafeMutableRawPointer
}

/// Sums of the blocks of a sample: numbers of type `Double`, one after another.
protocol Totals {
  init()
  mutating func add(_ other: Self)
}

/// The work on the blocks of a batch. A structure and not a closure: threads get at it without memory from the heap.
protocol Pass {
  /// What it adds up for each sample and step; one block's numbers by default.
  associatedtype Sums: Totals = BlockSums
  /// Latents of the batch's size.
  var x: Rows { get }
  /// For the type of x by default.
  var kernels: any LatentKernels.Type { get }
  /// 1 … `maxSteps`: a segment of a sample is taken through all of them before the next one, so that what a step reads
  /// that the last one has read is still in the cache. 1 by default.
  var steps: Int { get }
  func run(_ block: Block, _ kernels: any LatentKernels.Type, _ sums: inout Sums)
  /// The same for latents of a CUDA device: puts kernels on the queue, which also write the numbers. Without this method a
  /// pass refuses them.
  func launch(on queue: CUDAQueue) throws
  /// Fills the elements `range` of an array that do not count.
  func pad(_ sample: Int, _ step: Int, _ range: Range<Int>)
}

/// A pass over some of the units of a batch: the segments of its samples, in order.
private struct Work<P: Pass> {
  let pass: P
  let kernels: any LatentKernels.Type
  let segments, steps: Int
  let partial: UnsafeMutablePointer<P.Sums>
  let partSums: PartSums?
  var first = 0

  func run(_ units: Range<Int>) {
    let scratch = chunkgrpo_support_scratch(CHUNKGRPO_SUPPORT_BLOCK)
    let isPart = pass.x.isPart
    var (sample, segment) = (first &+ units.lowerBound).quotientAndRemainder(dividingBy: segments)
    for unit in units {
      for step in 0..<steps {
        let sums = isPart ? runPart(sample, segment, step, scratch) : runWhole(sample, segment, step, scratch)
        (partial + (unit &* steps &+ step)).initialize(to: sums)
      }
      segment &+= 1
      if segment == segments { (sample, segment) = (sample &+ 1, 0) }
    }
    chunkgrpo_support_finish_streams()
  }

  /// The blocks of a segment.
  @inline(__always)
  private func runWhole(_ sample: Int, _ segment: Int, _ step: Int, _ scratch: UnsafeMutableRawPointer) -> P.Sums {
    let end = min(pass.x.elements, (segment &+ 1) &* segmentSize)
    var offset = segment &* segmentSize
    var sums = P.Sums()
    while offset < end {
      let block = Block(
        sample: sample, step: step, offset: offset, count: min(blockSize, end &- offset), first: offset,
        length: pass.x.elements, extra: scratch, noise: scratch + 8 &* blockSize, scratch: scratch + 16 &* blockSize)
      pass.run(block, kernels, &sums)
      offset &+= blockSize
    }
    return sums
  }

  /// The same of a part of the samples, on the grid of the whole.
  @inline(never)
  private func runPart(_ sample: Int, _ segment: Int, _ step: Int, _ scratch: UnsafeMutableRawPointer) -> P.Sums {
    let origin = pass.x.first
    let grid = origin / segmentSize &* segmentSize
    let end = min(origin &+ pass.x.elements, grid &+ (segment &+ 1) &* segmentSize)
    let length = pass.x.length(sample)
    let counted = min(end, length)
    var at = max(origin, grid &+ segment &* segmentSize)
    var sums = P.Sums()
    while at < counted {
      let next = min(counted, (at | (blockSize &- 1)) &+ 1)
      let block = Block(
        sample: sample, step: step, offset: at &- origin, count: next &- at, first: at, length: length,
        extra: scratch, noise: scratch + 8 &* blockSize, scratch: scratch + 16 &* blockSize)
      var own = P.Sums()
      pass.run(block, kernels, &own)
      partSums?.write(own, sample, step, block: at / blockSize)
      sums.add(own)
      at = next
    }
    if at < end { pass.pad(sample, step, at &- origin..<end &- origin) }
    return sums
  }
}

/// The first sample, of the earliest step, whose result is not finite.
struct Broken {
  let sample, step: Int
}

/// - Parameter steps: that the pass counts from.
func throwIfBroken(_ broken: Broken?, from steps: BatchSteps, _ what: String) throws {
  if let broken {
    throw ChunkGRPOError.nonFinite(
      "\(what) of sample \(broken.sample) at step \(steps[broken.sample] + broken.step) are not finite, or too large to "
        + "square")
  }
}

extension Pass {
  var kernels: any LatentKernels.Type { x.type.kernels }
  var steps: Int { 1 }

  func launch(on queue: CUDAQueue) throws { try refuseDevice() }

  func refuseDevice() throws {
    throw ChunkGRPOError.wrongType("the arrays lie on a CUDA device, and this call takes the CPU's memory alone")
  }
  func pad(_: Int, _: Int, _: Range<Int>) {}

  @inline(never)
  private func runOnDevice(_ view: LatentsView) throws {
    // The driver may wait while it holds locks, where a thread must not be cancelled.
    let cancel = chunkgrpo_support_hold_cancellation()
    defer { chunkgrpo_support_release_cancellation(cancel) }
    if let queue = view.cuda { try launch(on: queue) }
  }

  /// Runs over every sample on up to `threads` threads, then calls `finish` with each sample's sums of each step: all steps
  /// of a sample, then the next sample. Returns the first for which it gave no finite number. On a CUDA device nobody waits
  /// for sums: kernels write the numbers, and `finish` is not called.
  ///
  /// - Parameters:
  ///   - view: that of `x`.
  ///   - owners: the views behind the rows of this pass, which lives on their memory.
  ///   - partSums: where a part of the samples has its sums; what is not finite shows when those of all parts are read.
  @discardableResult
  func run<Owners>(
    over view: LatentsView, threads: Int, keeping owners: Owners, partSums: PartSums? = nil,
    finish: (_ sample: Int, _ step: Int, Sums) -> Double
  ) throws -> Broken? {
    if view.isOnDevice {
      try runOnDevice(view)
      withExtendedLifetime(owners) {}
      return nil
    }
    let mode = chunkgrpo_support_use_mode(UInt(CHUNKGRPO_SUPPORT_DEFAULT_MODE))
    defer { chunkgrpo_support_use_mode(mode) }
    let (batch, elements, steps) = (x.batch, x.elements, steps)
    if let partSums, prepare(partSums) { return finishSums(partSums, finish) }
    let segments = x.isPart ? segmentsOfPart : (elements &+ segmentSize &- 1) / segmentSize
    let threads = batch &* elements &* steps < threadingThreshold ? 1 : threads
    let sums = chunkgrpo_support_scratch(CHUNKGRPO_SUPPORT_SUMS).assumingMemoryBound(to: Sums.self)
    let room = maxSums &* MemoryLayout<BlockSums>.stride / MemoryLayout<Sums>.stride
    let (totals, partial) = (sums, sums + steps)
    var work = Work(
      pass: self, kernels: kernels, segments: segments, steps: steps, partial: partial, partSums: partSums)
    totals.initialize(repeating: Sums(), count: steps)
    var (sample, segment) = (0, 0)
    var broken: Broken?
    while work.first < batch &* segments {
      chunkgrpo_support_rest()
      let units = min((room &- steps) / steps, batch &* segments &- work.first)
      withUnsafeMutablePointer(to: &work) {
        parallel(units: units, threads: threads, context: $0) { context, units in
          context.assumingMemoryBound(to: Work<Self>.self).pointee.run(units)
        }
      }
      for unit in 0..<units {
        segment &+= 1
        for step in 0..<steps {
          totals[step].add(partial[unit &* steps &+ step])
          if segment == segments {
            let result = finish(sample, step, totals[step])
            if !result.isFinite && step < broken?.step ?? .max { broken = Broken(sample: sample, step: step) }
            totals[step] = Sums()
          }
        }
        if segment == segments { (sample, segment) = (sample &+ 1, 0) }
      }
      work.first &+= units
    }
    withExtendedLifetime(owners) {}
    return partSums == nil ? broken : nil
  }

  /// How many of the whole's segments a part touches.
  @inline(never)
  private var segmentsOfPart: Int { (x.first &+ x.elements &- 1) / segmentSize &- x.first / segmentSize &+ 1 }

  /// Whether the sums are there already; else they are zeros now.
  @inline(never)
  private func prepare(_ partSums: PartSums) -> Bool {
    if partSums.isReduced { return true }
    for sample in 0..<x.batch { for step in 0..<steps { partSums.clear(sample, step) } }
    return false
  }

  /// What a pass does at its end, with the sums of all parts.
  @inline(never)
  private func finishSums(
    _ partSums: PartSums, _ finish: (_ sample: Int, _ step: Int, Sums) -> Double
  ) -> Broken? {
    var broken: Broken?
    for sample in 0..<x.batch {
      for step in 0..<steps {
        let result = finish(sample, step, partSums.total(sample, step))
        if !result.isFinite && step < broken?.step ?? .max { broken = Broken(sample: sample, step: step) }
      }
    }
    return broken
  }
}

extension BlockSums: Totals {
  @inline(__always)
  mutating func add(_ other: BlockSums) {
    squares += other.squares
    change += other.change
    magnitude += other.magnitude
  }
}
