import Glibc

extension String {
  /// With spaces behind it; `left` puts them before.
  package func padded(to width: Int, left: Bool = false) -> String {
    let spaces = String(repeating: " ", count: max(0, width - count))
    return left ? spaces + self : self + spaces
  }
}

/// With a fixed number of digits after the point.
package func fixed(_ value: Double, _ digits: Int) -> String {
  let unit = pow(10, Double(digits))
  let scaled = (abs(value) * unit).rounded()
  guard value.isFinite, scaled < 1e15 else { return "\(value)" }
  let text = String(Int(scaled))
  let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
  let sign = value < 0 && scaled > 0 ? "-" : ""
  return sign + padded.dropLast(digits) + (digits > 0 ? "." + padded.suffix(digits) : "")
}
