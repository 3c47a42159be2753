import ChunkGRPO
import ChunkGRPOTraining
import Foundation
import Testing

/// A directory for one test.
final class TemporaryDirectory {
  let path = FileManager.default.temporaryDirectory.appendingPathComponent("chunkgrpo-\(UUID().uuidString)").path
  var model: String { path + "/model.safetensors" }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  func files() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: path).sorted() }

  func write(_ data: Data, to name: String) throws {
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    try data.write(to: URL(fileURLWithPath: path + "/" + name))
  }
}

/// Changes the first `old` of a file to `new`, and the header's length with it.
func replacing(_ old: String, _ new: String) -> (inout Data) -> Void {
  { data in
    guard let range = data.range(of: Data(old.utf8)) else { return }
    data.replaceSubrange(range, with: Data(new.utf8))
    let length = data.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
    let changed = UInt64(length + new.utf8.count - old.utf8.count)
    withUnsafeBytes(of: changed.littleEndian) { data.replaceSubrange(0..<8, with: $0) }
  }
}

extension TemporaryDirectory {
  /// Loading the checkpoint after `change` fails with `reason`.
  func refuses(_ reason: String, after change: (inout Data) -> Void) throws {
    let whole = try Data(contentsOf: URL(fileURLWithPath: model))
    var damaged = whole
    change(&damaged)
    #expect(damaged != whole, "\(reason)")
    try write(damaged, to: "model.safetensors")
    let thrown = #expect(throws: ChunkGRPOError.self) { try ChunkGRPOTrainer(loading: path) }
    #expect(thrown?.code == .io && thrown?.message.contains(reason) == true, "\(thrown?.message ?? "") for \(reason)")
    #expect(thrown?.message.hasPrefix(model) == true)
    try write(whole, to: "model.safetensors")
  }
}

/// Writes `value` over the first of a tensor, with the checksum that then belongs to the file.
private func forge(_ data: inout Data, _ tensor: String, _ value: Float) {
  let start = 8 + data.prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
  let header = String(decoding: data[8..<start], as: UTF8.self)
  let entry = header.components(separatedBy: "\"\(tensor)\":")[1]
  let place = start + (Int(entry.components(separatedBy: "data_offsets\":[")[1].prefix { $0.isNumber }) ?? 0)
  withUnsafeBytes(of: value.bitPattern.littleEndian) { data.replaceSubrange(place..<place + 4, with: $0) }
  let texts = header.components(separatedBy: "\"__metadata__\":{\"")[1].components(separatedBy: "\"}")[0]
  let fields = texts.components(separatedBy: "\",\"").map { $0.replacingOccurrences(of: "\":\"", with: "=") }
  var hash = fnv1a(fields.dropFirst(2).dropLast().map { $0 + "\n" }.joined().utf8)
  for i in stride(from: start, to: data.count, by: 4) {
    hash = fnv1a(CollectionOfOne((0..<4).reduce(0) { $0 | UInt32(data[i + $1]) << (8 * UInt32($1)) }), from: hash)
  }
  replacing(
    fields[fields.count - 1].replacingOccurrences(of: "=", with: "\":\""), "checksum\":\"" + String(hash, radix: 16))(
      &data)
}

extension ChunkGRPOTrainer {
  /// The checkpoint: all of the state.
  fileprivate func savedBytes(_ directory: TemporaryDirectory) throws -> Data {
    try save(to: directory.path)
    return try Data(contentsOf: URL(fileURLWithPath: directory.model))
  }
}

@Suite("Checkpoints")
struct CheckpointTests {
  private let directory = TemporaryDirectory()

  @Test("A run that goes on from a checkpoint equals one that was never interrupted, bit for bit")
  func resumesBitForBit() throws {
    let trainer = try pretrained()
    try trainer.iterate(3)
    try trainer.save(to: directory.path)
    try trainer.iterate(3)
    let resumed = try ChunkGRPOTrainer(loading: directory.path)
    #expect(resumed.options == trainer.options && resumed.iterations == 3)
    try resumed.iterate(3)
    #expect(try resumed.samples(.trained) == trainer.samples(.trained))
    #expect(try resumed.samples(.averaged) == trainer.samples(.averaged))
  }

  @Test("Pretraining goes on from a checkpoint with the draws that follow")
  func resumesPretraining() throws {
    let trainer = try pretrained(steps: 5)
    try trainer.save(to: directory.path)
    let resumed = try ChunkGRPOTrainer(loading: directory.path)
    var options = PretrainOptions()
    options.steps = 3
    for trainer in [trainer, resumed] { try trainer.pretrain(images: oneHots, conditions: oneHots, options: options) }
    #expect(try resumed.samples() == trainer.samples())
  }

  @Test("A run with a reference goes on from a checkpoint bit for bit, and its reference is checked")
  func resumesReference() throws {
    var options = tinyOptions()
    (options.referenceKL, options.referenceDivergence) = (0.03, .gaussian)
    let trainer = try pretrained(options)
    try trainer.iterate(3)
    try trainer.save(to: directory.path)
    let resumed = try ChunkGRPOTrainer(loading: directory.path)
    #expect(resumed.options == options)
    let (own, same) = (try trainer.iterate(3), try resumed.iterate(3))
    #expect(own[2].referenceDivergence > 0 && own.map(\.referenceDivergence) == same.map(\.referenceDivergence))
    #expect(try resumed.samples(.trained) == trainer.samples(.trained))
    try directory.refuses("reference has") { forge(&$0, "reference.output.bias", .nan) }
    try directory.refuses("the network of its options", after: replacing("\"reference_kl\":\"0.03\",", ""))
    try directory.refuses(
      "its reference_kl is 0", after: replacing("\"reference_kl\":\"0.03\"", "\"reference_kl\":\"0.0\""))
    try directory.refuses("not those that were written", after: replacing("\"0.03\"", "\"0.04\""))
  }

  @Test("A run whose reference holds the last step alone goes on from a checkpoint bit for bit")
  func resumesLastStep() throws {
    var options = tinyOptions()
    options.referenceLastStep = 0.5
    let trainer = try pretrained(options)
    try trainer.iterate(3)
    try trainer.save(to: directory.path)
    let resumed = try ChunkGRPOTrainer(loading: directory.path)
    let (own, same) = (try trainer.iterate(3), try resumed.iterate(3))
    #expect(own[2].lastStepDivergence > 0 && own.map(\.lastStepDivergence) == same.map(\.lastStepDivergence))
    #expect(own[2].referenceDivergence == 0)
    #expect(try resumed.samples(.trained) == trainer.samples(.trained))
    try directory.refuses("reference has") { forge(&$0, "reference.output.bias", .nan) }
    try directory.refuses(
      "not those that were written",
      after: replacing("\"reference_last_step\":\"0.5\"", "\"reference_last_step\":\"0.4\""))
  }

  @Test("A checkpoint without a reference has the names of before, and every option that it lacks is the default")
  func noReference() throws {
    try pretrained(steps: 5).save(to: directory.path)
    #expect(
      !String(decoding: try Data(contentsOf: URL(fileURLWithPath: directory.model)), as: UTF8.self).contains(
        "reference"))
    #expect(try ChunkGRPOTrainer(loading: directory.path).options == tinyOptions())
  }

  @Test("Every option comes back, infinities and 64-bit seeds too")
  func optionsComeBack() throws {
    var options = tinyOptions(seed: .max - 7)
    options.chunkSizes = [1, 3, 4]
    options.maxGradNorm = .infinity
    options.advantageClamp = .infinity
    options.clipHigh = 0.1 + 0.2
    options.dynamics = .danceSDE
    options.weightedSelection = true
    (options.referenceKL, options.referenceDivergence) = (0.1 + 0.2, .gaussianPerTime)
    options.chunkWeights = [0, 1.0 / 3, 1e300]
    options.referenceLastStep = 0.1 + 0.7
    try ChunkGRPOTrainer(options).save(to: directory.path)
    #expect(try ChunkGRPOTrainer(loading: directory.path).options == options)
  }

  @Test("A checkpoint is one file, which replaces the one before it and leaves all others")
  func oneFile() throws {
    let trainer = try pretrained(steps: 5)
    try trainer.save(to: directory.path)
    #expect(try directory.files() == ["model.safetensors"])
    let own = ["lora.safetensors", "notes.txt", "state.json", "weights-0000000000000000.safetensors"]
    for name in own { try directory.write(Data([1]), to: name) }
    try trainer.iterate(1)
    try trainer.save(to: directory.path)
    #expect(try directory.files() == (own + ["model.safetensors"]).sorted())
    #expect(try ChunkGRPOTrainer(loading: directory.path).iterations == 1)
  }

  @Test("A write that was interrupted before its rename leaves the checkpoint before it, and the next write goes on")
  func interruptedWrite() throws {
    let trainer = try pretrained(steps: 5)
    try directory.write(Data([1, 2, 3]), to: "model.safetensors.a1b2c3")
    let thrown = #expect(throws: ChunkGRPOError.self) { try ChunkGRPOTrainer(loading: directory.path) }
    #expect(thrown?.message.contains("model.safetensors: No such file") == true)
    try trainer.save(to: directory.path)
    let whole = try Data(contentsOf: URL(fileURLWithPath: directory.model))
    try directory.write(whole.prefix(whole.count / 2), to: "model.safetensors.a1b2c3")
    #expect(try ChunkGRPOTrainer(loading: directory.path).samples() == trainer.samples())
    try trainer.iterate(1)
    try trainer.save(to: directory.path)
    #expect(try directory.files() == ["model.safetensors", "model.safetensors.a1b2c3"])
    #expect(try ChunkGRPOTrainer(loading: directory.path).samples() == trainer.samples())
  }

  @Test("Saves of one trainer from several threads into one directory leave a checkpoint that loads")
  func concurrentSaves() async throws {
    let (trainer, path) = (try pretrained(steps: 5), directory.path)
    let wanted = try trainer.samples()
    nonisolated(unsafe) let shared = trainer  // saving only reads
    try await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<4 { group.addTask { for _ in 0..<10 { try shared.save(to: path) } } }
      try await group.waitForAll()
    }
    #expect(try directory.files() == ["model.safetensors"])
    #expect(try ChunkGRPOTrainer(loading: path).samples() == wanted)
  }

  @Test("A checkpoint of several files is refused with a way to keep it, until this version has written its own")
  func earlierFormat() throws {
    try directory.write(Data("{}".utf8), to: "state.json")
    let thrown = #expect(throws: ChunkGRPOError.self) { try ChunkGRPOTrainer(loading: directory.path) }
    #expect(thrown?.code == .io && thrown?.message.contains("go on with the library that wrote it") == true)
    try ChunkGRPOTrainer(tinyOptions()).save(to: directory.path)
    #expect(try ChunkGRPOTrainer(loading: directory.path).options == tinyOptions())
  }

  @Test("Metadata that is missing, unknown or out of bounds is refused by name")
  func damagedMetadata() throws {
    let trainer = try pretrained(steps: 5)
    try trainer.save(to: directory.path)
    try directory.refuses("it lacks samples_drawn", after: replacing("samples_drawn", "samples_drown"))
    try directory.refuses("it lacks eta", after: replacing("\"eta\":\"0.7\",", ""))
    try directory.refuses("does not know its etta", after: replacing("\"eta\":", "\"etta\":\"1\",\"eta\":"))
    try directory.refuses("its iterations is -1", after: replacing("\"iterations\":\"0\"", "\"iterations\":\"-1\""))
    try directory.refuses(
      "its iterations is 9", after: replacing("\"iterations\":\"0\"", "\"iterations\":\"9999999999999999\""))
    try directory.refuses("its format is not", after: replacing("\"chunkgrpo\"", "\"pt\""))
    try directory.refuses("version 3", after: replacing("\"version\":\"2\"", "\"version\":\"3\""))
    try directory.refuses("width", after: replacing("\"width\":\"32\"", "\"width\":\"99999999\""))
    try directory.refuses("its width is wide", after: replacing("\"width\":\"32\"", "\"width\":\"wide\""))
    try directory.refuses("its eta is nan", after: replacing("\"eta\":\"0.7\"", "\"eta\":\"nan\""))
    try directory.refuses("its eta is 1e999", after: replacing("\"eta\":\"0.7\"", "\"eta\":\"1e999\""))
    try directory.refuses("eta", after: replacing("\"eta\":\"0.7\"", "\"eta\":\"inf\""))
    try directory.refuses("its dynamics is 99", after: replacing("\"dynamics\":\"1\"", "\"dynamics\":\"99\""))
    try directory.refuses("its share_noise is 1", after: replacing("\"share_noise\":\"true\"", "\"share_noise\":\"1\""))
    try directory.refuses(
      "its chunk_sizes is 4,,4", after: replacing("\"chunk_sizes\":\"default\"", "\"chunk_sizes\":\"4,,4\""))
    try directory.refuses("chunk_sizes sum", after: replacing("\"chunk_sizes\":\"default\"", "\"chunk_sizes\":\"4,5\""))
    try directory.refuses("the network of its options", after: replacing("\"width\":\"32\"", "\"width\":\"16384\""))
    try directory.refuses(
      "not those that were written", after: replacing("\"iterations\":\"0\"", "\"iterations\":\"1\""))
    try directory.refuses("not those that were written", after: replacing("\"kl\":\"0.0\"", "\"kl\":\"0.5\""))
    #expect(try ChunkGRPOTrainer(loading: directory.path).samples() == trainer.samples())
  }

  @Test("Numbers that no training gives are refused, whatever the checksum says")
  func forgedNumbers() throws {
    try pretrained(steps: 5).save(to: directory.path)
    for (tensor, value, reason) in [
      ("parameters.output.bias", Float.nan, "parameters has"), ("average.input.weight", -.infinity, "average has"),
      ("first_moment.input.weight", .infinity, "first_moment has"), ("second_moment.input.bias", .nan, "not finite"),
      ("second_moment.output.bias", -1, "below 0"),
    ] {
      try directory.refuses(reason) { forge(&$0, tensor, value) }
    }
  }

  @Test("A network whose numbers leave their range keeps the state of before, which can be saved and loaded")
  func overflowIsNotCommitted() throws {
    var options = tinyOptions()
    options.maxGradNorm = .infinity
    let trainer = try pretrained(options, steps: 5)
    var pretraining = PretrainOptions()
    (pretraining.steps, pretraining.batchSize) = (2, 8)
    for size in [1, 1e10, 1e18, 1e25, 3e38] as [Float] {
      let images = oneHots.map { $0 * size }
      let before = try trainer.savedBytes(directory)
      do {
        try trainer.pretrain(images: images, conditions: oneHots, options: pretraining)
      } catch let error as ChunkGRPOError {
        #expect(error.code == .nonFinite && size > 1, "\(error.message)")
        #expect(try trainer.savedBytes(directory) == before)
      }
      let saved = try trainer.savedBytes(directory)
      #expect(try ChunkGRPOTrainer(loading: directory.path).savedBytes(directory) == saved)
    }
    let thrown = #expect(throws: ChunkGRPOError.self) {
      try trainer.pretrain(images: oneHots.map { $0 * 3e38 }, conditions: oneHots, options: pretraining)
    }
    #expect(thrown?.code == .nonFinite && thrown?.message.contains("pretraining step 1") == true)
  }

  @Test("Directories that are missing or cannot be written are named")
  func missingDirectories() throws {
    let thrown = #expect(throws: ChunkGRPOError.self) { try ChunkGRPOTrainer(loading: directory.path + "/none") }
    #expect(thrown?.code == .io && thrown?.message.contains("none/model.safetensors: No such file") == true)
    let trainer = try ChunkGRPOTrainer(tinyOptions())
    #expect(throws: ChunkGRPOError.self) { try trainer.save(to: directory.path + "/a/b") }
  }
}
