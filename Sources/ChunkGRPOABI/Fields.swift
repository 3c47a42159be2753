import CChunkGRPO
import ChunkGRPO
import ChunkGRPOTraining

// The options of the header, in its order: a line per field.

extension cgrpo_schedule_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, ScheduleOptions>] = [
    .choice("base", \.base, \.base),
    .choice("shift_kind", \.shift_kind, \.shiftKind),
    .number(\.shift, \.shift),
    .number(\.mu, \.mu),
    .number(\.terminal, \.terminal),
    .choice("spacing", \.spacing, \.spacing),
    .reserved(\.reserved),
  ]
}

extension cgrpo_sampler_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, SamplerOptions>] = [
    .choice("dynamics", \.dynamics, \.dynamics),
    .choice("log_prob_form", \.log_prob_form, \.logProbForm),
    .number(\.eta, \.eta),
    .number(\.wan_sigma_min, \.wanSigmaMin),
    .choice("last_step", \.last_step, \.lastStep),
    .count("threads", \.threads, \.threads),
    .array("etas", \.etas, \.etas) { ($1.steps, 1) },
    .array("window", \.window, "window_count", \.window_count, \.window, most: \.steps),
    .choice("outside", \.outside, \.outside),
    .choice("after", \.after, \.after),
    .count("dpm_order", \.dpm_order, \.dpmOrder),
    .reserved(\.reserved),
  ]
}

extension cgrpo_window_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, SDEWindowOptions>] = [
    .count("size", \.size, \.size),
    .count("first", \.first, \.first),
    .count("end", \.end, \.end),
    .count("stride", \.stride, \.stride),
    .choice("strategy", \.strategy, \.strategy),
    .choice("at_end", \.at_end, \.atEnd),
    .count("iterations", \.iterations, \.iterations),
    .count("least", \.least, \.least),
    .count("threshold", \.threshold, \.threshold),
    .number(\.decay, \.decay),
    .number(\.seed, \.seed),
  ]
}

extension cgrpo_adaptive_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, AdaptiveChunkOptions>] = [
    .count("max_size", \.max_size, \.maxSize),
    .count("min_size", \.min_size, \.minSize),
  ]
}

extension cgrpo_optimal_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, OptimalChunkOptions>] = [
    .count("chunk_count", \.chunk_count, \.count),
    .number(\.explained, \.explained),
    .count("min_size", \.min_size, \.minSize),
    .count("max_size", \.max_size, \.maxSize),
  ]
}

extension cgrpo_select_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, ChunkSelectionOptions>] = [
    .number(\.fraction, \.fraction),
    .array("weights", \.weights, \.weights) { ($1.samples, $1.chunks) },
    .choice("weighting", \.weighting, \.weighting),
    .reserved(\.reserved),
    .array("fixed", \.fixed, "fixed_count", \.fixed_count, \.fixed, most: \.chunks),
    .number(\.seed, \.seed),
    .array("sample_ids", \.sample_ids, \.sampleIDs) { ($1.samples, 1) },
  ]
}

extension cgrpo_advantage_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, AdvantageOptions>] = [
    .count("group_size", \.group_size, \.groupSize),
    .number(\.clamp, \.clamp),
    .number(\.epsilon, \.epsilon),
    .number(\.floor, \.floor),
    .array("group_ids", \.group_ids, \.groupIDs) { ($1.samples, 1) },
    .choice("baseline", \.baseline, \.baseline),
    .choice("scale", \.scale, \.scale),
    .choice("deviation", \.deviation, \.deviation),
    .flag("subtract_median", \.subtract_median, \.subtractsMedian),
    .number(\.trim, \.trim),
    .count("reward_count", \.reward_count, \.rewardCount),
    .array("reward_weights", \.reward_weights, \.rewardWeights) { options, _ in
      (try count(options.reward_count, "reward_count", AdvantageOptions.rewardCounts), 1)
    },
    .choice("mixing", \.mixing, \.mixing),
    .reserved(\.reserved),
    .flags("present", \.present, \.present) { options, extent in
      (extent.samples, try count(options.reward_count, "reward_count", AdvantageOptions.rewardCounts))
    },
  ]
}

extension cgrpo_chunk_loss_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, ChunkLossOptions>] = [
    .choice("surrogate", \.surrogate, \.surrogate),
    .choice("average", \.average, \.average),
    .number(\.clip_low, \.clip.low),
    .number(\.clip_high, \.clip.high),
    .number(\.ratio_cap, \.ratioCap),
    .number(\.dual_clip, \.dualClip),
    .number(\.kl, \.kl),
    .choice("kl_estimator", \.kl_estimator, \.klEstimator),
    .choice("kl_level", \.kl_level, \.klLevel),
    .number(\.normaliser, \.normaliser),
    .number(\.divergence_threshold, \.divergenceThreshold),
    .flags("selection", \.selection, \.selection) { ($1.samples, $1.chunks) },
    .flags("mask", \.mask, \.mask) { ($1.samples, $1.steps) },
    .array("reference_log_probs", \.reference_log_probs, \.reference) { ($1.samples, $1.steps) },
    .array("weights", \.weights, \.weights) {
      (try flag($0.weights_per_sample, "weights_per_sample") ? $1.samples : 1, $1.chunks)
    },
    .array("ratio_bias", \.ratio_bias, \.ratioBias) { ($1.samples, $1.steps) },
    .array("ratio_scale", \.ratio_scale, \.ratioScale) { (1, $1.steps) },
    .array("divergence", \.divergence, \.divergence) { ($1.samples, $1.steps) },
    .rule {
      try require(
        $0.grad_ratio_bias == nil || $0.ratio_bias != nil, "grad_ratio_bias is asked for, but ratio_bias is null")
      let perSample = try flag($0.weights_per_sample, "weights_per_sample")
      try require(!perSample || $0.weights != nil, "weights_per_sample = 1, but weights is null")
    },
    .reserved(\.reserved),
    .choice("advantage_level", \.advantage_level, \.advantageLevel),
    .reserved(\.reserved2),
    .array("kl_weights", \.kl_weights, \.klWeights) { ($1.samples, 1) },
    .number(\.sapo_temperature_pos, \.sapo.positive),
    .number(\.sapo_temperature_neg, \.sapo.negative),
    .number(\.vespo_k_pos, \.vespo.k),
    .number(\.vespo_lambda_pos, \.vespo.lambda),
    .number(\.vespo_k_neg, \.vespo.kNegative),
    .number(\.vespo_lambda_neg, \.vespo.lambdaNegative),
  ]
}

extension cgrpo_nft_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, NFTOptions>] = [
    .number(\.beta, \.beta),
    .number(\.advantage_clip, \.advantageClip),
    .choice("weighting", \.weighting, \.weighting),
    .choice("mode", \.mode, \.mode),
    .number(\.floor, \.floor),
    .array("times", \.times, \.times) { ($1.samples, $1.steps) },
    .array("positive_absolute", \.positive_absolute, \.positiveAbsolute) { ($1.samples, $1.steps) },
    .array("negative_absolute", \.negative_absolute, \.negativeAbsolute) { ($1.samples, $1.steps) },
    .number(\.kl, \.kl),
    .array("reference_divergence", \.reference_divergence, \.referenceDivergence) { ($1.samples, $1.steps) },
  ]
}

extension cgrpo_dgpo_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, DGPOOptions>] = [
    .number(\.beta, \.beta),
    .count("group_size", \.group_size, \.groupSize),
    .array("group_ids", \.group_ids, \.groupIDs) { ($1.samples, 1) },
    .array("old_distance", \.old_distance, \.oldDistance) { ($1.samples, $1.steps) },
    .number(\.clip_low, \.clip.low),
    .number(\.clip_high, \.clip.high),
    .flag("clip_distance", \.clip_distance, \.clipsDistance),
    .flag("clip_kl", \.clip_kl, \.clipsKL),
    .number(\.kl, \.kl),
    .array("reference_divergence", \.reference_divergence, \.referenceDivergence) { ($1.samples, $1.steps) },
  ]
}

extension cgrpo_crd_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, CRDOptions>] = [
    .number(\.beta, \.beta),
    .number(\.advantage_clip, \.advantageClip),
    .choice("regression", \.regression, \.regression),
    .reserved(\.reserved),
    .number(\.temperature, \.temperature),
    .array("absolute", \.absolute, \.absolute) { ($1.samples, $1.steps) },
    .array("old_absolute", \.old_absolute, \.oldAbsolute) { ($1.samples, $1.steps) },
    .number(\.floor, \.floor),
    .number(\.kl, \.kl),
    Field({ options, result, _ in result.leastKL = options.kl_least == -1 ? nil : options.kl_least }) {
      $1.kl_least = $0.leastKL ?? -1
    },
    .array("reference_divergence", \.reference_divergence, \.referenceDivergence) { ($1.samples, $1.steps) },
  ]
}

extension cgrpo_dpo_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, DPOOptions>] = [.number(\.beta, \.beta)]
}

extension cgrpo_time_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, TimeOptions>] = [
    .choice("distribution", \.distribution, \.distribution),
    .flag("stratified", \.stratified, \.isStratified),
    .number(\.shift, \.shift),
    .number(\.mean, \.mean),
    .number(\.std, \.std),
    .number(\.low, \.low),
    .number(\.high, \.high),
    .number(\.least, \.least),
    .array("values", \.values, "values_count", \.values_count, \.values) { _ in Schedule.maxSteps },
    .number(\.seed, \.seed),
    .array("sample_ids", \.sample_ids, \.sampleIDs) { ($1.samples, 1) },
  ]
}

extension cgrpo_importance_options: OptionStruct {
  nonisolated(unsafe) static let fields: [Field<Self, ImportanceOptions>] = [
    .choice("level", \.level, \.level),
    .choice("mode", \.mode, \.mode),
    .number(\.low, \.low),
    .number(\.high, \.high),
    .flags("mask", \.mask, \.mask) { ($1.samples, $1.steps) },
    .flag("geometric", \.geometric, \.isGeometric),
    .reserved(\.reserved),
  ]
}

extension cgrpo_trainer_options: OptionStruct {
  static var defaults: TrainerOptions { TrainerOptions(latentSize: 0, conditionSize: 0) }
  nonisolated(unsafe) static let fields: [Field<Self, TrainerOptions>] = [
    .count("latent_size", \.latent_size, \.latentSize),
    .count("condition_size", \.condition_size, \.conditionSize),
    .count("width", \.width, \.width),
    .count("blocks", \.blocks, \.blocks),
    .count("embedding_size", \.embedding_size, \.embeddingSize),
    .count("steps", \.steps, \.steps),
    .number(\.shift, \.shift),
    .choice("dynamics", \.dynamics, \.dynamics),
    .flag("share_noise", \.share_noise, \.shareNoise),
    .number(\.eta, \.eta),
    .array("chunk_sizes", \.chunk_sizes, "chunk_count", \.chunk_count, \.chunkSizes) { _ in Schedule.maxSteps },
    .count("group_size", \.group_size, \.groupSize),
    .number(\.chunk_fraction, \.chunkFraction),
    .flag("weighted_selection", \.weighted_selection, \.weightedSelection),
    .count("threads", \.threads, \.threads),
    .number(\.advantage_clamp, \.advantageClamp),
    .number(\.clip_low, \.clipLow),
    .number(\.clip_high, \.clipHigh),
    .number(\.kl, \.kl),
    .count("updates_per_rollout", \.updates_per_rollout, \.updatesPerRollout),
    .number(\.learning_rate, \.learningRate),
    .number(\.beta1, \.beta1),
    .number(\.beta2, \.beta2),
    .number(\.adam_epsilon, \.adamEpsilon),
    .number(\.weight_decay, \.weightDecay),
    .number(\.max_grad_norm, \.maxGradNorm),
    .number(\.ema_decay, \.emaDecay),
    .number(\.seed, \.seed),
    .number(\.reference_kl, \.referenceKL),
    .choice("reference_divergence", \.reference_divergence, \.referenceDivergence),
    .reserved(\.reserved),
    .array("chunk_weights", \.chunk_weights, "chunk_weights_count", \.chunk_weights_count, \.chunkWeights) { _ in
      Schedule.maxSteps
    },
    .number(\.reference_last_step, \.referenceLastStep),
  ]
}

extension cgrpo_pretrain_options: OptionStruct {
  static var defaults: PretrainOptions { PretrainOptions() }
  nonisolated(unsafe) static let fields: [Field<Self, PretrainOptions>] = [
    .count("steps", \.steps, \.steps),
    .count("batch_size", \.batch_size, \.batchSize),
    .number(\.learning_rate, \.learningRate),
    .number(\.ema_decay, \.emaDecay),
  ]
}
