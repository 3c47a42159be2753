import ChunkGRPO
import ChunkGRPOTraining
import Foundation
import Testing

@Suite("Checkpoints")
struct CheckpointTests {
  private let directory = FileManager.default.temporaryDirectory
    .appendingPathComponent("chunkgrpo-\(UUID().uuidString)").path

  private func files() throws -> [String] { try FileManager.default.contentsOfDirectory(atPath: directory).sorted() }

  private func cleanUp() { try? FileManager.default.removeItem(atPath: directory) }

  @Test("A run that goes on from a checkpoint equals one that was never interrupted, bit for bit")
  func resumesBitForBit() throws {
    defer { cleanUp() }
    let trainer = try pretrained()
    try trainer.iterate(3)
    try trainer.save(to: directory)
    try trainer.iterate(3)
    let resumed = try ChunkGRPOTrainer(loading: directory)
    #expect(resumed.options == trainer.options && resumed.iterations == 3)
    try resumed.iterate(3)
    #expect(try resumed.samples(.trained) == trainer.samples(.trained))
    #expect(try resumed.samples(.averaged) == trainer.samples(.averaged))
  }

  @Test("Every option comes back, infinities and 64-bit seeds too")
  func optionsComeBack() throws {
    defer { cleanUp() }
    var options = tinyOptions(seed: .max - 7)
    options.chunkSizes = [1, 3, 4]
    options.maxGradNorm = .infinity
    options.advantageClamp = .infinity
    options.clipHigh = 0.1 + 0.2
    options.dynamics = .danceSDE
    options.weightedSelection = true
    try ChunkGRPOTrainer(options).save(to: directory)
    #expect(try ChunkGRPOTrainer(loading: directory).options == options)
  }

  @Test("A checkpoint replaces the one before it and leaves nothing else behind")
  func replacesTheOneBefore() throws {
    defer { cleanUp() }
    let trainer = try pretrained(steps: 5)
    try trainer.save(to: directory)
    let first = try files()
    #expect(first.count == 4 && first.contains("state.json"))
    try trainer.iterate(1)
    try "kept".write(toFile: directory + "/notes.txt", atomically: true, encoding: .utf8)
    try trainer.save(to: directory)
    let second = try files()
    #expect(second.count == 5 && second.contains("notes.txt") && Set(first).intersection(second) == ["state.json"])
  }

  @Test("Files of the user's stay, whatever they are called")
  func keepsFilesOfOthers() throws {
    defer { cleanUp() }
    let trainer = try pretrained(steps: 5)
    try trainer.save(to: directory)
    let own = ["weights-best.safetensors", "average-of-three.safetensors", "lora.safetensors", "lora.safetensors.part"]
    for name in own { try Data([1]).write(to: URL(fileURLWithPath: directory + "/" + name)) }
    try trainer.iterate(1)
    try trainer.save(to: directory)
    let left = try files()
    #expect(Set(own).isSubset(of: left) && left.count == 4 + own.count)
  }

  @Test("A write that was interrupted leaves the checkpoint before it readable")
  func interruptedWrite() throws {
    defer { cleanUp() }
    let trainer = try pretrained(steps: 5)
    try trainer.save(to: directory)
    // What is there when the machine stops before the new state is renamed into place.
    try Data([1, 2, 3]).write(to: URL(fileURLWithPath: directory + "/weights-0000000000000000.safetensors"))
    try Data([1, 2, 3]).write(to: URL(fileURLWithPath: directory + "/average-0000000000000000.safetensors.part"))
    #expect(try ChunkGRPOTrainer(loading: directory).samples() == trainer.samples())
    try trainer.save(to: directory)
    #expect(try files().count == 4)
  }

  @Test("Damaged files are refused with their name and what is wrong")
  func damage() throws {
    defer { cleanUp() }
    let trainer = try pretrained(steps: 5)
    try trainer.save(to: directory)
    let weights = directory + "/" + (try files().first { $0.hasPrefix("weights-") } ?? "")
    let state = directory + "/state.json"

    func refused(_ path: String, _ reason: String, _ change: (inout Data) -> Void) throws {
      let whole = try Data(contentsOf: URL(fileURLWithPath: path))
      var damaged = whole
      change(&damaged)
      try damaged.write(to: URL(fileURLWithPath: path))
      let thrown = #expect(throws: ChunkGRPOError.self) { try ChunkGRPOTrainer(loading: directory) }
      #expect(thrown?.code == .io && thrown?.message.contains(reason) == true, "\(thrown?.message ?? "") for \(reason)")
      try whole.write(to: URL(fileURLWithPath: path))
    }
    func replace(_ old: String, _ new: String) -> (inout Data) -> Void {
      { data in if let range = data.range(of: Data(old.utf8)) { data.replaceSubrange(range, with: Data(new.utf8)) } }
    }
    try refused(weights, "less than the length") { $0 = $0.prefix(5) }
    try refused(weights, "its header claims") { $0[7] = 0xff }
    try refused(weights, "its header claims") { $0[6] = 0x7f }
    try refused(weights, "no JSON object") { $0[8] = UInt8(ascii: "x") }
    try refused(weights, "data_offsets") { $0 = $0.prefix($0.count - 4) }
    try refused(weights, "its data has") { $0 += [0, 0, 0, 0] }
    try refused(weights, "its values are not those") { $0[$0.count - 3] ^= 1 }
    try refused(weights, "is not F32", replace("F32", "F16"))
    try refused(weights, "it lacks input.weight", replace("input.weight", "imput.weight"))
    try refused(weights, "has not the shape", replace("[32,2]", "[2,32]"))
    try refused(weights, "data_offsets", replace("\"data_offsets\":[0,256]", "\"data_offsets\":[9,256]"))
    try refused(state, "no JSON") { $0 = $0.prefix(40) }
    try refused(state, "no JSON") { $0 = Data(repeating: UInt8(ascii: "["), count: 100_000) }
    try refused(state, "it lacks samples_drawn", replace("samples_drawn", "samples_drown"))
    try refused(state, "its iterations is -1", replace("\"iterations\": 0", "\"iterations\": -1"))
    try refused(state, "format", replace("\"format\": 1", "\"format\": 2"))
    try refused(state, "outside of its directory", replace("\"weights\": \"", "\"weights\": \"../"))
    try refused(state, "width", replace("\"width\": 32", "\"width\": 99999999"))
    #expect(try ChunkGRPOTrainer(loading: directory).samples() == trainer.samples())
  }

  @Test("Directories that are missing or cannot be written are named")
  func missingDirectories() throws {
    let thrown = #expect(throws: ChunkGRPOError.self) { try ChunkGRPOTrainer(loading: directory + "/none") }
    #expect(thrown?.code == .io && thrown?.message.contains("none/state.json: No such file") == true)
    let trainer = try ChunkGRPOTrainer(tinyOptions())
    #expect(throws: ChunkGRPOError.self) { try trainer.save(to: directory + "/a/b") }
  }
}
