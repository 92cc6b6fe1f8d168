// Router: logits_TE = x_TD @ router_ED^T in float32, the `active` best of each token (lower index on ties), and the
// sigmoid of their logits as gates.
#include "products.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// Selection by repeated scans: `active` is 1 or a few. A chosen logit is not taken twice: the next one is smaller, or
// equal with a higher index.
void choose(const float* logits_E, int64_t experts, int64_t active, int32_t* chosen_A, float* gates_A) {
    for (int64_t slot = 0; slot < active; ++slot) {
        int64_t best = -1;
        for (int64_t e = 0; e < experts; ++e) {
            bool taken = false;
            for (int64_t before = 0; before < slot; ++before) taken |= chosen_A[before] == e;
            if (!taken && (best < 0 || logits_E[e] > logits_E[best])) best = e;
        }
        chosen_A[slot] = static_cast<int32_t>(best);
        gates_A[slot] = sigmoid(broadcast(logits_E[best]))[0];
    }
}

}  // namespace

void route(const Rows& x_TD, const Weight& router_ED, int64_t active, int32_t* experts_TA, float* gates_TA) {
    const int64_t experts = router_ED.rows;
    float* logits_TE = scratch<float>(Slot::kRows, x_TD.rows * experts);
    linear(x_TD, router_ED, logits_TE);
    parallel(x_TD.rows, 1 + 4096 / experts, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t)
            choose(logits_TE + t * experts, experts, active, experts_TA + t * active, gates_TA + t * active);
    });
}

}  // namespace twofold::TWOFOLD_ISA
