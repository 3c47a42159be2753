import CChunkGRPO

/// A struct of the header that begins with its own size. It grows at its end, from version to version.
protocol Versioned {
  /// Its size in the first version of this binary interface that had it: what the oldest programs give. It never changes
  /// while CGRPO_ABI_VERSION stays; scripts/abi-check holds it.
  static var firstSize: Int { get }
}

extension cgrpo_cuda: Versioned { static let firstSize = 56 }
extension cgrpo_part: Versioned { static let firstSize = 48 }
extension cgrpo_schedule_options: Versioned { static let firstSize = 48 }
extension cgrpo_sampler_options: Versioned { static let firstSize = 80 }
extension cgrpo_noise: Versioned { static let firstSize = 32 }
extension cgrpo_step_extras: Versioned { static let firstSize = 32 }
extension cgrpo_window_options: Versioned { static let firstSize = 88 }
extension cgrpo_trajectory: Versioned { static let firstSize = 104 }
extension cgrpo_adaptive_options: Versioned { static let firstSize = 24 }
extension cgrpo_optimal_options: Versioned { static let firstSize = 40 }
extension cgrpo_select_options: Versioned { static let firstSize = 64 }
extension cgrpo_advantage_options: Versioned { static let firstSize = 96 }
extension cgrpo_chunk_loss_options: Versioned { static let firstSize = 152 }
extension cgrpo_chunk_stats: Versioned { static let firstSize = 80 }
extension cgrpo_importance_options: Versioned { static let firstSize = 48 }
extension cgrpo_recipe: Versioned { static let firstSize = 752 }
extension cgrpo_forward_extras: Versioned { static let firstSize = 144 }
extension cgrpo_forward_stats: Versioned { static let firstSize = 56 }
extension cgrpo_nft_options: Versioned { static let firstSize = 88 }
extension cgrpo_dgpo_options: Versioned { static let firstSize = 88 }
extension cgrpo_crd_options: Versioned { static let firstSize = 96 }
extension cgrpo_dpo_options: Versioned { static let firstSize = 16 }
extension cgrpo_time_options: Versioned { static let firstSize = 96 }
extension cgrpo_forward_method: Versioned { static let firstSize = 696 }
extension cgrpo_trainer_options: Versioned { static let firstSize = 224 }
extension cgrpo_pretrain_options: Versioned { static let firstSize = 40 }
extension cgrpo_iteration_report: Versioned { static let firstSize = 168 }
