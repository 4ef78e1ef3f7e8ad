// What the CPU kernels share: storage types, a vectorisable exponential, threads. Sources include it by name, and
// kernel_sources.py puts its text there.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <pthread.h>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#if defined(_WIN32)
#define M2F_EXPORT extern "C" __declspec(dllexport)
#else
#define M2F_EXPORT extern "C" __attribute__((visibility("default")))
#endif

#if defined(M2F_WITHOUT_LIBRARY)
// Without C++'s library, which would have to be built for each target and takes nine tenths of a kernel's file, this is
// all that is missing. It has no exceptions; they would end the process too, because they cannot leave a C function.
void* operator new(size_t bytes) {
  void* memory = std::malloc(bytes ? bytes : 1);
  if (!memory) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
// The start of what malloc gave lies before what the caller gets.
void* operator new(size_t bytes, std::align_val_t alignment) {
  const size_t align = static_cast<size_t>(alignment);
  char* const start = static_cast<char*>(operator new(bytes + align + sizeof(void*)));
  char* const memory = start + sizeof(void*) + (align - (reinterpret_cast<uintptr_t>(start) + sizeof(void*)) % align);
  std::memcpy(memory - sizeof(void*), &start, sizeof(void*));
  return memory;
}
void operator delete(void* memory, std::align_val_t) noexcept {
  void* start = nullptr;
  if (memory) std::memcpy(&start, static_cast<char*>(memory) - sizeof(void*), sizeof(void*));
  std::free(start);
}
void operator delete(void* memory, size_t, std::align_val_t alignment) noexcept { operator delete(memory, alignment); }
_LIBCPP_BEGIN_NAMESPACE_STD
void __libcpp_verbose_abort(const char*, ...) noexcept { std::abort(); }
_LIBCPP_END_NAMESPACE_STD
#endif

namespace {

struct bfloat16 {
  uint16_t bits;
};

template <typename S> struct Arithmetic { using type = S; };
template <> struct Arithmetic<bfloat16> { using type = float; };

inline float load(float x) { return x; }
inline double load(double x) { return x; }
inline float load(bfloat16 x) {
  uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}

inline void store(float* to, float x) { *to = x; }
inline void store(double* to, double x) { *to = x; }
inline void store(bfloat16* to, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  // To the nearest, ties to even, as torch rounds; a NaN stays one.
  to->bits = x != x ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp for x <= 0 in a form that compilers vectorise; within 2 units in the last place. (Cephes' polynomial.)
inline float exp_nonpositive(float x) {
  const float clamped = x > -87.0f ? x : -87.0f;
  const float n = std::nearbyint(clamped * 1.44269504f);
  const float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return x != x ? x : p * scale;
}
inline double exp_nonpositive(double x) { return std::exp(x); }

// How to run work on several threads: those of the OpenMP runtime that the caller names by its GOMP_parallel, torch's
// own. Its idle threads spin for a while after each of torch's operators, and threads of another kind would have to
// share the processors with them (measured on 2 cores, right after a matrix product: 13 instead of 8 ms). Without one,
// threads are started per call and joined before it returns.
struct Team {
  int64_t threads;
  void (*gomp_parallel)(void (*)(void*), void*, unsigned, unsigned);  // null: start threads
};

// Work on the ranges that [0, count) is split into, handed out one by one.
template <typename Work> struct Ranges {
  const Work& work;
  int64_t count, parts;
  std::atomic<int64_t> next{0};

  void run() {
    for (int64_t i = next++; i < parts; i = next++) work(count * i / parts, count * (i + 1) / parts);
  }
  static void run_in_team(void* ranges) { static_cast<Ranges*>(ranges)->run(); }
  static void* run_in_thread(void* ranges) { return run_in_team(ranges), nullptr; }
};

template <typename Work> void in_parallel(int64_t count, const Team& team, const Work& work) {
  const int64_t threads = team.threads < count ? team.threads : count;
  if (threads <= 1) return work(0, count);
  // More ranges than threads, so that one that is held up does not hold up all.
  const int64_t parts = 4 * threads < count ? 4 * threads : count;
  Ranges<Work> ranges{work, count, parts};
  if (team.gomp_parallel) {
    team.gomp_parallel(Ranges<Work>::run_in_team, &ranges, static_cast<unsigned>(threads), 0);
    return;
  }
  std::vector<pthread_t> helpers(threads - 1);
  int64_t started = 0;
  // A thread that the system does not give leaves its ranges to the others.
  while (started < threads - 1 && !pthread_create(&helpers[started], nullptr, Ranges<Work>::run_in_thread, &ranges)) {
    ++started;
  }
  ranges.run();
  for (int64_t i = 0; i < started; ++i) pthread_join(helpers[i], nullptr);
}

Team team_of(int64_t threads, void* gomp_parallel) {
  Team team{threads, nullptr};
  std::memcpy(&team.gomp_parallel, &gomp_parallel, sizeof gomp_parallel);
  return team;
}

// A large result is fresh memory, of which the system gives one page at the first touch: with pages of 4 KiB that takes
// as long as the arithmetic.
void prefer_huge_pages(void* start, int64_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr uintptr_t page = 1 << 21;
  const uintptr_t from = (reinterpret_cast<uintptr_t>(start) + page - 1) / page * page;
  const uintptr_t to = (reinterpret_cast<uintptr_t>(start) + bytes) / page * page;
  if (start && from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
}

}  // namespace
