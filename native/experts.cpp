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

// Entries by expert: entry = token * active + slot; those of expert e are order[starts[e]] .. order[starts[e + 1] - 1].
struct Order {
    int32_t* starts;
    int32_t* entries;
    int64_t experts, count;
};

Order sort_by_expert(const int32_t* experts_TA, int64_t count, int64_t experts) {
    int32_t* memory = scratch<int32_t>(Slot::kOrder, 2 * (experts + 1) + count);
    const Order order{memory, memory + 2 * (experts + 1), experts, count};
    int32_t* next = memory + experts + 1;
    for (int64_t e = 0; e <= experts; ++e) order.starts[e] = 0;
    for (int64_t i = 0; i < count; ++i) ++order.starts[experts_TA[i] + 1];
    for (int64_t e = 0; e < experts; ++e) order.starts[e + 1] += order.starts[e];
    for (int64_t e = 0; e < experts; ++e) next[e] = order.starts[e];
    for (int64_t i = 0; i < count; ++i) order.entries[next[experts_TA[i]]++] = static_cast<int32_t>(i);
    return order;
}

// Sorted rows through each expert's matrix: one region over (expert, panel), shared out by cost.
void multiply_stack(const Input& x, const Weight& weight_END, const Order& order, float* y) {
    const int64_t panels = (weight_END.rows + kPanelRows - 1) / kPanelRows;
    int64_t total = 0;
    for (int64_t e = 0; e < order.experts; ++e) {
        const int64_t rows = order.starts[e + 1] - order.starts[e];
        if (rows > 0) total += panels * (rows + kPanelCost);
    }
    parallel(total, 1 + (1 + kPanelCost) * 4096 / weight_END.columns, [&](int64_t from, int64_t to) {
        int64_t passed = 0;  // cost of the experts before this one; a panel belongs to the share its start falls in
        for (int64_t e = 0; e < order.experts && passed < to; ++e) {
            const int64_t rows = order.starts[e + 1] - order.starts[e], cost = rows + kPanelCost;
            if (rows == 0) continue;
            const int64_t first = from <= passed ? 0 : (from - passed + cost - 1) / cost;
            const int64_t last = smaller(panels, (to - passed + cost - 1) / cost);
            if (first < last)
                multiply_panels(x, order.starts[e], rows, matrix_of(weight_END, e), first, last, y, weight_END.rows);
            passed += panels * cost;
        }
    });
}

// Row i of the result: the x of entry order[i], times its gate (folded into the scale of integer codes).
Input gather(const Rows& x_TD, const float* gates_TA, int64_t active, const Order& order, bool is_integer) {
    Input input{is_integer, {}, {}};
    float* rows = nullptr;
    if (is_integer) {
        input.codes = place_codes(order.count, x_TD.columns);
    } else {
        rows = scratch<float>(Slot::kRows, order.count * x_TD.columns);
        input.rows = Rows{rows, order.count, x_TD.columns, x_TD.columns};
    }
    parallel(order.count, 1 + 16384 / x_TD.columns, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const float* x = x_TD.data + order.entries[i] / active * x_TD.stride;
            const float gate = gates_TA[order.entries[i]];
            if (is_integer) {
                quantize_row(x, x_TD.columns, input.codes, i);
                input.codes.scales[i] *= gate;
            } else {
                for (int64_t d = 0; d < x_TD.columns; ++d) rows[i * x_TD.columns + d] = x[d] * gate;
            }
        }
    });
    return input;
}

// swiglu of each row in place (its first half), then codes if the next weight wants them.
Input activate(float* hidden, int64_t rows, int64_t width, bool is_integer) {
    Input input{is_integer, {}, Rows{hidden, rows, width, 2 * width}};
    if (is_integer) input.codes = place_codes(rows, width);
    parallel(rows, 1 + 8192 / width, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            float* row = hidden + i * 2 * width;
            swiglu_row(row, width, row);
            if (is_integer) quantize_row(row, width, input.codes, i);
        }
    });
    return input;
}

void add_slots(const float* outputs, const Order& order, int64_t active, int64_t columns, float* y_TD) {
    const int64_t tokens = order.count / active;
    int32_t* places = scratch<int32_t>(Slot::kPanel, order.count);  // entry -> its row
    for (int64_t i = 0; i < order.count; ++i) places[order.entries[i]] = static_cast<int32_t>(i);
    parallel(tokens, 1 + 16384 / columns, [&](int64_t first, int64_t last) {
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

bool is_integer(const Weight& weight) { return weight.format == Format::kInt8 || weight.format == Format::kInt4; }

}  // namespace

void experts(const Rows& x_TD, const int32_t* experts_TA, const float* gates_TA, int64_t active,
             const Weight& gate_up_END, const Weight& down_EDF, float* y_TD) {
    if (x_TD.rows == 0) return;
    const Order order = sort_by_expert(experts_TA, x_TD.rows * active, gate_up_END.matrices);
    float* hidden = scratch<float>(Slot::kHidden, order.count * gate_up_END.rows);
    multiply_stack(gather(x_TD, gates_TA, active, order, is_integer(gate_up_END)), gate_up_END, order, hidden);
    const Input activated = activate(hidden, order.count, down_EDF.columns, is_integer(down_EDF));
    if (order.count == 1) return multiply_stack(activated, down_EDF, order, y_TD);
    float* outputs = scratch<float>(Slot::kOutputs, order.count * down_EDF.rows);
    multiply_stack(activated, down_EDF, order, outputs);
    add_slots(outputs, order, active, down_EDF.rows, y_TD);
}

}  // namespace twofold::TWOFOLD_ISA
