import Glibc

/// How far a phase is, on standard error: a bar on a terminal, else a line now and then.
package struct Progress {
  private let title: String
  private let onTerminal = isatty(STDERR_FILENO) != 0
  private let lines = 5

  package init(_ title: String) { self.title = title }

  package func show(_ done: Int, of total: Int, _ note: String) {
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
package func say(_ text: String) {
  var bytes = Array(text.utf8)[...]
  while !bytes.isEmpty {
    let written = bytes.withUnsafeBytes { write(STDERR_FILENO, $0.baseAddress, $0.count) }
    guard written > 0 else { return }
    bytes = bytes.dropFirst(written)
  }
}
