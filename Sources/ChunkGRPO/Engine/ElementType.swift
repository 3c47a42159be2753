/// How latents are stored. Arithmetic is in `Double` for `float64` and in `Float` for the others.
public enum ElementType: Int32, Sendable, CaseIterable {
  case float32 = 1
  case float64 = 2
  case bfloat16 = 3
  case float16 = 4

  /// Bytes per element.
  public var size: Int {
    switch self {
    case .float32: 4
    case .float64: 8
    case .bfloat16, .float16: 2
    }
  }

  /// Whether velocities, and their gradients, may have this type beside latents of `latents`: the same, or 16 bits beside f32.
  public func isVelocity(beside latents: ElementType) -> Bool { self == latents || latents == .float32 && size == 2 }
}
