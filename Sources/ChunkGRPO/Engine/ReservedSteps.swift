/// Step numbers of the library's noise that no step of a rollout has: those are below 2³¹. The next 2³⁰ are the draws of the
/// forward process; see `ForwardDraw`. The trainer separates its draws
/// by the seed instead; see `RandomStream`.
package enum ReservedStep: UInt32, CaseIterable {
  /// The initial noise, −1 for callers.
  case initialNoise = 0xffff_ffff
  case chunkSelection = 0xffff_fffe
  case sdeWindow = 0xffff_fffd
}
