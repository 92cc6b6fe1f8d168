// Elementwise ops on rows.
//
//     swiglu: a = gate * sigmoid(gate) * up, maybe in place of gate;   add: z = x + y
//
// Scalar versions are the formulas; a vector's lanes never meet.
#include "swiglu.h"

#include "kernels.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {

void swiglu_row(const float* row, int64_t width, float* a_F) {
    int64_t f = 0;
    for (; f + kLanes <= width; f += kLanes) {
        const F gate = load_f32(row + f);
        store(a_F + f, gate * sigmoid(gate) * load_f32(row + width + f));
    }
    if (f == width) return;
    const F gate = load_some(row + f, width - f);
    store_some(a_F + f, gate * sigmoid(gate) * load_some(row + width + f, width - f), width - f);
}

void swiglu(const Rows& gate_up_TN, float* a_TF, int64_t stride) {
    const int64_t width = gate_up_TN.columns / 2;
    parallel(gate_up_TN.rows, 1 + 8192 / larger<int64_t>(1, width), [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t)
            swiglu_row(gate_up_TN.data + t * gate_up_TN.stride, width, a_TF + t * stride);
    });
}

void add(const Rows& x_TD, const Rows& y_TD, float* z_TD) {
    const int64_t columns = x_TD.columns;
    parallel(x_TD.rows, 1 + 8192 / larger<int64_t>(1, columns), [&](int64_t first, int64_t last) {
        for (int64_t t = first; t < last; ++t) {
            const float* x = x_TD.data + t * x_TD.stride;
            const float* y = y_TD.data + t * y_TD.stride;
            float* z = z_TD + t * columns;
            for (int64_t d = 0; d < columns; ++d) z[d] = x[d] + y[d];
        }
    });
}

}  // namespace twofold::TWOFOLD_ISA
