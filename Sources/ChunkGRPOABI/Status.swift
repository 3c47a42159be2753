public import CChunkGRPO
import CSupport
import ChunkGRPO

/// Runs the body of an ABI function: an error becomes its status, and its sentence this thread's message.
func guarded(_ body: () throws -> Void) -> cgrpo_status {
  let host = chunkgrpo_support_enter()
  defer { chunkgrpo_support_leave(host) }
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

/// Runs the body of an ABI function that cannot fail.
func inside<R>(_ body: () -> R) -> R {
  let host = chunkgrpo_support_enter()
  defer { chunkgrpo_support_leave(host) }
  return body()
}

/// Runs a callback of the host's.
func outside(_ callback: () -> Int32) -> Int32 {
  let cancel = chunkgrpo_support_hold_cancellation()
  let visit = chunkgrpo_support_step_out()
  defer {
    chunkgrpo_support_step_in(visit)
    chunkgrpo_support_release_cancellation(cancel)
  }
  return callback()
}

/// `guarded` for a body that may wait for a disk, or for the threads of OpenBLAS.
func waiting(_ body: () throws -> Void) -> cgrpo_status {
  let cancel = chunkgrpo_support_hold_cancellation()
  defer { chunkgrpo_support_release_cancellation(cancel) }
  return guarded(body)
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

// MARK: - Version

@_cdecl("cgrpo_abi_version") @implementation
public func cgrpo_abi_version() -> UInt32 { UInt32(CGRPO_ABI_VERSION) }

private let names: [StaticString] = [
  "CGRPO_OK", "CGRPO_INVALID_ARGUMENT", "CGRPO_WRONG_TYPE", "CGRPO_NON_FINITE", "CGRPO_OUT_OF_MEMORY",
  "CGRPO_CALLBACK_FAILED", "CGRPO_IO_ERROR", "CGRPO_DEVICE_FAILED",
]

private func cString(_ text: StaticString) -> UnsafePointer<CChar> {
  UnsafeRawPointer(text.utf8Start).assumingMemoryBound(to: CChar.self)
}

@_cdecl("cgrpo_version") @implementation
public func cgrpo_version() -> UnsafePointer<CChar>! { chunkgrpo_version_text() }

@_cdecl("cgrpo_last_error") @implementation
public func cgrpo_last_error() -> UnsafePointer<CChar>! { chunkgrpo_support_last_error() }

@_cdecl("cgrpo_status_name") @implementation
public func cgrpo_status_name(_ status: cgrpo_status) -> UnsafePointer<CChar>! {
  inside { cString(names.indices.contains(Int(status)) ? names[Int(status)] : "unknown status") }
}

// MARK: - Threads and vectors

@_cdecl("cgrpo_set_thread_limit") @implementation
public func cgrpo_set_thread_limit(_ limit: Int32) -> cgrpo_status {
  guarded { try setThreadLimit(Int(limit)) }
}

@_cdecl("cgrpo_instruction_set") @implementation
public func cgrpo_instruction_set() -> UnsafePointer<CChar>! {
  inside {
    switch InstructionSet.current {
    case .baseline: cString("baseline")
    case .avx2: cString("avx2")
    case .avx512: cString("avx512")
    }
  }
}
