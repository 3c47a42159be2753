/// The 64-bit FNV-1a hash of `values`, each taken as one unit; `start` is the hash of the values before them.
package func fnv1a(
  _ values: some Sequence<some FixedWidthInteger & UnsignedInteger>, from start: UInt64 = 0xcbf2_9ce4_8422_2325
) -> UInt64 {
  var hash = start
  for value in values { hash = (hash ^ UInt64(truncatingIfNeeded: value)) &* 0x0000_0100_0000_01b3 }
  return hash
}
