import Glibc

/// What the user should know, in one sentence.
package struct DemoError: Error, CustomStringConvertible {
  package let description: String

  package init(_ sentence: String) { description = sentence }

  /// A failure of the file system, with its reason.
  static func cannot(_ what: String, _ path: String) -> DemoError {
    DemoError("cannot \(what) \(path): \(strerror(errno).map { String(cString: $0) } ?? "error \(errno)")")
  }
}

package func readFile(_ path: String) throws -> [UInt8] {
  guard let file = fopen(path, "rb") else { throw DemoError.cannot("read", path) }
  defer { fclose(file) }
  var bytes: [UInt8] = []
  var block = [UInt8](repeating: 0, count: 1 << 16)
  while case let count = fread(&block, 1, block.count, file), count > 0 { bytes += block[..<count] }
  guard ferror(file) == 0 else { throw DemoError.cannot("read", path) }
  return bytes
}

package func writeFile(_ path: String, _ bytes: [UInt8]) throws {
  guard let file = fopen(path, "wb") else { throw DemoError.cannot("write", path) }
  let written = fwrite(bytes, 1, bytes.count, file)
  guard fclose(file) == 0, written == bytes.count else { throw DemoError.cannot("write", path) }
}

/// Makes a folder and those above it, where they are missing.
package func makeFolder(_ path: String) throws {
  var above = ""
  for part in path.split(separator: "/", omittingEmptySubsequences: false) {
    above += part
    guard above.isEmpty || mkdir(above, 0o755) == 0 || errno == EEXIST else { throw DemoError.cannot("make", above) }
    above += "/"
  }
  guard access(path + "/.", W_OK | X_OK) == 0 else { throw DemoError.cannot("write into", path) }
}

package func seconds() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + 1e-9 * Double(time.tv_nsec)
}
