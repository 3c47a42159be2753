import ChunkGRPO
import ChunkGRPOTraining
import DemoSupport

/// The demo's settings that are not options.
private enum Setting {
  static let wrongPrompts = 0.3
  static let pretrainingSteps = 1000
  static let promptsPerIteration = 8
  static let referenceKL = 0.35
  static let evaluated = 2000
  static let iterationsPerCheckpoint = 50
}

/// Drawn images and what the classifiers see in them; image i is for digit i mod 10.
struct Evaluation {
  var images: [Pixels]
  var judged: [Int]
  var quality: Quality
}

/// The phases, from the data to the pictures.
struct Demo {
  private let options: Options
  private let digits: Digits
  private let seed: UInt64
  private let resumed: ChunkGRPOTrainer?
  private let rewardModel, judge: Classifier
  private let classifierAccuracy: (rewardModel: Double, judge: Double)
  /// The real digits in the judge's features, and their spread.
  private let real: (features: Gaussian, spread: Double)
  private var timer = PhaseTimer()

  private var checkpoint: String { options.output + "/checkpoint" }
  /// The model before Chunk-GRPO: a resumed run needs it for the picture and the table.
  private var pretrained: String { options.output + "/pretrained" }

  init(_ options: Options) throws {
    self.options = options
    digits = try Digits(contentsOf: options.data)
    try makeFolder(options.output)
    resumed = options.resume ? try ChunkGRPOTrainer(loading: options.output + "/checkpoint") : nil
    seed = resumed?.options.seed ?? options.seed ?? 0
    if let wanted = options.seed, wanted != seed {
      throw DemoError("the checkpoint in \(options.output) is of seed \(seed), not \(wanted)")
    }
    say("\(digits.count) handwritten digits, seed \(seed)\n")

    var random = SplitMix64(seed: seed)
    let (mine, others) = digits.halves(using: &random)
    rewardModel = Classifier(mine, hidden: 96, seed: random.next())
    judge = Classifier(others, hidden: 64, seed: random.next())
    classifierAccuracy = (
      rewardModel.accuracy(others.images, others.labels), judge.accuracy(mine.images, mine.labels)
    )
    real = (Gaussian(digits.images.map(judge.features)), spread(digits.images, digits.labels))
    timer.finish("classifiers")
    say(
      "  Classifiers     on the half that it has not seen, the reward model is right for \(percent(classifierAccuracy.rewardModel)),"
        + " the judge for \(percent(classifierAccuracy.judge))\n")
  }

  mutating func run() throws {
    var metrics: Metrics
    let trainer: ChunkGRPOTrainer
    let before: Evaluation
    let path = options.output + "/metrics.jsonl"
    if let resumed {
      metrics = try Metrics(path: path, upTo: resumed.iterations)
      trainer = resumed
      before = try evaluate(ChunkGRPOTrainer(loading: pretrained))
    } else {
      metrics = Metrics(path: path)
      metrics.add(
        "classifiers", ["reward_model": classifierAccuracy.rewardModel, "judge": classifierAccuracy.judge])
      metrics.add("real", ["spread": real.spread])
      trainer = try pretrain(&metrics)
      before = try evaluate(trainer)
      record("before", before.quality, in: &metrics)
      try trainer.save(to: pretrained)
      try save(trainer, metrics)
    }
    timer.finish("evaluation")

    try postTrain(trainer, &metrics)
    let after = try evaluate(trainer)
    record("after", after.quality, in: &metrics)
    timer.finish("evaluation")

    try metrics.save()
    let samples = samplesPicture(before: before, after: after)
    let curve = curvePicture("mean reward of the rollouts, and its moving mean", metrics.rewards)
    try writeFile(options.output + "/samples.png", samples.png)
    try writeFile(options.output + "/reward.png", curve.png)
    let table = table(before.quality, after.quality)
    try writeFile(options.output + "/index.html", Array(page(table, samples, curve, trainer).html.utf8))
    timer.finish("pictures")
    print()
    for row in table {
      print(row[0].padded(to: 36) + row.dropFirst().map { $0.padded(to: 14, left: true) }.joined())
    }
    print("\n\(timer.summary)\n\(options.output): index.html, samples.png, reward.png, metrics.jsonl, checkpoint")
  }

  // MARK: Phases

  private mutating func pretrain(_ metrics: inout Metrics) throws -> ChunkGRPOTrainer {
    // The defaults: 17 steps, shift 3, eta 0.7, chunks 2-3-4-7, groups of 12 that share their initial noise.
    var options = TrainerOptions(latentSize: 64, conditionSize: 10)
    options.seed = seed
    // Against collapse: close to the pretrained model, by the KL divergence of whole trajectories, which is that of all
    // steps. The average over more optimiser steps has less of their noise.
    (options.referenceKL, options.referenceDivergence) = (Setting.referenceKL, .gaussian)
    (options.chunkFraction, options.emaDecay) = (1, 0.99)
    let trainer = try ChunkGRPOTrainer(options)
    var pretraining = PretrainOptions()
    pretraining.steps = Setting.pretrainingSteps
    var random = SplitMix64(seed: ~seed)
    let prompts = oneHot(digits.prompts(wrong: Setting.wrongPrompts, using: &random))
    let progress = Progress("Flow matching")
    var losses: [(step: Int, loss: Double)] = []
    try trainer.pretrain(
      images: numbers(digits.images), conditions: prompts, options: pretraining
    ) { done, total, loss in
      progress.show(done, of: total, "loss \(fixed(loss, 3))")
      losses.append((done, loss))
    }
    for (step, loss) in losses { metrics.add("flow_matching", ["step": Double(step), "loss": loss]) }
    timer.finish("flow matching")
    return trainer
  }

  private mutating func postTrain(_ trainer: ChunkGRPOTrainer, _ metrics: inout Metrics) throws {
    let progress = Progress("Chunk-GRPO")
    let total = options.iterations
    while trainer.iterations < total {
      // The digits take turns: each is asked for four times in five.
      let first = trainer.iterations * Setting.promptsPerIteration
      let prompts = (first..<first + Setting.promptsPerIteration).map { $0 % 10 }
      let report = try trainer.iterate(conditions: oneHot(prompts)) { images, promptOfImage in
        zip(promptOfImage, pixels(images)).map { rewardModel.guess($1) == prompts[$0] ? 1 : 0 }
      }
      progress.show(report.iteration, of: total, "reward \(fixed(report.rewardMean, 3))")
      record(report, in: &metrics)
      if report.iteration % Setting.iterationsPerCheckpoint == 0 || report.iteration == total {
        try save(trainer, metrics)
      }
    }
    timer.finish("Chunk-GRPO")
  }

  /// What `--resume` needs: the metrics first, since it ignores those that go beyond the checkpoint.
  private func save(_ trainer: ChunkGRPOTrainer, _ metrics: Metrics) throws {
    try metrics.save()
    try trainer.save(to: checkpoint)
  }

  /// Draws by the ODE, as one would with a trained model: the noise of the rollouts is for exploring. The seed is
  /// always the same, so that before and after start from the same noise.
  private func evaluate(_ trainer: ChunkGRPOTrainer) throws -> Evaluation {
    let asked = (0..<Setting.evaluated).map { $0 % 10 }
    let images = try pixels(trainer.sample(conditions: oneHot(asked), eta: 0, seed: 2025))
    let judged = images.map(judge.guess)
    let right = asked.indices.filter { judged[$0] == asked[$0] }
    return Evaluation(
      images: images, judged: judged,
      quality: Quality(
        rewardModel: rewardModel.accuracy(images, asked), judge: Double(right.count) / Double(asked.count),
        spread: spread(right.map { images[$0] }, right.map { asked[$0] }),
        frechet: Gaussian(images.map(judge.features)).frechetDistance(to: real.features)))
  }

  // MARK: Results

  private func record(_ phase: String, _ quality: Quality, in metrics: inout Metrics) {
    metrics.add(
      phase,
      [
        "reward_model": quality.rewardModel, "judge": quality.judge, "spread": quality.spread,
        "frechet": quality.frechet,
      ])
  }

  private func record(_ r: IterationReport, in metrics: inout Metrics) {
    metrics.add(
      "chunk_grpo",
      [
        "iteration": Double(r.iteration), "reward": r.rewardMean, "reward_std": r.rewardStd, "loss": r.loss,
        "grad_norm": r.gradNorm, "ratio_std": r.stats.ratioStd, "clip_fraction_low": r.stats.clipFractionLow,
        "clip_fraction_high": r.stats.clipFractionHigh, "approximate_kl": r.stats.approximateKL,
        "reference_divergence": r.referenceDivergence,
        "rollout_seconds": r.rolloutSeconds, "reward_seconds": r.rewardSeconds, "update_seconds": r.updateSeconds,
      ])
  }

  private func table(_ before: Quality, _ after: Quality) -> [[String]] {
    [
      ["", "pretrained", "Chunk-GRPO", "real digits"],
      ["right, by the reward model", percent(before.rewardModel), percent(after.rewardModel), ""],
      ["right, by the independent judge", percent(before.judge), percent(after.judge), ""],
      ["spread of the right ones", fixed(before.spread, 3), fixed(after.spread, 3), fixed(real.spread, 3)],
      ["Fréchet distance to real digits", fixed(before.frechet, 2), fixed(after.frechet, 2), "0"],
    ]
  }

  private func page(_ table: [[String]], _ samples: Image, _ curve: Image, _ trainer: ChunkGRPOTrainer) -> Page {
    Page(
      title: "A model learns to draw the digit that it is asked for",
      introduction: [
        """
        A flow-matching model learned from \(digits.count) handwritten digits of 8×8 pixels, of which \
        \(percent(Setting.wrongPrompts)) had the wrong label. Chunk-GRPO then put it right in \(trainer.iterations) \
        iterations by a reward alone: 1 for a picture that a classifier reads as asked, else 0.
        """,
        """
        The judge is a second classifier, which learned from other images and gave no reward. The numbers are of \
        \(Setting.evaluated) pictures; seed \(seed). Spread is the mean standard deviation of a pixel among the right \
        pictures of a digit: training by reward makes pictures alike, and here a divergence from the pretrained model \
        holds that back.
        """,
      ], table: table,
      pictures: [
        (
          samples, "Digits before and after Chunk-GRPO, a column for each digit asked for",
          "Before and after, from the same initial noise at the same place. Red: the judge reads another digit."
        ),
        (curve, "The mean reward by iteration", "The share of the rollouts' pictures that are read as asked."),
      ])
  }
}

private func percent(_ share: Double) -> String { fixed(100 * share, 1) + " %" }

/// Seconds of each phase.
private struct PhaseTimer {
  private var start = seconds()
  private var phases: [(name: String, seconds: Double)] = []

  /// The time since the last call belongs to this phase.
  mutating func finish(_ name: String) {
    let now = seconds()
    if let known = phases.firstIndex(where: { $0.name == name }) {
      phases[known].seconds += now - start
    } else {
      phases.append((name, now - start))
    }
    start = now
  }

  var summary: String {
    let parts = phases.map { "\($0.name) \(fixed($0.seconds, 1))" }
    return "\(fixed(phases.reduce(0) { $0 + $1.seconds }, 1)) seconds: " + parts.joined(separator: ", ")
  }
}
