// Foundation shows `errorDescription`. Not in the self-contained libchunkgrpo.so, which must not link Foundation.
#if !CHUNKGRPO_SELF_CONTAINED && canImport(FoundationEssentials)
  public import FoundationEssentials

  extension ChunkGRPOError: LocalizedError {
    public var errorDescription: String? { message }
  }
#elseif !CHUNKGRPO_SELF_CONTAINED && canImport(Foundation)
  public import Foundation

  extension ChunkGRPOError: LocalizedError {
    public var errorDescription: String? { message }
  }
#endif
