import Glibc

/// The curve of one value per iteration, and of its mean over a window.
package func curvePicture(_ title: String, _ values: [Double]) -> Image {
  var image = Image(width: 720, height: 400)
  let (left, right, top, bottom) = (76, 690, 52, 348)
  let xs = Axis(from: 0, to: Double(max(2, values.count)))
  let ys = Axis(from: values.min() ?? 0, to: values.max() ?? 1, roundOutwards: true)
  func point(_ x: Double, _ y: Double) -> SIMD2<Float> {
    [
      Float(Double(left) + xs.share(x) * Double(right - left)),
      Float(Double(bottom) - ys.share(y) * Double(bottom - top)),
    ]
  }

  image.write(title, x: left, y: 16)
  for tick in ys.ticks {
    let y = Int(point(0, tick).y)
    image.fill(x: left, y: y, width: right - left, height: 1, .grey, share: 0.4)
    image.write(ys.label(tick), x: left - 10, y: y - 7, align: 1)
  }
  for tick in xs.ticks {
    let x = Int(point(tick, 0).x)
    image.fill(x: x, y: bottom, width: 1, height: 6, .ink)
    image.write(xs.label(tick), x: x, y: bottom + 12, align: 0.5)
  }
  image.fill(x: left, y: bottom, width: right - left, height: 1, .ink)
  image.write("iteration", x: right, y: bottom + 32, align: 1)

  let smooth = movingMean(values, reach: 5)
  for (curve, thickness, colour) in [(values, 1.6 as Float, Colour.sky), (smooth, 3, .blue)] {
    for i in curve.indices.dropFirst() {
      image.line(
        from: point(Double(i), curve[i - 1]), to: point(Double(i + 1), curve[i]), width: thickness, colour)
    }
  }
  return image
}

/// The mean of each value and those up to `reach` before and after it.
private func movingMean(_ values: [Double], reach: Int) -> [Double] {
  values.indices.map { i in
    let window = values[max(0, i - reach)...min(values.count - 1, i + reach)]
    return window.reduce(0, +) / Double(window.count)
  }
}

/// An interval with ticks at 1, 2 or 5 times a power of ten.
private struct Axis {
  let low, high, step: Double

  init(from low: Double, to high: Double, roundOutwards: Bool = false) {
    let rough = max(high - low, 1e-6) / 5
    let power = pow(10, floor(log10(rough)))
    step = power * ([1, 2, 5].first { $0 * power >= rough } ?? 10)
    self.low = roundOutwards ? floor(low / step) * step : low
    self.high = roundOutwards ? max(ceil(high / step), floor(low / step) + 1) * step : high
  }

  var ticks: [Double] { (Int((low / step).rounded(.up))...Int((high / step).rounded(.down))).map { Double($0) * step } }
  func share(_ value: Double) -> Double { (value - low) / (high - low) }
  func label(_ tick: Double) -> String { fixed(tick, max(0, Int(-floor(log10(step) + 1e-9)))) }
}
