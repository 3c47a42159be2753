/// Why a call failed, in one sentence that names the argument as the C header does: `chunk_fraction` is `chunkFraction`.
public struct ChunkGRPOError: Error, Equatable, Sendable, CustomStringConvertible {
  /// The values of `cgrpo_status`.
  public enum Code: Int32, Sendable {
    /// Out of bounds, wrong shape, contradictory.
    case invalidArgument = 1
    /// An element type or a device that the call does not take, or a mix of types.
    case wrongType = 2
    /// NaN or infinity in latents, velocity, reward, log-probability or ratio.
    case nonFinite = 3
    case outOfMemory = 4
    /// A callback failed.
    case callbackFailed = 5
    /// A file could not be read or written, or is not what it should be.
    case io = 6
    /// There is no CUDA driver, or it refused a call.
    case deviceFailed = 7
  }

  /// What kind of error; the statuses of the C interface.
  public let code: Code
  /// A sentence that names the argument, its value and its bounds.
  public let message: String

  public init(_ code: Code, _ message: String) {
    self.code = code
    self.message = message
  }

  public var description: String { message }

  public static func invalidArgument(_ message: String) -> ChunkGRPOError { .init(.invalidArgument, message) }
  public static func wrongType(_ message: String) -> ChunkGRPOError { .init(.wrongType, message) }
  public static func nonFinite(_ message: String) -> ChunkGRPOError { .init(.nonFinite, message) }
  public static func outOfMemory(_ message: String) -> ChunkGRPOError { .init(.outOfMemory, message) }
}

/// Throws `.invalidArgument` unless `condition` holds.
package func require(_ condition: Bool, _ message: @autoclosure () -> String) throws {
  if !condition { throw ChunkGRPOError.invalidArgument(message()) }
}
