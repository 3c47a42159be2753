public import CChunkGRPO
import CSupport
import ChunkGRPO
import Glibc

/// Runs the body of an ABI function: an error becomes its status, and its sentence this thread's message.
func guarded(_ body: () throws -> Void) -> cgrpo_status {
  do {
    try body()
    return 0
  } catch let error as ChunkGRPOError {
    return fail(error)
  } catch {
    // The Swift library throws nothing else; callbacks of the ABI are wrapped.
    return fail(ChunkGRPOError(.callbackFailed, "\(error)"))
  }
}

private func fail(_ error: ChunkGRPOError) -> cgrpo_status {
  var message = error.message
  message.withUTF8 { utf8 in
    utf8.withMemoryRebound(to: CChar.self) {
      if let text = $0.baseAddress { chunkgrpo_support_set_error(text, $0.count) }
    }
  }
  return error.code.rawValue
}

/// The pointer, or an error that names the argument.
func nonNull<T>(_ pointer: T?, _ name: @autoclosure () -> String) throws -> T {
  guard let pointer else { throw ChunkGRPOError.invalidArgument("\(name()) is null") }
  return pointer
}

/// `value` as a count within `range`.
func count(_ value: Int64, _ name: @autoclosure () -> String, _ range: ClosedRange<Int>) throws -> Int {
  guard let count = Int(exactly: value), range.contains(count) else {
    throw ChunkGRPOError.invalidArgument("\(name()) = \(value) is outside \(range.lowerBound) … \(range.upperBound)")
  }
  return count
}

/// The largest number of values that an array of this interface may have: its bytes can be counted in an Int.
let maxCount = 1 << 40

/// `rows` × `columns`, or an error that names what has so many.
func product(_ rows: Int, _ columns: Int, _ name: @autoclosure () -> String) throws -> Int {
  let (count, overflow) = rows.multipliedReportingOverflow(by: columns)
  try require(!overflow && count <= maxCount, "\(name()) of \(rows) × \(columns) is too large")
  return count
}

/// A raw value of one of the header's enumerations.
func enumeration<E: RawRepresentable>(_ value: Int32, _ name: String) throws -> E where E.RawValue == Int32 {
  guard let result = E(rawValue: value) else {
    throw ChunkGRPOError.invalidArgument("\(name) = \(value) is none of its values")
  }
  return result
}

func flag(_ value: Int32, _ name: String) throws -> Bool {
  try require(value == 0 || value == 1, "\(name) = \(value) is neither 0 nor 1")
  return value == 1
}

/// Writes as much of a text as the caller has room for, ended by a zero, and its whole length without the zero.
func write(
  _ text: @autoclosure () throws -> String, to buffer: UnsafeMutablePointer<CChar>?, _ capacity: Int,
  _ length: UnsafeMutablePointer<Int>?
) throws {
  let length = try nonNull(length, "length")
  try require(capacity >= 0 && (buffer != nil || capacity == 0), "text is null, but capacity = \(capacity)")
  let bytes = Array(try text().utf8)
  if let buffer, capacity > 0 {
    let shown = min(capacity - 1, bytes.count)
    for i in 0..<shown { buffer[i] = CChar(bitPattern: bytes[i]) }
    buffer[shown] = 0
  }
  length.pointee = bytes.count
}

// MARK: - Handles

func retained(_ object: AnyObject) -> OpaquePointer {
  OpaquePointer(Unmanaged.passRetained(object).toOpaque())
}

func borrowed<T: AnyObject>(_ handle: OpaquePointer?, _ name: String) throws -> T {
  Unmanaged<T>.fromOpaque(UnsafeRawPointer(try nonNull(handle, name))).takeUnretainedValue()
}

func release(_ handle: OpaquePointer?) {
  if let handle { Unmanaged<AnyObject>.fromOpaque(UnsafeRawPointer(handle)).release() }
}

// MARK: - Version

@_cdecl("cgrpo_abi_version") @implementation
public func cgrpo_abi_version() -> UInt32 { UInt32(CGRPO_ABI_VERSION) }

/// In C's memory, for good.
nonisolated(unsafe) private let versionText = strdup(CGRPO_VERSION)!

private let names: [StaticString] = [
  "CGRPO_OK", "CGRPO_INVALID_ARGUMENT", "CGRPO_WRONG_TYPE", "CGRPO_NON_FINITE", "CGRPO_OUT_OF_MEMORY",
  "CGRPO_CALLBACK_FAILED", "CGRPO_IO_ERROR",
]

private func cString(_ text: StaticString) -> UnsafePointer<CChar> {
  UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
}

@_cdecl("cgrpo_version") @implementation
public func cgrpo_version() -> UnsafePointer<CChar>! { UnsafePointer(versionText) }

@_cdecl("cgrpo_last_error") @implementation
public func cgrpo_last_error() -> UnsafePointer<CChar>! { chunkgrpo_support_last_error() }

@_cdecl("cgrpo_status_name") @implementation
public func cgrpo_status_name(_ status: cgrpo_status) -> UnsafePointer<CChar>! {
  cString(names.indices.contains(Int(status)) ? names[Int(status)] : "unknown status")
}

// MARK: - Threads and vectors

@_cdecl("cgrpo_set_thread_limit") @implementation
public func cgrpo_set_thread_limit(_ limit: Int32) -> cgrpo_status {
  guarded { try setThreadLimit(Int(limit)) }
}

@_cdecl("cgrpo_instruction_set") @implementation
public func cgrpo_instruction_set() -> UnsafePointer<CChar>! {
  switch InstructionSet.current {
  case .baseline: cString("baseline")
  case .avx2: cString("avx2")
  case .avx512: cString("avx512")
  }
}
