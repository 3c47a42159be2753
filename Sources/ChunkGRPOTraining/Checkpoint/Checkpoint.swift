import ChunkGRPO
internal import Platform

/// A checkpoint is a directory with one file, model.safetensors. Its tensors are the parameters, their average, the
/// moments and the reference's parameters, where there is one; its metadata are the options, under the names of the
/// header, and the counters.
extension ChunkGRPOTrainer {
  /// Writes a checkpoint into `directory`, which is made if it is missing. Whenever the machine stops, the directory
  /// holds a whole checkpoint: the one before, or this one. Several trainers may save to one directory at once, and others
  /// load from it: it holds the checkpoint of the last that was done.
  public func save(to directory: String) throws { try save(to: Path(directory)) }

  package func save(to directory: Path) throws {
    try makeDirectory(directory)
    let metadata = [("format", "chunkgrpo"), ("version", checkpointVersion)] + texts + [("checksum", checksum)]
    try SafetensorsFile.write(checkpointTensors, metadata: metadata, to: directory.appending(checkpointName))
    try flushDirectory(directory)
  }

  /// The trainer of a checkpoint. It goes on as if it had never stopped: bit for bit, on the same machine with the same
  /// numbers of threads.
  ///
  /// - Throws: `.io` names the file and the fault.
  public convenience init(loading directory: String) throws { try self.init(loading: Path(directory)) }

  package convenience init(loading directory: Path) throws {
    try refuseEarlierFormat(directory)
    let file = try SafetensorsFile(reading: directory.appending(checkpointName))
    let (options, counters) = try readTexts(file)
    do {
      // Before a trainer takes memory for sizes that the file does not have.
      let copies = options.referenceKL > 0 ? 5 : 4
      let needed = 4 * copies * (try TrainingPlan(options)).shape.parameterCount
      guard file.dataCount == needed else {
        throw corrupt(file.path, "its data has \(file.dataCount) bytes, but the network of its options \(needed)")
      }
      try self.init(options)
    } catch let error as ChunkGRPOError {
      throw error.code == .invalidArgument ? corrupt(file.path, error.message) : error
    }
    try file.read(checkpointTensors)
    state.counters = counters
    guard checksum == file.metadata["checksum"] else {
      throw corrupt(file.path, "its values are not those that were written")
    }
    // A checksum can be forged.
    if let flaw = state.flaw ?? reference?.flaw { throw corrupt(file.path, flaw) }
    reference?.parametersChanged()
  }

  private var checkpointTensors: [SafetensorsFile.Tensor] {
    (state.buffers + (reference.map { [("reference", $0.parameters)] } ?? [])).flatMap { name, values in
      plan.shape.tensors.map { .init(name: "\(name).\($0.name)", shape: $0.shape, values: values.base + $0.offset) }
    }
  }

  private var texts: [(name: String, text: String)] {
    TrainerOptions.fields.compactMap { field in field.text(options).map { (field.name, $0) } }
      + TrainingCounters.fields.compactMap { field in field.text(state.counters).map { (field.name, $0) } }
  }

  /// FNV-1a of the options, the counters and all values.
  private var checksum: String {
    var hash = fnv1a(texts.map { "\($0.name)=\($0.text)\n" }.joined().utf8)
    for tensor in checkpointTensors {
      hash = fnv1a(
        UnsafeBufferPointer(start: tensor.values, count: tensor.byteCount / 4).lazy.map(\.bitPattern), from: hash)
    }
    return String(hash, radix: 16)
  }
}

private let checkpointName = "/model.safetensors"
/// Version 1 had several files.
private let checkpointVersion = "2"

private func refuseEarlierFormat(_ directory: Path) throws {
  let (now, before) = (directory.appending(checkpointName), directory.appending("/state.json"))
  guard access(now.bytes, F_OK) != 0, access(before.bytes, F_OK) == 0 else { return }
  throw ChunkGRPOError(
    .io,
    "\(directory) holds a checkpoint of format 1 (state.json, weights, average, optimiser), and this version reads "
      + "format \(checkpointVersion) (model.safetensors): go on with the library that wrote it (ABI 1); any reader of "
      + "safetensors opens its parameters")
}

/// The metadata must hold every option and counter, and nothing else.
private func readTexts(_ file: SafetensorsFile) throws -> (TrainerOptions, TrainingCounters) {
  var left = file.metadata
  func take(_ name: String) throws -> String {
    guard let text = left.removeValue(forKey: name) else { throw corrupt(file.path, "it lacks \(name)") }
    return text
  }
  func read<Root>(_ fields: [TextField<Root>], _ root: inout Root) throws {
    for field in fields where !field.isOptional || left[field.name] != nil {
      let text = try take(field.name)
      guard field.read(text, &root) else { throw corrupt(file.path, "its \(field.name) is \(text.prefix(80))") }
    }
  }
  guard try take("format") == "chunkgrpo" else { throw corrupt(file.path, "its format is not chunkgrpo") }
  let version = try take("version")
  guard version == checkpointVersion else {
    throw corrupt(file.path, "its format has version \(version), and this library reads \(checkpointVersion)")
  }
  _ = try take("checksum")
  var options = TrainerOptions(latentSize: 0, conditionSize: 0)
  var counters = TrainingCounters()
  try read(TrainerOptions.fields, &options)
  try read(TrainingCounters.fields, &counters)
  if let name = left.keys.min() { throw corrupt(file.path, "this library does not know its \(name)") }
  return (options, counters)
}
