public import CChunkGRPO
import ChunkGRPO
import ChunkGRPOTraining

/// The object behind a `cgrpo_trainer *`.
private func trainer(_ pointer: OpaquePointer?) throws -> ChunkGRPOTrainer { try borrowed(pointer, "trainer") }

/// A (rows, columns) tensor with `columns` given by the trainer.
private func rows(
  _ tensor: UnsafePointer<cgrpo_tensor>?, _ name: String, columns: Int
) throws -> UnsafeMutableBufferPointer<Float> {
  let view = try latentsView(tensor, name)
  let values = try matrix(tensor, name)
  try require(
    view.elements == columns, "\(name) has rows of \(view.elements) numbers, but the trainer has \(columns)")
  return values
}

private func sameRows(
  _ a: UnsafeMutableBufferPointer<Float>, _ nameA: String, _ columnsA: Int,
  _ b: UnsafeMutableBufferPointer<Float>, _ nameB: String, _ columnsB: Int
) throws {
  try require(
    a.count / columnsA == b.count / columnsB,
    "\(nameA) has \(a.count / columnsA) rows, but \(nameB) has \(b.count / columnsB)")
}

// MARK: - Creation

@_cdecl("cgrpo_trainer_options_init") @implementation
public func cgrpo_trainer_options_init(_ options: UnsafeMutablePointer<cgrpo_trainer_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_trainer_create") @implementation
public func cgrpo_trainer_create(
  _ options: UnsafePointer<cgrpo_trainer_options>!, _ out: UnsafeMutablePointer<OpaquePointer?>!
) -> cgrpo_status {
  waiting {
    let out = try nonNull(out, "trainer")
    // Null is no set of defaults here: two sizes have none.
    out.pointee = retained(try ChunkGRPOTrainer(read(nonNull(options, "options"))))
  }
}

@_cdecl("cgrpo_trainer_destroy") @implementation
public func cgrpo_trainer_destroy(_ trainer: OpaquePointer!) { release(trainer) }

@_cdecl("cgrpo_trainer_info") @implementation
public func cgrpo_trainer_info(
  _ pointer: OpaquePointer!, _ options: UnsafeMutablePointer<cgrpo_trainer_options>!,
  _ parameterCount: UnsafeMutablePointer<Int64>!, _ iterations: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let trainer = try trainer(pointer)
    if let options {
      var made = cgrpo_trainer_options(trainer.options)
      if let sizes = trainer.options.chunkSizes {
        (made.chunk_sizes, made.chunk_count) = (sizes.pointer.map(int64s), Int64(sizes.count))
      }
      if let weights = trainer.options.chunkWeights {
        (made.chunk_weights, made.chunk_weights_count) = (weights.pointer, Int64(weights.count))
      }
      try writeStruct(made, to: options, "options")
    }
    parameterCount?.pointee = Int64(trainer.parameterCount)
    iterations?.pointee = Int64(trainer.iterations)
  }
}

// MARK: - Training

@_cdecl("cgrpo_pretrain_options_init") @implementation
public func cgrpo_pretrain_options_init(_ options: UnsafeMutablePointer<cgrpo_pretrain_options>!, _ structSize: Int) {
  initStruct(options, size: structSize)
}

@_cdecl("cgrpo_trainer_pretrain") @implementation
public func cgrpo_trainer_pretrain(
  _ handle: OpaquePointer!, _ images: UnsafePointer<cgrpo_tensor>!, _ conditions: UnsafePointer<cgrpo_tensor>!,
  _ options: UnsafePointer<cgrpo_pretrain_options>!, _ progress: cgrpo_progress_fn!, _ user: UnsafeMutableRawPointer!
) -> cgrpo_status {
  waiting {
    let trainer = try trainer(handle)
    let (d, c) = (trainer.options.latentSize, trainer.options.conditionSize)
    try trainer.pretrain {
      let images = try rows(images, "images", columns: d)
      let conditions = try rows(conditions, "conditions", columns: c)
      try sameRows(images, "images", d, conditions, "conditions", c)
      return (UnsafeBufferPointer(images), UnsafeBufferPointer(conditions), try read(options))
    } progress: { done, total, loss in
      if let progress {
        let status = outside { progress(user, Int64(done), Int64(total), loss) }
        if status != 0 {
          throw ChunkGRPOError(
            .callbackFailed, "the progress callback returned \(status) after \(done) of \(total) steps")
        }
      }
    }
  }
}

private func cReport(_ r: IterationReport) -> cgrpo_iteration_report {
  cgrpo_iteration_report(
    struct_size: MemoryLayout<cgrpo_iteration_report>.stride, iteration: Int64(r.iteration),
    reward_mean: r.rewardMean, reward_std: r.rewardStd, loss: r.loss, grad_norm: r.gradNorm, stats: cStats(r.stats),
    rollout_seconds: r.rolloutSeconds, reward_seconds: r.rewardSeconds, update_seconds: r.updateSeconds,
    reference_divergence: r.referenceDivergence, last_step_divergence: r.lastStepDivergence)
}

@_cdecl("cgrpo_trainer_iterate") @implementation
public func cgrpo_trainer_iterate(
  _ handle: OpaquePointer!, _ conditions: UnsafePointer<cgrpo_tensor>!, _ reward: cgrpo_reward_fn!,
  _ user: UnsafeMutableRawPointer!, _ report: UnsafeMutablePointer<cgrpo_iteration_report>!
) -> cgrpo_status {
  waiting {
    let trainer = try trainer(handle)
    let latentSize = trainer.options.latentSize
    // All is checked within the call, so that the other ranks of a data-parallel run hear of it.
    let result = try trainer.iterate {
      let conditions = try rows(conditions, "conditions", columns: trainer.options.conditionSize)
      if let report { try checkedSize(UnsafePointer(report), "report") }
      _ = try nonNull(reward, "reward")
      return UnsafeBufferPointer(conditions)
    } reward: { images, prompts, rewards in
      let reward = try nonNull(reward, "reward")
      guard let base = images.baseAddress else { return }
      let view = LatentsView(
        UnsafeMutableRawPointer(mutating: base), type: .float32, batch: prompts.count, elements: latentSize)
      let status = view.withTensor(trailingShape: [Int64(latentSize)]) { images in
        outside { reward(user, images, prompts.baseAddress, rewards.baseAddress) }
      }
      if status != 0 { throw ChunkGRPOError(.callbackFailed, "the reward callback returned \(status)") }
    }
    if let report { try writeStruct(cReport(result), to: report, "report") }
  }
}

// MARK: - Use

@_cdecl("cgrpo_trainer_sample") @implementation
public func cgrpo_trainer_sample(
  _ handle: OpaquePointer!, _ conditions: UnsafePointer<cgrpo_tensor>!, _ parameters: cgrpo_parameters, _ eta: Double,
  _ seed: UInt64, _ images: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  waiting {
    let trainer = try trainer(handle)
    let (d, c) = (trainer.options.latentSize, trainer.options.conditionSize)
    let conditions = try rows(conditions, "conditions", columns: c)
    let images = try rows(images, "images", columns: d)
    try sameRows(images, "images", d, conditions, "conditions", c)
    try trainer.sample(
      conditions: UnsafeBufferPointer(conditions), parameters: enumeration(parameters, "parameters"), eta: eta,
      seed: seed,
      into: images)
  }
}

@_cdecl("cgrpo_trainer_velocity") @implementation
public func cgrpo_trainer_velocity(
  _ handle: OpaquePointer!, _ parameters: cgrpo_parameters, _ latents: UnsafePointer<cgrpo_tensor>!, _ sigma: Double,
  _ conditions: UnsafePointer<cgrpo_tensor>!, _ velocity: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  waiting {
    let trainer = try trainer(handle)
    let (d, c) = (trainer.options.latentSize, trainer.options.conditionSize)
    let latents = try rows(latents, "latents", columns: d)
    let conditions = try rows(conditions, "conditions", columns: c)
    let velocity = try rows(velocity, "velocity", columns: d)
    try sameRows(latents, "latents", d, conditions, "conditions", c)
    try sameRows(latents, "latents", d, velocity, "velocity", d)
    try trainer.velocity(
      parameters: enumeration(parameters, "parameters"), latents: UnsafeBufferPointer(latents), sigma: sigma,
      conditions: UnsafeBufferPointer(conditions), into: velocity)
  }
}

private func path(_ directory: UnsafePointer<CChar>?) throws -> Path {
  let text = try nonNull(directory, "directory")
  try require(text.pointee != 0, "directory is empty")
  return try Path(copying: text)
}

@_cdecl("cgrpo_trainer_save") @implementation
public func cgrpo_trainer_save(_ handle: OpaquePointer!, _ directory: UnsafePointer<CChar>!) -> cgrpo_status {
  waiting { try trainer(handle).save(to: path(directory)) }
}

@_cdecl("cgrpo_trainer_load") @implementation
public func cgrpo_trainer_load(
  _ directory: UnsafePointer<CChar>!, _ out: UnsafeMutablePointer<OpaquePointer?>!
) -> cgrpo_status {
  waiting {
    let out = try nonNull(out, "trainer")
    out.pointee = retained(try ChunkGRPOTrainer(loading: path(directory)))
  }
}

// MARK: - Several processes

/// Sums by the host's function.
private struct HostAllReduce: AllReduce {
  let function: cgrpo_all_reduce_fn
  let user: UnsafeMutableRawPointer?

  func sum(_ values: UnsafeMutableBufferPointer<Float>) throws {
    try sum(UnsafeMutableRawBufferPointer(values), .float32)
  }
  func sum(_ values: UnsafeMutableBufferPointer<Double>) throws {
    try sum(UnsafeMutableRawBufferPointer(values), .float64)
  }

  private func sum(_ values: UnsafeMutableRawBufferPointer, _ type: ElementType) throws {
    let status = outside { function(user, values.baseAddress, type.rawValue, Int64(values.count / type.size)) }
    if status != 0 {
      throw ChunkGRPOError(
        .callbackFailed,
        "the all-reduce callback returned \(status): a rank may be gone. The trainer is as it was; to go on, load one "
          + "checkpoint on all ranks and set the replica again")
    }
  }
}

@_cdecl("cgrpo_trainer_set_replica") @implementation
public func cgrpo_trainer_set_replica(
  _ handle: OpaquePointer!, _ rank: Int64, _ ranks: Int64, _ allReduce: cgrpo_all_reduce_fn!,
  _ user: UnsafeMutableRawPointer!
) -> cgrpo_status {
  waiting {
    let trainer = try trainer(handle)
    let ranks = try count(ranks, "ranks", 1...1 << 16)
    let rank = try count(rank, "rank", 0...ranks - 1)
    guard ranks > 1 || allReduce != nil else { return try trainer.removeReplica() }
    try trainer.setReplica(
      rank: rank, ranks: ranks, allReduce: HostAllReduce(function: nonNull(allReduce, "all_reduce"), user: user))
  }
}
