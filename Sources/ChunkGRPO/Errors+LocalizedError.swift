// Foundation shows `errorDescription`. Not in the self-contained libchunkgrpo.so, which must not link Foundation.
#if !CHUNKGRPO_SELF_CONTAINED
  #if canImport(FoundationEssentials)
    public import FoundationEssentials
  #else
    public import Foundation
  #endif

  extension ChunkGRPOError: LocalizedError {
    public var errorDescription: String? { message }
  }
#endif
