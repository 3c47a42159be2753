// swift-tools-version: 6.0
import PackageDescription

// With CHUNKGRPO_DISPATCH=1 the kernels are also compiled for wider vectors, and chosen when the program runs; `make` sets
// it. Unsafe flags for one target are the only way to say it, and a package that another depends on by version may not
// have any, so that they are left out by default.
#if arch(x86_64)
  let dispatch = Context.environment["CHUNKGRPO_DISPATCH"] == "1"
#else
  let dispatch = false
#endif

func wide(_ name: String, _ flags: [String], dependencies: [Target.Dependency] = []) -> Target {
  .target(
    name: name, dependencies: dependencies,
    swiftSettings: [.unsafeFlags(flags.flatMap { $0.hasPrefix("-D") ? [$0, "-Xcc", $0] : ["-Xcc", $0] })])
}

let wideKernels: [Target] = [
  wide("KernelsAVX2", ["-march=x86-64-v3", "-DCHUNKGRPO_AVX2"], dependencies: ["BlockKernels", "CVectors"]),
  wide(
    "KernelsAVX512", ["-march=x86-64-v4", "-mprefer-vector-width=512", "-DCHUNKGRPO_AVX2", "-DCHUNKGRPO_AVX512"],
    dependencies: ["BlockKernels", "CVectors"]),
]

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
    .target(
      name: "ChunkGRPO",
      dependencies: ["BlockKernels", "KernelsBaseline", "CSupport"]
        + (dispatch ? ["KernelsAVX2", "KernelsAVX512"] : []),
      swiftSettings: dispatch ? [.define("CHUNKGRPO_DISPATCH")] : []),
    .target(name: "ChunkGRPOTraining", dependencies: ["BlockKernels", "ChunkGRPO", "COpenBLAS"]),

    // Implementation details
    .target(name: "ChunkGRPOABI", dependencies: ["ChunkGRPO", "ChunkGRPOTraining", "CChunkGRPO", "CSupport"]),
    .target(name: "CChunkGRPO", path: "include", sources: ["shim.c"], publicHeadersPath: "."),
    .target(name: "BlockKernels"),
    .target(name: "KernelsBaseline", dependencies: ["BlockKernels", "CVectors"]),
    .target(name: "CVectors"),
    .target(name: "CSupport"),
    .systemLibrary(
      name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),

    // Unit tests
    .testTarget(name: "ChunkGRPOTests", dependencies: ["ChunkGRPO"]),
    .testTarget(name: "ChunkGRPOTrainingTests", dependencies: ["ChunkGRPOTraining", "BlockKernels"]),
  ] + (dispatch ? wideKernels : [])
)
