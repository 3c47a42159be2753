/// Options of a call: a mutable struct whose defaults are those of C and Python too.
///
///     let options = SamplerOptions { $0.eta = 0.3 }
///
/// Optional fields are 0 or null in C where they are nil here.
public protocol Options: Sendable, Equatable {
  /// All defaults.
  init()
}

extension Options {
  /// The defaults, changed.
  public init(_ change: (inout Self) throws -> Void) rethrows {
    self.init()
    try change(&self)
  }

  /// A changed copy.
  public func with(_ change: (inout Self) -> Void) -> Self {
    var copy = self
    change(&copy)
    return copy
  }
}
