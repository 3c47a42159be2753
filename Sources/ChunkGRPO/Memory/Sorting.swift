/// Sorts values so that none is less than one before it; equal ones keep their order. Merges runs of twice the length from
/// one half of the memory to the other: the standard library's sort takes memory that it cannot do without.
func sort<T>(
  _ values: UnsafeMutablePointer<T>, count: Int, scratch: UnsafeMutablePointer<T>, by isLess: (T, T) -> Bool
) {
  var (from, to) = (values, scratch)
  var run = 1
  while run < count {
    for start in stride(from: 0, to: count, by: 2 * run) {
      merge(from, to, start, min(start + run, count), min(start + 2 * run, count), isLess)
    }
    swap(&from, &to)
    run *= 2
  }
  if from != values { values.update(from: from, count: count) }
}

/// Merges the sorted start ..< middle and middle ..< end.
@inline(__always)
private func merge<T>(
  _ from: UnsafeMutablePointer<T>, _ to: UnsafeMutablePointer<T>, _ start: Int, _ middle: Int, _ end: Int,
  _ isLess: (T, T) -> Bool
) {
  var (i, j) = (start, middle)
  for k in start..<end {
    if i < middle && (j == end || !isLess(from[j], from[i])) {
      to[k] = from[i]
      i += 1
    } else {
      to[k] = from[j]
      j += 1
    }
  }
}

/// A number and where it came from.
struct Placed<Key: Comparable & BitwiseCopyable>: BitwiseCopyable {
  var key: Key
  var index: Int
}

/// `key(0)`, `key(1)`, …, sorted, each with its index; of equal keys the earlier index comes first.
func sorted<Key: Comparable & BitwiseCopyable>(
  count: Int, for purpose: String, _ key: (Int) -> Key
) throws -> Buffer<Placed<Key>> {
  let result = try Buffer<Placed<Key>>(count: count, for: purpose)
  let scratch = try Buffer<Placed<Key>>(count: count, for: purpose)
  for i in 0..<count { result[i] = Placed(key: key(i), index: i) }
  withExtendedLifetime(scratch) { sort(result.base, count: count, scratch: scratch.base) { $0.key < $1.key } }
  return result
}

/// Brings the `few` smallest values before the others, in any order: Hoare's selection, with the median of three as the
/// pivot. No two values are equal. What 64 turns leave unsettled is sorted, so that no order of the values takes long.
func bringSmallest<T>(
  _ few: Int, of values: UnsafeMutablePointer<T>, count: Int, scratch: UnsafeMutablePointer<T>,
  by isLess: (T, T) -> Bool
) {
  var (first, end, turns) = (0, count, 0)
  while few > first && few < end && end - first > 64 && turns < 64 {
    turns += 1
    let (a, b, c) = (values[first], values[first + (end - first) / 2], values[end - 1])
    let (low, high) = isLess(a, b) ? (a, b) : (b, a)
    let pivot = isLess(c, low) ? low : isLess(high, c) ? high : c
    // Smaller ones go to the left of `i`, the others to the right of `j`.
    var (i, j) = (first, end - 1)
    while true {
      while isLess(values[i], pivot) { i += 1 }
      while isLess(pivot, values[j]) { j -= 1 }
      if i >= j { break }
      swap(&values[i], &values[j])
    }
    // The pivot lies at i.
    if few <= i { end = i } else { first = i + 1 }
  }
  if few > first && few < end { sort(values + first, count: end - first, scratch: scratch, by: isLess) }
}
