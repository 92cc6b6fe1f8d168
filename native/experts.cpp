// Mixture of experts: y_t = sum over slots a, in order, of down_e(swiglu(gate_up_e(gate_ta * x_t))), e = experts_ta.
//
// Entries (token, slot) are sorted by expert, so that each expert's weights are read once for all its tokens. An entry
// has a row of its own in every intermediate; the slots of a token are added at the end, in slot order.
// Scalar version: for each token, for each slot, two matrix-vector products and a swiglu.
#include "products.h"
#include "scratch.h"
#include "swiglu.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

// A weight panel costs its bytes, however few rows use it: about as much as this many rows of arithmetic. (With tiles
// reckoned, not measured: a row takes width / 64 cycles, reading or unpacking the panel about one per column.)
constexpr int64_t kPanelCost = kHasTiles ? 64 : 4;

// Entries by expert: entry = token * active + slot; those of expert e are entries[starts[e]] .. entries[starts[e + 1] -
// 1] of tokens[..].
struct Order {
    int32_t* starts;
    int32_t* entries;
    int32_t* tokens;
    int64_t experts, count;

    // The fewest entries an expert has that has any.
    int64_t fewest() const {
        int64_t result = count;
        for (int64_t e = 0; e < experts; ++e) {
            const int64_t own = starts[e + 1] - starts[e];
            if (own > 0) result = smaller(own, result);
        }
        return result;
    }
};

Order sort_by_expert(const int32_t* experts_TA, int64_t count, int64_t active, int64_t experts) {
    int32_t* memory = scratch<int32_t>(Slot::kOrder, 2 * (experts + 1) + 2 * count);
    int32_t* entries = memory + 2 * (experts + 1);
    const Order order{memory, entries, entries + count, experts, count};
    int32_t* next = memory + experts + 1;
    for (int64_t e = 0; e <= experts; ++e) order.starts[e] = 0;
    for (int64_t i = 0; i < count; ++i) ++order.starts[experts_TA[i] + 1];
    for (int64_t e = 0; e < experts; ++e) order.starts[e + 1] += order.starts[e];
    for (int64_t e = 0; e < experts; ++e) next[e] = order.starts[e];
    for (int64_t i = 0; i < count; ++i) order.entries[next[experts_TA[i]]++] = static_cast<int32_t>(i);
    for (int64_t i = 0; i < count; ++i) order.tokens[i] = order.entries[i] / static_cast<int32_t>(active);
    return order;
}

// What a stack of matrices is multiplied by: a row for each entry, in their order; of wide ones two rows of codes.
struct Sorted {
    Input input;
    Expanded rows;
};

// Sorted rows through each expert's matrix: one region over (expert, panel), shared out by cost.
void multiply_sorted(const Sorted& x, const Weight& weight_END, const Order& order, float* y) {
    const int64_t panels = (weight_END.rows + kPanelRows - 1) / kPanelRows;
    const auto first_row = [&](int64_t e) { return x.rows.place(order.starts[e]); };
    int64_t total = 0;
    for (int64_t e = 0; e < order.experts; ++e) {
        const int64_t rows = first_row(e + 1) - first_row(e);
        if (rows > 0) total += panels * (rows + kPanelCost);
    }
    parallel(total, 1 + (1 + kPanelCost) * 4096 / weight_END.columns, [&](int64_t from, int64_t to) {
        int64_t passed = 0;  // cost of the experts before this one; a panel belongs to the share its start falls in
        for (int64_t e = 0; e < order.experts && passed < to; ++e) {
            const int64_t rows = first_row(e + 1) - first_row(e), cost = rows + kPanelCost;
            if (rows == 0) continue;
            const int64_t first = from <= passed ? 0 : (from - passed + cost - 1) / cost;
            const int64_t last = smaller(panels, (to - passed + cost - 1) / cost);
            if (first < last)
                multiply_panels(x.input, first_row(e), rows, matrix_of(weight_END, e), first, last, y, weight_END.rows);
            passed += panels * cost;
        }
    });
}

// y [entries, N]: the products of every entry with its expert's matrix.
void multiply_stack(const Sorted& x, const Weight& weight_END, const Order& order, float* y) {
    if (x.rows.places == nullptr) return multiply_sorted(x, weight_END, order, y);
    float* products = scratch<float>(Slot::kExpanded, x.rows.place(order.count) * weight_END.rows);
    multiply_sorted(x, weight_END, order, products);
    fold_rows(x.rows, products, weight_END.rows, y);
}

// Row i: the x of entry order[i], times its gate (folded into the scale of integer codes), as `next` takes it.
Sorted gather(const Rows& x_TD, const float* gates_TA, const Order& order, const Weight& next) {
    if (is_integer(next)) {
        const Rows wanted{x_TD.data, order.count, x_TD.columns, x_TD.stride};
        const Expanded rows = quantize_rows(wanted, has_groups(next, order.fewest()), order.tokens);
        for (int64_t i = 0; i < order.count; ++i)
            for (int64_t row = rows.place(i); row < rows.place(i + 1); ++row)
                rows.codes.scales[row] *= gates_TA[order.entries[i]];
        return {{true, rows.codes, {}}, rows};
    }
    float* gated = scratch<float>(Slot::kRows, order.count * x_TD.columns);
    parallel(order.count, 1 + 8192 / x_TD.columns, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const float* x = x_TD.data + order.tokens[i] * x_TD.stride;
            const float gate = gates_TA[order.entries[i]];
            for (int64_t d = 0; d < x_TD.columns; ++d) gated[i * x_TD.columns + d] = x[d] * gate;
        }
    });
    return {float_input({gated, order.count, x_TD.columns, x_TD.columns}, next), {{}, nullptr, order.count}};
}

// swiglu of each row in place (its first half), then codes if the next weight wants them.
Sorted activate(float* hidden, const Order& order, int64_t width, const Weight& next) {
    const int64_t rows = order.count;
    parallel(rows, 1 + 8192 / width, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) swiglu_row(hidden + i * 2 * width, width, hidden + i * 2 * width);
    });
    const Rows activated{hidden, rows, width, 2 * width};
    if (!is_integer(next)) return {float_input(activated, next), {{}, nullptr, rows}};
    const Expanded expanded = quantize_rows(activated, has_groups(next, order.fewest()));
    return {{true, expanded.codes, {}}, expanded};
}

void add_slots(const float* outputs, const Order& order, int64_t active, int64_t columns, float* y_TD) {
    const int64_t tokens = order.count / active;
    int32_t* places = scratch<int32_t>(Slot::kPanel, order.count);  // entry -> its row
    for (int64_t i = 0; i < order.count; ++i) places[order.entries[i]] = static_cast<int32_t>(i);
    parallel(tokens, 1 + 8192 / columns, [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) {
            float* y = y_TD + t * columns;
            const float* start = outputs + places[t * active] * columns;
            for (int64_t d = 0; d < columns; ++d) y[d] = start[d];
            for (int64_t slot = 1; slot < active; ++slot) {
                const float* more = outputs + places[t * active + slot] * columns;
                for (int64_t d = 0; d < columns; ++d) y[d] += more[d];
            }
        }
    });
}

}  // namespace

void experts(const Rows& x_TD, const int32_t* experts_TA, const float* gates_TA, int64_t active,
             const Weight& gate_up_END, const Weight& down_EDF, float* y_TD) {
    if (x_TD.rows == 0) return;
    const Order order = sort_by_expert(experts_TA, x_TD.rows * active, active, gate_up_END.matrices);
    float* hidden = scratch<float>(Slot::kHidden, order.count * gate_up_END.rows);
    multiply_stack(gather(x_TD, gates_TA, order, gate_up_END), gate_up_END, order, hidden);
    const Sorted activated = activate(hidden, order, down_EDF.columns, down_EDF);
    if (order.count == 1) return multiply_stack(activated, down_EDF, order, y_TD);
    float* outputs = scratch<float>(Slot::kOutputs, order.count * down_EDF.rows);
    multiply_stack(activated, down_EDF, order, outputs);
    add_slots(outputs, order, active, down_EDF.rows, y_TD);
}

}  // namespace twofold::TWOFOLD_ISA
