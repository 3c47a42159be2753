import ChunkGRPO
internal import Platform

/// A failure of the file system, with the path and the system's reason.
func ioError(_ what: String, _ path: String) -> ChunkGRPOError {
  let reason = strerror(errno).map { String(cString: $0) } ?? "error \(errno)"
  return ChunkGRPOError(.io, "cannot \(what) \(path): \(reason)")
}

func corrupt(_ path: String, _ why: String) -> ChunkGRPOError {
  ChunkGRPOError(.io, "\(path) is no checkpoint: \(why)")
}

/// Writes the parts to `path` so that it is there whole or, whenever the machine stops, not at all: written aside, flushed,
/// renamed.
func writeAtomically(_ parts: [UnsafeRawBufferPointer], to path: String) throws {
  let aside = path + temporarySuffix
  let file = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
  guard file >= 0 else { throw ioError("write", aside) }
  do {
    for part in parts { try writeAll(part, to: file, aside) }
    guard fsync(file) == 0 else { throw ioError("flush", aside) }
  } catch {
    close(file)
    unlink(aside)
    throw error
  }
  guard close(file) == 0, rename(aside, path) == 0 else {
    let error = ioError("write", path)
    unlink(aside)
    throw error
  }
}

let temporarySuffix = ".part"

private func writeAll(_ part: UnsafeRawBufferPointer, to file: Int32, _ path: String) throws {
  guard let base = part.baseAddress else { return }
  var done = 0
  while done < part.count {
    let written = write(file, base + done, part.count - done)
    if written < 0 && errno == EINTR { continue }
    guard written > 0 else { throw ioError("write", path) }
    done += written
  }
}

/// Makes renames within the directory survive a loss of power.
func flushDirectory(_ path: String) throws {
  let directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
  guard directory >= 0 else { throw ioError("open", path) }
  defer { close(directory) }
  guard fsync(directory) == 0 else { throw ioError("flush", path) }
}

/// Calls `body` with the bytes of a regular file.
func withFile<R>(_ path: String, _ body: (UnsafeRawBufferPointer) throws -> R) throws -> R {
  let bytes = try readFile(path)
  return try withExtendedLifetime(bytes) { try body(UnsafeRawBufferPointer(bytes.values)) }
}

private func readFile(_ path: String) throws -> Buffer<UInt8> {
  let file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)  // a pipe of that name must not block
  guard file >= 0 else { throw ioError("read", path) }
  defer { close(file) }
  var info = stat()
  guard fstat(file, &info) == 0 else { throw ioError("read", path) }
  guard info.st_mode & S_IFMT == S_IFREG else { throw corrupt(path, "it is no file") }
  let bytes = try Buffer<UInt8>(count: Int(info.st_size), for: path)
  var done = 0
  while done < bytes.count {
    let count = read(file, bytes.base + done, bytes.count - done)
    if count < 0 && errno == EINTR { continue }
    guard count >= 0 else { throw ioError("read", path) }
    if count == 0 { throw corrupt(path, "it became shorter while it was read") }
    done += count
  }
  return bytes
}

/// Names of the entries of a directory.
func entries(of path: String) -> [String] {
  guard let directory = opendir(path) else { return [] }
  defer { closedir(directory) }
  var names: [String] = []
  while let entry = readdir(directory) {
    withUnsafePointer(to: &entry.pointee.d_name) {
      $0.withMemoryRebound(to: CChar.self, capacity: 256) { names.append(String(cString: $0)) }
    }
  }
  return names
}
