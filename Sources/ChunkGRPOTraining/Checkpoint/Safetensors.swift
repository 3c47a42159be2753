import ChunkGRPO

/// A safetensors file of f32 tensors: eight bytes with the header's length, a JSON header, the data
/// (huggingface/safetensors, "Format").
struct SafetensorsFile {
  /// A tensor and where its values are.
  struct Entry {
    let name: String
    let shape: [Int]
    let values: UnsafeMutablePointer<Float>

    /// The bounds of a network's shape keep this in range.
    var byteCount: Int { shape.reduce(4, &*) }
  }

  let entries: [Entry]

  /// Without the data: length and header, padded so that the data is aligned.
  private var header: [UInt8] {
    var offset = 0
    var members = [
      JSON.Member(name: "__metadata__", value: .object([.init(name: "format", value: .string("chunkgrpo"))]))
    ]
    for entry in entries {
      let end = offset + entry.byteCount
      members.append(
        .init(
          name: entry.name,
          value: .object([
            .init(name: "dtype", value: .string("F32")),
            .init(name: "shape", value: .array(entry.shape.map { JSON($0) })),
            .init(name: "data_offsets", value: .array([JSON(offset), JSON(end)])),
          ])))
      offset = end
    }
    var text = Array(JSON.object(members).text().utf8)
    text += repeatElement(0x20, count: (8 - text.count % 8) % 8)
    return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Array($0) } + text
  }

  func write(to path: String) throws {
    try header.withUnsafeBytes { header in
      try writeAtomically(
        [header] + entries.map { UnsafeRawBufferPointer(start: $0.values, count: $0.byteCount) }, to: path)
    }
  }

  /// FNV-1a over the data, 64 bits at a time: it names the file after what is in it.
  var fingerprint: String {
    var hash: UInt64 = 0xcbf2_9ce4_8422_2325
    for entry in entries {
      for i in 0..<entry.byteCount / 4 { hash = (hash ^ UInt64(entry.values[i].bitPattern)) &* 0x0000_0100_0000_01b3 }
    }
    let digits = String(hash, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }

  /// Reads the values of all entries from `path`, which must hold these tensors and no others, and nothing but them.
  func read(from path: String) throws { try withFile(path) { try read($0, path) } }

  private func read(_ bytes: UnsafeRawBufferPointer, _ path: String) throws {
    guard bytes.count >= 8 else { throw corrupt(path, "it has \(bytes.count) bytes, less than the length of a header") }
    let length = UInt64(littleEndian: bytes.loadUnaligned(as: UInt64.self))
    guard length <= UInt64(bytes.count - 8) else {
      throw corrupt(path, "its header claims \(length) bytes, but the file has \(bytes.count)")
    }
    let dataStart = 8 + Int(length)
    guard let members = JSON(parsing: bytes[8..<dataStart])?.members else {
      throw corrupt(path, "its header is no JSON object")
    }
    let tensors = members.filter { $0.name != "__metadata__" }
    guard tensors.count == entries.count else {
      throw corrupt(path, "it holds \(tensors.count) tensors, but the network has \(entries.count)")
    }
    // First check all, then copy: an error leaves the entries as they were. Names are unique, as many as the entries.
    var sources: [UnsafeRawBufferPointer] = []
    var total = 0
    for entry in entries {
      guard let tensor = tensors.first(where: { $0.name == entry.name })?.value else {
        throw corrupt(path, "it lacks \(entry.name)")
      }
      let range = try SafetensorsFile.range(of: tensor, entry, path, available: bytes.count - dataStart)
      sources.append(
        UnsafeRawBufferPointer(rebasing: bytes[dataStart + range.lowerBound..<dataStart + range.upperBound]))
      total += range.count
    }
    guard total == bytes.count - dataStart else {
      throw corrupt(path, "its data has \(bytes.count - dataStart) bytes, but its tensors \(total)")
    }
    for (entry, source) in zip(entries, sources) {
      UnsafeMutableRawBufferPointer(start: entry.values, count: entry.byteCount).copyMemory(from: source)
    }
  }

  private static func range(of tensor: JSON, _ entry: Entry, _ path: String, available: Int) throws -> Range<Int> {
    guard tensor["dtype"]?.string == "F32" else { throw corrupt(path, "\(entry.name) is not F32") }
    guard let shape = tensor["shape"]?.array?.map(\.int), shape == entry.shape.map(Optional.some) else {
      throw corrupt(path, "\(entry.name) has not the shape \(entry.shape)")
    }
    guard let offsets = tensor["data_offsets"]?.array, offsets.count == 2, let start = offsets[0].int,
      let end = offsets[1].int, 0 <= start, start <= end, end <= available, end - start == entry.byteCount
    else { throw corrupt(path, "the data_offsets of \(entry.name) do not fit its shape or the file") }
    return start..<end
  }
}
