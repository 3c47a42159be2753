/// Colours, each in 16 levels from white to full.
package enum Colour: UInt8, CaseIterable {
  case ink, grey, red, blue, sky

  private var full: SIMD3<Float> {
    switch self {
    case .ink: [28, 30, 36]
    case .grey: [140, 144, 152]
    case .red: [208, 40, 32]
    case .blue: [24, 92, 190]
    case .sky: [160, 196, 238]
    }
  }

  static let levels = 16

  static var palette: [SIMD3<UInt8>] {
    allCases.flatMap { colour in
      (0..<levels).map { level in
        let share = Float(level) / Float(levels - 1)
        return SIMD3<UInt8>(255 * (1 - share) + colour.full * share, rounding: .toNearestOrEven)
      }
    }
  }
}

/// A picture to draw in, white at first. What lies outside of it is left out.
package struct Image {
  package let width, height: Int
  private var indices: [UInt8]

  package init(width: Int, height: Int) {
    (self.width, self.height) = (width, height)
    indices = [UInt8](repeating: 0, count: width * height)
  }

  package var png: [UInt8] { DemoSupport.png(width: width, height: height, indices: indices, palette: Colour.palette) }

  /// - Parameter share: of the colour, 0 … 1; the rest is white.
  mutating func set(_ x: Int, _ y: Int, _ colour: Colour, share: Float = 1) {
    guard (0..<width).contains(x), (0..<height).contains(y) else { return }
    let level = UInt8((min(1, max(0, share)) * Float(Colour.levels - 1)).rounded())
    indices[y * width + x] = colour.rawValue * UInt8(Colour.levels) + level
  }

  package mutating func fill(x: Int, y: Int, width: Int, height: Int, _ colour: Colour, share: Float = 1) {
    for v in y..<y + height { for u in x..<x + width { set(u, v, colour, share: share) } }
  }

  /// An image of 8×8 pixels, −1 (paper) … 1 (ink): each of them a square.
  package mutating func draw(_ pixels: SIMD64<Float>, x: Int, y: Int, scale: Int, _ colour: Colour) {
    for i in 0..<64 {
      fill(
        x: x + i % 8 * scale, y: y + i / 8 * scale, width: scale, height: scale, colour, share: (pixels[i] + 1) / 2)
    }
  }

  /// - Parameters:
  ///   - x, y: the upper end of the text.
  ///   - align: 0 where x is the text's left, 0.5 its middle, 1 its right.
  package mutating func write(
    _ text: String, x: Int, y: Int, scale: Int = 2, align: Double = 0, _ colour: Colour = .ink
  ) {
    let length = (text.count * Font.advance - 1) * scale
    let left = x - Int(Double(length) * align)
    for (n, character) in text.enumerated() {
      for v in 0..<8 {
        for u in 0..<5 where Font.hasInk(character, x: u, y: v) {
          fill(x: left + (n * Font.advance + u) * scale, y: y + v * scale, width: scale, height: scale, colour)
        }
      }
    }
  }

  /// A line with smooth edges.
  package mutating func line(from a: SIMD2<Float>, to b: SIMD2<Float>, width thickness: Float, _ colour: Colour) {
    let along = b - a
    let length = max((along * along).sum(), 1e-9)
    let reach = thickness / 2 + 1
    for y in Int(min(a.y, b.y) - reach)...Int(max(a.y, b.y) + reach) {
      for x in Int(min(a.x, b.x) - reach)...Int(max(a.x, b.x) + reach) {
        let p = SIMD2(Float(x), Float(y)) - a
        let away = p - along * min(1, max(0, (p * along).sum() / length))
        let share = thickness / 2 + 0.5 - (away * away).sum().squareRoot()
        if share > 0 { blend(x, y, colour, share: share) }
      }
    }
  }

  /// Like `set`, but never lightens what has the same colour: the joints of a curve stay whole.
  private mutating func blend(_ x: Int, _ y: Int, _ colour: Colour, share: Float) {
    guard (0..<width).contains(x), (0..<height).contains(y) else { return }
    let levels = UInt8(Colour.levels)
    let old = indices[y * width + x]
    let before = old / levels == colour.rawValue ? Float(old % levels) / Float(levels - 1) : 0
    // A faint edge would leave white specks on other colours.
    if old % levels == 0 || share > 0.5 || before > 0 { set(x, y, colour, share: max(before, share)) }
  }
}
