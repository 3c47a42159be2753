// swift-tools-version: 6.0
import PackageDescription

let package = Package(
  name: "chunkgrpo",
  products: [
    // Public API
    .library(name: "ChunkGRPO", targets: ["ChunkGRPO"]),
    .library(name: "ChunkGRPOTraining", targets: ["ChunkGRPOTraining"]),
    // The C ABI, libchunkgrpo.so: `make lib` builds it self-contained, with its SONAME and export list.
    .library(name: "chunkgrpo", type: .dynamic, targets: ["ChunkGRPOABI"]),
  ],
  targets: [
    // Public API
    .target(name: "ChunkGRPO"),
    .target(name: "ChunkGRPOTraining", dependencies: ["ChunkGRPO", "COpenBLAS"]),

    // Implementation details
    .target(name: "ChunkGRPOABI", dependencies: ["ChunkGRPO", "ChunkGRPOTraining", "CChunkGRPO", "CSupport"]),
    .target(name: "CChunkGRPO", path: "include", sources: ["shim.c"], publicHeadersPath: "."),
    .target(name: "CSupport"),
    .systemLibrary(
      name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),

    // Examples
    .executableTarget(
      name: "digits", dependencies: ["ChunkGRPO", "ChunkGRPOTraining"], path: "examples/swift/digits"),
    .executableTarget(name: "first", dependencies: ["ChunkGRPO"], path: "examples/swift/first"),

    // Unit tests
    .testTarget(name: "ChunkGRPOTests", dependencies: ["ChunkGRPO"]),
    .testTarget(name: "ChunkGRPOTrainingTests", dependencies: ["ChunkGRPOTraining"]),
  ]
)
