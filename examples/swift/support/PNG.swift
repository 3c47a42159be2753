/// A PNG file of `width` × `height` bytes that are indices into a palette of RGB triples. Nothing is compressed: deflate
/// allows blocks that are merely stored.
func png(width: Int, height: Int, indices: [UInt8], palette: [SIMD3<UInt8>]) -> [UInt8] {
  let header = bigEndian(width) + bigEndian(height) + [8, 3, 0, 0, 0]  // 8 bits, palette, not interlaced
  var rows: [UInt8] = []
  for y in 0..<height { rows += [0] + indices[y * width..<(y + 1) * width] }  // 0: no filter
  return [0x89] + Array("PNG\r\n\u{1a}\n".utf8)
    + chunk("IHDR", header)
    + chunk("PLTE", palette.flatMap { [$0.x, $0.y, $0.z] })
    + chunk("IDAT", zlib(rows))
    + chunk("IEND", [])
}

private func chunk(_ type: String, _ data: [UInt8]) -> [UInt8] {
  let body = Array(type.utf8) + data
  return bigEndian(data.count) + body + bigEndian(Int(crc32(body)))
}

private func zlib(_ data: [UInt8]) -> [UInt8] {
  var result: [UInt8] = [0x78, 0x01]
  for start in stride(from: 0, to: data.count, by: 65535) {
    let block = data[start..<min(data.count, start + 65535)]
    let (low, high) = (UInt8(block.count & 255), UInt8(block.count >> 8))
    result += [block.endIndex == data.count ? 1 : 0, low, high, ~low, ~high] + block
  }
  return result + bigEndian(Int(adler32(data)))
}

private func bigEndian(_ value: Int) -> [UInt8] { [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: value >> $0) } }

private let crcTable: [UInt32] = (0..<256).map { byte in
  (0..<8).reduce(UInt32(byte)) { crc, _ in crc >> 1 ^ (crc & 1 == 1 ? 0xedb8_8320 : 0) }
}

func crc32(_ data: [UInt8]) -> UInt32 {
  ~data.reduce(~0) { crc, byte in crc >> 8 ^ crcTable[Int((crc ^ UInt32(byte)) & 255)] }
}

func adler32(_ data: [UInt8]) -> UInt32 {
  var (a, b): (UInt32, UInt32) = (1, 0)
  for byte in data {
    a = (a + UInt32(byte)) % 65521
    b = (b + a) % 65521
  }
  return b << 16 | a
}
