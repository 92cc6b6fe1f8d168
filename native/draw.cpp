// Drawing a token, and the passes over a vocabulary that this takes; ops/sampling.py says what they are.
//
//     weigh: weight = exp(logit / temperature - largest / temperature), and float64 sums of each kStretch weights
//
// Ids that cuts leave are put in order by keys: the value's bits turned so that larger ones come first, then the id.
#include "kernels.h"
#include "order.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kStretch = 1024;        // ops/sampling.py
constexpr int64_t kSharedStretches = 16;  // what is worth a thread's attention
constexpr int64_t kBlock = 8 * kLanes;
constexpr float kLeastTemperature = 1e-30f;
constexpr float kDistances[] = {2.0f, 6.0f, 18.0f};
constexpr double kLikely[] = {0.02, 0.002, 0.0002};
constexpr double kEnough = 1 + 1e-9;

template <bool kDivides>
double weigh_stretch(const float* logits, int64_t count, float temperature, float base, float* weights) {
    const auto weigh = [&](F logit) { return exp_of_negative((kDivides ? logit / temperature : logit) - base); };
    Doubles low{}, high{};
    int64_t v = 0;
    for (; v + kLanes <= count; v += kLanes) {
        const F weight = weigh(load_f32(logits + v));
        store(weights + v, weight);
        low += lower_doubles(weight);
        high += upper_doubles(weight);
    }
    double sum = 0.0;
    for (int lane = 0; lane < kLanes / 2; ++lane) sum += low[lane];
    for (int lane = 0; lane < kLanes / 2; ++lane) sum += high[lane];
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

namespace {

inline bool any(I mask) {
    return fold_lanes(mask, [](auto a, auto b) { return a | b; }) != 0;
}

// Calls take(place, hits) for every place of the vectors that hold a value from the floor up.
template <class Take>
void visit(const float* values, int64_t count, float floor, const Take& take) {
    int64_t v = 0;
    for (; v + kBlock <= count; v += kBlock) {
        I hits{};
        for (int64_t i = 0; i < kBlock; i += kLanes) hits |= load_f32(values + v + i) >= floor;
        if (!any(hits)) continue;  // most blocks hold nothing
        for (int64_t i = v; i < v + kBlock; i += kLanes) {
            if (!any(load_f32(values + i) >= floor)) continue;
            for (int64_t place = i; place < i + kLanes; ++place) take(place, values[place] >= floor);
        }
    }
    for (; v < count; ++v) take(v, values[v] >= floor);
}

inline uint64_t key_of(float value, int64_t place) {
    uint32_t bits;
    value += 0.0f;  // -0 and 0 are equal
    __builtin_memcpy(&bits, &value, sizeof(bits));
    const uint32_t rising = bits ^ (bits >> 31 != 0 ? 0xFFFFFFFFu : 0x80000000u);
    return static_cast<uint64_t>(~rising) << 32 | static_cast<uint64_t>(place);
}
inline int64_t place_of(uint64_t key) { return static_cast<int64_t>(key & 0xFFFFFFFFu); }

// Keys of the values from the floor up, room for count of them: how many there are.
int64_t collect(const float* values, int64_t count, float floor, uint64_t* keys) {
    int64_t found = 0;
    visit(values, count, floor, [&](int64_t place, bool hits) {
        keys[found] = static_cast<uint64_t>(place);
        found += hits;
    });
    for (int64_t i = 0; i < found; ++i) keys[i] = key_of(values[keys[i]], static_cast<int64_t>(keys[i]));
    return found;
}

// The first place of the largest value, or of a value that is no number.
int64_t best_of(const float* values, int64_t count) {
    F one = broadcast(-__builtin_inff()), two = one, three = one, four = one;
    I broken{};
    int64_t v = 0;
    for (; v + 4 * kLanes <= count; v += 4 * kLanes) {
        const F a = load_f32(values + v), b = load_f32(values + v + kLanes);
        const F c = load_f32(values + v + 2 * kLanes), d = load_f32(values + v + 3 * kLanes);
        one = vmax(one, a), two = vmax(two, b), three = vmax(three, c), four = vmax(four, d);
        broken |= (a != a) | (b != b) | (c != c) | (d != d);
    }
    float largest = max_lanes(vmax(vmax(one, two), vmax(three, four)));
    bool is_broken = any(broken);
    for (; v < count; ++v) {
        largest = larger(largest, values[v]);
        is_broken |= values[v] != values[v];
    }
    int64_t place = 0;
    for (; !is_broken && place + kBlock <= count; place += kBlock) {
        I hits{};
        for (int64_t i = 0; i < kBlock; i += kLanes) hits |= load_f32(values + place + i) == largest;
        if (any(hits)) break;
    }
    while (is_broken ? values[place] == values[place] : values[place] != largest) ++place;
    return place;
}

// The first place at which the running sum of weights exceeds number times their sum; see ops/sampling.py, invert.
int64_t invert(const float* weights, int64_t count, const double* sums, double number) {
    const int64_t last = (count - 1) / kStretch;
    double all = 0.0, before = 0.0;
    for (int64_t s = 0; s <= last; ++s) all += sums[s];
    const double target = number * all;
    int64_t stretch = 0;
    for (; stretch < last && before + sums[stretch] <= target; ++stretch) before += sums[stretch];
    const int64_t begin = stretch * kStretch, end = smaller(count, begin + kStretch);
    double inside = 0.0;
    for (int64_t place = begin; place < end; ++place) {
        inside += static_cast<double>(weights[place]);
        if (inside + before > target) return place;
    }
    return end - 1;
}

// Of ids with these weights, best first: how many min_p and top_p leave.
int64_t kept(const float* weights, int64_t count, double total, const Drawing& drawing) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) {
        if (weights[i] < static_cast<float>(drawing.min_p)) return i;
        if (drawing.top_p < 1.0 && sum >= drawing.top_p * total) return i;
        sum += static_cast<double>(weights[i]);
    }
    return count;
}

double sum_of(const float* weights, int64_t count) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(weights[i]);
    return sum;
}

double sum_of_keys(const uint64_t* keys, int64_t count, const float* weights) {
    double sum = 0.0;
    for (int64_t i = 0; i < count; ++i) sum += static_cast<double>(weights[place_of(keys[i])]);
    return sum;
}

// Of the top_k best ids, which are few as a rule and so put in order.
int64_t draw_top(const float* logits, int64_t count, float largest, float temperature, const Drawing& drawing) {
    const auto wanted = static_cast<int64_t>(drawing.top_k);
    auto* keys = scratch<uint64_t>(Slot::kKeys, count);
    int64_t found = 0;
    for (const float distance : kDistances)
        if (found < wanted) found = collect(logits, count, largest - distance, keys);
    if (found < wanted) found = collect(logits, count, -__builtin_inff(), keys);
    put_first(keys, wanted, found);
    auto* weights = scratch<float>(Slot::kWeights, wanted);
    auto* sums = scratch<double>(Slot::kStretches, (wanted + kStretch - 1) / kStretch);
    for (int64_t i = 0; i < wanted; ++i) weights[i] = logits[place_of(keys[i])];
    weigh(weights, wanted, largest, temperature, weights, sums);
    const int64_t stays = kept(weights, wanted, sum_of(weights, wanted), drawing);
    for (int64_t begin = 0; begin < stays; begin += kStretch)
        sums[begin / kStretch] = sum_of(weights + begin, smaller(kStretch, stays - begin));
    return place_of(keys[invert(weights, stays, sums, drawing.number)]);
}

// Of all ids, or of those that top_p and min_p leave; see ops/sampling.py, reachable. Nothing is put in order but for
// the two ids at which a running sum passes a limit.
int64_t draw_likely(const float* logits, int64_t count, float largest, float temperature, const Drawing& drawing) {
    const int64_t stretches = (count + kStretch - 1) / kStretch;
    auto* weights = scratch<float>(Slot::kWeights, count);
    auto* sums = scratch<double>(Slot::kStretches, stretches);
    weigh(logits, count, largest, temperature, weights, sums);
    const bool is_cut = drawing.top_p < 1.0;
    if (!is_cut && drawing.min_p <= 0.0) return invert(weights, count, sums, drawing.number);
    double total = 0.0;
    for (int64_t s = 0; s < stretches; ++s) total += sums[s];
    const double unlikely = (1.0 - drawing.top_p) * total / static_cast<double>(count);
    const double last = smaller(larger(drawing.min_p, unlikely), 1.0), filled = kEnough * drawing.top_p * total;
    auto* keys = scratch<uint64_t>(Slot::kKeys, count);
    int64_t found = 0;
    double sum = 0.0;
    const auto look_from = [&](double floor) {
        found = collect(weights, count, static_cast<float>(floor), keys);
        sum = sum_of_keys(keys, found, weights);
        return sum >= filled;
    };
    bool is_filled = false;
    for (const double floor : kLikely)
        if (!is_filled && is_cut && floor > last) is_filled = look_from(floor);
    if (!is_filled) look_from(last);
    if (is_cut) {  // an id stays while the ones before it do not yet fill top_p
        found = split(keys, found, weights, drawing.top_p * total, false) + 1;
        sum = sum_of_keys(keys, found, weights);
    }
    return place_of(keys[split(keys, found, weights, drawing.number * sum, true)]);
}

int64_t draw_row(const float* logits, int64_t count, int64_t best, const Drawing& drawing) {
    const float largest = logits[best];
    if (drawing.temperature == 0.0 || !__builtin_isfinite(largest)) return best;
    const float temperature = larger(static_cast<float>(drawing.temperature), kLeastTemperature);
    const bool is_top = drawing.top_k > 0 && drawing.top_k < static_cast<double>(count);
    return (is_top ? draw_top : draw_likely)(logits, count, largest, temperature, drawing);
}

}  // namespace

int64_t reach(const float* values_V, int64_t count, float floor, int64_t* indices) {
    int64_t found = 0;
    visit(values_V, count, floor, [&](int64_t place, bool hits) {
        indices[found] = place;
        found += hits;
    });
    return found;
}

void draw(const Rows& logits_RV, const Drawing* drawings_R, int64_t* tokens_R, float* best_R) {
    parallel(logits_RV.rows, 1, [&](int64_t first, int64_t last) {  // of one row the passes are shared out instead
        for (int64_t r = first; r < last; ++r) {
            const float* logits = logits_RV.data + r * logits_RV.stride;
            const int64_t best = best_of(logits, logits_RV.columns);
            best_R[r] = logits[best];
            tokens_R[r] = draw_row(logits, logits_RV.columns, best, drawings_R[r]);
        }
    });
}

}  // namespace twofold::TWOFOLD_ISA
