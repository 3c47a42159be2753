public import CChunkGRPO
import ChunkGRPO
import ChunkGRPOTraining

private func trainer(_ handle: OpaquePointer?) throws -> ChunkGRPOTrainer { try borrowed(handle, "trainer") }

private func defaultTrainerOptions() -> cgrpo_trainer_options {
  let o = TrainerOptions(latentSize: 0, conditionSize: 0)
  return cgrpo_trainer_options(
    struct_size: MemoryLayout<cgrpo_trainer_options>.stride, latent_size: 0, condition_size: 0,
    width: Int64(o.width), blocks: Int64(o.blocks), embedding_size: Int64(o.embeddingSize), steps: Int64(o.steps),
    shift: o.shift, dynamics: o.dynamics.rawValue, share_noise: o.shareNoise ? 1 : 0, eta: o.eta, chunk_sizes: nil,
    chunk_count: 0, group_size: Int64(o.groupSize), chunk_fraction: o.chunkFraction,
    weighted_selection: o.weightedSelection ? 1 : 0, threads: Int32(o.threads), advantage_clamp: o.advantageClamp,
    clip_low: o.clipLow, clip_high: o.clipHigh, kl: o.kl, updates_per_rollout: Int64(o.updatesPerRollout),
    learning_rate: o.learningRate, beta1: o.beta1, beta2: o.beta2, adam_epsilon: o.adamEpsilon,
    weight_decay: o.weightDecay, max_grad_norm: o.maxGradNorm, ema_decay: o.emaDecay, seed: o.seed)
}

/// Bounds that the trainer itself states in its errors; here a number only has to fit.
private func size(_ value: Int64, _ name: String) throws -> Int { try count(value, name, 0...maxCount) }

private func trainerOptions(_ o: cgrpo_trainer_options) throws -> TrainerOptions {
  var options = TrainerOptions(
    latentSize: try size(o.latent_size, "latent_size"), conditionSize: try size(o.condition_size, "condition_size"))
  options.width = try size(o.width, "width")
  options.blocks = try size(o.blocks, "blocks")
  options.embeddingSize = try size(o.embedding_size, "embedding_size")
  options.steps = try size(o.steps, "steps")
  options.shift = o.shift
  options.dynamics = try enumeration(o.dynamics, "dynamics")
  options.shareNoise = try flag(o.share_noise, "share_noise")
  options.eta = o.eta
  if let sizes = o.chunk_sizes {
    let n = try count(o.chunk_count, "chunk_count", 1...Schedule.maxSteps)
    options.chunkSizes = try (0..<n).map { try count(sizes[$0], "chunk_sizes[\($0)]", 1...Schedule.maxSteps) }
  } else {
    try require(o.chunk_count == 0, "chunk_sizes is null, but chunk_count = \(o.chunk_count)")
  }
  options.groupSize = try size(o.group_size, "group_size")
  options.chunkFraction = o.chunk_fraction
  options.weightedSelection = try flag(o.weighted_selection, "weighted_selection")
  options.threads = Int(o.threads)
  options.advantageClamp = o.advantage_clamp
  options.clipLow = o.clip_low
  options.clipHigh = o.clip_high
  options.kl = o.kl
  options.updatesPerRollout = try size(o.updates_per_rollout, "updates_per_rollout")
  options.learningRate = o.learning_rate
  options.beta1 = o.beta1
  options.beta2 = o.beta2
  options.adamEpsilon = o.adam_epsilon
  options.weightDecay = o.weight_decay
  options.maxGradNorm = o.max_grad_norm
  options.emaDecay = o.ema_decay
  options.seed = o.seed
  return options
}

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
  initStruct(options, size: structSize, defaults: defaultTrainerOptions())
}

@_cdecl("cgrpo_trainer_create") @implementation
public func cgrpo_trainer_create(
  _ options: UnsafePointer<cgrpo_trainer_options>!, _ out: UnsafeMutablePointer<OpaquePointer?>!
) -> cgrpo_status {
  guarded {
    let out = try nonNull(out, "trainer")
    // Null is no set of defaults here: two sizes have none.
    let options = try readStruct(try nonNull(options, "options"), "options", current: defaultTrainerOptions())
    out.pointee = retained(try ChunkGRPOTrainer(trainerOptions(options)))
  }
}

@_cdecl("cgrpo_trainer_destroy") @implementation
public func cgrpo_trainer_destroy(_ trainer: OpaquePointer!) { release(trainer) }

@_cdecl("cgrpo_trainer_info") @implementation
public func cgrpo_trainer_info(
  _ handle: OpaquePointer!, _ parameterCount: UnsafeMutablePointer<Int64>!, _ iterations: UnsafeMutablePointer<Int64>!
) -> cgrpo_status {
  guarded {
    let trainer = try trainer(handle)
    parameterCount?.pointee = Int64(trainer.parameterCount)
    iterations?.pointee = Int64(trainer.iterations)
  }
}

// MARK: - Training

private func defaultPretrainOptions() -> cgrpo_pretrain_options {
  let o = PretrainOptions()
  return cgrpo_pretrain_options(
    struct_size: MemoryLayout<cgrpo_pretrain_options>.stride, steps: Int64(o.steps), batch_size: Int64(o.batchSize),
    learning_rate: o.learningRate, ema_decay: o.emaDecay)
}

@_cdecl("cgrpo_pretrain_options_init") @implementation
public func cgrpo_pretrain_options_init(_ options: UnsafeMutablePointer<cgrpo_pretrain_options>!, _ structSize: Int) {
  initStruct(options, size: structSize, defaults: defaultPretrainOptions())
}

@_cdecl("cgrpo_trainer_pretrain") @implementation
public func cgrpo_trainer_pretrain(
  _ handle: OpaquePointer!, _ images: UnsafePointer<cgrpo_tensor>!, _ conditions: UnsafePointer<cgrpo_tensor>!,
  _ options: UnsafePointer<cgrpo_pretrain_options>!, _ progress: cgrpo_progress_fn!, _ user: UnsafeMutableRawPointer!
) -> cgrpo_status {
  guarded {
    let trainer = try trainer(handle)
    let (d, c) = (trainer.options.latentSize, trainer.options.conditionSize)
    let images = try rows(images, "images", columns: d)
    let conditions = try rows(conditions, "conditions", columns: c)
    try sameRows(images, "images", d, conditions, "conditions", c)
    let o = try readStruct(options, "options", current: defaultPretrainOptions())
    var pretraining = PretrainOptions()
    pretraining.steps = try size(o.steps, "steps")
    pretraining.batchSize = try size(o.batch_size, "batch_size")
    pretraining.learningRate = o.learning_rate
    pretraining.emaDecay = o.ema_decay
    try trainer.pretrain(
      images: UnsafeBufferPointer(images), conditions: UnsafeBufferPointer(conditions), options: pretraining
    ) { done, total, loss in
      if let progress {
        let status = progress(user, Int64(done), Int64(total), loss)
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
    rollout_seconds: r.rolloutSeconds, reward_seconds: r.rewardSeconds, update_seconds: r.updateSeconds)
}

@_cdecl("cgrpo_trainer_iterate") @implementation
public func cgrpo_trainer_iterate(
  _ handle: OpaquePointer!, _ conditions: UnsafePointer<cgrpo_tensor>!, _ reward: cgrpo_reward_fn!,
  _ user: UnsafeMutableRawPointer!, _ report: UnsafeMutablePointer<cgrpo_iteration_report>!
) -> cgrpo_status {
  guarded {
    let trainer = try trainer(handle)
    let reward = try nonNull(reward, "reward")
    let conditions = try rows(conditions, "conditions", columns: trainer.options.conditionSize)
    if let report {
      _ = try checkedSize(UnsafeRawPointer(report), "report", minimum: MemoryLayout<cgrpo_iteration_report>.stride)
    }
    let latentSize = trainer.options.latentSize
    let result = try trainer.iterate(conditions: UnsafeBufferPointer(conditions)) { images, prompts, rewards in
      guard let base = images.baseAddress else { return }
      let view = LatentsView(
        UnsafeMutableRawPointer(mutating: base), type: .float32, batch: prompts.count, elements: latentSize)
      let status = view.withTensor(trailingShape: [Int64(latentSize)]) {
        reward(user, $0, prompts.baseAddress, rewards.baseAddress)
      }
      if status != 0 { throw ChunkGRPOError(.callbackFailed, "the reward callback returned \(status)") }
    }
    if let report { try writeStruct(cReport(result), to: report, "report") }
  }
}

// MARK: - Use

@_cdecl("cgrpo_trainer_sample") @implementation
public func cgrpo_trainer_sample(
  _ handle: OpaquePointer!, _ conditions: UnsafePointer<cgrpo_tensor>!, _ weights: cgrpo_weights, _ eta: Double,
  _ seed: UInt64, _ images: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let trainer = try trainer(handle)
    let (d, c) = (trainer.options.latentSize, trainer.options.conditionSize)
    let conditions = try rows(conditions, "conditions", columns: c)
    let images = try rows(images, "images", columns: d)
    try sameRows(images, "images", d, conditions, "conditions", c)
    try trainer.sample(
      conditions: UnsafeBufferPointer(conditions), parameters: enumeration(weights, "weights"), eta: eta, seed: seed,
      into: images)
  }
}

@_cdecl("cgrpo_trainer_velocity") @implementation
public func cgrpo_trainer_velocity(
  _ handle: OpaquePointer!, _ weights: cgrpo_weights, _ latents: UnsafePointer<cgrpo_tensor>!, _ sigma: Double,
  _ conditions: UnsafePointer<cgrpo_tensor>!, _ velocity: UnsafePointer<cgrpo_tensor>!
) -> cgrpo_status {
  guarded {
    let trainer = try trainer(handle)
    let (d, c) = (trainer.options.latentSize, trainer.options.conditionSize)
    let latents = try rows(latents, "latents", columns: d)
    let conditions = try rows(conditions, "conditions", columns: c)
    let velocity = try rows(velocity, "velocity", columns: d)
    try sameRows(latents, "latents", d, conditions, "conditions", c)
    try sameRows(latents, "latents", d, velocity, "velocity", d)
    try trainer.velocity(
      parameters: enumeration(weights, "weights"), latents: UnsafeBufferPointer(latents), sigma: sigma,
      conditions: UnsafeBufferPointer(conditions), into: velocity)
  }
}

private func path(_ directory: UnsafePointer<CChar>?) throws -> String {
  let text = try nonNull(directory, "directory")
  guard let path = String(validatingCString: text), !path.isEmpty else {
    throw ChunkGRPOError.invalidArgument("directory is empty, or no UTF-8")
  }
  return path
}

@_cdecl("cgrpo_trainer_save") @implementation
public func cgrpo_trainer_save(_ handle: OpaquePointer!, _ directory: UnsafePointer<CChar>!) -> cgrpo_status {
  guarded { try trainer(handle).save(to: path(directory)) }
}

@_cdecl("cgrpo_trainer_load") @implementation
public func cgrpo_trainer_load(
  _ directory: UnsafePointer<CChar>!, _ out: UnsafeMutablePointer<OpaquePointer?>!
) -> cgrpo_status {
  guarded {
    let out = try nonNull(out, "trainer")
    out.pointee = retained(try ChunkGRPOTrainer(loading: path(directory)))
  }
}
