import ChunkGRPO
internal import Platform

/// A checkpoint is a directory with state.json and the three safetensors files that it names. Those are named after their
/// contents, so that a new one never takes the place of an old one that the state still names; the state is written last.
extension ChunkGRPOTrainer {
  /// Writes a checkpoint into `directory`, which is made if it is missing. Whenever the machine stops, the directory holds a
  /// whole checkpoint: the one before, or this one.
  public func save(to directory: String) throws {
    guard mkdir(directory, 0o755) == 0 || errno == EEXIST else { throw ioError("make", directory) }
    var names: [JSON.Member] = []
    for part in parts {
      let name = "\(part.name)-\(part.file.fingerprint).safetensors"
      try part.file.write(to: directory + "/" + name)
      names.append(.init(name: part.name, value: .string(name)))
    }
    try flushDirectory(directory)
    let text = stateJSON(files: names).text(indent: 0) + "\n"
    try Array(text.utf8).withUnsafeBytes { try writeAtomically([$0], to: directory + "/state.json") }
    try flushDirectory(directory)
    removeOldFiles(in: directory, except: names.compactMap(\.value.string))
  }

  /// The trainer of a checkpoint. It goes on as if it had never stopped: bit for bit, on the same machine with the same
  /// numbers of threads.
  ///
  /// - Throws: `.io` names the file and what is wrong with it.
  public convenience init(loading directory: String) throws {
    let path = directory + "/state.json"
    guard let json = try withFile(path, { JSON(parsing: $0) }) else { throw corrupt(path, "it is no JSON") }
    let fields = Fields(json, path)
    guard try fields.int("format") == checkpointFormat else {
      throw corrupt(path, "its format is none that this version reads, \(checkpointFormat)")
    }
    do { try self.init(TrainerOptions(Fields(json["options"] ?? .null, path))) } catch let error as ChunkGRPOError {
      throw error.code == .invalidArgument ? corrupt(path, error.message) : error
    }
    let files = Fields(json["files"] ?? .null, path)
    for part in parts {
      let name = try files.string(part.name)
      guard !name.contains("/") else { throw corrupt(path, "it names the file \(name) outside of its directory") }
      try part.file.read(from: directory + "/" + name)
      guard name == "\(part.name)-\(part.file.fingerprint).safetensors" else {
        throw corrupt(directory + "/" + name, "its values are not those that were written")
      }
    }
    state.iterations = try fields.count("iterations")
    state.optimiserSteps = try fields.count("optimiser_steps")
    state.samplesDrawn = try fields.uint64("samples_drawn")
    state.rowsDrawn = try fields.uint64("rows_drawn")
  }

  private var parts: [(name: String, file: SafetensorsFile)] {
    func entries(_ prefix: String, _ values: Buffer<Float>) -> [SafetensorsFile.Entry] {
      tensors.map { .init(name: prefix + $0.name, shape: $0.shape, values: values.base + $0.offset) }
    }
    return [
      ("weights", SafetensorsFile(entries: entries("", state.weights))),
      ("average", SafetensorsFile(entries: entries("", state.average))),
      (
        "optimiser",
        SafetensorsFile(
          entries: entries("first_moment.", state.firstMoment) + entries("second_moment.", state.secondMoment))
      ),
    ]
  }

  private func stateJSON(files: [JSON.Member]) -> JSON {
    .object([
      .init(name: "format", value: JSON(checkpointFormat)),
      .init(name: "iterations", value: JSON(state.iterations)),
      .init(name: "optimiser_steps", value: JSON(state.optimiserSteps)),
      .init(name: "samples_drawn", value: JSON(state.samplesDrawn)),
      .init(name: "rows_drawn", value: JSON(state.rowsDrawn)),
      .init(name: "files", value: .object(files)),
      .init(name: "options", value: options.json),
    ])
  }

  /// What earlier checkpoints and interrupted writes left. Failing here leaves a file too many, not a checkpoint too few.
  private func removeOldFiles(in directory: String, except current: [String]) {
    let kinds = parts.map(\.name)
    for name in entries(of: directory) where !current.contains(name) {
      let whole = name.hasSuffix(temporarySuffix) ? String(name.dropLast(temporarySuffix.count)) : name
      if kinds.contains(where: { isTensorFile(whole, of: $0) }) { unlink(directory + "/" + name) }
    }
  }

  /// Whether this is a name that `save` gives, "weights-" and 16 hexadecimal digits: all others are the user's.
  private func isTensorFile(_ name: String, of kind: String) -> Bool {
    guard name.hasPrefix(kind + "-"), name.hasSuffix(".safetensors") else { return false }
    let fingerprint = name.dropFirst(kind.count + 1).dropLast(".safetensors".count)
    return fingerprint.count == 16 && fingerprint.utf8.allSatisfy { "0123456789abcdef".utf8.contains($0) }
  }
}

private let checkpointFormat = 1

/// The members of an object, or an error that names what is missing or wrong.
private struct Fields {
  let json: JSON
  let path: String

  init(_ json: JSON, _ path: String) {
    self.json = json
    self.path = path
  }

  private func field<T>(_ name: String, _ value: (JSON) -> T?) throws -> T {
    guard let member = json[name] else { throw corrupt(path, "it lacks \(name)") }
    guard let result = value(member) else { throw corrupt(path, "its \(name) is \(member.text())") }
    return result
  }

  func int(_ name: String) throws -> Int { try field(name, \.int) }
  /// Far from where counting on would overflow.
  func count(_ name: String) throws -> Int {
    try field(name) { $0.int.flatMap { (0...1 << 53).contains($0) ? $0 : nil } }
  }
  func uint64(_ name: String) throws -> UInt64 { try field(name, \.uint64) }
  func double(_ name: String) throws -> Double { try field(name, \.double) }
  func bool(_ name: String) throws -> Bool { try field(name, \.bool) }
  func string(_ name: String) throws -> String { try field(name, \.string) }
  func ints(_ name: String) throws -> [Int]? {
    try field(name) { value -> [Int]?? in
      if case .null = value { return .some(nil) }
      guard let values = value.array else { return nil }
      let ints = values.compactMap(\.int)
      return ints.count == values.count ? .some(ints) : nil
    }
  }
}

private let dynamicsNames: [(Dynamics, String)] = [
  (.flowSDE, "flow_sde"), (.danceSDE, "dance_sde"), (.cps, "cps"), (.ode, "ode"),
]

extension TrainerOptions {
  fileprivate var json: JSON {
    .object([
      .init(name: "latent_size", value: JSON(latentSize)), .init(name: "condition_size", value: JSON(conditionSize)),
      .init(name: "width", value: JSON(width)), .init(name: "blocks", value: JSON(blocks)),
      .init(name: "embedding_size", value: JSON(embeddingSize)), .init(name: "steps", value: JSON(steps)),
      .init(name: "shift", value: JSON(shift)),
      .init(name: "dynamics", value: .string(dynamicsNames.first { $0.0 == dynamics }?.1 ?? "")),
      .init(name: "share_noise", value: .bool(shareNoise)), .init(name: "eta", value: JSON(eta)),
      .init(name: "chunk_sizes", value: chunkSizes.map { .array($0.map { JSON($0) }) } ?? .null),
      .init(name: "group_size", value: JSON(groupSize)), .init(name: "chunk_fraction", value: JSON(chunkFraction)),
      .init(name: "weighted_selection", value: .bool(weightedSelection)), .init(name: "threads", value: JSON(threads)),
      .init(name: "advantage_clamp", value: JSON(advantageClamp)), .init(name: "clip_low", value: JSON(clipLow)),
      .init(name: "clip_high", value: JSON(clipHigh)), .init(name: "kl", value: JSON(kl)),
      .init(name: "updates_per_rollout", value: JSON(updatesPerRollout)),
      .init(name: "learning_rate", value: JSON(learningRate)), .init(name: "beta1", value: JSON(beta1)),
      .init(name: "beta2", value: JSON(beta2)), .init(name: "adam_epsilon", value: JSON(adamEpsilon)),
      .init(name: "weight_decay", value: JSON(weightDecay)), .init(name: "max_grad_norm", value: JSON(maxGradNorm)),
      .init(name: "ema_decay", value: JSON(emaDecay)), .init(name: "seed", value: JSON(seed)),
    ])
  }

  fileprivate init(_ f: Fields) throws {
    self.init(latentSize: try f.int("latent_size"), conditionSize: try f.int("condition_size"))
    width = try f.int("width")
    blocks = try f.int("blocks")
    embeddingSize = try f.int("embedding_size")
    steps = try f.int("steps")
    shift = try f.double("shift")
    let name = try f.string("dynamics")
    guard let dynamics = dynamicsNames.first(where: { $0.1 == name })?.0 else {
      throw corrupt(f.path, "its dynamics is \(name)")
    }
    self.dynamics = dynamics
    shareNoise = try f.bool("share_noise")
    eta = try f.double("eta")
    chunkSizes = try f.ints("chunk_sizes")
    groupSize = try f.int("group_size")
    chunkFraction = try f.double("chunk_fraction")
    weightedSelection = try f.bool("weighted_selection")
    threads = try f.int("threads")
    advantageClamp = try f.double("advantage_clamp")
    clipLow = try f.double("clip_low")
    clipHigh = try f.double("clip_high")
    kl = try f.double("kl")
    updatesPerRollout = try f.int("updates_per_rollout")
    learningRate = try f.double("learning_rate")
    beta1 = try f.double("beta1")
    beta2 = try f.double("beta2")
    adamEpsilon = try f.double("adam_epsilon")
    weightDecay = try f.double("weight_decay")
    maxGradNorm = try f.double("max_grad_norm")
    emaDecay = try f.double("ema_decay")
    seed = try f.uint64("seed")
  }
}
