// A file of KernelsAVX2 and of KernelsAVX512, which nobody imports: they are found by name.
internal import KernelTable

#if CHUNKGRPO_AVX512
  @_cdecl("chunkgrpo_kernels_avx512")
  func kernels(place: UnsafeMutableRawPointer) { write(to: place) }
#else
  @_cdecl("chunkgrpo_kernels_avx2")
  func kernels(place: UnsafeMutableRawPointer) { write(to: place) }
#endif

private func write(to place: UnsafeMutableRawPointer) {
  place.initializeMemory(as: (any KernelSet.Type).self, to: Kernels.self)
}
