// Native tests: every ISA this CPU has against plain loops, sizes around the vectors, unaligned inputs; the pool.
// No framework: CHECK counts failures, main returns them. The cases of ops/cases.py test the same kernels from Python;
// these run without Python, under sanitizers or an emulator of another CPU.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "dispatch.h"
#include "threads.h"

namespace twofold {
namespace {

int failures = 0;

#define CHECK(condition, ...)                                           \
    do {                                                                \
        if (!(condition)) {                                             \
            ++failures;                                                 \
            std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
            std::printf(__VA_ARGS__);                                   \
            std::printf("\n");                                          \
        }                                                               \
    } while (0)

// A small generator of our own: the same numbers everywhere.
struct Random {
    uint64_t state;
    uint32_t next() {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        return static_cast<uint32_t>(state >> 33);
    }
    float uniform() { return static_cast<float>(next() % 20001) / 10000.0f - 1.0f; }
};

// Floats that begin four bytes after a cache line.
struct Floats {
    std::vector<float> memory;
    float* data;
    explicit Floats(int64_t count) : memory(static_cast<size_t>(count) + 32) {
        const auto address = reinterpret_cast<uintptr_t>(memory.data());
        data = memory.data() + (64 - address % 64) / 4 % 16 + 1;
    }
    Floats(int64_t count, Random& random) : Floats(count) {
        for (int64_t i = 0; i < count; ++i) data[i] = random.uniform();
    }
};

struct Packed {
    std::vector<uint8_t> codes, multipliers;
    std::vector<float> scales;
    Weight view;
};

int64_t padded(int64_t count, int64_t step) { return (count + step - 1) / step * step; }

// A weight packed by the kernels under test; CHECKed against the generic ones, bit for bit.
Packed pack(const Kernels& kernels, Format format, const float* values, int64_t rows, int64_t columns) {
    const int64_t all_rows = padded(rows, kPanelRows), width = padded(columns, kColumnStep);
    Packed result;
    result.codes.resize(static_cast<size_t>(all_rows * width));
    result.multipliers.resize(static_cast<size_t>(all_rows / 2 * width / kGroupColumns));
    result.scales.resize(static_cast<size_t>(all_rows));
    const WeightOut into{format, result.codes.data(), result.multipliers.data(), result.scales.data(), rows, columns};
    kernels.encode(SourceRows{Source::kF32, values, rows, columns, columns, 1}, nullptr, into, 0);
    result.view =
        Weight{format, result.codes.data(), result.multipliers.data(), result.scales.data(), 1, rows, columns};
    return result;
}

void test_products(const Isa& isa, int64_t tokens, int64_t rows, int64_t columns) {
    Random random{static_cast<uint64_t>(tokens * 1000 + rows * 100 + columns)};
    const Floats x(tokens * columns, random), w(rows * columns, random);
    Floats y(tokens * rows), expected(tokens * rows);
    const Rows input{x.data, tokens, columns, columns};

    const auto half_of = [](float& value) {  // the value becomes one that bf16 keeps
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bits &= 0xFFFF0000u;
        std::memcpy(&value, &bits, 4);
        return static_cast<uint16_t>(bits >> 16);
    };
    std::vector<uint16_t> halves(static_cast<size_t>(rows * columns));
    for (int64_t i = 0; i < rows * columns; ++i) halves[static_cast<size_t>(i)] = half_of(w.data[i]);
    for (int64_t i = 0; i < tokens * columns; ++i) half_of(x.data[i]);
    const Weight floats[] = {{Format::kF32, w.data, nullptr, nullptr, 1, rows, columns},
                             {Format::kBf16, halves.data(), nullptr, nullptr, 1, rows, columns}};
    for (const Weight& weight : floats) {
        isa.kernels->linear(input, weight, y.data);
        for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t n = 0; n < rows; ++n) {
                double sum = 0;
                for (int64_t d = 0; d < columns; ++d) sum += double(x.data[t * columns + d]) * w.data[n * columns + d];
                CHECK(std::fabs(y.data[t * rows + n] - sum) <= 1e-5 * (1 + double(columns)),
                      "%s format %d, %ld x %ld x %ld", isa.name.c_str(), int(weight.format), long(tokens), long(rows),
                      long(columns));
            }
            isa.kernels->linear(Rows{x.data + t * columns, 1, columns, columns}, weight, expected.data);
            CHECK(std::memcmp(y.data + t * rows, expected.data, static_cast<size_t>(rows) * 4) == 0,
                  "%s format %d: row %ld of %ld x %ld x %ld depends on the others", isa.name.c_str(),
                  int(weight.format), long(t), long(tokens), long(rows), long(columns));
        }
    }

    for (const Format format : {Format::kInt8, Format::kInt4}) {
        const Packed mine = pack(*isa.kernels, format, w.data, rows, columns);
        const Packed plain = pack(generic::kernels, format, w.data, rows, columns);
        CHECK(mine.codes == plain.codes && mine.multipliers == plain.multipliers && mine.scales == plain.scales,
              "%s packs %ld x %ld otherwise", isa.name.c_str(), long(rows), long(columns));
        isa.kernels->linear(input, mine.view, y.data);
        generic::kernels.linear(input, plain.view, expected.data);
        CHECK(std::memcmp(y.data, expected.data, static_cast<size_t>(tokens * rows) * 4) == 0,
              "%s format %d, %ld x %ld x %ld", isa.name.c_str(), int(format), long(tokens), long(rows), long(columns));
    }
}

// The generic integer product itself, against the definition of the format.
void test_integer_definition() {
    Random random{5};
    const int64_t rows = 18, columns = 70, tokens = 3;
    const Floats x(tokens * columns, random), w(rows * columns, random);
    std::vector<int8_t> codes(static_cast<size_t>(2 * tokens * columns));
    std::vector<int64_t> places(static_cast<size_t>(tokens + 1));
    std::vector<float> scales(static_cast<size_t>(2 * tokens)), y(static_cast<size_t>(tokens * rows));
    const Rows input{x.data, tokens, columns, columns};
    CHECK(generic::kernels.quantize(input, codes.data(), scales.data(), places.data()) == tokens, "none is wide");
    for (const Format format : {Format::kInt8, Format::kInt4}) {
        const Packed weight = pack(generic::kernels, format, w.data, rows, columns);
        generic::kernels.linear(input, weight.view, y.data());
        std::vector<int32_t> ids(static_cast<size_t>(rows));
        for (int64_t n = 0; n < rows; ++n) ids[static_cast<size_t>(n)] = static_cast<int32_t>(n);
        Floats decoded(rows * columns);
        generic::kernels.embed(weight.view, ids.data(), rows, decoded.data);
        for (int64_t t = 0; t < tokens; ++t)
            for (int64_t n = 0; n < rows; ++n) {
                double sum = 0;
                for (int64_t d = 0; d < columns; ++d)
                    sum += codes[static_cast<size_t>(t * columns + d)] *
                           std::round(double(decoded.data[n * columns + d]) / weight.scales[static_cast<size_t>(n)]);
                const float expected =
                    static_cast<float>(sum) * (scales[static_cast<size_t>(t)] * weight.scales[static_cast<size_t>(n)]);
                CHECK(y[static_cast<size_t>(t * rows + n)] == expected, "format %d, token %ld, row %ld", int(format),
                      long(t), long(n));
            }
    }
}

// The largest sums there are: every code 127, every level and multiplier at its end.
void test_largest_sums(const Isa& isa, int64_t tokens) {
    const int64_t rows = 16, columns = 256;
    Floats x(tokens * columns), w(rows * columns), y(tokens * rows), expected(tokens * rows);
    for (int64_t i = 0; i < tokens * columns; ++i) x.data[i] = i / columns % 2 == 0 ? 1.0f : -1.0f;
    for (int64_t i = 0; i < rows * columns; ++i) w.data[i] = i / columns % 2 == 0 ? 1.0f : -1.0f;
    for (const Format format : {Format::kInt8, Format::kInt4}) {
        const Packed packed = pack(*isa.kernels, format, w.data, rows, columns);
        isa.kernels->linear(Rows{x.data, tokens, columns, columns}, packed.view, y.data);
        for (int64_t i = 0; i < tokens * rows; ++i) {
            const float sign = (i / rows + i % rows) % 2 == 0 ? 1.0f : -1.0f;
            CHECK(std::fabs(y.data[i] - sign * float(columns)) < 1e-3f * float(columns), "%s format %d, %g",
                  isa.name.c_str(), int(format), double(y.data[i]));
        }
    }
}

void test_rows(const Isa& isa, int64_t width) {
    Random random{static_cast<uint64_t>(width)};
    const Floats x(2 * width, random);
    Floats y(2 * width);
    const Heads heads{x.data, 1, 1, width, width, width};
    isa.kernels->norm(heads, nullptr, 1e-5f, y.data);
    double squares = 0;
    for (int64_t k = 0; k < width; ++k) squares += double(x.data[k]) * x.data[k];
    const double scale = 1 / std::sqrt(squares / double(width) + 1e-5);
    for (int64_t k = 0; k < width; ++k)
        CHECK(std::fabs(y.data[k] - x.data[k] * scale) < 1e-5, "%s norm of %ld", isa.name.c_str(), long(width));

    isa.kernels->swiglu(Rows{x.data, 1, 2 * width, 2 * width}, y.data, width);
    for (int64_t f = 0; f < width; ++f) {
        const double gate = x.data[f], expected = gate / (1 + std::exp(-gate)) * x.data[width + f];
        CHECK(std::fabs(y.data[f] - expected) < 1e-6, "%s swiglu of %ld", isa.name.c_str(), long(width));
    }
}

// Every number of threads covers [0, count) exactly once, also from two callers at once.
void test_pool() {
    for (const int count : {1, 2, 3, 64}) {
        set_threads(count);
        const auto caller = [] {
            for (int64_t size = 0; size < 200; ++size) {
                std::vector<int> seen(static_cast<size_t>(size));
                parallel(size, 1, [&](int64_t first, int64_t last) {
                    for (int64_t i = first; i < last; ++i) ++seen[static_cast<size_t>(i)];
                });
                for (const int times : seen) CHECK(times == 1, "%ld items, %d threads", long(size), threads());
            }
        };
        std::thread other(caller);
        caller();
        other.join();
    }
    set_threads(0);
    CHECK(threads() >= 1, "%d threads", threads());
}

// One sequence of `tokens` positions, whole, against softmax(q k) v in double.
void test_attention(const Isa& isa, KvType type, int64_t tokens, int64_t size) {
    constexpr int64_t kHeads = 5, kBlockSize = 32;
    Random random{static_cast<uint64_t>(tokens * 100 + size)};
    const int64_t blocks = padded(tokens, kBlockSize) / kBlockSize;
    const Floats q(tokens * kHeads * size, random), k(tokens * size, random), v(tokens * size, random);
    Floats o(tokens * kHeads * size);
    Cache cache{type, nullptr, nullptr, nullptr, nullptr, blocks, 1, kBlockSize, size, 0};
    cache.block_bytes = cache.panels() * cache.panel_items() * 4;  // enough for any type
    const auto items = static_cast<size_t>(blocks * cache.panels() * cache.panel_items());
    std::vector<float> keys(items), values(items), key_scales(items), value_scales(items);
    cache.keys = keys.data(), cache.values = values.data();
    cache.key_scales = key_scales.data(), cache.value_scales = value_scales.data();
    std::vector<int32_t> positions, table;
    std::vector<int64_t> slots;
    for (int64_t b = 0; b < blocks; ++b) table.push_back(static_cast<int32_t>(blocks - 1 - b));
    for (int64_t t = 0; t < tokens; ++t) {
        positions.push_back(static_cast<int32_t>(t));
        slots.push_back(table[static_cast<size_t>(t / kBlockSize)] * kBlockSize + t % kBlockSize);
    }
    const int32_t starts[] = {0, static_cast<int32_t>(tokens)}, bases[] = {0};
    const Layout layout{positions.data(), starts, slots.data(), table.data(), bases, 1, blocks, 0};
    isa.kernels->store_heads({k.data, tokens, 1, size, size, size}, {v.data, tokens, 1, size, size, size}, cache,
                             slots.data());
    isa.kernels->attend({q.data, tokens, kHeads, size, kHeads * size, size}, cache, layout, o.data);
    double worst = 0.0;
    for (int64_t row = 0; row < tokens * kHeads; ++row) {
        std::vector<double> expected(static_cast<size_t>(size));
        double sum = 0.0;
        for (int64_t l = 0; l <= row / kHeads; ++l) {
            double score = 0.0;
            for (int64_t i = 0; i < size; ++i) score += q.data[row * size + i] * k.data[l * size + i];
            const double weight = std::exp(score / std::sqrt(static_cast<double>(size)));
            sum += weight;
            for (int64_t i = 0; i < size; ++i) expected[static_cast<size_t>(i)] += weight * v.data[l * size + i];
        }
        for (int64_t i = 0; i < size; ++i)
            worst = std::max(worst, std::abs(expected[static_cast<size_t>(i)] / sum - o.data[row * size + i]));
    }
    const double allowed = type == KvType::kF32    ? 1e-5
                           : type == KvType::kBf16 ? 1e-2
                                                   : 2e-2;  // what items are rounded to
    CHECK(worst <= allowed, "%s: attention of %d tokens, heads of %d: error %g", isa.name.c_str(),
          static_cast<int>(tokens), static_cast<int>(size), worst);
}

// Whether a token is one that a row may draw: all weights in order, and where its own lie beside the limit.
void test_draw(const Isa& isa, int64_t count, const Drawing& given, float spread) {
    constexpr double kSlack = 1e-6;
    constexpr int64_t kTimes = 20;
    Random random{static_cast<uint64_t>(count)};
    const Floats logits(kTimes * count, random);
    std::vector<Drawing> drawings(kTimes, given);
    std::vector<int64_t> tokens(kTimes);
    std::vector<float> best(kTimes);
    for (int64_t i = 0; i < kTimes * count; ++i) logits.data[i] *= spread;
    for (int64_t t = 0; t < kTimes; ++t)
        drawings[static_cast<size_t>(t)].number = static_cast<double>(t) / static_cast<double>(kTimes);
    isa.kernels->draw({logits.data, kTimes, count, count}, drawings.data(), tokens.data(), best.data());
    for (int64_t t = 0; t < kTimes; ++t) {
        const float* row = logits.data + t * count;
        const auto at = static_cast<size_t>(t);
        const float largest = *std::max_element(row, row + count);
        CHECK(best[at] == largest, "%s: the best of %ld", isa.name.c_str(), long(count));
        std::vector<int64_t> order(static_cast<size_t>(count));
        for (int64_t v = 0; v < count; ++v) order[static_cast<size_t>(v)] = v;
        const bool is_top = given.top_k > 0 && given.top_k < static_cast<double>(count);
        const bool is_cut = is_top || given.top_p < 1.0 || given.min_p > 0.0;
        if (is_cut || given.temperature == 0.0)
            std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return row[a] > row[b]; });
        if (given.temperature == 0.0) {
            CHECK(tokens[at] == order[0], "%s: the best of %ld", isa.name.c_str(), long(count));
            continue;
        }
        if (is_top) order.resize(static_cast<size_t>(given.top_k));
        const auto weight = [&](int64_t v) { return std::exp((double(row[v]) - double(largest)) / given.temperature); };
        double total = 0.0, kept = 0.0, before = 0.0, after = 0.0;
        for (const int64_t v : order) total += weight(v);
        for (const int64_t v : order) {
            if (weight(v) < given.min_p - kSlack || kept >= (given.top_p + kSlack) * total) break;
            if (v == tokens[at]) before = kept, after = kept + weight(v);
            kept += weight(v);
        }
        const double target = drawings[at].number * kept, slack = kSlack * total + (after - before) * kSlack;
        CHECK(before <= target + slack && target <= after + slack && after > 0,
              "%s: row %ld of %ld ids drew %ld, from %g to %g of %g", isa.name.c_str(), long(t), long(count),
              long(tokens[at]), before, after, target);
    }
}

int run_all() {
    test_pool();
    test_integer_definition();
    for (const Isa& isa : testable_isas()) {
        std::printf("%s\n", isa.name.c_str());
        for (int64_t width = 1; width <= 35; ++width) test_rows(isa, width);
        for (const int64_t tokens : {1, 4, 8, 50}) test_largest_sums(isa, tokens);
        for (const int64_t tokens : {1, 2, 3, 5, 8, 17, 33, 50})
            for (const int64_t size : {1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 64, 65}) {
                test_products(isa, tokens, size, 96);
                test_products(isa, tokens, 48, size);
            }
        for (const int64_t count : {1, 5, 127, 1024, 3001})
            for (const float spread : {1.0f, 20.0f})
                for (const Drawing& drawing :
                     {Drawing{0, 0, 1, 0, 0}, Drawing{1, 0, 1, 0, 0}, Drawing{0.7, 0, 0.9, 0, 0},
                      Drawing{0.7, 0, 1, 0.1, 0}, Drawing{0.7, 0, 0.6, 0.05, 0}, Drawing{1.3, 40, 1, 0, 0},
                      Drawing{1.3, 40, 0.8, 0.01, 0}})
                    test_draw(isa, count, drawing, spread);
        for (const KvType type : {KvType::kF32, KvType::kBf16, KvType::kInt8})
            for (const int64_t tokens : {1, 17, 70})
                for (const int64_t size : {4, 20, 64, 128}) test_attention(isa, type, tokens, size);
    }
    std::printf("%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace twofold

int main() { return twofold::run_all(); }
