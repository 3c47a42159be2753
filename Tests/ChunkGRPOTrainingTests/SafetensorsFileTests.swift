import ChunkGRPOTraining
import Foundation
import Testing

@Suite("Safetensors files")
struct SafetensorsFileTests {
  private let directory = TemporaryDirectory()

  @Test("Damaged files are refused with their name and the fault")
  func damage() throws {
    let trainer = try pretrained(steps: 5)
    try trainer.save(to: directory.path)
    try directory.refuses("less than the length") { $0 = $0.prefix(5) }
    try directory.refuses("less than the length") { $0 = Data() }
    try directory.refuses("its header claims") { $0[7] = 0xff }
    try directory.refuses("its header claims") { $0[6] = 0x7f }
    try directory.refuses("its header claims") { $0 = $0.prefix(40) }
    try directory.refuses("no JSON object") { $0[8] = UInt8(ascii: "x") }
    try directory.refuses("no JSON object") {
      $0 = Data([0, 0, 1, 0, 0, 0, 0, 0]) + Data(repeating: UInt8(ascii: "["), count: 100_000)
    }
    try directory.refuses("no __metadata__", after: replacing("__metadata__", "__metadata_"))
    try directory.refuses("its data has") { $0 = $0.prefix($0.count - 4) }
    try directory.refuses("its data has") { $0 += [0, 0, 0, 0] }
    try directory.refuses("its values are not those") { $0[$0.count - 3] ^= 1 }
    try directory.refuses("is not F32", after: replacing("F32", "F16"))
    try directory.refuses(
      "it lacks parameters.input.weight", after: replacing("parameters.input.weight", "parameters.imput.weight"))
    try directory.refuses(
      "it lacks second_moment.output.bias", after: replacing("second_moment.output.bias", "second_moment.output.bios"))
    try directory.refuses("has not the shape", after: replacing("[32, 2]", "[2, 32]"))
    try directory.refuses("data_offsets", after: replacing("\"data_offsets\":[0,256]", "\"data_offsets\":[9,256]"))
    try directory.refuses("data_offsets", after: replacing("\"data_offsets\":[0,256]", "\"data_offsets\":[-1,255]"))
    try directory.refuses("data_offsets", after: replacing("\"data_offsets\":[0,256]", "\"data_offsets\":[0]"))
    try directory.refuses(
      "tensors, but the network has",
      after: replacing(
        "\"__metadata__\"", "\"more\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},\"__metadata__\""))
    #expect(try ChunkGRPOTrainer(loading: directory.path).samples() == trainer.samples())
  }

  @Test("A flipped bit of the header is refused, wherever it is")
  func flippedBits() throws {
    try ChunkGRPOTrainer(tinyOptions()).save(to: directory.path)
    let whole = try Data(contentsOf: URL(fileURLWithPath: directory.model))
    let start = 8 + Int(whole[0]) + Int(whole[1]) << 8
    var loaded: [Int] = []
    for i in stride(from: 0, to: start, by: 29) {
      var damaged = whole
      damaged[i] ^= 1 << UInt8(i % 7)
      try directory.write(damaged, to: "model.safetensors")
      if (try? ChunkGRPOTrainer(loading: directory.path)) != nil { loaded.append(i) }
    }
    // Spaces may be tabs; nothing else may differ.
    #expect(loaded.allSatisfy { whole[$0] == 0x20 }, "\(loaded)")
  }
}
