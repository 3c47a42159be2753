// From the text of PTX to the instructions of ptx.h.
#pragma once

namespace ptx {

typedef void (*Run)(Thread &, const Instruction &);
typedef std::vector<std::string> Parts;

inline Parts split(const std::string &text, char at) {
    Parts parts(1);
    int depth = 0;
    for (char c : text) {
        depth += (c == '{' || c == '[') - (c == '}' || c == ']');
        if (c == at && !depth) parts.emplace_back();
        else if (c != ' ' && c != '\t' && c != '\n') parts.back() += c;
    }
    return parts;
}

// f.operator()<T>() for the C++ type of a PTX type.
template <class F> Run by_type(const std::string &type, const F &f) {
    if (type == "f32") return f.template operator()<float>();
    if (type == "f64") return f.template operator()<double>();
    if (type == "u16" || type == "b16") return f.template operator()<uint16_t>();
    if (type == "s16") return f.template operator()<int16_t>();
    if (type == "u32" || type == "b32" || type == "pred") return f.template operator()<uint32_t>();
    if (type == "s32") return f.template operator()<int32_t>();
    if (type == "u64" || type == "b64") return f.template operator()<uint64_t>();
    if (type == "s64") return f.template operator()<int64_t>();
    throw Error("the type " + type);
}
template <class F> Run by_integer(const std::string &type, const F &f) {
    if (type[0] == 'f') throw Error("floats where integers are expected");
    return by_type(type, [&]<class T>() -> Run {
        if constexpr (std::is_integral_v<T>) return f.template operator()<T>();
        else return nullptr;
    });
}

struct Plus {
    template <class T> T operator()(T a, T b) const { return T(a + b); }
};
struct Minus {
    template <class T> T operator()(T a, T b) const { return T(a - b); }
};
struct Times {
    template <class T> T operator()(T a, T b) const { return T(a * b); }
};
struct Over {
    template <class T> T operator()(T a, T b) const { return a / b; }
};
struct Least {
    template <class T> T operator()(T a, T b) const { return std::min(a, b); }
};
struct Most {
    template <class T> T operator()(T a, T b) const { return std::max(a, b); }
};
struct And {
    template <class T> T operator()(T a, T b) const { return T(a & b); }
};
struct Or {
    template <class T> T operator()(T a, T b) const { return T(a | b); }
};
struct Xor {
    template <class T> T operator()(T a, T b) const { return T(a ^ b); }
};
struct Negated {
    template <class T> T operator()(T a) const { return T(-a); }
};
struct Inverted {
    template <class T> T operator()(T a) const { return T(~a); }
};
struct Absolute {
    template <class T> T operator()(T a) const { return std::fabs(a); }
};
struct Root {
    template <class T> T operator()(T a) const { return std::sqrt(a); }
};

struct Operation {
    Parts parts;
    const std::string &name() const { return parts[0]; }
    const std::string &type() const { return parts.back(); }
    bool has(const char *part) const { return std::find(parts.begin(), parts.end(), part) != parts.end(); }
    bool of_floats() const { return type()[0] == 'f'; }

    // One rounding, to nearest: nothing that ptxas may contract.
    void must_round() const {
        if (!has("rn")) throw Error("without .rn it may be contracted");
    }
};

template <class F> Run arithmetic(const Operation &op) {
    if (op.of_floats()) op.must_round();
    return by_type(op.type(), []<class T>() -> Run { return binary<T, F>; });
}
template <class F> Run logical(const Operation &op) {
    return by_integer(op.type(), []<class T>() -> Run { return binary<T, F>; });
}

inline Run product(const Operation &op) {
    if (op.of_floats()) return arithmetic<Times>(op);
    if (op.has("hi") && op.type() == "u32") return high_product;
    if (op.has("lo"))
        return by_integer(op.type(), []<class T>() -> Run { return binary<std::make_unsigned_t<T>, Times>; });
    if (op.has("wide") && op.type() == "u32") return wide_product<uint32_t>;
    if (op.has("wide") && op.type() == "s32") return wide_product<int32_t>;
    if (op.has("wide") && op.type() == "u16") return wide_product<uint16_t>;
    throw Error("a product");
}

inline Run comparison(const Operation &op) {
    const std::string &how = op.parts[1];
    return by_type(op.type(), [&]<class T>() -> Run {
        // An unordered inequality holds for NaN, as != does.
        if (how == "neu" || how == "ne") return compare<T, std::not_equal_to<>>;
        if (how == "eq") return compare<T, std::equal_to<>>;
        if (how == "lt" || how == "lo") return compare<T, std::less<>>;
        if (how == "le" || how == "ls") return compare<T, std::less_equal<>>;
        if (how == "gt" || how == "hi") return compare<T, std::greater<>>;
        if (how == "ge" || how == "hs") return compare<T, std::greater_equal<>>;
        throw Error("a comparison");
    });
}

inline Run conversion(const Operation &op) {
    const std::string to = op.parts[op.parts.size() - 2], from = op.type();
    if (to == "f16" && from == "f32" && op.has("rn")) return convert<_Float16, float>;
    if (to == "f32" && from == "f16") return convert<float, _Float16>;
    if (to == "f64" && from == "f32") return convert<double, float>;
    if (to[0] == 'f') op.must_round();
    return by_type(to, [&]<class D>() -> Run {
        return by_type(from, []<class S>() -> Run {
            if constexpr (std::is_floating_point_v<S> && std::is_integral_v<D>) throw Error("a float to an integer");
            else return convert<D, S>;
        });
    });
}

template <bool loads> Run access(const Operation &op) {
    return by_type(op.type(), [&]<class T>() -> Run {
        if (op.has("global")) return loads ? load<T, global> : store<T, global>;
        if (op.has("shared")) return loads ? load<T, shared> : store<T, shared>;
        if (op.has("param") && loads) return load<T, param>;
        throw Error("memory of another kind");
    });
}

inline Run operation(const Operation &op) {
    const std::string &name = op.name();
    if (op.has("ftz") || op.has("approx") || op.has("full") || op.has("sat") || name == "fma")
        throw Error("another rounding than the CPU's");
    if (name == "add") return arithmetic<Plus>(op);
    if (name == "sub") return arithmetic<Minus>(op);
    if (name == "mul") return product(op);
    if (name == "div" && op.of_floats()) return arithmetic<Over>(op);
    if (name == "mad" && op.has("lo") && !op.of_floats())
        return by_integer(op.type(), []<class T>() -> Run { return low_sum<std::make_unsigned_t<T>>; });
    if (name == "sqrt" && op.of_floats()) {
        op.must_round();
        return op.type() == "f32" ? unary<float, Root> : unary<double, Root>;
    }
    if (name == "neg") return by_type(op.type(), []<class T>() -> Run { return unary<T, Negated>; });
    if (name == "abs") return op.type() == "f32" ? unary<float, Absolute> : unary<double, Absolute>;
    if (name == "not") return by_integer(op.type(), []<class T>() -> Run { return unary<T, Inverted>; });
    if (name == "min") return logical<Least>(op);
    if (name == "max") return logical<Most>(op);
    if (name == "and") return logical<And>(op);
    if (name == "or") return logical<Or>(op);
    if (name == "xor") return logical<Xor>(op);
    if (name == "shl") return by_integer(op.type(), []<class T>() -> Run { return shift_left<T>; });
    if (name == "shr") return by_integer(op.type(), []<class T>() -> Run { return shift_right<T>; });
    if (name == "bfe" && op.type() == "u32") return bit_field<uint32_t>;
    if (name == "mov" || name == "cvta") return by_type(op.type(), []<class T>() -> Run { return move<T>; });
    if (name == "selp") return by_type(op.type(), []<class T>() -> Run { return select<T>; });
    if (name == "setp") return comparison(op);
    if (name == "cvt") return conversion(op);
    if (name == "ld" && op.has("relaxed") && op.has("gpu") && op.type() == "u64") return load_relaxed;
    if (name == "ld") return access<true>(op);
    if (name == "st") return access<false>(op);
    if (name == "atom" && op.has("inc") && op.type() == "u32") return count_atomically;
    if (name == "atom" && op.has("cas") && op.type() == "b64") return compare_and_swap;
    if (name == "shfl" && op.has("bfly")) return shuffle_xor;
    if (name == "shfl" && op.has("idx")) return shuffle_from;
    if (name == "bar" && op.has("warp")) return warp_barrier;
    if (name == "bar" && op.has("sync")) return block_barrier;
    if (name == "bra") return branch;
    if (name == "ret") return leave;
    throw Error("an unknown instruction");
}

inline size_t size_of(const std::string &type) { return type == "pred" ? 4 : std::stoul(type.substr(1)) / 8; }

// One module: kernels, and the places of shared variables.
struct Module {
    std::map<std::string, Kernel> kernels;
    std::map<std::string, uint64_t> symbols;
    size_t shared_size = 0;

    explicit Module(const std::string &text) {
        std::string statement;
        for (size_t i = 0, line = 1; i < text.size(); i++) {
            const char c = text[i];
            if (c == '\n') line++;
            try {
                take(c, statement);
            } catch (const std::exception &error) {
                throw Error("line " + std::to_string(line) + ": " + statement + ": " + error.what());
            }
        }
    }

  private:
    Kernel *kernel = nullptr;
    std::map<std::string, uint64_t> parameters;
    std::map<std::string, int> registers;
    std::map<std::string, int> labels;
    std::vector<std::pair<int, std::string>> jumps;
    std::string kernel_name;
    int depth = 0;

    // A statement ends with ; a label with : and a kernel's head with the { after it.
    void take(char c, std::string &statement) {
        const bool vector =
            statement.find_first_not_of(" \n") != std::string::npos && statement.find(".entry") == std::string::npos;
        if (c == ';') statement_ended(statement), statement.clear();
        else if (c == ':' && kernel && statement.find(' ') == std::string::npos)
            labels[strip(statement)] = (int)kernel->code.size(), statement.clear();
        else if (c == '{' && !vector) {
            if (!depth++ && statement.find(".entry") != std::string::npos) begin_kernel(statement);
            statement.clear();
        } else if (c == '}' && strip(statement).empty()) {
            if (!--depth) end_kernel();
            statement.clear();
        } else if (c == '\n' && !kernel && statement.rfind(".version", 0) == 0) statement.clear();
        else if (c == '\n' && !kernel && (statement.rfind(".target", 0) == 0 || statement.rfind(".address", 0) == 0))
            statement.clear();
        else if (c == '\n' && strip(statement).empty()) statement.clear();
        else statement += c == '\n' || c == '\t' ? ' ' : c;
    }

    static std::string strip(std::string text) {
        text.erase(0, text.find_first_not_of(" \n\t"));
        text.erase(text.find_last_not_of(" \n\t") + 1);
        return text;
    }

    // .entry NAME(.param .align 8 .b8 NAME[SIZE], ...)
    void begin_kernel(const std::string &head) {
        const size_t open = head.find('('), close = head.find(')');
        const size_t name = head.find(".entry") + 6;
        kernel_name = strip(head.substr(name, open - name));
        kernel = &kernels[kernel_name];
        parameters.clear(), registers.clear(), labels.clear(), jumps.clear();
        for (const std::string &part : ptx::split(head.substr(open + 1, close - open - 1), ',')) {
            const size_t bracket = part.find('['), symbol = part.find("b8") + 2;
            if (part.find(".b8") == std::string::npos || bracket == std::string::npos) throw Error("a parameter");
            parameters[part.substr(symbol, bracket - symbol)] = kernel->size;
            kernel->size += std::stoul(part.substr(bracket + 1));
        }
    }

    void end_kernel() {
        if (!kernel) return;
        for (auto &[at, label] : jumps) {
            if (!labels.count(label)) throw Error("no label " + label);
            kernel->code[at].target = labels[label];
        }
        kernel = nullptr;
    }

    void statement_ended(const std::string &text) {
        std::string s = strip(text);
        if (s.empty() || s.rfind(".pragma", 0) == 0) return;
        if (s.rfind(".reg", 0) == 0) return declare_registers(s);
        if (s[0] == '.' && s.find(".shared") != std::string::npos) return declare_shared(s);
        if (s[0] == '.') throw Error("a directive");
        instruction(s);
    }

    // .reg .b32 %r<100>; or of one name
    void declare_registers(const std::string &s) {
        const size_t open = s.find('<');
        const std::string name = s.substr(s.rfind(' ') + 1, open - s.rfind(' ') - 1);
        if (open == std::string::npos) registers[s.substr(s.rfind(' ') + 1)] = kernel->registers++;
        else
            for (int i = 0; i < std::stoi(s.substr(open + 1)); i++)
                registers[name + std::to_string(i)] = kernel->registers++;
    }

    // .shared .align 16 .b8 NAME[SIZE], without a value
    void declare_shared(const std::string &s) {
        const size_t align = s.find(".align") + 6, bracket = s.find('[');
        const size_t type = s.find('.', align), name = s.find(' ', type);
        const size_t alignment = std::stoul(s.substr(align)),
                     each = size_of(strip(s.substr(type + 1, name - type - 1)));
        shared_size = (shared_size + alignment - 1) / alignment * alignment;
        symbols[strip(s.substr(name, bracket - name))] = shared_size;
        shared_size += each * (bracket == std::string::npos ? 1 : std::stoul(s.substr(bracket + 1)));
        if (shared_size > cta::shared_room) throw Error("too much shared memory for the emulation");
    }

    Value value(const std::string &text, const std::string &type) {
        static const std::map<std::string, Value::Kind> special = {
            {"%tid.x", Value::tid},      {"%ctaid.x", Value::cta_x},   {"%ctaid.y", Value::cta_y},
            {"%ctaid.z", Value::cta_z},  {"%nctaid.x", Value::grid_x}, {"%nctaid.y", Value::grid_y},
            {"%nctaid.z", Value::grid_z}};
        if (auto i = special.find(text); i != special.end()) return {i->second, 0};
        if (registers.count(text)) return {Value::reg, (uint64_t)registers[text]};
        if (parameters.count(text)) return {Value::constant, parameters[text]};
        if (symbols.count(text)) return {Value::constant, symbols[text]};
        if (text.rfind("0f", 0) == 0 || text.rfind("0d", 0) == 0)
            return {Value::constant, std::stoull(text.substr(2), nullptr, 16)};
        if (type == "f32" || type == "f64") throw Error("a number " + text);
        if (text[0] != '-' && !isdigit(text[0])) throw Error("an operand " + text);
        return {Value::constant,
                text[0] == '-' ? (uint64_t)std::stoll(text, nullptr, 0) : std::stoull(text, nullptr, 0)};
    }

    // [name], [%r+8] or [%r+-8]
    Value address(const std::string &text, int64_t &offset) {
        const size_t plus = text.find('+');
        const std::string base = text.substr(1, std::min(plus, text.size() - 1) - 1);
        offset = plus == std::string::npos ? 0 : std::stoll(text.substr(plus + 1));
        return value(base, "b64");
    }

    void instruction(std::string s) {
        Instruction i;
        if (s[0] == '@') {
            i.unless = s[1] == '!';
            const size_t space = s.find(' ');
            i.guard = (int)value(s.substr(i.unless ? 2 : 1, space - (i.unless ? 2 : 1)), "pred").number;
            s = strip(s.substr(space));
        }
        const size_t space = s.find(' ');
        const Operation op = {ptx::split(s.substr(0, space), '.')};
        Parts a = space == std::string::npos ? Parts() : ptx::split(s.substr(space), ',');
        i.run = operation(op);
        if (op.name() == "bra") jumps.push_back({(int)kernel->code.size(), a[0]});
        else if (op.name() == "mov" && (a[0][0] == '{' || a[1][0] == '{')) halves(i, op.type(), a);
        else if (op.name() == "ld" || op.name() == "st") memory(i, op, a);
        else if (op.name() == "atom") {
            i.v[0] = value(a[0], op.type()), i.v[1] = address(a[1], i.offset);
            for (size_t n = 2; n < a.size(); n++) i.v[n] = value(a[n], op.type());
        } else if (op.name() == "shfl") {
            i.v[0] = value(a[0].substr(0, a[0].find('|')), "b32");
            for (size_t n = 1; n < a.size(); n++) i.v[n] = value(a[n], "b32");
        } else if (op.name() != "bar" && op.name() != "ret") {
            for (size_t n = 0; n < a.size(); n++) i.v[n] = value(a[n], op.type());
        }
        kernel->code.push_back(i);
    }

    // mov.b64 {%r1, %r2}, %rd1 and mov.b64 %rd1, {%r1, %r2}
    void halves(Instruction &i, const std::string &type, const Parts &a) {
        if (type != "b64" && type != "b32") throw Error("halves of another type");
        const bool splits = a[0][0] == '{';
        const std::string &both = splits ? a[0] : a[1];
        const Parts two = ptx::split(both.substr(1, both.size() - 2), ',');
        if (type == "b64") i.run = splits ? ptx::split<uint64_t, uint32_t> : join<uint64_t, uint32_t>;
        else i.run = splits ? ptx::split<uint32_t, uint16_t> : join<uint32_t, uint16_t>;
        const int first = splits ? 0 : 1;
        for (int n = 0; n < 2; n++) i.v[first + n] = value(two[n], type);
        if (splits) i.v[2] = value(a[1], type);
        else i.v[0] = value(a[0], type);
    }

    void memory(Instruction &i, const Operation &op, const Parts &a) {
        const bool loads = op.name() == "ld";
        const std::string &registers = a[loads ? 0 : 1];
        const Parts all =
            registers[0] == '{' ? ptx::split(registers.substr(1, registers.size() - 2), ',') : Parts{registers};
        i.width = (int)all.size();
        const int expected = op.has("v4") ? 4 : op.has("v2") ? 2 : 1;
        if (i.width != expected) throw Error("another count of registers");
        for (int n = 0; n < i.width; n++) i.v[n] = value(all[n], op.type());
        i.v[i.width] = address(a[loads ? 1 : 0], i.offset);
    }
};

} // namespace ptx
