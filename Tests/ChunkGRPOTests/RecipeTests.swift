import ChunkGRPO
import Testing

@Suite("Recipes")
struct RecipeTests {
  @Test(
    "Every recipe makes a sampler, a plan over its trained steps and a loss, for any iteration", arguments: Recipe.names
  )
  func recipesRun(name: String) throws {
    let recipe = try Recipe.named(name)
    #expect(
      recipe.name == name && recipe.description.hasPrefix(name) && !recipe.follows.isEmpty && !recipe.refuses.isEmpty)
    for iteration in [0, 1, 24, 25, 399, 460, 499, 575, 10_000] {
      let sampler = try recipe.sampler(iteration: iteration)
      let trained = try recipe.trainedSteps(iteration: iteration)
      let plan = try recipe.plan(iteration: iteration)
      #expect(!trained.isEmpty && plan.steps == trained.count && sampler.schedule.sigmas.last == 0)
      if let window = recipe.window {
        #expect(try trained == SDEWindow(window).steps(iteration: iteration).filter { $0 < sampler.trainedSteps })
      }
    }
    let trained = try recipe.trainedSteps().count
    let rewards = try normals(recipe.groupSize * 2, seed: 1)
    var o = recipe.advantages
    o.groupSize = recipe.groupSize
    let a = try advantages(rewards, o)
    var loss = recipe.loss
    if loss.surrogate == .divergenceMask { loss.divergence = Numbers(Array(repeating: 0, count: a.count * trained)) }
    let logProbs = Array(repeating: -0.5, count: a.count * trained)
    let result = try chunkLoss(new: logProbs, old: logProbs, advantages: a, plan: recipe.plan(), options: loss)
    #expect(result.ratios.allSatisfy { $0 == 1 })
  }

  @Test("GCPO's numbers are those of its script")
  func gcpo() throws {
    let r = try Recipe.named("gcpo")
    #expect(r.steps == 17 && r.sampler.eta == 0.7 && r.groupSize == 12 && r.sharesNoise && r.truncatedTimesteps)
    #expect(r.chunkSizes == [2, 3, 4, 7] && r.chunkFraction == 0.5 && r.loss.clip == .gcpo && r.loss.kl == 0)
    #expect(try r.schedule() == Schedule.shifted(steps: 17, shift: 3))
  }

  @Test("MixGRPO-Flash has fewer steps after its window, and always reaches 0")
  func flash() throws {
    let r = try Recipe.named("mixgrpo_flash")
    #expect(try r.schedule().steps == 4 + Int(22 * 0.4) - 1)
    for iteration in 0..<500 { #expect(try r.schedule(iteration: iteration).sigmas.last == 0) }
  }

  @Test("An unknown name is answered with those there are")
  func unknown() {
    let thrown = #expect(throws: ChunkGRPOError.self) { try Recipe.named("ppo") }
    #expect(thrown?.message.contains("gcpo, dancegrpo") == true)
  }
}
