// What the ISAs with VNNI share: dots of integers, on top of two instructions that they define,
//
//     dot_bytes(sum, w, x)    sum + four unsigned bytes of w times four signed ones of x, in each lane
//     dot_shorts(sum, a, b)   sum + two signed 16-bit integers of each
#pragma once

namespace twofold::TWOFOLD_ISA {
namespace {

constexpr bool kUnpacksLevels = false;  // see unpack.h

// The left operand is unsigned: weights enter as w + 128, and 128 times the sum of the codes is taken off once per
// token (sums may wrap on the way, the result is exact modulo 2^32).
constexpr uint8_t kWeightOffset = 128;
inline I dot_int8(I acc, Bytes w, I x) { return dot_bytes(acc, (I)w, x); }

// The corrected sum of half a group fits 16 bits (16 * 15 * 127 < 32768), so one 16-bit dot multiplies and accumulates
// it.
typedef I Group;
constexpr int kGroupSums = 2;
constexpr bool kSplitStarts = false;  // whether group_start needs its halves apart
inline int32_t group_start(int32_t start01, int32_t start23) { return start01 + start23; }
inline Group group_dot(Group group, Bytes levels, I x) { return dot_bytes(group, (I)levels, x); }
inline I group_total(Group group) { return group; }
inline I group_finish(I acc, Group group, I multipliers) { return dot_shorts(acc, group, multipliers); }

}  // namespace
}  // namespace twofold::TWOFOLD_ISA
