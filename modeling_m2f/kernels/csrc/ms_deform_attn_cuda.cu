// Multi-scale deformable attention on an NVIDIA GPU; formula and shapes in ms_deform_attn_reference.py.
//
// Compiled by NVRTC for each combination in use of M2F_KERNEL (what it does), M2F_T (float32, float16, bfloat16),
// M2F_HEAD_DIM, M2F_LEVELS, M2F_POINTS and M2F_VECTOR (channels a lane loads at once). No header is included, not even
// CUDA's own: a machine needs nothing beyond the libraries that PyTorch's wheels bring. For a CPU's compiler,
// tests/modeling_m2f/kernels/cuda_on_host.h stands in for the built-ins.
//
// A group of GROUP lanes serves one head of one query. Its lanes own runs of VECTOR channels, so that a corner of a
// sample is one coalesced load [1]. Lane i also owns sample i % RUN of each round of RUN samples: it reads its offset
// and logit, and the group takes location and weight from it by shuffles [2]. Locations, softmax and sums are float32.
//
// Everything between the raw linear outputs and the attended values happens here; nothing of size S*M*L*P*D, and no
// location or weight, is ever stored.
//
// [1] Xiong et al., "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications",
//     CVPR 2024, section 3.2: 8 channels a thread, softmax inside the kernel.
// [2] deformops 3 (github.com/tue-p8n/deformops): one lane reads a location and broadcasts it; sums of the value's
//     gradient in float32. The fusion of locations and softmax and the transposed sums below are ours.

using int64 = long long;
using uint64 = unsigned long long;

// Storage types of 16 bits; all arithmetic is float.
struct float16 {
  unsigned short bits;
};
struct bfloat16 {
  unsigned short bits;
};
using float32 = float;

using T = M2F_T;
constexpr int D = M2F_HEAD_DIM, L = M2F_LEVELS, P = M2F_POINTS, VECTOR = M2F_VECTOR;
constexpr int SAMPLES = L * P;

__device__ constexpr int next_power_of_two(int n) { return n <= 1 ? 1 : 2 * next_power_of_two((n + 1) / 2); }
__device__ constexpr int smaller(int a, int b) { return a < b ? a : b; }

static_assert(D % VECTOR == 0, "M2F_VECTOR must divide M2F_HEAD_DIM");
constexpr int GROUP = smaller(32, next_power_of_two(D / VECTOR));  // lanes; divides a warp
constexpr int PARTS = (D / VECTOR + GROUP - 1) / GROUP;            // runs of channels a lane owns
// Samples that a group works on in a round. More than 8 would not fit the registers of the backward kernel.
constexpr int RUN = smaller(GROUP, 8);
constexpr int ROUNDS = (SAMPLES + RUN - 1) / RUN;
constexpr int THREADS = 256, GROUPS_PER_BLOCK = THREADS / GROUP;   // ms_deform_attn_cuda.py knows them too
// Unrolled, samples have constant levels and their loads overlap; beyond 16 the code only grows.
constexpr int UNROLLED_ROUNDS = SAMPLES <= 16 ? ROUNDS : 1;
constexpr unsigned ALL_LANES = 0xffffffffu;

// The arguments of a launch, by value, so that a CUDA graph holds them; buffers are contiguous, pairs (x, y) aligned.
// ms_deform_attn_cuda.py has the same fields in the same order.
struct Problem {
  const T* value;          // (B, S, M, D)
  const float* reference;  // (1 or B, Q, L, 2)
  const T* offsets;        // (B, Q, M, L, P, 2)
  const T* logits;         // (B, Q, M, L * P)
  T* out;                  // (B, Q, M * D) of forward; (B, S, M, D) of finish
  const T* grad_out;       // (B, Q, M * D)
  void* grad_value;        // (B, S, M, D) float32, int64 for the deterministic kernel, zeros at first; or null
  T* grad_offsets;         // (B, Q, M, L, P, 2) or null
  T* grad_logits;          // (B, Q, M, L * P) or null
  float* grad_locations;   // (B, Q, M, L, P, 2), gradient in cells; or null
  const float* bound;      // max |grad_out|; deterministic kernel alone
  int* not_finite;         // set where a weight is NaN; deterministic kernel alone
  int batch, cells, heads, queries, reference_batch;
  int fraction_bits;       // of a fixed-point number; deterministic kernel alone
  int height[L], width[L], first_cell[L];
};

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bfloat16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }
__device__ inline float to_float(float16 x) {
#ifdef __CUDACC_RTC__
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(x.bits));
  return out;
#else
  return host_float_of_half(x.bits);
#endif
}

// To the nearest, ties to even, as torch rounds.
__device__ inline void store(float* to, float x) { *to = x; }
__device__ inline void store(bfloat16* to, float x) {
  const unsigned bits = __float_as_uint(x);
  to->bits = static_cast<unsigned short>(x != x ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ inline void store(float16* to, float x) {
#ifdef __CUDACC_RTC__
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to->bits) : "f"(x));
#else
  to->bits = host_half_of_float(x);
#endif
}

// The register type of a memory access of BYTES.
template <int BYTES> struct Register;
template <> struct Register<2> { using type = unsigned short; };
template <> struct Register<4> { using type = unsigned; };
template <> struct Register<8> { using type = uint2; };
template <> struct Register<16> { using type = uint4; };

// N numbers that are read or written by one instruction.
template <int N> union Packed {
  typename Register<N * sizeof(T)>::type whole;
  T item[N];
};

template <int N> __device__ inline void load(const T* from, float (&to)[N]) {
  Packed<N> packed;
  packed.whole = __ldg(reinterpret_cast<const decltype(packed.whole)*>(from));
#pragma unroll
  for (int i = 0; i < N; ++i) to[i] = to_float(packed.item[i]);
}

__device__ inline float read(const T* from) {
  float x[1];
  load(from, x);
  return x[0];
}

template <int N> __device__ inline void store(T* to, const float (&from)[N]) {
  Packed<N> packed;
#pragma unroll
  for (int i = 0; i < N; ++i) store(&packed.item[i], from[i]);
  *reinterpret_cast<decltype(packed.whole)*>(to) = packed.whole;
}

// Sums and maxima over the lanes of a group, known to each of them.
__device__ inline float group_sum(float x) {
#pragma unroll
  for (int step = GROUP / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}
__device__ inline float group_max(float x) {
#pragma unroll
  for (int step = GROUP / 2; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, step));
  return x;
}

// Sum over RUN neighbouring lanes, known to each of them.
__device__ inline float run_sum(float x) {
#pragma unroll
  for (int step = RUN / 2; step > 0; step /= 2) x += __shfl_xor_sync(ALL_LANES, x, step);
  return x;
}

// Lane i gets the sum of x[i % RUN] over the group, for about RUN shuffles instead of RUN * log2(GROUP): in each step
// a lane hands over the half of the sums that end elsewhere. The order is always the same.
__device__ inline float transposed_sum(float (&x)[RUN], int lane) {
#pragma unroll
  for (int step = RUN / 2; step > 0; step /= 2) {
    const bool upper = lane & step;
#pragma unroll
    for (int i = 0; i < step; ++i) {
      const float kept = upper ? x[i + step] : x[i], given = upper ? x[i] : x[i + step];
      x[i] = kept + __shfl_xor_sync(ALL_LANES, given, step);
    }
  }
#pragma unroll
  for (int step = RUN; step < GROUP; step *= 2) x[0] += __shfl_xor_sync(ALL_LANES, x[0], step);
  return x[0];
}

// What a group works on. Groups beyond the last head repeat the last one's reads, because a shuffle needs all lanes,
// and write nothing.
struct Place {
  bool active;
  int lane;        // in the group
  int64 image;
  int64 head_row;  // (image * Q + query) * M + head
  int64 value_at;  // of the head's channel 0 in the image's cell 0
  int64 reference_at;

  __device__ Place(const Problem& in, int image_index) {
    // ms_deform_attn_cuda.py sees that it is below 2^31.
    const unsigned rows = static_cast<unsigned>(in.queries) * in.heads;
    const unsigned at = blockIdx.x * GROUPS_PER_BLOCK + threadIdx.x / GROUP;
    const unsigned row = at < rows ? at : rows - 1;
    const unsigned query = row / in.heads, head = row - query * in.heads;
    active = at < rows;
    lane = threadIdx.x % GROUP;
    image = image_index;
    head_row = image * rows + row;
    value_at = (image * in.cells * in.heads + head) * D;
    reference_at = ((in.reference_batch == 1 ? 0 : image) * in.queries + query) * (2 * L);
  }

  // The sample that this lane owns in a round; of lanes with the same one, the first writes.
  __device__ int sample(int round) const { return round * RUN + lane % RUN; }
  __device__ bool writes(int j) const { return active && lane < RUN && j < SAMPLES; }
  __device__ int channel(int part) const { return (part * GROUP + lane) * VECTOR; }
};

// Softmax over the head's samples: weight_j = exp(logit_j - largest) / sum.
struct Softmax {
  const T* logits;
  float largest, scale;

  __device__ Softmax(const Problem& in, const Place& at) : logits(in.logits + at.head_row * SAMPLES) {
    largest = __uint_as_float(0xff800000u);
    for (int j = at.lane; j < SAMPLES; j += GROUP) largest = fmaxf(largest, read(logits + j));
    largest = group_max(largest);
    float sum = 0;
    for (int j = at.lane; j < SAMPLES; j += GROUP) sum += expf(read(logits + j) - largest);
    scale = 1.0f / group_sum(sum);
  }

  __device__ float weight(int j) const { return expf(read(logits + j) - largest) * scale; }
};

// A sample: its location in cells of its level, where (0, 0) is the centre of the first cell, and its weight.
struct Sample {
  float x, y, weight;

  // Of sample j, read by its owner.
  __device__ Sample(const Problem& in, const Place& at, const Softmax& softmax, int j) : x(0), y(0), weight(0) {
    if (j >= SAMPLES) return;
    const int level = j / P;
    float offset[2];
    load(in.offsets + (at.head_row * SAMPLES + j) * 2, offset);
    const float2 reference = __ldg(reinterpret_cast<const float2*>(in.reference + at.reference_at) + level);
    x = fmaf(reference.x, static_cast<float>(in.width[level]), -0.5f) + offset[0];
    y = fmaf(reference.y, static_cast<float>(in.height[level]), -0.5f) + offset[1];
    weight = softmax.weight(j);
  }

  // That of another lane of the group.
  __device__ Sample(const Sample& own, int owner)
      : x(__shfl_sync(ALL_LANES, own.x, owner, GROUP)),
        y(__shfl_sync(ALL_LANES, own.y, owner, GROUP)),
        weight(__shfl_sync(ALL_LANES, own.weight, owner, GROUP)) {}
};

// The four cells around a location, in the order (y0, x0), (y0, x1), (y1, x0), (y1, x1), and the share of each.
struct Corners {
  bool in[4];
  int cell;   // of (y0, x0) in the image; it and others may lie outside the map, see `in`
  int width;
  float dx, dy;

  __device__ Corners(const Problem& problem, const Sample& sample, int level) {
    const int w = problem.width[level], h = problem.height[level];
    // Written so that NaN is outside. What is inside fits an int.
    const bool any = sample.x > -1.0f && sample.x < static_cast<float>(w) && sample.y > -1.0f &&
                     sample.y < static_cast<float>(h);
    const float left = any ? floorf(sample.x) : -2.0f, top = any ? floorf(sample.y) : -2.0f;
    const int x0 = static_cast<int>(left), y0 = static_cast<int>(top);
    const bool x0_in = x0 >= 0, x1_in = any && x0 + 1 < w, y0_in = y0 >= 0, y1_in = any && y0 + 1 < h;
    in[0] = y0_in && x0_in;
    in[1] = y0_in && x1_in;
    in[2] = y1_in && x0_in;
    in[3] = y1_in && x1_in;
    width = w;
    cell = problem.first_cell[level] + y0 * w + x0;
    dx = any ? sample.x - left : 0.0f;
    dy = any ? sample.y - top : 0.0f;
  }

  __device__ float share(int corner) const {
    return (corner < 2 ? 1.0f - dy : dy) * (corner % 2 == 0 ? 1.0f - dx : dx);
  }
  // int64: S * M * D may exceed 2^31. The product of two int32 with a 64-bit sum is one instruction.
  __device__ int64 element(int corner, int row_size) const {
    return static_cast<int64>(cell + (corner < 2 ? 0 : width) + corner % 2) * row_size;
  }
};

// One block row per image; images beyond the largest grid are reached by steps.
__device__ inline void forward(const Problem& in) {
  const int row_size = in.heads * D;
  for (int image = blockIdx.y; image < in.batch; image += gridDim.y) {
    const Place at(in, image);
    const Softmax softmax(in, at);
    const T* value = in.value + at.value_at;
    float sum[PARTS][VECTOR] = {};
#pragma unroll UNROLLED_ROUNDS
    for (int round = 0; round < ROUNDS; ++round) {
      const Sample own(in, at, softmax, at.sample(round));
#pragma unroll
      for (int owner = 0; owner < RUN; ++owner) {
        const int j = round * RUN + owner;
        if (j >= SAMPLES) break;
        const Sample sample(own, owner);
        const Corners corners(in, sample, j / P);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          const T* row = value + corners.element(corner, row_size);
          const float weight = sample.weight * corners.share(corner);
#pragma unroll
          for (int part = 0; part < PARTS; ++part) {
            if (!corners.in[corner] || at.channel(part) >= D) continue;
            float cell[VECTOR];
            load(row + at.channel(part), cell);
#pragma unroll
            for (int i = 0; i < VECTOR; ++i) sum[part][i] = fmaf(weight, cell[i], sum[part][i]);
          }
        }
      }
    }
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
      if (at.active && at.channel(part) < D) store(in.out + at.head_row * D + at.channel(part), sum[part]);
  }
}

// to[i] += x[i], atomically. One instruction from sm_90 on; `to` is aligned to 16 bytes.
__device__ inline void add4(float* to, float x0, float x1, float x2, float x3) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("red.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)), "f"(x0), "f"(x1),
               "f"(x2), "f"(x3)
               : "memory");
#else
  atomicAdd(to, x0);
  atomicAdd(to + 1, x1);
  atomicAdd(to + 2, x2);
  atomicAdd(to + 3, x3);
#endif
}

// Adds to the value's gradient in float32.
struct FloatSum {
  float* total;

  __device__ FloatSum(const Problem& in, const Place& at)
      : total(in.grad_value ? static_cast<float*>(in.grad_value) + at.value_at : nullptr) {}

  __device__ void note_weight(const Problem&, float) const {}
  __device__ void prepare(float (&)[PARTS][VECTOR]) const {}

  __device__ void add(int64 element, float weight, const float (&grad)[VECTOR]) const {
    float* to = total + element;
    constexpr int RUN = VECTOR % 4 == 0 ? 4 : 1;
#pragma unroll
    for (int i = 0; i < VECTOR; i += RUN) {
      if constexpr (RUN == 4)
        add4(to + i, weight * grad[i], weight * grad[i + 1], weight * grad[i + 2], weight * grad[i + 3]);
      else
        atomicAdd(to + i, weight * grad[i]);
    }
  }
};

// 2^exponent is the least power of two above a bound (for a bound below the normal numbers, 2^-126).
__device__ inline int exponent_of(float bound) {
  return static_cast<int>((__float_as_uint(bound) >> 23) & 255u) - 126;
}

// Adds to the value's gradient in fixed point: integers have one sum in any order, so two runs agree bit for bit.
// A term is weight * share * grad_out * 2^(fraction_bits - exponent), rounded. With |grad_out| < 2^exponent, and with
// weights that add up to 1 in each query, a cell's sum stays below Q * 2^fraction_bits, which
// ms_deform_attn_cuda.py keeps under 2^62. A term is off by at most 2^(exponent - fraction_bits - 1): for Q = 21504 by 2^-46 of the bound, against
// 2^-24 of the term itself for float32.
struct FixedSum {
  int64* total;
  float scale;  // 2^fraction_bits
  int exponent;

  __device__ FixedSum(const Problem& in, const Place& at)
      : total(in.grad_value ? static_cast<int64*>(in.grad_value) + at.value_at : nullptr),
        scale(ldexpf(1.0f, in.fraction_bits)),
        exponent(exponent_of(*in.bound)) {}

  // No integer stands for NaN, so one makes the whole gradient NaN, in any order. Those of grad_out show in its bound.
  __device__ void note_weight(const Problem& in, float weight) const {
    if (weight != weight) *in.not_finite = 1;
  }

  __device__ void prepare(float (&grad)[PARTS][VECTOR]) const {
#pragma unroll
    for (int part = 0; part < PARTS; ++part)
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) grad[part][i] = ldexpf(grad[part][i], -exponent);
  }

  __device__ void add(int64 element, float weight, const float (&grad)[VECTOR]) const {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i)
      atomicAdd(reinterpret_cast<uint64*>(total + element + i),
                static_cast<uint64>(__float2ll_rn(weight * grad[i] * scale)));
  }
};

// g . v_j for the corners of a sample, over the channels of this lane, and the sample's part of the value's gradient.
template <typename Sum>
__device__ inline void visit_corners(
    const Problem& in, const Place& at, const Sample& sample, const Corners& corners, const Sum& sum,
    const float (&grad)[PARTS][VECTOR], const float (&scaled_grad)[PARTS][VECTOR], float (&product)[4]) {
  const int row_size = in.heads * D;
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    const int64 element = corners.element(corner, row_size);
    const float weight = sample.weight * corners.share(corner);
    product[corner] = 0;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      if (!corners.in[corner] || at.channel(part) >= D) continue;
      float cell[VECTOR];
      load(in.value + at.value_at + element + at.channel(part), cell);
#pragma unroll
      for (int i = 0; i < VECTOR; ++i) product[corner] = fmaf(grad[part][i], cell[i], product[corner]);
      if (sum.total && at.active) sum.add(element + at.channel(part), weight, scaled_grad[part]);
    }
  }
}

__device__ inline void load_grad_out(const Problem& in, const Place& at, float (&grad)[PARTS][VECTOR]) {
#pragma unroll
  for (int part = 0; part < PARTS; ++part) {
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) grad[part][i] = 0;
    if (at.channel(part) < D) load(in.grad_out + at.head_row * D + at.channel(part), grad[part]);
  }
}

// Writes of a sample's owner.
__device__ inline void store_location_grads(const Problem& in, const Place& at, int j, float grad_x, float grad_y) {
  if (!at.writes(j)) return;
  const int64 pair = (at.head_row * SAMPLES + j) * 2;
  const float grads[2] = {grad_x, grad_y};
  if (in.grad_offsets) store(in.grad_offsets + pair, grads);
  if (in.grad_locations) *reinterpret_cast<float2*>(in.grad_locations + pair) = make_float2(grad_x, grad_y);
}

// With g = d loss / d out of the head, v_j the sample and a_j its weight, v_jc and s_jc a corner and its share:
//   d value_jc  += a_j * s_jc * g
//   d offset_j   = a_j * sum_c (d s_jc / d location) * (g . v_jc)
//   d logit_j    = a_j * (g . v_j - sum_k a_k * (g . v_k))
template <typename Sum> __device__ inline void backward(const Problem& in) {
  for (int image = blockIdx.y; image < in.batch; image += gridDim.y) {
    const Place at(in, image);
    const Softmax softmax(in, at);
    const Sum sum(in, at);
    float grad[PARTS][VECTOR], scaled_grad[PARTS][VECTOR];
    load_grad_out(in, at, grad);
    load_grad_out(in, at, scaled_grad);
    sum.prepare(scaled_grad);
    float weights[ROUNDS], along[ROUNDS], mean = 0;  // along: g . v_j of the samples that this lane owns
#pragma unroll UNROLLED_ROUNDS
    for (int round = 0; round < ROUNDS; ++round) {
      const Sample own(in, at, softmax, at.sample(round));
      sum.note_weight(in, own.weight);
      float parts[3][RUN];  // of g . v_j and of its derivatives by x and y, for the samples of this round
#pragma unroll
      for (int owner = 0; owner < RUN; ++owner) {
        const int j = round * RUN + owner;
        parts[0][owner] = parts[1][owner] = parts[2][owner] = 0;
        if (j >= SAMPLES) continue;
        const Sample sample(own, owner);
        const Corners corners(in, sample, j / P);
        float product[4];
        visit_corners(in, at, sample, corners, sum, grad, scaled_grad, product);
        const float top = product[1] - product[0], bottom = product[3] - product[2];
        const float left = product[2] - product[0], right = product[3] - product[1];
        parts[0][owner] = fmaf(corners.share(0), product[0], corners.share(1) * product[1]) +
                          fmaf(corners.share(2), product[2], corners.share(3) * product[3]);
        parts[1][owner] = fmaf(corners.dy, bottom - top, top);
        parts[2][owner] = fmaf(corners.dx, right - left, left);
      }
      weights[round] = own.weight;
      along[round] = transposed_sum(parts[0], at.lane);
      const float along_x = transposed_sum(parts[1], at.lane), along_y = transposed_sum(parts[2], at.lane);
      mean = fmaf(own.weight, along[round], mean);
      store_location_grads(in, at, at.sample(round), own.weight * along_x, own.weight * along_y);
    }
    mean = run_sum(mean);
    if (!in.grad_logits) continue;
#pragma unroll UNROLLED_ROUNDS
    for (int round = 0; round < ROUNDS; ++round) {
      const int j = at.sample(round);
      if (at.writes(j)) store(in.grad_logits + at.head_row * SAMPLES + j, weights[round] * (along[round] - mean));
    }
  }
}

// The value's gradient `out` (B, S, M, D) from its fixed-point sums.
__device__ inline void finish(const Problem& in) {
  const int64 count = static_cast<int64>(in.batch) * in.cells * in.heads * D;
  const int64* total = static_cast<const int64*>(in.grad_value);
  const float bound = *in.bound;
  const bool valid = bound - bound == 0.0f && *in.not_finite == 0;
  const int exponent = exponent_of(bound) - in.fraction_bits;
  const int64 step = static_cast<int64>(gridDim.x) * THREADS;
  for (int64 i = static_cast<int64>(blockIdx.x) * THREADS + threadIdx.x; i < count; i += step)
    store(in.out + i, valid ? ldexpf(static_cast<float>(total[i]), exponent) : __uint_as_float(0x7fc00000u));
}

// One entry point a compilation: M2F_KERNEL is forward, backward<FloatSum>, backward<FixedSum> or finish.
extern "C" __global__ void __launch_bounds__(THREADS) m2f_ms_deform_attn(const __grid_constant__ Problem in) {
  M2F_KERNEL(in);
}
