// swift-tools-version: 6.3;(experimentalCGen)
import PackageDescription

// The folders KernelsBaseline, KernelsAVX2 and KernelsAVX512 are links to Kernels: one source, compiled for each. The wider
// two are chosen when the program runs. SwiftPM accepts -march only through unsafeFlags, and rejects those in dependencies
// by version. So a plugin compiles them (Sources/KernelsWide/README.md), or, with CHUNKGRPO_DISPATCH=1, SwiftPM as targets
// of their own; `make` sets it.
#if arch(x86_64) && os(Linux)
  let dispatch = Context.environment["CHUNKGRPO_DISPATCH"] == "1"
  let plugin = !dispatch && Context.environment["CHUNKGRPO_DISPATCH"] != "0"
#else
  let dispatch = false
  let plugin = false
#endif

func wide(_ name: String, _ flags: [String], dependencies: [Target.Dependency] = []) -> Target {
  .target(
    name: name, dependencies: dependencies, exclude: ["README.md"],
    swiftSettings: [.unsafeFlags(flags.flatMap { $0.hasPrefix("-D") ? [$0, "-Xcc", $0] : ["-Xcc", $0] })])
}

let wideKernels: [Target] = [
  wide("KernelsAVX2", ["-march=x86-64-v3", "-DCHUNKGRPO_AVX2"], dependencies: ["KernelTable", "CVectors"]),
  wide(
    "KernelsAVX512", ["-march=x86-64-v4", "-mprefer-vector-width=512", "-DCHUNKGRPO_AVX2", "-DCHUNKGRPO_AVX512"],
    dependencies: ["KernelTable", "CVectors"]),
]

let pluginKernels: [Target] = [
  .target(name: "KernelsWide", exclude: ["README.md", "entry", "modules"], plugins: ["CompileKernels"]),
  .plugin(name: "CompileKernels", capability: .buildTool()),
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
      dependencies: ["KernelTable", "KernelsBaseline", "KernelsCUDA", "CSupport", "Platform"]
        + (dispatch ? ["KernelsAVX2", "KernelsAVX512"] : plugin ? ["KernelsWide"] : []),
      swiftSettings: dispatch ? [.define("CHUNKGRPO_DISPATCH")] : plugin ? [.define("CHUNKGRPO_PLUGIN")] : []),
    .target(
      name: "ChunkGRPOTraining", dependencies: ["KernelTable", "ChunkGRPO", "COpenBLAS", "CSupport", "Platform"]),

    // Implementation details
    .target(
      name: "ChunkGRPOABI", dependencies: ["ChunkGRPO", "ChunkGRPOTraining", "CChunkGRPO", "CSupport", "Platform"]),
    .target(name: "CChunkGRPO", path: "include", sources: ["shim.c"], publicHeadersPath: "."),
    .target(name: "KernelTable", dependencies: ["CKernelTable"]),
    .target(name: "CKernelTable"),
    .target(name: "KernelsCUDA", exclude: ["README.md", "kernels.cu", "ptx"]),
    .target(name: "KernelsBaseline", dependencies: ["KernelTable", "CVectors"], exclude: ["README.md"]),
    .target(name: "CVectors"),
    .target(name: "Platform"),
    .target(
      name: "CSupport", cSettings: [.define("_FORTIFY_SOURCE", to: "2", .when(configuration: .release))]),
    .systemLibrary(
      name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),

    // Unit tests
    .testTarget(name: "ChunkGRPOTests", dependencies: ["ChunkGRPO"]),
    .testTarget(name: "ChunkGRPOTrainingTests", dependencies: ["ChunkGRPOTraining", "KernelTable"]),
  ] + (dispatch ? wideKernels : plugin ? pluginKernels : [])
)
