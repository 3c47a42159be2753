// The kernels of the library's PTX on the CPU: see ptx.h.
#include "ptx.h"
#include "arguments.h"

// Registers all kernels of a text, which stay.
void register_ptx(const std::string &text) {
    const auto *module = new ptx::Module(text);
    for (auto &[name, kernel] : module->kernels)
        cta::Register(name, {[&kernel = kernel](const void *arguments) { ptx::run(kernel, arguments); }, kernel.size});
}

static std::string text_of(const char *latents, const char *velocity) {
    chunkgrpo_cuda_Text text;
    if (!chunkgrpo_cuda_text(latents, velocity, &text)) fprintf(stderr, "no text\n"), exit(2);
    std::string result(text.size + 1, 0);
    if (!chunkgrpo_cuda_unpack(&text, result.data())) fprintf(stderr, "a damaged text\n"), exit(2);
    result.pop_back();
    return result;
}

// An edit of the text, for mutants: OLD=NEW.
static std::string edited(std::string text) {
    const char *edit = getenv("PTX_EDIT");
    if (!edit) return text;
    const std::string rule = edit, from = rule.substr(0, rule.find("=>")), to = rule.substr(rule.find("=>") + 2);
    for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
        text.replace(at, from.size(), to);
    return text;
}

static const bool registered = [] {
    const char *pairs[][2] = {{"f32", "f32"}, {"f64", "f64"},  {"bf16", "bf16"},
                              {"f16", "f16"}, {"f32", "bf16"}, {"f32", "f16"}};
    for (auto &pair : pairs) try {
            register_ptx(edited(text_of(pair[0], pair[1])));
        } catch (const ptx::Error &error) {
            printf("refused: %s\n", error.what());
            exit(3);
        }
    return true;
}();
