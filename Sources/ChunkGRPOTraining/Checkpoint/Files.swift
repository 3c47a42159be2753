import ChunkGRPO
internal import Platform

/// A failure of the file system with the path and the system's reason.
func ioError(_ what: String, _ path: String) -> ChunkGRPOError {
  let reason = strerror(errno).map { String(cString: $0) } ?? "error \(errno)"
  return ChunkGRPOError(.io, "cannot \(what) \(path): \(reason)")
}

func corrupt(_ path: String, _ why: String) -> ChunkGRPOError {
  ChunkGRPOError(.io, "\(path) is no checkpoint: \(why)")
}

/// Writes `parts`, one after the other, aside, flushes and renames them to `path`: whenever the machine stops, the file is
/// whole or not there. Each call has a name of its own aside, so that several can write one file.
func writeAtomically(_ parts: [UnsafeRawBufferPointer], to path: String) throws {
  var name = Array((path + ".XXXXXX").utf8CString)
  let descriptor = mkstemp(&name)
  let aside = name.withUnsafeBufferPointer { $0.baseAddress.map { String(cString: $0) } ?? path }
  guard descriptor >= 0, let file = fdopen(descriptor, "w") else { throw ioError("write", aside) }
  let isWritten =
    fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 && fchmod(descriptor, 0o644) == 0
    && parts.allSatisfy { fwrite($0.baseAddress, 1, $0.count, file) == $0.count }
  guard isWritten && fflush(file) == 0 && fsync(descriptor) == 0 else {
    let error = ioError("write", aside)
    fclose(file)
    unlink(aside)
    throw error
  }
  guard fclose(file) == 0, rename(aside, path) == 0 else {
    let error = ioError("write", path)
    unlink(aside)
    throw error
  }
}

/// Makes renames within the directory survive a loss of power.
func flushDirectory(_ path: String) throws {
  let directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
  guard directory >= 0 else { throw ioError("open", path) }
  defer { close(directory) }
  guard fsync(directory) == 0 else { throw ioError("flush", path) }
}

/// The bytes of a regular file.
func readFile(_ path: String) throws -> Buffer<UInt8> {
  let descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)  // a pipe would block
  guard descriptor >= 0, let file = fdopen(descriptor, "r") else { throw ioError("read", path) }
  defer { fclose(file) }
  var info = stat()
  guard fstat(descriptor, &info) == 0 else { throw ioError("read", path) }
  guard info.st_mode & S_IFMT == S_IFREG else { throw corrupt(path, "it is no file") }
  let bytes = try Buffer<UInt8>(count: Int(info.st_size), for: path)
  let count = fread(bytes.base, 1, bytes.count, file)
  guard ferror(file) == 0 else { throw ioError("read", path) }
  guard count == bytes.count else { throw corrupt(path, "it became shorter while it was read") }
  return bytes
}
