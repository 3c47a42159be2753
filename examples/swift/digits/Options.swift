import DemoSupport

/// The command line.
struct Options {
  var seed: UInt64?
  var output = "build/demo"
  var iterations = 1200
  var resume = false
  var data = "examples/data/digits.u8"
  var help = false

  static let usage = """
    digits: teaches a small flow-matching model to draw the digit that it is asked for.

    A reward classifier and an independent judge learn on disjoint halves of 1,797 handwritten digits. The flow model
    learns from all of them with 30 % of the prompts wrong. Chunk-GRPO then puts it right by the reward alone.

      --seed N         of everything that is drawn (0)
      --iterations N   of Chunk-GRPO (1200)
      --output DIR     for pictures, metrics and checkpoints (build/demo)
      --resume         go on from the checkpoint in DIR
      --data PATH      the digits (examples/data/digits.u8)
      --help           this text
    """

  init(_ arguments: some Sequence<String>) throws {
    var rest = arguments.makeIterator()
    while let name = rest.next() {
      func value() throws -> String {
        guard let value = rest.next() else { throw DemoError("\(name) needs a value") }
        return value
      }
      func number<N: FixedWidthInteger>(_ bounds: ClosedRange<N>) throws -> N {
        let text = try value()
        guard let number = N(text), bounds.contains(number) else {
          throw DemoError("\(name) needs a whole number of at least \(bounds.lowerBound), not \"\(text)\"")
        }
        return number
      }
      switch name {
      case "--seed": seed = try number(0...UInt64.max)
      case "--iterations": iterations = try number(1...1_000_000)
      case "--output": output = try value()
      case "--data": data = try value()
      case "--resume": resume = true
      case "--help", "-h": help = true
      default: throw DemoError("\"\(name)\" is no option; --help lists them")
      }
    }
    guard !output.isEmpty else { throw DemoError("--output needs the name of a folder") }
  }
}
