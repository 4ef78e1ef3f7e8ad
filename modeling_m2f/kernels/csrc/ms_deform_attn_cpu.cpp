// Multi-scale deformable attention on a CPU; formula and shapes in ms_deform_attn_reference.py.
//
// Compiled once for each combination of M2F_DTYPE (float, double, bfloat16), M2F_HEAD_DIM, M2F_LEVELS and M2F_POINTS
// that a program uses: with these known, sums stay in registers and a compilation takes about a second.
//
// Everything between the raw linear outputs and the attended values happens here: location, softmax, bilinear sampling
// and weighted sum, with channels last, so that a corner of a sample is one run of D numbers. Nothing of size
// S*M*L*P*D is ever stored.
//
// Threads are those of the OpenMP runtime that the caller names by its GOMP_parallel, torch's own: its idle threads spin
// for a while after each of torch's operators, and threads of another kind would have to share the processors with them
// (measured on 2 cores, right after a matrix product: 13 instead of 8 ms). Without one, threads are started per call and
// joined before it returns. No result depends on the number or kind of threads: every output element is written by one
// thread, in one order.

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

namespace {

struct bfloat16 {
  uint16_t bits;
};

using T = M2F_DTYPE;  // storage
constexpr int64_t D = M2F_HEAD_DIM, L = M2F_LEVELS, P = M2F_POINTS, SAMPLES = L * P;

template <typename S> struct Arithmetic { using type = S; };
template <> struct Arithmetic<bfloat16> { using type = float; };
using A = Arithmetic<T>::type;  // arithmetic, locations and accumulators

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

// The arguments of a call; all buffers are contiguous.
struct Problem {
  int64_t batch, cells, heads, queries, reference_batch;
  int64_t height[L], width[L], first_cell[L];
  const T* value;      // (B, S, M, D)
  const A* reference;  // (1 or B, Q, L, 2)
  const T* offsets;    // (B, Q, M, L, P, 2)
  const T* logits;     // (B, Q, M, L * P)

  const A* reference_of(int64_t b, int64_t q) const {
    return reference + ((reference_batch == 1 ? 0 : b) * queries + q) * L * 2;
  }
};

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

inline void softmax(const T* logits, A* weights) {
  A largest = load(logits[0]);
  for (int64_t j = 0; j < SAMPLES; ++j) {
    weights[j] = load(logits[j]);
    largest = weights[j] > largest ? weights[j] : largest;
  }
  for (int64_t j = 0; j < SAMPLES; ++j) weights[j] = exp_nonpositive(weights[j] - largest);
  A sum = 0;
  for (int64_t j = 0; j < SAMPLES; ++j) sum += weights[j];
  for (int64_t j = 0; j < SAMPLES; ++j) weights[j] /= sum;
}

// Where the samples of one head look: for each the four cells around its location and their shares. A corner outside the
// map has share 0 and the nearest cell inside, so that it needs no branch; of a location wholly outside, NaN included,
// all shares are 0. Comparisons are made on floating point numbers, all in one loop over samples FIRST to LAST, because
// that is what compilers turn into vector instructions; this loop, not the sampling, is most of the work.
struct Samples {
  A share[4][SAMPLES];
  A inside[4][SAMPLES];        // 1 where the corner is in the map, else 0
  A dx[SAMPLES], dy[SAMPLES];  // position between the corners, in [0, 1)
  int32_t cell[4][SAMPLES];    // row-major index in the level
};

// Reference points in cells, and level sizes, of each sample of a query.
struct Origin {
  A x[SAMPLES], y[SAMPLES], width[SAMPLES], height[SAMPLES];

  Origin(const Problem& in, const A* reference) {
    for (int64_t j = 0; j < SAMPLES; ++j) {
      const int64_t l = j / P;
      width[j] = static_cast<A>(in.width[l]);
      height[j] = static_cast<A>(in.height[l]);
      x[j] = reference[2 * l] * width[j] - A(0.5);
      y[j] = reference[2 * l + 1] * height[j] - A(0.5);
    }
  }
};

template <int64_t FIRST, int64_t LAST>
inline void locate(const Origin& origin, const T* offsets, Samples& out) {
  A x_offset[SAMPLES], y_offset[SAMPLES];
  for (int64_t j = FIRST; j < LAST; ++j) {
    x_offset[j] = load(offsets[2 * j]);
    y_offset[j] = load(offsets[2 * j + 1]);
  }
  for (int64_t j = FIRST; j < LAST; ++j) {
    const A width = origin.width[j], height = origin.height[j];
    A x = origin.x[j] + x_offset[j], y = origin.y[j] + y_offset[j];
    // At -1 the only corner inside has share 0. Comparisons with NaN are false.
    x = x > -1 ? x : A(-1);
    x = x < width ? x : A(-1);
    y = y > -1 ? y : A(-1);
    y = y < height ? y : A(-1);
    const A left = std::floor(x), top = std::floor(y), dx = x - left, dy = y - top;
    const A any = (x > -1 ? A(1) : A(0)) * (y > -1 ? A(1) : A(0));
    const A x0_in = left >= 0 ? any : A(0), x1_in = left + 1 < width ? any : A(0);
    const A y0_in = top >= 0 ? A(1) : A(0), y1_in = top + 1 < height ? A(1) : A(0);
    const int32_t x0 = static_cast<int32_t>(left >= 0 ? left : A(0));
    const int32_t y0 = static_cast<int32_t>(top >= 0 ? top : A(0));
    const int32_t x1 = static_cast<int32_t>(left + 1 < width ? left + 1 : width - 1);
    const int32_t y1 = static_cast<int32_t>(top + 1 < height ? top + 1 : height - 1);
    const int32_t columns = static_cast<int32_t>(width);
    out.dx[j] = dx;
    out.dy[j] = dy;
    out.cell[0][j] = y0 * columns + x0;
    out.cell[1][j] = y0 * columns + x1;
    out.cell[2][j] = y1 * columns + x0;
    out.cell[3][j] = y1 * columns + x1;
    out.inside[0][j] = y0_in * x0_in;
    out.inside[1][j] = y0_in * x1_in;
    out.inside[2][j] = y1_in * x0_in;
    out.inside[3][j] = y1_in * x1_in;
    out.share[0][j] = y0_in * x0_in * ((1 - dy) * (1 - dx));
    out.share[1][j] = y0_in * x1_in * ((1 - dy) * dx);
    out.share[2][j] = y1_in * x0_in * (dy * (1 - dx));
    out.share[3][j] = y1_in * x1_in * (dy * dx);
  }
}

// Rows are the pairs of image and query.
void forward_rows(const Problem& in, T* out, int64_t begin, int64_t end) {
  const int64_t stride = in.heads * D;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / in.queries;
    const Origin origin(in, in.reference_of(b, row % in.queries));
    for (int64_t m = 0; m < in.heads; ++m) {
      const int64_t head_row = row * in.heads + m;
      A weights[SAMPLES], sum[D] = {};
      Samples at;
      softmax(in.logits + head_row * SAMPLES, weights);
      locate<0, SAMPLES>(origin, in.offsets + head_row * SAMPLES * 2, at);
      for (int64_t l = 0; l < L; ++l) {
        const T* level = in.value + (b * in.cells + in.first_cell[l]) * stride + m * D;
        for (int64_t j = l * P; j < (l + 1) * P; ++j) {
          const A w0 = weights[j] * at.share[0][j], w1 = weights[j] * at.share[1][j];
          const A w2 = weights[j] * at.share[2][j], w3 = weights[j] * at.share[3][j];
          // A sample that counts for nothing must not bring in a NaN that stands in the cell.
          if (w0 + w1 + w2 + w3 == 0) continue;
          const T *v0 = level + at.cell[0][j] * stride, *v1 = level + at.cell[1][j] * stride;
          const T *v2 = level + at.cell[2][j] * stride, *v3 = level + at.cell[3][j] * stride;
          for (int64_t d = 0; d < D; ++d)
            sum[d] += w0 * load(v0[d]) + w1 * load(v1[d]) + w2 * load(v2[d]) + w3 * load(v3[d]);
        }
      }
      for (int64_t d = 0; d < D; ++d) store(out + head_row * D + d, sum[d]);
    }
  }
}

struct Gradients {
  A* weights;    // (B, Q, M, L * P), written by the first pass for the second
  A* value;      // (B, S, M, D), zeros at first; null where not wanted
  A* reference;  // (B, Q, L, 2); null where not wanted
  T* offsets;    // (B, Q, M, L, P, 2)
  T* logits;     // (B, Q, M, L * P)
};

// With g = d loss / d out of the head, v_j the sample and a_j its weight:
//   d offset_x,j = a_j * sum over corners of (d share / d x) * (g . corner); times W_l for the reference point
//   d logit_j    = a_j * (g . v_j - sum_k a_k (g . v_k))
void backward_rows(const Problem& in, const T* grad_out, const Gradients& to, int64_t begin, int64_t end) {
  const int64_t stride = in.heads * D;
  for (int64_t row = begin; row < end; ++row) {
    const int64_t b = row / in.queries;
    const Origin origin(in, in.reference_of(b, row % in.queries));
    A grad_reference[L * 2] = {};
    for (int64_t m = 0; m < in.heads; ++m) {
      const int64_t head_row = row * in.heads + m;
      A* weights = to.weights + head_row * SAMPLES;
      A g[D], along[SAMPLES], mean = 0;
      Samples at;
      softmax(in.logits + head_row * SAMPLES, weights);
      locate<0, SAMPLES>(origin, in.offsets + head_row * SAMPLES * 2, at);
      for (int64_t d = 0; d < D; ++d) g[d] = load(grad_out[head_row * D + d]);
      for (int64_t l = 0; l < L; ++l) {
        const T* level = in.value + (b * in.cells + in.first_cell[l]) * stride + m * D;
        for (int64_t j = l * P; j < (l + 1) * P; ++j) {
          A product[4] = {};
          for (int k = 0; k < 4; ++k) {
            if (at.inside[k][j] == 0) continue;
            const T* v = level + at.cell[k][j] * stride;
            for (int64_t d = 0; d < D; ++d) product[k] += g[d] * load(v[d]);
          }
          along[j] = at.share[0][j] * product[0] + at.share[1][j] * product[1] + at.share[2][j] * product[2] +
                     at.share[3][j] * product[3];
          const A dx = at.dx[j], dy = at.dy[j];
          const A grad_x = weights[j] * ((1 - dy) * (product[1] - product[0]) + dy * (product[3] - product[2]));
          const A grad_y = weights[j] * ((1 - dx) * (product[2] - product[0]) + dx * (product[3] - product[1]));
          store(to.offsets + (head_row * SAMPLES + j) * 2, grad_x);
          store(to.offsets + (head_row * SAMPLES + j) * 2 + 1, grad_y);
          grad_reference[2 * l] += grad_x * in.width[l];
          grad_reference[2 * l + 1] += grad_y * in.height[l];
          mean += weights[j] * along[j];
        }
      }
      for (int64_t j = 0; j < SAMPLES; ++j)
        store(to.logits + head_row * SAMPLES + j, weights[j] * (along[j] - mean));
    }
    if (to.reference) std::memcpy(to.reference + row * L * 2, grad_reference, sizeof grad_reference);
  }
}

// Gradient of the value at level l of head m of image b.
template <int64_t l>
void backward_value(const Problem& in, const T* grad_out, const Gradients& to, int64_t b, int64_t m) {
  const int64_t stride = in.heads * D;
  A* level = to.value + (b * in.cells + in.first_cell[l]) * stride + m * D;
  for (int64_t q = 0; q < in.queries; ++q) {
    const int64_t head_row = (b * in.queries + q) * in.heads + m;
    const Origin origin(in, in.reference_of(b, q));
    Samples at;
    locate<l * P, (l + 1) * P>(origin, in.offsets + head_row * SAMPLES * 2, at);
    A g[D];
    for (int64_t d = 0; d < D; ++d) g[d] = load(grad_out[head_row * D + d]);
    for (int64_t j = l * P; j < (l + 1) * P; ++j) {
      for (int k = 0; k < 4; ++k) {
        const A w = to.weights[head_row * SAMPLES + j] * at.share[k][j];
        if (w == 0) continue;
        A* sum = level + at.cell[k][j] * stride;
        for (int64_t d = 0; d < D; ++d) sum[d] += w * g[d];
      }
    }
  }
}

// A unit is one level of one head of one image: no two units share a cell, so threads need neither locks nor buffers of
// their own, and the terms of a cell are added in the order of the queries.
template <int64_t... l>
void backward_value_units(
    const Problem& in, const T* grad_out, const Gradients& to, int64_t begin, int64_t end,
    std::integer_sequence<int64_t, l...>) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t m = unit / L % in.heads, b = unit / L / in.heads;
    ((unit % L == l ? backward_value<l>(in, grad_out, to, b, m) : void()), ...);
  }
}

// How to run work on several threads.
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
  std::vector<std::thread> helpers;
  for (int64_t i = 1; i < threads; ++i) helpers.emplace_back([&ranges] { ranges.run(); });
  ranges.run();
  for (std::thread& helper : helpers) helper.join();
}

Team team_of(int64_t threads, void* gomp_parallel) {
  Team team{threads, nullptr};
  std::memcpy(&team.gomp_parallel, &gomp_parallel, sizeof gomp_parallel);
  return team;
}

// sizes: batch, cells, heads, queries, batch of the reference points; then height and width of each level.
Problem problem(
    const void* value, const void* reference, const void* offsets, const void* logits, const int64_t* sizes) {
  Problem in{};
  in.batch = sizes[0];
  in.cells = sizes[1];
  in.heads = sizes[2];
  in.queries = sizes[3];
  in.reference_batch = sizes[4];
  int64_t cell = 0;
  for (int64_t l = 0; l < L; ++l) {
    in.height[l] = sizes[5 + 2 * l];
    in.width[l] = sizes[6 + 2 * l];
    in.first_cell[l] = cell;
    cell += in.height[l] * in.width[l];
  }
  in.value = static_cast<const T*>(value);
  in.reference = static_cast<const A*>(reference);
  in.offsets = static_cast<const T*>(offsets);
  in.logits = static_cast<const T*>(logits);
  return in;
}

}  // namespace

extern "C" void m2f_forward(
    const void* value, const void* reference, const void* offsets, const void* logits, void* out, const int64_t* sizes,
    int64_t threads, void* gomp_parallel) {
  const Problem in = problem(value, reference, offsets, logits, sizes);
  const Team team = team_of(threads, gomp_parallel);
  in_parallel(in.batch * in.queries, team, [&](int64_t begin, int64_t end) {
    forward_rows(in, static_cast<T*>(out), begin, end);
  });
}

extern "C" void m2f_backward(
    const void* grad_out, const void* value, const void* reference, const void* offsets, const void* logits,
    void* weights, void* grad_value, void* grad_reference, void* grad_offsets, void* grad_logits, const int64_t* sizes,
    int64_t threads, void* gomp_parallel) {
  const Problem in = problem(value, reference, offsets, logits, sizes);
  const Team team = team_of(threads, gomp_parallel);
  const T* g = static_cast<const T*>(grad_out);
  const Gradients to{static_cast<A*>(weights), static_cast<A*>(grad_value), static_cast<A*>(grad_reference),
                     static_cast<T*>(grad_offsets), static_cast<T*>(grad_logits)};
  in_parallel(in.batch * in.queries, team, [&](int64_t begin, int64_t end) {
    backward_rows(in, g, to, begin, end);
  });
  if (!to.value) return;
  in_parallel(in.batch * in.heads * L, team, [&](int64_t begin, int64_t end) {
    backward_value_units(in, g, to, begin, end, std::make_integer_sequence<int64_t, L>());
  });
}
