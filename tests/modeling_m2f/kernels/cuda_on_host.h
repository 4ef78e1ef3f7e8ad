// The CUDA built-ins that ms_deform_attn_cuda.cu uses, for a CPU's compiler: the kernels' own text then runs without a
// GPU. The lanes of a warp are coroutines that run to their next shuffle in turn; a shuffle that not all 32 reach, or
// that they reach with different arguments, aborts. Warps and blocks follow one another, so atomics are plain sums.

#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct Index { unsigned x, y, z; };

static Index threadIdx, blockIdx, gridDim;

static inline float2 make_float2(float x, float y) { return {x, y}; }

namespace host {

static void fail(const char* reason) {
  std::fprintf(stderr, "%s\n", reason);
  std::abort();
}

// The buffers of a launch that may be read by __ldg or added to by atomicAdd.
struct Buffer {
  uintptr_t begin, end;
};
static std::vector<Buffer> buffers;

template <typename V> static void admit(const V* begin, long long count) {
  buffers.push_back({reinterpret_cast<uintptr_t>(begin), reinterpret_cast<uintptr_t>(begin + count)});
}

// A GPU faults at an address that does not fit the access or belongs to nobody, and so does this.
template <typename V> static void check(const V* address) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(address);
  if (begin % sizeof(V)) fail("misaligned access");
  for (const Buffer& buffer : buffers)
    if (begin >= buffer.begin && begin + sizeof(V) <= buffer.end) return;
  fail("access outside the buffers");
}

}  // namespace host

template <typename V> static V __ldg(const V* from) {
  host::check(from);
  V out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
static inline unsigned __float_as_uint(float x) {
  unsigned bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
static inline float __uint_as_float(unsigned bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
static inline long long __float2ll_rn(float x) { return std::llrint(x); }
template <typename V> static void atomicAdd(V* to, V x) {
  host::check(to);
  *to += x;
}

static inline float host_float_of_half(unsigned short bits) {
  _Float16 half;
  std::memcpy(&half, &bits, sizeof half);
  return static_cast<float>(half);
}
static inline unsigned short host_half_of_float(float x) {
  const _Float16 half = static_cast<_Float16>(x);
  unsigned short bits;
  std::memcpy(&bits, &half, sizeof bits);
  return bits;
}

namespace host {

constexpr int WARP = 32;

struct Lane {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(64 << 10);
  float given;
  int kind, argument;  // of the shuffle it waits at
  bool done;
};

struct Warp {
  Lane lanes[WARP];
  ucontext_t scheduler;
  float exchanged[WARP];  // what the lanes gave to the last shuffle that all have reached
  int running;
  void (*work)(void*);
  void* data;
};
static Warp warp;

static void run_lane() {
  warp.work(warp.data);
  warp.lanes[warp.running].done = true;
}

// Waits until the scheduler has brought all lanes here.
static void meet(float given, int kind, int argument) {
  Lane& lane = warp.lanes[warp.running];
  lane.given = given;
  lane.kind = kind;
  lane.argument = argument;
  swapcontext(&lane.context, &warp.scheduler);
}

static float exchange(unsigned mask, float given, int kind, int argument, int source) {
  if (mask != 0xffffffffu) fail("a shuffle names some lanes only");
  meet(given, kind, argument);
  return warp.exchanged[source];
}

static void run_warp(void (*work)(void*), void* data, unsigned first_thread) {
  warp.work = work;
  warp.data = data;
  for (Lane& lane : warp.lanes) {
    lane.done = false;
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack.data();
    lane.context.uc_stack.ss_size = lane.stack.size();
    lane.context.uc_link = &warp.scheduler;
    makecontext(&lane.context, run_lane, 0);
  }
  for (bool running = true; running;) {
    for (int i = 0; i < WARP; ++i) {
      warp.running = i;
      threadIdx = {first_thread + i, 0, 0};
      swapcontext(&warp.scheduler, &warp.lanes[i].context);
    }
    running = !warp.lanes[0].done;
    for (const Lane& lane : warp.lanes) {
      if (lane.done == running) fail("some lanes return where others shuffle");
      if (running && (lane.kind != warp.lanes[0].kind || lane.argument != warp.lanes[0].argument))
        fail("the lanes of a warp are at different shuffles");
    }
    for (int i = 0; i < WARP; ++i) warp.exchanged[i] = warp.lanes[i].given;
  }
}

static void run_grid(void (*work)(void*), void* data, unsigned grid_x, unsigned grid_y, unsigned threads) {
  gridDim = {grid_x, grid_y, 1};
  for (unsigned y = 0; y < grid_y; ++y)
    for (unsigned x = 0; x < grid_x; ++x)
      for (unsigned first = 0; first < threads; first += WARP) {
        blockIdx = {x, y, 0};
        run_warp(work, data, first);
      }
}

}  // namespace host

static inline float __shfl_xor_sync(unsigned mask, float x, int lanes) {
  return host::exchange(mask, x, 1, lanes, host::warp.running ^ lanes);
}
static inline float __shfl_sync(unsigned mask, float x, int source, int width) {
  const int first = host::warp.running / width * width;
  return host::exchange(mask, x, 2, source * 64 + width, first + source % width);
}

// Follows the kernel's text: a launch over the whole grid.
#define M2F_HOST_ENTRY                                                                            \
  extern "C" void run(Problem* p, unsigned grid_x, unsigned grid_y, unsigned threads) {           \
    const long long heads = static_cast<long long>(p->batch) * p->queries * p->heads;             \
    const long long elements = static_cast<long long>(p->batch) * p->cells * p->heads * D;        \
    host::buffers.clear();                                                                        \
    host::admit(p->value, elements);                                                              \
    host::admit(p->reference, static_cast<long long>(p->reference_batch) * p->queries * L * 2);   \
    host::admit(p->offsets, heads * SAMPLES * 2);                                                 \
    host::admit(p->logits, heads * SAMPLES);                                                      \
    if (p->grad_out) host::admit(p->grad_out, heads * D);                                         \
    if (p->grad_value) host::admit(static_cast<char*>(p->grad_value), elements * (p->bound ? 8 : 4)); \
    const auto work = [](void* data) { m2f_ms_deform_attn(*static_cast<const Problem*>(data)); }; \
    host::run_grid(work, p, grid_x, grid_y, threads);                                             \
  }
