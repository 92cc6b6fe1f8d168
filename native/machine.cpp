#include "machine.h"

#include <sched.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#if defined(__aarch64__)
#include <sys/auxv.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace twofold {
namespace {

std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

// The quota of a folder of cgroups, in CPUs; 0 when there is none. Version 2 keeps it in one file, version 1 in two.
double quota_of(const std::string& folder) {
    std::istringstream fields(first_line(folder + "/cpu.max"));
    std::string quota;
    double period = 0;
    if (fields >> quota >> period) return quota == "max" || period <= 0 ? 0 : std::atof(quota.c_str()) / period;
    const double microseconds = std::atof(first_line(folder + "/cpu.cfs_quota_us").c_str());
    period = std::atof(first_line(folder + "/cpu.cfs_period_us").c_str());
    return microseconds <= 0 || period <= 0 ? 0 : microseconds / period;
}

// Whole CPUs of the least quota on our group and its parents, at least 1; 0 when there is none. A line of
// /proc/self/cgroup is id:controllers:group, without controllers for version 2. In a container the group may be named
// as the host sees it: then only the root exists here, and it is the container's.
int quota_cores() {
    double least = 0;
    std::ifstream groups("/proc/self/cgroup");
    for (std::string line; std::getline(groups, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
        const bool is_second = controllers == ",,";
        if (!is_second && controllers.find(",cpu,") == std::string::npos) continue;
        const std::string root = is_second ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
        for (std::string group = line.substr(second + 1);; group.resize(group.rfind('/'))) {
            const double cores = quota_of(root + group);
            if (cores > 0) least = least == 0 ? cores : std::min(least, cores);
            if (group.empty() || group.rfind('/') == std::string::npos) break;
        }
    }
    return least == 0 ? 0 : std::max(1, static_cast<int>(least));
}

#if defined(__x86_64__)
constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24, kAmxInt8 = 1u << 25;

// CPUID leaf 7, EDX: what the CPU has, whether or not the system lets us use it.
unsigned feature_bits() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) ? d : 0;
}

// The register states that the system saves for its threads, bit by bit; 0 if it saves none this way.
unsigned saved_states() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned kOsXsave = 1u << 27;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & kOsXsave)) return 0;
    asm volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

TileState ask_for_tiles() {
    constexpr unsigned kNeeded = kAmxTile | kAmxInt8 | kAmxBf16;  // no CPU has only some of them
    if ((feature_bits() & kNeeded) != kNeeded) return TileState::kNone;
    constexpr unsigned kConfiguration = 1u << 17, kData = 1u << 18;
    if ((saved_states() & (kConfiguration | kData)) != (kConfiguration | kData)) return TileState::kNotSaved;
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, asm/prctl.h
    return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0 ? TileState::kGranted : TileState::kRefused;
}
#endif

}  // namespace

TileState tile_state() {
#if defined(__x86_64__)
    static const TileState found = ask_for_tiles();
    return found;
#else
    return TileState::kNone;
#endif
}

std::string machine_name() {
    std::ifstream info("/proc/cpuinfo");
    for (std::string line; std::getline(info, line);)
        if (line.rfind("model name", 0) == 0) {
            const size_t colon = line.find(": ");
            return colon == std::string::npos ? "" : line.substr(colon + 2);
        }
    return "unknown";
}

std::vector<std::string> machine_features() {
    std::vector<std::string> found;
    const auto note = [&found](const char* name, bool has) {
        if (has) found.emplace_back(name);
    };
#if defined(__x86_64__)
    __builtin_cpu_init();
    note("avx2", __builtin_cpu_supports("avx2"));
    note("fma", __builtin_cpu_supports("fma"));
    note("f16c", __builtin_cpu_supports("f16c"));
    note("avxvnni", __builtin_cpu_supports("avxvnni"));
    note("avx512f", __builtin_cpu_supports("avx512f"));
    note("avx512bw", __builtin_cpu_supports("avx512bw"));
    note("avx512vl", __builtin_cpu_supports("avx512vl"));
    note("avx512dq", __builtin_cpu_supports("avx512dq"));
    note("avx512vnni", __builtin_cpu_supports("avx512vnni"));
    note("avx512bf16", __builtin_cpu_supports("avx512bf16"));
    note("amx-tile", feature_bits() & kAmxTile);
    note("amx-int8", feature_bits() & kAmxInt8);
    note("amx-bf16", feature_bits() & kAmxBf16);
#elif defined(__aarch64__)
    const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
    note("asimddp", first & (1ul << 20));
    note("sve", first & (1ul << 22));
    note("i8mm", second & (1ul << 13));
    note("bf16", second & (1ul << 14));
#endif
    return found;
}

int machine_cores() {
    cpu_set_t allowed;
    CPU_ZERO(&allowed);
    if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;  // more than 1024 CPUs: set threads by hand
    std::set<std::string> cores;                                         // hyper-threads of one core name the same list
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (!CPU_ISSET(cpu, &allowed)) continue;
        const std::string base = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
        const std::string siblings = first_line(base + "thread_siblings_list");
        cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
    }
    const int quota = quota_cores(), count = std::max<int>(1, static_cast<int>(cores.size()));
    return quota > 0 ? std::min(quota, count) : count;
}

}  // namespace twofold
