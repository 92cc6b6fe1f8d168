#include "dispatch.h"

#include "machine.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace twofold {

const std::vector<Isa>& isas() {
    static const std::vector<Isa> found = [] {
        std::vector<Isa> result{{"generic", &generic::kernels}};
#ifdef TWOFOLD_HAS_AVX2
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) result.push_back({"avx2", &avx2::kernels});
#endif
#ifdef TWOFOLD_HAS_AVXVNNI
        if (result.back().name == "avx2" && __builtin_cpu_supports("avxvnni"))
            result.push_back({"avxvnni", &avxvnni::kernels});
#endif
#ifdef TWOFOLD_HAS_AVX512VNNI
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
            __builtin_cpu_supports("avx512vnni"))
            result.push_back({"avx512vnni", &avx512vnni::kernels});
#endif
#ifdef TWOFOLD_HAS_AVX512BF16
        // Intel's CPUs take two cycles for these pairs, and one for half as many float32 products.
        if (result.back().name == "avx512vnni" && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd"))
            result.push_back({"avx512bf16", &avx512bf16::kernels});
#endif
#ifdef TWOFOLD_HAS_AVX512AMX
        if (result.back().name.starts_with("avx512") && tile_state() == TileState::kGranted)
            result.push_back({"avx512amx", &avx512amx::kernels});
#endif
#ifdef TWOFOLD_HAS_NEON
        constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
        if (getauxval(AT_HWCAP) & kDotProduct) result.push_back({"neon", &neon::kernels});
#endif
        return result;
    }();
    return found;
}

const std::vector<Isa>& testable_isas() {
    static const std::vector<Isa> found = [] {
        std::vector<Isa> result{{"amx_emulated", &amx_emulated::kernels}};
#ifdef TWOFOLD_HAS_AVXVNNI_EMULATED
        if (isas().size() > 1) result.push_back({"avxvnni_emulated", &avxvnni_emulated::kernels});
#endif
        result.insert(result.end(), isas().begin(), isas().end());
        return result;
    }();
    return found;
}

}  // namespace twofold
