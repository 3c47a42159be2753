import DemoSupport

/// Samples before and after, side by side: one column per prompt, the same initial noise at the same place, red where
/// the judge reads another digit than the one asked for. Sample i is for digit i mod 10.
func samplesPicture(before: Evaluation, after: Evaluation, rows: Int = 8) -> Image {
  let (scale, pitch, margin, top) = (4, 36, 20, 74)
  let side = 10 * pitch - 4
  var image = Image(width: 2 * side + 3 * margin + 8, height: top + rows * pitch + 40)
  for (title, evaluation, left) in [
    ("before", before, margin), ("after Chunk-GRPO", after, 2 * margin + side + 8),
  ] {
    image.write("\(title): \(fixed(100 * evaluation.quality.judge, 1)) % right", x: left + side / 2, y: 12, align: 0.5)
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
