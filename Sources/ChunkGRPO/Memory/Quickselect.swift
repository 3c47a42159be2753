/// The value that would be at index `k` if `values` were sorted, which it reorders. Takes no memory, as sorting does.
func quickselect(_ values: UnsafeMutableBufferPointer<Double>, _ k: Int) -> Double {
  var (low, high) = (0, values.count - 1)
  while low < high {
    let pivot = values[(low + high) / 2]
    var (i, j) = (low, high)
    while i <= j {
      while values[i] < pivot { i += 1 }
      while values[j] > pivot { j -= 1 }
      if i <= j {
        values.swapAt(i, j)
        (i, j) = (i + 1, j - 1)
      }
    }
    // Now low … j are at most the pivot, i … high at least, and what lies between is equal to it.
    if k <= j { high = j } else if k >= i { low = i } else { return pivot }
  }
  return values[k]
}
