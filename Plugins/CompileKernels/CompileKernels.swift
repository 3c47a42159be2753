import Foundation
import PackagePlugin

// A plugin knows the processor that it runs on, and not the one that is built for: for another than x86-64 the assembly is
// empty, and the baseline runs.
private let forX86 = """
  output=$1; shift
  "$0" "$@" -o "$output.s" && { echo '#ifdef __x86_64__'; cat "$output.s"; echo '#endif'; } >"$output"
  """

/// Compiles Sources/Kernels for AVX2 and AVX-512, to assembly that the target KernelsWide links. SwiftPM refuses `-march`
/// in the settings of a package that is depended on by version; a plugin may call the compiler as it likes.
@main struct CompileKernels: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: Target) throws -> [Command] {
    let compiler = try context.tool(named: "swiftc").url
    let output = context.pluginWorkDirectoryURL
    let sources = context.package.directoryURL.appending(path: "Sources")
    let modules = sources.appending(path: "KernelsWide/modules")
    let headers = ["CVectors/include/cvectors.h", "CKernelTable/include/ckerneltable.h"]
      .map { sources.appending(path: $0) }
    let common = [
      "-O", "-whole-module-optimization", "-parse-as-library", "-swift-version", "6", "-package-name", "chunkgrpo",
      "-module-cache-path", output.appending(path: "modules").path, "-I", modules.path, "-I", output.path,
    ]

    func swiftFiles(_ folder: String) throws -> [URL] {
      try FileManager.default.contentsOfDirectory(
        at: sources.appending(path: folder).resolvingSymlinksInPath(), includingPropertiesForKeys: nil
      ).filter { $0.pathExtension == "swift" }.sorted { $0.path < $1.path }
    }

    let table = output.appending(path: "KernelTable.swiftmodule")
    let tableFiles = try swiftFiles("KernelTable")
    let interface = Command.buildCommand(
      displayName: "Reading the table of kernels", executable: compiler,
      arguments: common + ["-emit-module", "-module-name", "KernelTable", "-o", table.path] + tableFiles.map(\.path),
      inputFiles: tableFiles + headers, outputFiles: [table])

    let kernelFiles = try swiftFiles("Kernels") + swiftFiles("KernelsWide/entry")
    func kernels(_ name: String, _ flags: [String], _ definitions: [String]) -> Command {
      let assembly = output.appending(path: "\(name).S")
      let options = (flags + definitions).flatMap { ["-Xcc", $0] } + definitions
      return .buildCommand(
        displayName: "Compiling \(name)", executable: URL(filePath: "/bin/sh"),
        arguments: ["-c", forX86, compiler.path, assembly.path] + common + options
          + ["-emit-assembly", "-module-name", name] + kernelFiles.map(\.path),
        inputFiles: kernelFiles + headers + [table], outputFiles: [assembly])
    }
    return [
      interface,
      kernels("KernelsAVX2", ["-march=x86-64-v3"], ["-DCHUNKGRPO_AVX2"]),
      kernels(
        "KernelsAVX512", ["-march=x86-64-v4", "-mprefer-vector-width=512"],
        ["-DCHUNKGRPO_AVX2", "-DCHUNKGRPO_AVX512"]),
    ]
  }
}
