import Glibc

/// How far a phase is, on standard error: a bar on a terminal, else a line now and then.
struct Progress {
  let title: String
  private let onTerminal = isatty(STDERR_FILENO) != 0
  private let lines = 5

  init(_ title: String) { self.title = title }

  func show(_ done: Int, of total: Int, _ note: String) {
    let head = "  " + title.padded(to: 14)
    if onTerminal {
      let filled = 30 * done / total
      let bar = String(repeating: "█", count: filled) + String(repeating: "░", count: 30 - filled)
      // Back to the start of the line; what is left of a longer note is cleared.
      say("\r\(head) \(bar)  \(done)/\(total)  \(note)\u{1b}[K" + (done == total ? "\n" : ""))
    } else if done * lines / total != (done - 1) * lines / total {
      say("\(head) \(done)/\(total)  \(note)\n")
    }
  }
}

/// To standard error, at once.
func say(_ text: String) {
  var bytes = Array(text.utf8)[...]
  while !bytes.isEmpty {
    let written = bytes.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
    guard written > 0 else { return }
    bytes = bytes.dropFirst(written)
  }
}

extension String {
  /// With spaces behind it; `left` puts them before.
  func padded(to width: Int, left: Bool = false) -> String {
    let spaces = String(repeating: " ", count: max(0, width - count))
    return left ? spaces + self : self + spaces
  }
}

/// With a fixed number of digits after the point.
func fixed(_ value: Double, _ digits: Int) -> String {
  let unit = pow(10, Double(digits))
  let scaled = (abs(value) * unit).rounded()
  guard value.isFinite, scaled < 1e15 else { return "\(value)" }
  let text = String(Int(scaled))
  let padded = String(repeating: "0", count: max(0, digits + 1 - text.count)) + text
  let sign = value < 0 && scaled > 0 ? "-" : ""
  return sign + padded.dropLast(digits) + (digits > 0 ? "." + padded.suffix(digits) : "")
}
