/// Calls `body` for each eight of 0 ..< count, and once for what is left; `width` tells how many.
@inline(__always)
func lanes(_ count: Int, _ body: (_ i: Int, _ width: Int) -> Void) {
  var i = 0
  while i &+ 8 <= count {
    body(i, 8)
    i &+= 8
  }
  if i < count { body(i, count &- i) }
}

/// `width` elements from `i` on; the other lanes are `fill`.
@inline(__always)
func load<S: NetworkScalar>(_ p: UnsafePointer<S>, _ i: Int, _ width: Int, fill: S = 0) -> SIMD8<S> {
  if width == 8 { return UnsafeRawPointer(p + i).loadUnaligned(as: SIMD8<S>.self) }
  var values = SIMD8<S>(repeating: fill)
  for lane in 0..<width { values[lane] = p[i &+ lane] }
  return values
}

@inline(__always)
func store<S: NetworkScalar>(_ values: SIMD8<S>, _ p: UnsafeMutablePointer<S>, _ i: Int, _ width: Int) {
  if width == 8 { return UnsafeMutableRawPointer(p + i).storeBytes(of: values, as: SIMD8<S>.self) }
  for lane in 0..<width { p[i &+ lane] = values[lane] }
}

@inline(__always)
func add<S: NetworkScalar>(_ values: SIMD8<S>, to p: UnsafeMutablePointer<S>, _ i: Int, _ width: Int) {
  store(load(p, i, width) + values, p, i, width)
}
