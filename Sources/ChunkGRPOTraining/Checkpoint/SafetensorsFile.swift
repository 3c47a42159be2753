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

  package let path: String
  package let metadata: [String: String]
  /// For each tensor its shape, element type and place in the data.
  private let tensors: [String: JSON]
  private let bytes: Buffer<UInt8>
  private let dataStart: Int

  /// Bytes of all tensors.
  var dataCount: Int { bytes.count - dataStart }

  // MARK: Writing

  /// - Parameter metadata: names and texts without characters that JSON escapes.
  static func write(_ tensors: [Tensor], metadata: [(name: String, text: String)], to path: String) throws {
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

  /// Reads the file and takes its header apart.
  package init(reading path: String) throws {
    let bytes = try readFile(path)
    let all = UnsafeRawBufferPointer(bytes.values)
    guard all.count >= 8 else { throw corrupt(path, "it has \(all.count) bytes, less than the length of a header") }
    let length = UInt64(littleEndian: all.loadUnaligned(as: UInt64.self))
    // The format has the first bound; the second also keeps the sum below from overflowing.
    guard length <= 100_000_000, length <= UInt64(all.count - 8) else {
      throw corrupt(path, "its header claims \(length) bytes, but the file has \(all.count)")
    }
    dataStart = 8 + Int(length)
    guard var members = JSON(parsing: all[8..<dataStart])?.object else {
      throw corrupt(path, "its header is no JSON object of tensors")
    }
    guard let texts = members.removeValue(forKey: "__metadata__")?.object else {
      throw corrupt(path, "its header has no __metadata__")
    }
    let metadata = texts.compactMapValues(\.string)
    guard metadata.count == texts.count else { throw corrupt(path, "its __metadata__ hold more than texts") }
    self.path = path
    self.metadata = metadata
    self.bytes = bytes
    tensors = members
  }

  /// Reads the values of `wanted`, which must be all tensors of the file. An error leaves them as they were.
  func read(_ wanted: [Tensor]) throws {
    guard tensors.count == wanted.count else {
      throw corrupt(path, "it holds \(tensors.count) tensors, but the network has \(wanted.count)")
    }
    let offsets = try wanted.map(offset)
    withExtendedLifetime(bytes) {
      for (tensor, offset) in zip(wanted, offsets) {
        UnsafeMutableRawPointer(tensor.values).copyMemory(
          from: bytes.base + dataStart + offset, byteCount: tensor.byteCount)
      }
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
