import ChunkGRPO

/// A safetensors file of f32 tensors: eight bytes with the header's length, a JSON header, the data
/// (huggingface/safetensors, "Format").
struct SafetensorsFile {
  /// The tensors of a network in the order of its buffer, under names that begin with `name`.
  typealias Group = (name: String, values: Buffer<Float>)

  let metadata: JSONObject
  /// For each tensor its shape, element type and place in the data; and the metadata.
  private let members: JSONObject
  /// What both lie in.
  private let header: Buffer<UInt8>
  private let file: InputFile
  private let dataStart: Int

  /// The largest header of a checkpoint, that of 256 blocks, has a third of it. What is longer takes no memory.
  private static let maxHeader: UInt64 = 2 << 20

  var path: Path { file.path }
  /// Bytes of all tensors.
  var dataCount: Int { file.size - dataStart }

  // MARK: Writing

  /// - Parameter writeMetadata: appends the members of the metadata, without characters that JSON escapes.
  static func write(
    _ groups: [Group], of shape: NetworkShape, to path: Path, _ writeMetadata: (TextBuffer) throws -> Void
  ) throws {
    let text = try TextBuffer()
    try text.append("{\"__metadata__\":{")
    try writeMetadata(text)
    try text.append("}")
    var start = 0
    for group in groups {
      for tensor in shape.tensors {
        let first = start + 4 * tensor.offset
        try text.append(
          ",\"\(group.name).\(tensor.name)\":{\"dtype\":\"F32\",\"shape\":\(tensor.shape),"
            + "\"data_offsets\":[\(first),\(first + 4 * tensor.count)]}")
      }
      start += 4 * group.values.count
    }
    try text.append("}")
    while text.count % 8 != 0 { try text.append(" ") }  // aligns the data
    try withUnsafeBytes(of: UInt64(text.count).littleEndian) { length in
      try writeAtomically(
        [length, text.bytes]
          + groups.map { UnsafeRawBufferPointer($0.values.values) }, to: path)
    }
    withExtendedLifetime((text, groups)) {}
  }

  // MARK: Reading

  /// Opens the file and takes its header apart.
  init(reading path: Path) throws {
    file = try InputFile(path)
    guard file.size >= 8 else { throw corrupt(path, "it has \(file.size) bytes, less than the length of a header") }
    var length: UInt64 = 0
    try withUnsafeMutableBytes(of: &length) { [file] in try file.read($0, from: 0) }
    length = UInt64(littleEndian: length)
    guard length <= Self.maxHeader, length <= UInt64(file.size - 8) else {
      throw corrupt(path, "its header claims \(length) bytes, but the file has \(file.size)")
    }
    dataStart = 8 + Int(length)
    header = try Buffer<UInt8>(count: Int(length), for: "the header of \(path)")
    try file.read(UnsafeMutableRawBufferPointer(header.values), from: 8)
    guard let members = try JSON(parsing: UnsafeBufferPointer(header.values))?.object() else {
      throw corrupt(path, "its header is no JSON object of tensors")
    }
    guard let metadata = try members["__metadata__"]?.object() else {
      throw corrupt(path, "its header has no __metadata__")
    }
    guard (0..<metadata.count).allSatisfy({ metadata.value($0).string != nil }) else {
      throw corrupt(path, "its __metadata__ hold more than texts")
    }
    (self.members, self.metadata) = (members, metadata)
  }

  /// Reads the values of `groups`, which must be all tensors of the file.
  func read(_ groups: [Group], of shape: NetworkShape) throws {
    let (found, wanted) = (members.count - 1, groups.count * shape.tensors.count)
    guard found == wanted else {
      throw corrupt(path, "it holds \(found) tensors, but the network has \(wanted)")
    }
    for group in groups {
      for tensor in shape.tensors {
        let offset = try offset(of: tensor, "\(group.name).\(tensor.name)")
        try file.read(
          UnsafeMutableRawBufferPointer(start: group.values.base + tensor.offset, count: 4 &* tensor.count),
          from: dataStart + offset)
      }
    }
  }

  /// Where the values of `tensor` begin in the data.
  private func offset(of tensor: ParameterTensor, _ name: String) throws -> Int {
    guard let entry = try members[name]?.object() else { throw corrupt(path, "it lacks \(name)") }
    guard entry["dtype"]?.string?.elementsEqual("F32".utf8) == true else { throw corrupt(path, "\(name) is not F32") }
    guard entry["shape"]?.ints == tensor.shape else {
      throw corrupt(path, "\(name) has not the shape \(tensor.shape)")
    }
    guard let offsets = entry["data_offsets"]?.ints, offsets.count == 2, 0 <= offsets[0], offsets[0] <= offsets[1],
      offsets[1] <= dataCount, offsets[1] - offsets[0] == 4 &* tensor.count
    else { throw corrupt(path, "the data_offsets of \(name) do not fit its shape or the file") }
    return offsets[0]
  }
}
