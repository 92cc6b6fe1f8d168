// The passes over a vocabulary that drawing a token takes; ops/sampling.py says what they are.
//
//     weigh: weight = exp(logit / temperature - largest / temperature), and float64 sums of each kStretch weights
#include "kernels.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kStretch = 1024;        // ops/sampling.py
constexpr int64_t kSharedStretches = 16;  // what is worth a thread's attention
constexpr int64_t kBlock = 8 * kLanes;

typedef double Doubles __attribute__((vector_size(8 * kLanes)));

template <bool kDivides>
double weigh_stretch(const float* logits, int64_t count, float temperature, float base, float* weights) {
    const auto weigh = [&](F logit) { return exp_of_negative((kDivides ? logit / temperature : logit) - base); };
    Doubles sums{};
    int64_t v = 0;
    for (; v + kLanes <= count; v += kLanes) {
        const F weight = weigh(load_f32(logits + v));
        store(weights + v, weight);
        sums += __builtin_convertvector(weight, Doubles);
    }
    double sum = 0.0;
    for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
    if (v < count) {
        const F weight = weigh(load_some(logits + v, count - v));
        store_some(weights + v, weight, count - v);
        for (int lane = 0; v + lane < count; ++lane) sum += static_cast<double>(weight[lane]);
    }
    return sum;
}

}  // namespace

void weigh(const float* logits_V, int64_t count, float largest, float temperature, float* weights_V, double* sums_S) {
    const float base = largest / temperature;
    parallel((count + kStretch - 1) / kStretch, kSharedStretches, [&](int64_t first, int64_t last) {
        for (int64_t s = first; s < last; ++s) {
            const int64_t begin = s * kStretch, size = smaller(kStretch, count - begin);
            const auto part = temperature == 1.0f ? weigh_stretch<false> : weigh_stretch<true>;
            sums_S[s] = part(logits_V + begin, size, temperature, base, weights_V + begin);
        }
    });
}

int64_t reach(const float* values_V, int64_t count, float floor, int64_t* indices) {
    int64_t found = 0, v = 0;
    for (; v + kBlock <= count; v += kBlock) {
        I hits{};
        for (int64_t i = 0; i < kBlock; i += kLanes) hits |= load_f32(values_V + v + i) >= floor;
        bool any = false;
        for (int lane = 0; lane < kLanes; ++lane) any |= hits[lane] != 0;
        if (!any) continue;  // most blocks hold nothing
        for (int64_t i = v; i < v + kBlock; ++i) {
            indices[found] = i;
            found += values_V[i] >= floor;
        }
    }
    for (; v < count; ++v) {
        indices[found] = v;
        found += values_V[v] >= floor;
    }
    return found;
}

}  // namespace twofold::TWOFOLD_ISA
