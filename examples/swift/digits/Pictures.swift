import Glibc

/// Samples before and after, side by side: one column a prompt, the same initial noise at the same place, red where the
/// judge reads another digit than the one asked for. Sample i is for digit i mod 10.
func samplesPicture(before: Evaluation, after: Evaluation, rows: Int = 8) -> Image {
  let (scale, pitch, margin, top) = (4, 36, 20, 74)
  let side = 10 * pitch - 4
  var image = Image(width: 2 * side + 3 * margin + 8, height: top + rows * pitch + 40)
  for (title, evaluation, left) in [
    ("before", before, margin), ("after Chunk-GRPO", after, 2 * margin + side + 8),
  ] {
    image.write("\(title): \(fixed(100 * evaluation.accuracy.judge, 1)) % right", x: left + side / 2, y: 12, align: 0.5)
    for digit in 0..<10 {
      image.write("\(digit)", x: left + digit * pitch + 16, y: 44, align: 0.5, .blue)
    }
    image.fill(x: left, y: 64, width: side, height: 1, .grey)
    for i in 0..<10 * rows {
      image.draw(
        evaluation.images[i], x: left + i % 10 * pitch, y: top + i / 10 * pitch, scale: scale,
        evaluation.judged[i] == i % 10 ? .ink : .red)
    }
  }
  let bottom = top + rows * pitch + 10
  image.write("blue: asked for", x: margin, y: bottom, .blue)
  image.write("red: the judge reads another digit", x: image.width - margin, y: bottom, align: 1, .red)
  return image
}

/// The mean reward of each iteration, and its mean over a window.
func rewardPicture(_ rewards: [Double]) -> Image {
  var image = Image(width: 720, height: 400)
  let (left, right, top, bottom) = (76, 690, 52, 348)
  let xs = Axis(from: 0, to: Double(max(2, rewards.count)))
  let ys = Axis(from: rewards.min() ?? 0, to: rewards.max() ?? 1, roundOutwards: true)
  func point(_ x: Double, _ y: Double) -> SIMD2<Float> {
    [
      Float(Double(left) + xs.share(x) * Double(right - left)),
      Float(Double(bottom) - ys.share(y) * Double(bottom - top)),
    ]
  }

  image.write("mean reward: probability of the digit asked for", x: left, y: 16)
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

  let smooth = movingMean(rewards, reach: 5)
  for (values, thickness, colour) in [(rewards, 1.6 as Float, Colour.sky), (smooth, 3, .blue)] {
    for i in values.indices.dropFirst() {
      image.line(
        from: point(Double(i), values[i - 1]), to: point(Double(i + 1), values[i]), width: thickness, colour)
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
