// Attention over a paged cache (kv.h says how it lies there).
//
//     o[t, h] = sum over visible keys l of softmax(q[t, h] . k[l, g] / sqrt(K)) * v[l, g],   g = h / (H / G)
//
// Visible are the keys of the same sequence at positions first(p) <= l <= p, first(p) = p / chunk * chunk (or 0).
//
// A tile of query rows passes over its keys block by block (attend_tile.h). Every kSegmentPanels panels, counted from
// position 0, begin afresh and are merged into the total in their order. So the result is the same whether one thread
// takes all segments of a tile or, when there are fewer tiles than work for all threads, each one takes some.
#include "attend_bf16.h"
#include "scratch.h"
#include "threads.h"

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr int64_t kQueryRows = 64;      // query rows (tokens times the heads that share a KV head) of a task, about
constexpr int64_t kSegmentPanels = 64;  // a multiple of kBlockPanels
constexpr int64_t kTasksPerThread = 4;  // with fewer, tiles are split along the context
constexpr int64_t kFewRows = 8;         // of a tile that does little but read
constexpr int64_t kMostHeads = 4;       // whose states, of few rows, stay in the first-level cache

// Tokens first .. last - 1 of a sequence with the KV heads from g on, a tile each, and the panels (counted from
// position 0) they see, of which a task visits the segments from .. to - 1. Reading is all that tiles of few rows do,
// and heads lie side by side in the cache: several in turn read longer stretches.
struct Task {
    int64_t sequence, first, last, g, heads;
    int64_t first_panel, last_panel;
    int64_t from, to;
    int64_t cost_before;  // of all tasks before this one
};

struct Problem {
    Heads q_THK;
    Cache cache;
    Layout layout;
    float* o_THK;

    int64_t group() const { return q_THK.heads / cache.kv_heads; }
    int64_t tile_tokens() const { return larger<int64_t>(1, kQueryRows / group()); }
    int64_t width() const { return round_up(cache.size, 16); }
    int64_t most_rows() const { return padded_rows(tile_tokens() * group()); }
    int64_t first_visible(int64_t position) const {
        return layout.chunk == 0 ? 0 : position / layout.chunk * layout.chunk;
    }
    int64_t panel_of(int64_t position) const {
        return position / cache.block_size * cache.panels() + position % cache.block_size / kSlots;
    }
};

// Tasks in order, their number and cost.
struct Tasks {
    Task* list;
    int64_t count, cost;
};

template <class Visit>
void for_each_task(const Problem& problem, int64_t heads, const Visit& visit) {
    const Layout& layout = problem.layout;
    for (int64_t s = 0; s < layout.sequences; ++s)
        for (int64_t g = 0; g < problem.cache.kv_heads; g += heads)
            for (int64_t t = layout.starts_S[s]; t < layout.starts_S[s + 1]; t += problem.tile_tokens()) {
                const int64_t last = smaller<int64_t>(t + problem.tile_tokens(), layout.starts_S[s + 1]);
                const int64_t first_panel = problem.panel_of(problem.first_visible(layout.positions_T[t]));
                const int64_t last_panel = problem.panel_of(layout.positions_T[last - 1]);
                visit(Task{s, t, last, g, smaller(heads, problem.cache.kv_heads - g), first_panel, last_panel,
                           first_panel / kSegmentPanels, last_panel / kSegmentPanels + 1, 0});
            }
}

// Each of these, or each of their segments.
Tasks list_tasks(const Problem& problem, int64_t heads, bool split) {
    int64_t most = 0;
    for_each_task(problem, heads, [&](const Task& task) { most += split ? task.to - task.from : 1; });
    Tasks tasks{scratch<Task>(Slot::kTasks, most), 0, 0};
    const auto add = [&](Task task) {
        const int64_t from = larger(task.first_panel, task.from * kSegmentPanels);
        const int64_t to = smaller(task.last_panel + 1, task.to * kSegmentPanels);
        task.cost_before = tasks.cost;
        tasks.cost += (task.last - task.first) * (to - from) * task.heads;
        tasks.list[tasks.count++] = task;
    };
    for_each_task(problem, heads, [&](Task task) {
        if (!split) return add(task);
        const int64_t end = task.to;
        for (; task.from < end; ++task.from) {
            task.to = task.from + 1;
            add(task);
        }
    });
    return tasks;
}

// In floats: outputs, and maxima and sums in whole vectors.
int64_t state_size(int64_t rows, int64_t width) { return rows * width + 2 * round_up(rows, 16); }

State place_state(float* memory, int64_t rows, int64_t width) {
    return {memory, memory + rows * width, memory + rows * width + round_up(rows, 16)};
}

void clear(const State& state, int64_t rows, int64_t width) {
    __builtin_memset(state.outputs, 0, static_cast<size_t>(rows * width) * sizeof(float));
    for (int64_t row = 0; row < round_up(rows, 16); ++row) {
        state.maxima[row] = kNothing;
        state.sums[row] = 0.0f;
    }
}

// A task's tiles, one for each of its heads.
struct TaskTiles {
    Tile list[kMostHeads];
    int64_t count;

    Tile* begin() { return list; }
    Tile* end() { return list + count; }
    const Tile* begin() const { return list; }
    const Tile* end() const { return list + count; }
};

TaskTiles place_tiles(const Problem& problem, const Task& task) {
    Tile tile{};
    tile.rows = (task.last - task.first) * problem.group();
    tile.padded_rows = padded_rows(tile.rows);
    tile.size = problem.cache.size;
    tile.width = problem.width();
    const int64_t rows = tile.padded_rows, state = state_size(rows, tile.width);
    const bool has_halves = problem.cache.type == KvType::kBf16;
    const int64_t halves = has_halves ? halves_size(tile) : 0;
    const int64_t size = round_up(rows * (tile.width + kBlock + 4) + halves + 2 * state + round_up(rows, 16), 16);
    float* memory = scratch<float>(Slot::kAttend, task.heads * size);
    const bool has_codes = problem.cache.type == KvType::kInt8;
    const Codes codes = has_codes ? place_codes(task.heads * rows, tile.size) : Codes{};
    TaskTiles tiles{{}, task.heads};
    for (int64_t h = 0; h < task.heads; ++h, memory += size) {
        tile.g = task.g + h;
        tile.firsts = reinterpret_cast<int64_t*>(memory);
        tile.lasts = tile.firsts + rows;
        tile.queries = memory + 4 * rows;
        tile.scores = tile.queries + rows * tile.width;
        if (has_halves) place_halves(tile, reinterpret_cast<uint16_t*>(tile.scores + rows * kBlock));
        float* rest = tile.scores + rows * kBlock + halves;
        tile.state = place_state(rest, rows, tile.width);
        tile.total = place_state(rest + state, rows, tile.width);
        tile.factors = rest + 2 * state;
        if (has_codes) tile.codes = from_row(codes, h * rows);
        tiles.list[h] = tile;
    }
    return tiles;
}

void fill_queries(const Tile& tile, const Task& task, const Problem& problem) {
    const Heads& q_THK = problem.q_THK;
    const float scale = 1.0f / __builtin_sqrtf(static_cast<float>(tile.size));
    for (int64_t row = 0; row < tile.padded_rows; ++row) {
        const int64_t used = smaller(row, tile.rows - 1), token = task.first + used / problem.group();
        const int64_t head = tile.g * problem.group() + used % problem.group();
        const float* q = q_THK.data + token * q_THK.token_stride + head * q_THK.head_stride;
        float* query = tile.queries + row * tile.width;
        for (int64_t k = 0; k < tile.size; ++k) query[k] = q[k] * scale;
        for (int64_t k = tile.size; k < tile.width; ++k) query[k] = 0.0f;
        if (problem.cache.type == KvType::kInt8) quantize_row(query, tile.size, tile.codes, row);
        tile.lasts[row] = problem.layout.positions_T[token];
        tile.firsts[row] = problem.first_visible(tile.lasts[row]);
    }
    if (problem.cache.type == KvType::kBf16) fill_halves(tile);
}

template <class Items>
KeyBlock<Items> key_block(const Problem& problem, const Task& task, int64_t g, int64_t panel) {
    const Cache& cache = problem.cache;
    const int64_t base = problem.layout.bases_S[task.sequence];
    const int32_t* table = problem.layout.blocks_SB + task.sequence * problem.layout.table_width;
    KeyBlock<Items> result;
    for (int i = 0; i < kBlockPanels; ++i) {
        const auto start_of = [&](int64_t p) {
            return p / cache.panels() * cache.block_size + p % cache.panels() * kSlots;
        };
        const int64_t there = larger(task.first_panel, smaller(panel + i, task.last_panel));
        const int64_t block = table[(start_of(there) - base) / cache.block_size];
        const auto items_at = [&](void* array) {
            return panel_at<typename Items::Item>(cache, array, cache.panel_items(), block, g, there % cache.panels());
        };
        const auto scales_at = [&](float* array) {
            return Items::kIsInteger ? panel_at<float>(cache, array, kSlots, block, g, there % cache.panels())
                                     : nullptr;
        };
        result.keys[i] = items_at(cache.keys);
        result.values[i] = items_at(cache.values);
        result.key_scales[i] = scales_at(cache.key_scales);
        result.value_scales[i] = scales_at(cache.value_scales);
        result.starts[i] = start_of(panel + i);
        result.widths[i] = smaller(kSlots, cache.block_size - (panel + i) % cache.panels() * kSlots);
    }
    return result;
}

// The tiles' states over one segment of their keys.
template <class Items>
void visit_segment(const TaskTiles& tiles, const Task& task, int64_t segment, const Problem& problem) {
    const int64_t first = larger(task.first_panel / kBlockPanels * kBlockPanels, segment * kSegmentPanels);
    const int64_t last = smaller(task.last_panel, (segment + 1) * kSegmentPanels - 1);
    for (const Tile& tile : tiles) clear(tile.state, tile.padded_rows, tile.width);
    KeyBlock<Items> block = key_block<Items>(problem, task, task.g, first);
    for (int64_t panel = first; panel <= last; panel += kBlockPanels)
        for (const Tile& tile : tiles) {
            const bool is_last = &tile + 1 == tiles.end();
            const KeyBlock<Items> later =
                key_block<Items>(problem, task, is_last ? task.g : tile.g + 1, is_last ? panel + kBlockPanels : panel);
            visit_block(tile, block, later);
            block = later;
        }
}

void write_outputs(const Tile& tile, const Task& task, const Problem& problem) {
    for (int64_t row = 0; row < tile.rows; ++row) {
        const int64_t token = task.first + row / problem.group();
        const int64_t head = tile.g * problem.group() + row % problem.group();
        float* o = problem.o_THK + (token * problem.q_THK.heads + head) * tile.size;
        for (int64_t k = 0; k < tile.size; ++k) o[k] = tile.total.outputs[row * tile.width + k] / tile.total.sums[row];
    }
}

// Calls run(task) for all tasks, shared out by cost.
template <class Run>
void run_tasks(const Tasks& tasks, const Problem& problem, const Run& run) {
    const int64_t grain = 1 + 4096 / (problem.group() * problem.cache.size);
    parallel(tasks.cost, grain, [&](int64_t from, int64_t to) {
        int64_t low = 0, high = tasks.count;  // the first task that begins at `from` or later
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (tasks.list[middle].cost_before < from)
                low = middle + 1;
            else
                high = middle;
        }
        for (; low < tasks.count && tasks.list[low].cost_before < to; ++low) run(low);
    });
}

template <class Items>
void attend_whole(const Tasks& tasks, const Problem& problem) {
    run_tasks(tasks, problem, [&](int64_t index) {
        const Task& task = tasks.list[index];
        const TaskTiles tiles = place_tiles(problem, task);
        for (const Tile& tile : tiles) {
            fill_queries(tile, task, problem);
            clear(tile.total, tile.padded_rows, tile.width);
        }
        for (int64_t segment = task.from; segment < task.to; ++segment) {
            visit_segment<Items>(tiles, task, segment, problem);
            for (const Tile& tile : tiles) merge(tile, tile.total, tile.state);
        }
        for (const Tile& tile : tiles) write_outputs(tile, task, problem);
    });
}

// Each task leaves the states of its segment; then the segments of each tile are merged.
template <class Items>
void attend_split(const Tasks& tasks, int64_t heads, const Problem& problem) {
    const int64_t rows = problem.most_rows(), size = state_size(rows, problem.width());
    float* states = scratch<float>(Slot::kPartials, tasks.count * heads * size);
    const auto state_of = [&](int64_t index, const Tile& tile) {
        return place_state(states + (index * heads + tile.g % heads) * size, rows, tile.width);
    };
    run_tasks(tasks, problem, [&](int64_t index) {
        const Task& task = tasks.list[index];
        TaskTiles tiles = place_tiles(problem, task);
        for (Tile& tile : tiles) {
            fill_queries(tile, task, problem);
            tile.state = state_of(index, tile);
        }
        visit_segment<Items>(tiles, task, task.from, problem);
    });
    for (int64_t index = 0; index < tasks.count;) {
        const Task& task = tasks.list[index];
        const int64_t end = index + task.last_panel / kSegmentPanels + 1 - task.from;
        for (const Tile& tile : place_tiles(problem, task)) {
            clear(tile.total, tile.padded_rows, tile.width);
            for (int64_t part = index; part < end; ++part) merge(tile, tile.total, state_of(part, tile));
            write_outputs(tile, task, problem);
        }
        index = end;
    }
}

template <class Items>
void attend_all(const Problem& problem) {
    const int64_t least = threads() > 1 ? kTasksPerThread * threads() : 1;
    const bool has_few_rows = problem.q_THK.tokens == problem.layout.sequences && problem.group() <= kFewRows;
    int64_t heads = has_few_rows ? kMostHeads : 1, tiles, segments;
    for (;; heads /= 2) {
        tiles = segments = 0;
        for_each_task(problem, heads, [&](const Task& task) {
            ++tiles;
            segments += task.to - task.from;
        });
        if (heads == 1 || segments >= least) break;
    }
    const bool split = tiles < least && segments > tiles;
    const Tasks tasks = list_tasks(problem, heads, split);
    if (split)
        attend_split<Items>(tasks, heads, problem);
    else
        attend_whole<Items>(tasks, problem);
}

}  // namespace

void attend(const Heads& q_THK, const Cache& cache, const Layout& layout, float* o_THK) {
    if (q_THK.tokens == 0) return;
    const Problem problem{q_THK, cache, layout, o_THK};
    switch (cache.type) {
        case KvType::kF32:
            return attend_all<F32Items>(problem);
        case KvType::kBf16:
            return attend_all<Bf16Items>(problem);
        case KvType::kInt8:
            return attend_all<Int8Items>(problem);
    }
}

}  // namespace twofold::TWOFOLD_ISA
