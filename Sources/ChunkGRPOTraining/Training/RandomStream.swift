/// A purpose of the seed: draws of one never meet those of another.
enum RandomStream: UInt64 {
  case parameters = 0x7765_6967_6874_7320  // "weights "
  case pretraining = 0x7072_6574_7261_696e  // "pretrain"
  case rollout = 0x726f_6c6c_6f75_7420  // "rollout "

  func seed(_ seed: UInt64) -> UInt64 { seed ^ rawValue }
}
