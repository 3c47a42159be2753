import ChunkGRPO
internal import Platform

/// Structs that begin with their own size, so that later versions can append fields.
///
/// `current` is this library's struct with its defaults. A caller with an older header has a shorter struct: the fields
/// that it lacks keep their defaults. One with a newer header has a longer one: what this library does not know must be 0.

/// More bytes than any version of a struct will have; a wrong size must not be followed through memory.
private let maxStructSize = 1 << 16

func readStruct<T: Versioned>(_ pointer: UnsafePointer<T>?, _ name: String, current: @autoclosure () -> T) throws -> T {
  guard let pointer else { return current() }
  let raw = UnsafeRawPointer(pointer)
  let size = try checkedSize(pointer, name)
  let known = min(size, MemoryLayout<T>.stride)
  for offset in known..<max(known, size) where raw.load(fromByteOffset: offset, as: UInt8.self) != 0 {
    throw ChunkGRPOError.invalidArgument(
      "\(name) has a field, at byte \(offset), that this version of the library does not know")
  }
  if known == MemoryLayout<T>.stride { return raw.loadUnaligned(as: T.self) }
  var result = current()
  withUnsafeMutableBytes(of: &result) { $0.copyMemory(from: UnsafeRawBufferPointer(start: raw, count: known)) }
  return result
}

/// Writes all of `value` but the size, as far as the caller's struct goes.
func writeStruct<T: Versioned>(_ value: T, to pointer: UnsafeMutablePointer<T>, _ name: String) throws {
  let raw = UnsafeMutableRawPointer(pointer)
  let size = try checkedSize(UnsafePointer(pointer), name)
  let header = MemoryLayout<Int>.stride
  withUnsafeBytes(of: value) {
    (raw + header).copyMemory(
      from: $0.baseAddress.map { $0 + header } ?? UnsafeRawPointer(raw),
      byteCount: min(size, MemoryLayout<T>.stride) - header)
  }
}

/// The size that the caller's struct has: at least that of the oldest programs, and no part of a field.
@discardableResult
func checkedSize<T: Versioned>(_ pointer: UnsafePointer<T>, _ name: String) throws -> Int {
  let size = UnsafeRawPointer(pointer).load(as: Int.self)
  try require(
    size >= T.firstSize && size <= maxStructSize && size % MemoryLayout<Int>.stride == 0,
    "\(name).struct_size = \(size), but this struct has \(T.firstSize) bytes or 8, 16 … more: set it with its _init")
  return size
}

/// Behind every `_init`: defaults as far as the caller's struct goes, zeros beyond what this library knows.
func initStruct<T>(_ pointer: UnsafeMutablePointer<T>?, size: Int, defaults: @autoclosure () -> T) {
  inside { fill(pointer, size: size, defaults: defaults()) }
}

private func fill<T>(_ pointer: UnsafeMutablePointer<T>?, size: Int, defaults: T) {
  guard let pointer, size >= MemoryLayout<Int>.stride, size <= maxStructSize else { return }
  let raw = UnsafeMutableRawPointer(pointer)
  memset(raw, 0, size)
  withUnsafeBytes(of: defaults) {
    if let base = $0.baseAddress { raw.copyMemory(from: base, byteCount: min(size, $0.count)) }
  }
  raw.storeBytes(of: size, as: Int.self)
}

/// The same for the options structs.
func initStruct<T: OptionStruct>(_ pointer: UnsafeMutablePointer<T>?, size: Int) {
  initStruct(pointer, size: size, defaults: T(T.defaults))
}
