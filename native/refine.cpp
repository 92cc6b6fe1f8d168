// The likely tokens of a Refined head: y[r, n] += x_r . residual_n for the rows n of the best panels of row r.
//
// A panel is as good as its best coarse score in y. The `panels` best of a row are found by bisecting the score from
// which on there are that many; of panels with exactly that score the lower ones count.
#include "products.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// Integers in the order of the floats.
inline I ordered(F values) {
    const I bits = (I)values;
    return bits ^ ((bits >> 31) & 0x7FFFFFFF);
}

// ranks[p] of the best score of each panel first <= p < last.
void rank_panels(const float* y, int64_t rows, int64_t first, int64_t last, int32_t* ranks) {
    for (int64_t p = first; p < last; ++p) {
        const int64_t left = rows - p * kPanelRows;
        F best = broadcast(-__builtin_inff());
        if (left >= kPanelRows) {
            for (int part = 0; part < kParts; ++part) best = vmax(load_f32(y + p * kPanelRows + part * kLanes), best);
        } else {
            for (int64_t n = 0; n < left; ++n) best = vmax(broadcast(y[p * kPanelRows + n]), best);
        }
        ranks[p] = ordered(broadcast(max_lanes(best)))[0];
    }
}

int64_t count_from(const int32_t* ranks, int64_t count, int32_t least) {
    I found{};
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) found -= load<I>(ranks + i) >= least;
    int64_t total = 0;
    for (int lane = 0; lane < kLanes; ++lane) total += found[lane];
    for (; i < count; ++i) total += ranks[i] >= least;
    return total;
}

// The `wanted` panels of the highest rank, ascending; wanted <= count.
void choose_panels(const int32_t* ranks, int64_t count, int64_t wanted, int32_t* chosen) {
    int64_t low = INT32_MIN, high = INT32_MAX;  // the largest rank that at least `wanted` panels reach
    while (low < high) {
        const int64_t middle = low + (high - low + 1) / 2;
        if (count_from(ranks, count, static_cast<int32_t>(middle)) >= wanted)
            low = middle;
        else
            high = middle - 1;
    }
    int64_t equals = wanted - (low == INT32_MAX ? 0 : count_from(ranks, count, static_cast<int32_t>(low + 1)));
    for (int64_t p = 0; p < count; ++p) {
        if (ranks[p] < low || (ranks[p] == low && equals-- <= 0)) continue;
        *chosen++ = static_cast<int32_t>(p);
    }
}

}  // namespace

void refine(const Rows& x_RD, const Weight& residual_VD, int64_t panels, float* y_RV) {
    if (x_RD.rows == 0) return;
    const int64_t tokens = residual_VD.rows, all = (tokens + kPanelRows - 1) / kPanelRows;
    const Expanded x = quantize_rows(x_RD, has_groups(residual_VD));
    int32_t* ranks = scratch<int32_t>(Slot::kOrder, x_RD.rows * (all + panels));
    int32_t* chosen = ranks + x_RD.rows * all;
    parallel(x_RD.rows * all, 8192, [&](int64_t first, int64_t last) {
        for (int64_t r = first / all; r * all < last; ++r)
            rank_panels(y_RV + r * tokens, tokens, larger<int64_t>(first - r * all, 0), smaller(last - r * all, all),
                        ranks + r * all);
    });
    parallel(x_RD.rows, 1, [&](int64_t first, int64_t last) {
        for (int64_t r = first; r < last; ++r) choose_panels(ranks + r * all, all, panels, chosen + r * panels);
    });
    parallel(x_RD.rows * panels, 8, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t r = i / panels, p = chosen[i], count = smaller(kPanelRows, tokens - p * kPanelRows);
            const int64_t first_row = x.place(r), rows = x.place(r + 1) - first_row;
            float more[2 * kPanelRows];
            multiply_codes(from_row(x.codes, first_row), rows, residual_VD, p, p + 1, more, kPanelRows);
            float* y = y_RV + r * tokens + p * kPanelRows;
            for (int64_t n = 0; n < count; ++n) y[n] += rows == 1 ? more[n] : more[n] + more[kPanelRows + n];
        }
    });
}

}  // namespace twofold::TWOFOLD_ISA
