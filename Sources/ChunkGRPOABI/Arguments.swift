import CChunkGRPO
import ChunkGRPO

// The arguments of ABI functions: checked, and as the library has them.

/// The pointer, or an error that names the argument.
func nonNull<T>(_ pointer: T?, _ name: @autoclosure () -> String) throws -> T {
  guard let pointer else { throw ChunkGRPOError.invalidArgument("\(name()) is null") }
  return pointer
}

/// Where a call's numbers go. Only a call on parts of samples, which gives sums instead, may do without.
func numbers<T>(_ pointer: T?, _ name: @autoclosure () -> String, isPart: Bool) throws -> T? {
  isPart ? pointer : try nonNull(pointer, name())
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

func batchCount(_ batch: Int64) throws -> Int { try count(batch, "batch", 1...maxCount) }

func stepCount(_ steps: Int64) throws -> Int { try count(steps, "steps", 1...Schedule.maxSteps) }

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

/// Writes as much of a text as the caller has room for, ended by a zero, and its whole length without the zero. The text
/// comes in pieces and is never whole in memory.
func writePieces(
  to buffer: UnsafeMutablePointer<CChar>?, _ capacity: Int, _ length: UnsafeMutablePointer<Int>?,
  _ pieces: ((String) -> Void) throws -> Void
) throws {
  let length = try nonNull(length, "length")
  try require(capacity >= 0 && (buffer != nil || capacity == 0), "text is null, but capacity = \(capacity)")
  var written = 0
  try pieces {
    for byte in $0.utf8 {
      if written < capacity - 1 { buffer?[written] = CChar(bitPattern: byte) }
      written += 1
    }
  }
  if capacity > 0 { buffer?[min(capacity - 1, written)] = 0 }
  length.pointee = written
}

/// `rows` × `columns` numbers of the caller, borrowed for the call.
func numbers<T>(_ pointer: UnsafePointer<T>?, _ name: String, _ rows: Int, _ columns: Int = 1) throws -> Numbers<T> {
  let pointer = try nonNull(pointer, name)
  return Numbers(borrowing: UnsafeBufferPointer(start: pointer, count: try product(rows, columns, name)))
}

/// Whole numbers of the caller as the library has them: an Int has the 64 bits of the header's.
func ints(_ pointer: UnsafePointer<Int64>) -> UnsafePointer<Int> {
  UnsafeRawPointer(pointer).assumingMemoryBound(to: Int.self)
}

/// The other way round.
func int64s(_ pointer: UnsafePointer<Int>) -> UnsafePointer<Int64> {
  UnsafeRawPointer(pointer).assumingMemoryBound(to: Int64.self)
}

/// The plan that a caller's array of sizes describes.
func plan(_ sizes: UnsafePointer<Int64>?, _ chunkCount: Int64, steps: Int? = nil) throws -> ChunkPlan {
  let sizes = try nonNull(sizes, "sizes")
  let n = try count(chunkCount, "chunk_count", 1...Schedule.maxSteps)
  let plan = try ChunkPlan(count: n) { j in try count(sizes[j], "sizes[\(j)]", 1...Schedule.maxSteps) }
  if let steps {
    try require(
      plan.steps == steps, "the chunk sizes sum to \(plan.steps), but there are \(steps) trained steps")
  }
  return plan
}

// MARK: - Handles

func retained(_ object: AnyObject) -> OpaquePointer {
  OpaquePointer(Unmanaged.passRetained(object).toOpaque())
}

func borrowed<T: AnyObject>(_ handle: OpaquePointer?, _ name: String) throws -> T {
  Unmanaged<T>.fromOpaque(UnsafeRawPointer(try nonNull(handle, name))).takeUnretainedValue()
}

func release(_ handle: OpaquePointer?) {
  if let handle { inside { Unmanaged<AnyObject>.fromOpaque(UnsafeRawPointer(handle)).release() } }
}
