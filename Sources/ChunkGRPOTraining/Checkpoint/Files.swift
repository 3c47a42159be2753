import ChunkGRPO
internal import Platform

/// A failure of the file system with the path and the system's reason.
func ioError(_ what: String, _ path: Path) -> ChunkGRPOError {
  let reason = strerror(errno).map { String(cString: $0) } ?? "error \(errno)"
  return ChunkGRPOError(.io, "cannot \(what) \(path): \(reason)")
}

func corrupt(_ path: Path, _ why: String) -> ChunkGRPOError {
  ChunkGRPOError(.io, "\(path) is no checkpoint: \(why)")
}

/// Calls `body` again where a signal cut it off.
private func retrying<Result: SignedInteger>(_ body: () -> Result) -> Result {
  while true {
    let result = body()
    if result != -1 || errno != EINTR { return result }
  }
}

// MARK: - Writing

/// Writes `parts`, one after the other, aside, flushes and renames them to `path`: whenever the machine stops, the file is
/// whole or not there. Each call has a file of its own aside, so that several can write one file.
func writeAtomically(_ parts: [UnsafeRawBufferPointer], to path: Path) throws {
  let (descriptor, aside) = try createAside(path)
  do {
    try fill(descriptor, with: parts, aside)
    guard rename(aside.bytes, path.bytes) == 0 else { throw ioError("write", path) }
  } catch {
    unlink(aside.bytes)
    throw error
  }
}

/// A new file beside `path`, which no other writer has: `O_EXCL` lets one have a name, and follows no link. A process that
/// dies leaves its file.
private func createAside(_ path: Path) throws -> (descriptor: Int32, path: Path) {
  var number = 0
  while true {
    let aside = try path.appending(".\(getpid())-\(number)")
    let descriptor = retrying { open(aside.bytes, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0o666) }
    if descriptor >= 0 { return (descriptor, aside) }
    number += 1
    guard errno == EEXIST, number < 10_000 else { throw ioError("write", aside) }
  }
}

/// Writes, flushes and closes.
private func fill(_ descriptor: Int32, with parts: [UnsafeRawBufferPointer], _ path: Path) throws {
  var isOpen = true
  defer { if isOpen { close(descriptor) } }
  try withoutSizeSignal {
    for part in parts { try writeAll(part, to: descriptor, path) }
  }
  guard retrying({ fsync(descriptor) }) == 0 else { throw ioError("flush", path) }
  isOpen = false
  // A signal that cuts it off leaves nothing open either.
  guard close(descriptor) == 0 || errno == EINTR else { throw ioError("close", path) }
}

private func writeAll(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32, _ path: Path) throws {
  var done = 0
  while done < bytes.count {
    let count = retrying { write(descriptor, bytes.baseAddress! + done, bytes.count - done) }
    guard count > 0 else { throw ioError("write", path) }
    done += count
  }
}

/// A file that would grow beyond the limit of the process (RLIMIT_FSIZE) is an error of `write`; the signal that comes
/// with it would end the process.
private func withoutSizeSignal(_ body: () throws -> Void) rethrows {
  var (signals, mask, waiting, none) = (sigset_t(), sigset_t(), sigset_t(), timespec())
  sigemptyset(&signals)
  sigaddset(&signals, SIGXFSZ)
  pthread_sigmask(SIG_BLOCK, &signals, &mask)
  sigpending(&waiting)
  defer {
    // One that waited before is the caller's.
    if sigismember(&waiting, SIGXFSZ) == 0 { while sigtimedwait(&signals, nil, &none) == SIGXFSZ {} }
    pthread_sigmask(SIG_SETMASK, &mask, nil)
  }
  try body()
}

/// Makes renames within the directory survive a loss of power.
func flushDirectory(_ path: Path) throws {
  let directory = retrying { open(path.bytes, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
  guard directory >= 0 else { throw ioError("open", path) }
  defer { close(directory) }
  // File systems that flush no directories say EINVAL.
  guard retrying({ fsync(directory) }) == 0 || errno == EINVAL else { throw ioError("flush", path) }
}

/// Makes a directory, unless it is there.
func makeDirectory(_ path: Path) throws {
  guard mkdir(path.bytes, 0o777) == 0 else {
    if errno == EEXIST { return }
    throw ioError("make", path)
  }
  do { try flushDirectory(path.appending("/..")) } catch {
    rmdir(path.bytes)
    throw error
  }
}

// MARK: - Reading

/// A regular file that is open for reading.
final class InputFile {
  let path: Path
  let size: Int
  private let descriptor: Int32

  init(_ path: Path) throws {
    self.path = path
    // A pipe would block without O_NONBLOCK.
    descriptor = retrying { open(path.bytes, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) }
    guard descriptor >= 0 else { throw ioError("read", path) }
    var info = stat()
    let isKnown = fstat(descriptor, &info) == 0
    size = Int(info.st_size)
    guard isKnown else { throw ioError("read", path) }
    guard info.st_mode & S_IFMT == S_IFREG else { throw corrupt(path, "it is no file") }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// Fills `bytes` with those of the file from `start` on.
  func read(_ bytes: UnsafeMutableRawBufferPointer, from start: Int) throws {
    var done = 0
    while done < bytes.count {
      let count = retrying { pread(descriptor, bytes.baseAddress! + done, bytes.count - done, off_t(start + done)) }
      guard count >= 0 else { throw ioError("read", path) }
      guard count > 0 else { throw corrupt(path, "it became shorter while it was read") }
      done += count
    }
  }
}
