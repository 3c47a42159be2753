// swift-tools-version: 6.0
// A package of its own, as a user's would be: the library's manifest has nothing to build for it.
import PackageDescription

let library: [Target.Dependency] = [.product(name: "ChunkGRPO", package: "chunkgrpo")]
let training: [Target.Dependency] = [.product(name: "ChunkGRPOTraining", package: "chunkgrpo")]

let package = Package(
  name: "examples",
  dependencies: [.package(name: "chunkgrpo", path: "../..")],
  targets: [
    .executableTarget(name: "first", dependencies: library, path: "first"),
    .executableTarget(name: "cuda", dependencies: library, path: "cuda"),
    .executableTarget(name: "digits", dependencies: library + training + ["DemoSupport"], path: "digits"),
    // Files, progress and pictures of the demo: nothing about flow matching.
    .target(name: "DemoSupport", path: "support"),
  ]
)
