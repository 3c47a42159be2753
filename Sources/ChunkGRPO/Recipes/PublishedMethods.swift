extension ForwardMethod {
  /// The names that `named` knows.
  public static let names = ["nft", "awm", "fpo", "dgpo", "crd", "dpo"]

  /// - Throws: `.invalidArgument` lists the names there are.
  public static func named(_ name: String) throws -> ForwardMethod {
    switch name {
    case "nft": nft
    case "awm": awm
    case "fpo": fpo
    case "dgpo": dgpo
    case "crd": crd
    case "dpo": dpo
    default:
      throw ChunkGRPOError.invalidArgument("method \(name) is none of \(names.joined(separator: ", "))")
    }
  }

  private static let discrete = TimeOptions { $0.distribution = .discrete }

  /// DiffusionNFT (arXiv 2509.16117).
  static let nft = ForwardMethod(
    name: "nft", source: "NVlabs/DiffusionNFT config/nft.py, sd3_geneval", steps: 10, groupSize: 24, draws: 9,
    learningRate: 3e-4, objective: .nft(NFTOptions { $0.kl = 1e-4 }), times: discrete, timeSteps: 0..<9,
    notes: ["v_old is of the policy that sampled, an average of the trained one whose decay rises to 0.5"])

  /// Advantage weighted matching (arXiv 2509.25050).
  static let awm = ForwardMethod(
    name: "awm", source: "scxue/advantage_weighted_matching config/dgx_awm.py, geneval_sd3_no_cfg_1node", steps: 14,
    groupSize: 24, draws: 6, learningRate: 3e-4,
    objective: .matching(
      MatchingObjective {
        ($0.weighting, $0.power, $0.referenceKL) = (.generalisedHuber, 0.25, 1e-3)
        $0.chunkLoss.clip = ClipRange(low: 1, high: 1)
      }),
    times: discrete, timeSteps: 1..<13,
    notes: [
      "advantages are clamped to +-5 and divided by 5",
      "a velocity KL of weight 1 to an average of the trained policy, whose decay rises to 0.3",
    ])

  /// FPO (arXiv 2507.21053).
  static let fpo = ForwardMethod(
    name: "fpo", source: "akanazawa/fpo playground/src/flow_policy/fpo.py, FpoConfig", steps: 10, groupSize: 1,
    draws: 8,
    learningRate: 3e-4,
    objective: .matching(
      MatchingObjective {
        $0.drawsPerChunk = 8
        $0.chunkLoss.clip = ClipRange(low: 0.05, high: 0.05)
      }),
    notes: ["actions of a robot: advantages of a critic, not of a group"])

  static let dgpo = ForwardMethod(
    name: "dgpo", source: "Luo-Yihong/DGPO config/dgpo.py, geneval_sd3_4gpu", steps: 10, groupSize: 16, draws: 4,
    learningRate: 3e-4, sharesNoise: true,
    objective: .dgpo(
      DGPOOptions { ($0.groupSize, $0.clip, $0.kl) = (16, ClipRange(low: 1e-2, high: 1e-2), 0.02) }),
    times: discrete, timeSteps: 0..<4,
    notes: ["the old policy is an average whose decay rises to 0.3; it samples after 500 steps"])

  /// Centred reward distillation (arXiv 2603.14128).
  static let crd = ForwardMethod(
    name: "crd", source: "X-GenGroup/Flow-Factory examples/crd/lora/sd3_5/default.yaml", steps: 10, groupSize: 24,
    draws: 20, learningRate: 3e-4,
    objective: .crd(CRDOptions { ($0.kl, $0.leastKL) = (0.1, 1e-4) }, isAdaptive: true), times: discrete,
    timeSteps: 0..<10,
    notes: ["the reference of the KL has guidance 4.5", "v_old is of an average whose decay rises to 0.999"])

  /// Diffusion-DPO (arXiv 2311.12908), of pairs that the policy sampled.
  static let dpo = ForwardMethod(
    name: "dpo", source: "X-GenGroup/Flow-Factory examples/dpo/lora/sd3_5/default.yaml", steps: 40, groupSize: 4,
    draws: 1, learningRate: 1e-5, sharesNoise: true, objective: .dpo(DPOOptions()),
    times: TimeOptions { $0.distribution = .logitNormal },
    notes: ["the best and the worst of each group are a pair"])
}
