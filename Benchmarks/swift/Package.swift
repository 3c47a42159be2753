// swift-tools-version: 6.0
// A package of its own, so that the library's has nothing to build for it.
import PackageDescription

let package = Package(
  name: "benchmarks",
  dependencies: [.package(name: "chunkgrpo", path: "../..")],
  targets: [
    .executableTarget(name: "kernels", dependencies: [.product(name: "ChunkGRPO", package: "chunkgrpo")], path: ".")
  ]
)
