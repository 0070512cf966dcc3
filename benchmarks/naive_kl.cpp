// Entropy calibration as its slides describe it (S. Migacz, GTC 2017), bin by bin, for estimators.py to be set against.
// For each threshold of i bins: P with all beyond in its last bin, Q in `levels` runs spread over bins that are not
// empty, the divergence of the two. Returns the first threshold of least divergence.
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#if defined(_WIN32)
#define EXPORT extern "C" __declspec(dllexport)
#else
#define EXPORT extern "C"
#endif

EXPORT int naive_kl(const double* counts, int n, int levels, double* divergences) {
    std::vector<double> p(static_cast<std::size_t>(n)), q(static_cast<std::size_t>(n));
    double least = std::numeric_limits<double>::infinity();
    int best = levels;
    for (int i = levels; i <= n; ++i) {
        double beyond = 0, total = 0, kept = 0, divergence = 0;
        for (int k = i; k < n; ++k) beyond += counts[k];
        for (int k = 0; k < i; ++k) p[k] = counts[k];
        p[i - 1] += beyond;
        const int run = i / levels;
        for (int level = 0; level < levels; ++level) {
            const int start = level * run, end = level == levels - 1 ? i : start + run;
            double sum = 0;
            int filled = 0;
            for (int k = start; k < end; ++k) {
                sum += counts[k];
                filled += counts[k] != 0;
            }
            for (int k = start; k < end; ++k) q[k] = counts[k] != 0 ? sum / filled : 0;
        }
        for (int k = 0; k < i; ++k) {
            total += p[k];
            kept += q[k];
        }
        for (int k = 0; k < i; ++k) {
            if (p[k] == 0) continue;
            divergence += q[k] == 0 ? std::numeric_limits<double>::infinity()
                                    : p[k] / total * std::log(p[k] / total / (q[k] / kept));
        }
        divergences[i - levels] = divergence;
        if (divergence < least) {
            least = divergence;
            best = i;
        }
    }
    return best;
}
