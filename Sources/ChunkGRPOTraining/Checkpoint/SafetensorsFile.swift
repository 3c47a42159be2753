import ChunkGRPO

/// A safetensors file of f32 tensors: eight bytes with the header's length, a JSON header, the data
/// (huggingface/safetensors, "Format").
package struct SafetensorsFile {
  /// A tensor and the memory that it is written from or read into.
  package struct Tensor {
    let name: String
    let shape: [Int]
    let values: UnsafeMutablePointer<Float>

    /// The bounds of a network's shape keep this in range.
    var byteCount: Int { shape.reduce(4, &*) }
  }

  package let metadata: [String: String]
  /// For each tensor its shape, element type and place in the data.
  private let tensors: [String: JSON]
  private let file: InputFile
  private let dataStart: Int

  /// The largest header of a checkpoint, that of 256 blocks, has a third of it. What is longer takes no memory.
  private static let maxHeader: UInt64 = 2 << 20

  var path: Path { file.path }
  /// Bytes of all tensors.
  var dataCount: Int { file.size - dataStart }

  // MARK: Writing

  /// - Parameter metadata: names and texts without characters that JSON escapes.
  static func write(_ tensors: [Tensor], metadata: [(name: String, text: String)], to path: Path) throws {
    var offset = 0
    var members = ["\"__metadata__\":{\(metadata.map { "\"\($0.name)\":\"\($0.text)\"" }.joined(separator: ","))}"]
    for tensor in tensors {
      let end = offset + tensor.byteCount
      members.append(
        "\"\(tensor.name)\":{\"dtype\":\"F32\",\"shape\":\(tensor.shape),\"data_offsets\":[\(offset),\(end)]}")
      offset = end
    }
    var text = Array("{\(members.joined(separator: ","))}".utf8)
    text += repeatElement(0x20, count: (8 - text.count % 8) % 8)  // aligns the data
    let header = withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text
    try header.withUnsafeBytes { header in
      try writeAtomically(
        [header] + tensors.map { UnsafeRawBufferPointer(start: $0.values, count: $0.byteCount) }, to: path)
    }
  }

  // MARK: Reading

  /// Opens the file and takes its header apart.
  init(reading path: Path) throws {
    let file = try InputFile(path)
    guard file.size >= 8 else { throw corrupt(path, "it has \(file.size) bytes, less than the length of a header") }
    var length: UInt64 = 0
    try withUnsafeMutableBytes(of: &length) { try file.read($0, from: 0) }
    length = UInt64(littleEndian: length)
    guard length <= Self.maxHeader, length <= UInt64(file.size - 8) else {
      throw corrupt(path, "its header claims \(length) bytes, but the file has \(file.size)")
    }
    dataStart = 8 + Int(length)
    let header = try Buffer<UInt8>(count: Int(length), for: "the header of \(path)")
    try file.read(UnsafeMutableRawBufferPointer(header.values), from: 8)
    guard var members = JSON(parsing: header.values)?.object else {
      throw corrupt(path, "its header is no JSON object of tensors")
    }
    guard let texts = members.removeValue(forKey: "__metadata__")?.object else {
      throw corrupt(path, "its header has no __metadata__")
    }
    let metadata = texts.compactMapValues { $0.string }
    guard metadata.count == texts.count else { throw corrupt(path, "its __metadata__ hold more than texts") }
    self.file = file
    self.metadata = metadata
    tensors = members
  }

  /// Reads the values of `wanted`, which must be all tensors of the file.
  func read(_ wanted: [Tensor]) throws {
    guard tensors.count == wanted.count else {
      throw corrupt(path, "it holds \(tensors.count) tensors, but the network has \(wanted.count)")
    }
    let offsets = try wanted.map(offset)
    for (tensor, offset) in zip(wanted, offsets) {
      try file.read(
        UnsafeMutableRawBufferPointer(start: tensor.values, count: tensor.byteCount), from: dataStart + offset)
    }
  }

  /// Where the values of `tensor` begin in the data.
  private func offset(of tensor: Tensor) throws -> Int {
    guard let entry = tensors[tensor.name] else { throw corrupt(path, "it lacks \(tensor.name)") }
    guard entry["dtype"]?.string == "F32" else { throw corrupt(path, "\(tensor.name) is not F32") }
    guard entry["shape"]?.ints == tensor.shape else {
      throw corrupt(path, "\(tensor.name) has not the shape \(tensor.shape)")
    }
    guard let offsets = entry["data_offsets"]?.ints, offsets.count == 2, 0 <= offsets[0], offsets[0] <= offsets[1],
      offsets[1] <= dataCount, offsets[1] - offsets[0] == tensor.byteCount
    else { throw corrupt(path, "the data_offsets of \(tensor.name) do not fit its shape or the file") }
    return offsets[0]
  }
}
