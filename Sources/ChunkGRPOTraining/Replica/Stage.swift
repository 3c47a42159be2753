/// A place where the ranks meet. All must be at the same.
enum Stage: Int {
  case setReplica = 1
  case iterate, rollout, gradient, step, commit
  case pretrain

  var name: StaticString {
    switch self {
    case .setReplica: "set_replica"
    case .iterate: "iterate"
    case .rollout: "iterate, after its rollout"
    case .gradient: "a step, after its gradient"
    case .step: "a step, at its end"
    case .commit: "the end of a call"
    case .pretrain: "pretrain"
    }
  }
}
