// A flow-matching model learns to draw the digit that it is asked for: see `--help`, and Demo.swift for the phases.
import DemoSupport
import Glibc

do {
  let options = try Options(CommandLine.arguments.dropFirst())
  if options.help {
    print(Options.usage)
  } else {
    var demo = try Demo(options)
    try demo.run()
  }
} catch {
  say("digits: \(error)\n")
  exit(1)
}
