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
    let checksum = try checksum()
    try SafetensorsFile.write(checkpointGroups, of: plan.shape, to: directory.appending(checkpointName)) { text in
      try text.append("\"format\":\"chunkgrpo\",\"version\":\"\(checkpointVersion)\"")
      try forEachText { name, write in
        try text.append(",\"\(name)\":\"")
        try write(text.append)
        try text.append("\"")
      }
      try text.append(",\"checksum\":\"\(checksum)\"")
    }
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
      let copies = options.hasReference ? 5 : 4
      let needed = 4 * copies * (try TrainingPlan(options)).shape.parameterCount
      guard file.dataCount == needed else {
        throw corrupt(file.path, "its data has \(file.dataCount) bytes, but the network of its options \(needed)")
      }
      try self.init(options)
    } catch let error as ChunkGRPOError {
      throw error.code == .invalidArgument ? corrupt(file.path, error.message) : error
    }
    try file.read(checkpointGroups, of: plan.shape)
    state.counters = counters
    guard file.metadata["checksum"]?.string?.elementsEqual(try checksum().utf8) == true else {
      throw corrupt(file.path, "its values are not those that were written")
    }
    // A checksum can be forged.
    if let flaw = state.flaw ?? reference?.flaw { throw corrupt(file.path, flaw) }
    reference?.parametersChanged()
  }

  private var checkpointGroups: [SafetensorsFile.Group] {
    state.buffers + (reference.map { [("reference", $0.parameters)] } ?? [])
  }

  /// Calls `body` with the name of each option and counter that is not left out, and with what writes its text in pieces.
  private func forEachText(
    _ body: (_ name: String, _ write: ((String) throws -> Void) throws -> Void) throws -> Void
  ) throws {
    for field in TrainerOptions.fields where !field.isOmitted(options) {
      try body(field.name) { try field.write(options, $0) }
    }
    for field in TrainingCounters.fields where !field.isOmitted(state.counters) {
      try body(field.name) { try field.write(state.counters, $0) }
    }
  }

  /// FNV-1a of the options, the counters and all values.
  private func checksum() throws -> String {
    var hash = fnv1a(EmptyCollection<UInt8>())
    try forEachText { name, write in
      hash = fnv1a("\(name)=".utf8, from: hash)
      try write { hash = fnv1a($0.utf8, from: hash) }
      hash = fnv1a("\n".utf8, from: hash)
    }
    for group in checkpointGroups { hash = fnv1a(group.values.values.lazy.map(\.bitPattern), from: hash) }
    return String(hash, radix: 16)
  }
}

private let checkpointName = "/model.safetensors"
/// Version 1 had several files.
private let checkpointVersion = "2"

private func refuseEarlierFormat(_ directory: Path) throws {
  let (now, before) = (try directory.appending(checkpointName), try directory.appending("/state.json"))
  guard access(now.bytes, F_OK) != 0, access(before.bytes, F_OK) == 0 else { return }
  throw ChunkGRPOError(
    .io,
    "\(directory) holds a checkpoint of format 1 (state.json, weights, average, optimiser), and this version reads "
      + "format \(checkpointVersion) (model.safetensors): go on with the library that wrote it (ABI 1); any reader of "
      + "safetensors opens its parameters")
}

/// The metadata must hold every option and counter, and nothing else.
private func readTexts(_ file: SafetensorsFile) throws -> (TrainerOptions, TrainingCounters) {
  func take(_ name: String) throws -> JSON.Bytes {
    guard let text = file.metadata[name]?.string else { throw corrupt(file.path, "it lacks \(name)") }
    return text
  }
  func shown(_ text: JSON.Bytes) -> String { String(decoding: text.prefix(80), as: UTF8.self) }
  func read<Root>(_ fields: [TextField<Root>], _ root: inout Root) throws {
    for field in fields where !field.isOptional || file.metadata[field.name] != nil {
      let text = try take(field.name)
      guard try field.read(text, &root) else { throw corrupt(file.path, "its \(field.name) is \(shown(text))") }
    }
  }
  guard try take("format").elementsEqual("chunkgrpo".utf8) else {
    throw corrupt(file.path, "its format is not chunkgrpo")
  }
  let version = try take("version")
  guard version.elementsEqual(checkpointVersion.utf8) else {
    throw corrupt(file.path, "its format has version \(shown(version)), and this library reads \(checkpointVersion)")
  }
  let (ofOptions, ofCounters) = (TrainerOptions.fields, TrainingCounters.fields)
  var options = TrainerOptions(latentSize: 0, conditionSize: 0)
  var counters = TrainingCounters()
  try read(ofOptions, &options)
  try read(ofCounters, &counters)
  for i in 0..<file.metadata.count {
    let name = file.metadata.name(i)
    func isKnown(_ known: String) -> Bool { name.elementsEqual(known.utf8) }
    guard
      ["format", "version", "checksum"].contains(where: isKnown) || ofOptions.contains(where: { isKnown($0.name) })
        || ofCounters.contains(where: { isKnown($0.name) })
    else { throw corrupt(file.path, "this library does not know its \(shown(name))") }
  }
  return (options, counters)
}
