// Multi-scale deformable attention on a CPU; formula and shapes in ms_deform_attn_reference.py.
//
// Compiled once for each combination of M2F_DTYPE (float, double, bfloat16), M2F_HEAD_DIM, M2F_LEVELS and M2F_POINTS
// that a program uses: with these known, sums stay in registers and a compilation takes about a second.
//
// Everything between the raw linear outputs and the attended values happens here: location, softmax, bilinear sampling
// and weighted sum, with channels last, so that a corner of a sample is one run of D numbers. Nothing of size
// S*M*L*P*D is ever stored.
//
// The unit of work is a group of queries of one head, a lane of vector instructions each: locations and weights are
// computed for all of them at once, then each query gathers its samples, a vector of channels at a time.
//
// No result depends on the number or kind of threads: every output element is written by one thread, in one order.

#include "cpu_common.h"

namespace {

using T = M2F_DTYPE;  // storage
constexpr int64_t D = M2F_HEAD_DIM, L = M2F_LEVELS, P = M2F_POINTS, SAMPLES = L * P;
// Queries worked on at once: a vector of AVX2, two of NEON. 16, for AVX-512, was slower; a group then fills the first
// cache.
constexpr int64_t LANES = 8;

using A = Arithmetic<T>::type;  // arithmetic, locations and accumulators

// The arguments of a call; all buffers are contiguous.
struct Problem {
  int64_t batch, cells, heads, queries, reference_batch;
  int64_t height[L], width[L], first_cell[L];
  const T* value;      // (B, S, M, D)
  const A* reference;  // (1 or B, Q, L, 2)
  const T* offsets;    // (B, Q, M, L, P, 2)
  const T* logits;     // (B, Q, M, L * P)

  int64_t groups() const { return (queries + LANES - 1) / LANES; }
};

// A vector's worth of queries of one head of image b. Where the last one has fewer, its last query fills the lanes.
struct Group {
  int64_t b, m, first, count;
  int64_t row, next_row, step;  // of the first query, of the next group's first, and from query to query, in (B, Q, M)

  Group(const Problem& in, int64_t image, int64_t index) {
    b = image;
    m = index / in.groups();
    first = index % in.groups() * LANES;
    count = in.queries - first < LANES ? in.queries - first : LANES;
    step = in.heads;
    row = (b * in.queries + first) * step + m;
    const int64_t next = first + LANES < in.queries ? first + LANES : first;
    next_row = (b * in.queries + next) * step + m;
  }

  int64_t lane(int64_t i) const { return i < count ? i : count - 1; }
};

template <int64_t N, typename S>
inline void gather(const S* from, int64_t step, const Group& group, A (&to)[N][LANES]) {
  for (int64_t i = 0; i < LANES; ++i)
    for (int64_t j = 0; j < N; ++j) to[j][i] = load(from[group.lane(i) * step + j]);
}

template <int64_t N> inline void scatter(const A (&from)[N][LANES], const Group& group, int64_t step, T* to) {
  for (int64_t i = 0; i < group.count; ++i)
    for (int64_t j = 0; j < N; ++j) store(to + i * step + j, from[j][i]);
}

// Rows of N numbers lie far apart, and processors do not foresee the next.
template <int64_t N, typename S> inline void prefetch(const S* from, int64_t step) {
#if defined(__GNUC__)
  constexpr int64_t line = 64 / sizeof(S);
  for (int64_t i = 0; i < LANES; ++i)
    for (int64_t j = 0; j < N; j += line) __builtin_prefetch(from + i * step + j);
#endif
}

inline void softmax(A (&x)[SAMPLES][LANES]) {
  A largest[LANES], sum[LANES] = {};
  for (int64_t i = 0; i < LANES; ++i) largest[i] = x[0][i];
  for (int64_t j = 1; j < SAMPLES; ++j)
    for (int64_t i = 0; i < LANES; ++i) largest[i] = x[j][i] > largest[i] ? x[j][i] : largest[i];
  for (int64_t j = 0; j < SAMPLES; ++j)
    for (int64_t i = 0; i < LANES; ++i) {
      x[j][i] = exp_nonpositive(x[j][i] - largest[i]);
      sum[i] += x[j][i];
    }
  for (int64_t j = 0; j < SAMPLES; ++j)
    for (int64_t i = 0; i < LANES; ++i) x[j][i] /= sum[i];
}

// Where the samples of N points of a group look: for each the four cells around its location and their shares. A
// corner outside the map has share 0 and the nearest cell inside, so that it needs no branch; of a location wholly
// outside, NaN included, all shares are 0.
template <int64_t N> struct Samples {
  A share[4][N][LANES];
  A inside[4][N][LANES];            // 1 where the corner is in the map, else 0
  A dx[N][LANES], dy[N][LANES];     // position between the corners, in [0, 1)
  int32_t cell[4][N][LANES];        // row-major index in the level
};

// Samples FIRST to FIRST + N of a group. Comparisons are made on floating point numbers, because that is what
// compilers turn into vector instructions.
template <int64_t FIRST, int64_t N> inline void locate(const Problem& in, const Group& group, Samples<N>& out) {
  A reference[2 * L][LANES], offsets[2 * N][LANES];
  const int64_t point = (in.reference_batch == 1 ? 0 : group.b) * in.queries + group.first;
  gather(in.reference + point * L * 2, L * 2, group, reference);
  gather(in.offsets + (group.row * SAMPLES + FIRST) * 2, group.step * SAMPLES * 2, group, offsets);
  prefetch<2 * N>(in.offsets + (group.next_row * SAMPLES + FIRST) * 2, group.step * SAMPLES * 2);
  for (int64_t j = 0; j < N; ++j) {
    const int64_t l = (FIRST + j) / P;
    const A width = static_cast<A>(in.width[l]), height = static_cast<A>(in.height[l]);
    const int32_t columns = static_cast<int32_t>(in.width[l]);
    for (int64_t i = 0; i < LANES; ++i) {
      A x = reference[2 * l][i] * width - A(0.5) + offsets[2 * j][i];
      A y = reference[2 * l + 1][i] * height - A(0.5) + offsets[2 * j + 1][i];
      // Comparisons with NaN are false. At (-1, -1) no corner has a share.
      const bool any = (x > -1) & (x < width) & (y > -1) & (y < height);
      x = any ? x : A(-1);
      y = any ? y : A(-1);
      const A left = std::floor(x), top = std::floor(y), dx = x - left, dy = y - top;
      const A right = left + 1, bottom = top + 1, some = any ? A(1) : A(0);
      const A left_in = left >= 0 ? some : A(0), right_in = right < width ? some : A(0);
      const A top_in = top >= 0 ? A(1) : A(0), bottom_in = bottom < height ? A(1) : A(0);
      const int32_t x0 = static_cast<int32_t>(left >= 0 ? left : A(0));
      const int32_t y0 = static_cast<int32_t>(top >= 0 ? top : A(0));
      const int32_t x1 = static_cast<int32_t>(right < width ? right : width - 1);
      const int32_t y1 = static_cast<int32_t>(bottom < height ? bottom : height - 1);
      out.dx[j][i] = dx;
      out.dy[j][i] = dy;
      out.cell[0][j][i] = y0 * columns + x0;
      out.cell[1][j][i] = y0 * columns + x1;
      out.cell[2][j][i] = y1 * columns + x0;
      out.cell[3][j][i] = y1 * columns + x1;
      out.inside[0][j][i] = top_in * left_in;
      out.inside[1][j][i] = top_in * right_in;
      out.inside[2][j][i] = bottom_in * left_in;
      out.inside[3][j][i] = bottom_in * right_in;
      out.share[0][j][i] = top_in * left_in * ((1 - dy) * (1 - dx));
      out.share[1][j][i] = top_in * right_in * ((1 - dy) * dx);
      out.share[2][j][i] = bottom_in * left_in * (dy * (1 - dx));
      out.share[3][j][i] = bottom_in * right_in * (dy * dx);
    }
  }
}

template <int64_t N> inline void weigh(const A (&weights)[N][LANES], Samples<N>& at) {
  for (int64_t k = 0; k < 4; ++k)
    for (int64_t j = 0; j < N; ++j)
      for (int64_t i = 0; i < LANES; ++i) at.share[k][j][i] *= weights[j][i];
}

// One image's (S, M, D) to (M, S, D). A head's map then lies in one piece: D numbers out of every M * D, a power of
// two, would share so few sets of a cache that hardly any of them stayed in it.
void split_heads(const Problem& in, const T* from, A* to, int64_t begin, int64_t end) {
  for (int64_t cell = begin; cell < end; ++cell)
    for (int64_t m = 0; m < in.heads; ++m)
      for (int64_t d = 0; d < D; ++d) to[(m * in.cells + cell) * D + d] = load(from[(cell * in.heads + m) * D + d]);
}

void join_heads(const Problem& in, const A* from, T* to, int64_t begin, int64_t end) {
  for (int64_t cell = begin; cell < end; ++cell)
    for (int64_t m = 0; m < in.heads; ++m)
      for (int64_t d = 0; d < D; ++d) store(to + (cell * in.heads + m) * D + d, from[(m * in.cells + cell) * D + d]);
}

// value: (M, S, D) of image b
void forward_groups(const Problem& in, int64_t b, const A* value, T* out, int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    const Group group(in, b, index);
    const A* head = value + group.m * in.cells * D;
    A weights[SAMPLES][LANES];
    Samples<SAMPLES> at;
    gather(in.logits + group.row * SAMPLES, group.step * SAMPLES, group, weights);
    prefetch<SAMPLES>(in.logits + group.next_row * SAMPLES, group.step * SAMPLES);
    softmax(weights);
    locate<0>(in, group, at);
    weigh(weights, at);
    for (int64_t i = 0; i < group.count; ++i) {
      A sum[D] = {};
      for (int64_t l = 0; l < L; ++l) {
        const A* level = head + in.first_cell[l] * D;
        for (int64_t j = l * P; j < (l + 1) * P; ++j) {
          const A w0 = at.share[0][j][i], w1 = at.share[1][j][i], w2 = at.share[2][j][i], w3 = at.share[3][j][i];
          // A sample that counts for nothing must not bring in a NaN that stands in the cell.
          if (w0 + w1 + w2 + w3 == 0) continue;
          const A *v0 = level + at.cell[0][j][i] * D, *v1 = level + at.cell[1][j][i] * D;
          const A *v2 = level + at.cell[2][j][i] * D, *v3 = level + at.cell[3][j][i] * D;
          for (int64_t d = 0; d < D; ++d) sum[d] += w0 * v0[d] + w1 * v1[d] + w2 * v2[d] + w3 * v3[d];
        }
      }
      for (int64_t d = 0; d < D; ++d) store(out + (group.row + i * group.step) * D + d, sum[d]);
    }
  }
}

struct Gradients {
  A* weights;    // (M, groups, L * P, LANES) of one image, written by the first pass for the second
  A* reference;  // (B, M, Q, L, 2); null where not wanted
  T* offsets;    // (B, Q, M, L, P, 2)
  T* logits;     // (B, Q, M, L * P)
};

// With g = d loss / d out of the head, v_j the sample and a_j its weight:
//   d offset_x,j = a_j * sum over corners of (d share / d x) * (g . corner); times W_l for the reference point
//   d logit_j    = a_j * (g . v_j - sum_k a_k (g . v_k))
// value: (M, S, D) of image b
void backward_groups(
    const Problem& in, int64_t b, const A* value, const T* grad_out, const Gradients& to, int64_t begin, int64_t end) {
  for (int64_t index = begin; index < end; ++index) {
    const Group group(in, b, index);
    const A* head = value + group.m * in.cells * D;
    A weights[SAMPLES][LANES], product[4][SAMPLES][LANES];
    Samples<SAMPLES> at;
    gather(in.logits + group.row * SAMPLES, group.step * SAMPLES, group, weights);
    prefetch<SAMPLES>(in.logits + group.next_row * SAMPLES, group.step * SAMPLES);
    prefetch<D>(grad_out + group.next_row * D, group.step * D);
    softmax(weights);
    locate<0>(in, group, at);
    for (int64_t i = 0; i < LANES; ++i) {
      A g[D];
      for (int64_t d = 0; d < D; ++d) g[d] = load(grad_out[(group.row + group.lane(i) * group.step) * D + d]);
      for (int64_t l = 0; l < L; ++l) {
        const A* level = head + in.first_cell[l] * D;
        for (int64_t j = l * P; j < (l + 1) * P; ++j)
          for (int k = 0; k < 4; ++k) {
            A sum = 0;
            if (at.inside[k][j][i] != 0) {
              const A* v = level + at.cell[k][j][i] * D;
              for (int64_t d = 0; d < D; ++d) sum += g[d] * v[d];
            }
            product[k][j][i] = sum;
          }
      }
    }
    A along[SAMPLES][LANES], mean[LANES] = {}, grad_offsets[2 * SAMPLES][LANES], grad_reference[2 * L][LANES] = {};
    for (int64_t j = 0; j < SAMPLES; ++j) {
      const int64_t l = j / P;
      const A width = static_cast<A>(in.width[l]), height = static_cast<A>(in.height[l]);
      for (int64_t i = 0; i < LANES; ++i) {
        const A p0 = product[0][j][i], p1 = product[1][j][i], p2 = product[2][j][i], p3 = product[3][j][i];
        const A dx = at.dx[j][i], dy = at.dy[j][i], weight = weights[j][i];
        along[j][i] =
            at.share[0][j][i] * p0 + at.share[1][j][i] * p1 + at.share[2][j][i] * p2 + at.share[3][j][i] * p3;
        mean[i] += weight * along[j][i];
        grad_offsets[2 * j][i] = weight * ((1 - dy) * (p1 - p0) + dy * (p3 - p2));
        grad_offsets[2 * j + 1][i] = weight * ((1 - dx) * (p2 - p0) + dx * (p3 - p1));
        grad_reference[2 * l][i] += grad_offsets[2 * j][i] * width;
        grad_reference[2 * l + 1][i] += grad_offsets[2 * j + 1][i] * height;
      }
    }
    for (int64_t j = 0; j < SAMPLES; ++j)
      for (int64_t i = 0; i < LANES; ++i) along[j][i] = weights[j][i] * (along[j][i] - mean[i]);
    scatter(grad_offsets, group, group.step * SAMPLES * 2, to.offsets + group.row * SAMPLES * 2);
    scatter(along, group, group.step * SAMPLES, to.logits + group.row * SAMPLES);
    std::memcpy(to.weights + index * SAMPLES * LANES, weights, sizeof weights);
    if (to.reference)
      for (int64_t i = 0; i < group.count; ++i)
        for (int64_t j = 0; j < 2 * L; ++j)
          to.reference[((b * in.heads + group.m) * in.queries + group.first + i) * 2 * L + j] = grad_reference[j][i];
  }
}

// Gradient of the value, (M, S, D), at level l of head m of image b.
template <int64_t l>
void backward_value(const Problem& in, int64_t b, int64_t m, const T* grad_out, const A* weights, A* grad_value) {
  A* level = grad_value + (m * in.cells + in.first_cell[l]) * D;
  for (int64_t index = m * in.groups(); index < (m + 1) * in.groups(); ++index) {
    const Group group(in, b, index);
    A weight[P][LANES];
    Samples<P> at;
    std::memcpy(weight, weights + (index * SAMPLES + l * P) * LANES, sizeof weight);
    prefetch<D>(grad_out + group.next_row * D, group.step * D);
    locate<l * P>(in, group, at);
    weigh(weight, at);
    for (int64_t i = 0; i < group.count; ++i) {
      A g[D];
      for (int64_t d = 0; d < D; ++d) g[d] = load(grad_out[(group.row + i * group.step) * D + d]);
      for (int64_t j = 0; j < P; ++j)
        for (int k = 0; k < 4; ++k) {
          const A w = at.share[k][j][i];
          if (w == 0) continue;
          A* sum = level + at.cell[k][j][i] * D;
          for (int64_t d = 0; d < D; ++d) sum[d] += w * g[d];
        }
    }
  }
}

// A unit is one level of one head: no two units share a cell, so threads need neither locks nor buffers of
// their own, and the terms of a cell are added in the order of the queries.
template <int64_t... l>
void backward_value_units(
    const Problem& in, int64_t b, const T* grad_out, const A* weights, A* grad_value, int64_t begin, int64_t end,
    std::integer_sequence<int64_t, l...>) {
  for (int64_t unit = begin; unit < end; ++unit)
    ((unit % L == l ? backward_value<l>(in, b, unit / L, grad_out, weights, grad_value) : void()), ...);
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

// The two entries are compiled each by itself (M2F_ENTRY 0 or 1): prediction does not wait for the backward pass.
#if M2F_ENTRY == 0

// by_head: room for one image's (M, S, D) in the arithmetic type.
M2F_EXPORT void m2f_forward(
    const void* value, const void* reference, const void* offsets, const void* logits, void* by_head, void* out,
    const int64_t* sizes, int64_t threads, void* gomp_parallel) {
  const Problem in = problem(value, reference, offsets, logits, sizes);
  const Team team = team_of(threads, gomp_parallel);
  A* heads = static_cast<A*>(by_head);
  prefer_huge_pages(out, in.batch * in.queries * in.heads * D * sizeof(T));
  for (int64_t b = 0; b < in.batch; ++b) {
    in_parallel(in.cells, team, [&](int64_t begin, int64_t end) {
      split_heads(in, in.value + b * in.cells * in.heads * D, heads, begin, end);
    });
    in_parallel(in.heads * in.groups(), team, [&](int64_t begin, int64_t end) {
      forward_groups(in, b, heads, static_cast<T*>(out), begin, end);
    });
  }
}

#else

// by_head as above, weights: room for (M, groups, L * P, LANES). grad_value and grad_reference may be null.
M2F_EXPORT void m2f_backward(
    const void* grad_out, const void* value, const void* reference, const void* offsets, const void* logits,
    void* by_head, void* weights, void* grad_value, void* grad_reference, void* grad_offsets, void* grad_logits,
    const int64_t* sizes, int64_t threads, void* gomp_parallel) {
  const Problem in = problem(value, reference, offsets, logits, sizes);
  const Team team = team_of(threads, gomp_parallel);
  const T* g = static_cast<const T*>(grad_out);
  A* heads = static_cast<A*>(by_head);
  const Gradients to{static_cast<A*>(weights), static_cast<A*>(grad_reference), static_cast<T*>(grad_offsets),
                     static_cast<T*>(grad_logits)};
  prefer_huge_pages(grad_value, in.batch * in.cells * in.heads * D * sizeof(T));
  prefer_huge_pages(grad_offsets, in.batch * in.queries * in.heads * SAMPLES * 2 * sizeof(T));
  prefer_huge_pages(grad_logits, in.batch * in.queries * in.heads * SAMPLES * sizeof(T));
  for (int64_t b = 0; b < in.batch; ++b) {
    const int64_t image = b * in.cells * in.heads * D;
    in_parallel(in.cells, team, [&](int64_t begin, int64_t end) {
      split_heads(in, in.value + image, heads, begin, end);
    });
    in_parallel(in.heads * in.groups(), team, [&](int64_t begin, int64_t end) {
      backward_groups(in, b, heads, g, to, begin, end);
    });
    if (!grad_value) continue;
    // The values are not needed any more; their room takes the gradient.
    in_parallel(in.heads * in.cells, team, [&](int64_t begin, int64_t end) {
      std::memset(heads + begin * D, 0, (end - begin) * D * sizeof(A));
    });
    in_parallel(in.heads * L, team, [&](int64_t begin, int64_t end) {
      backward_value_units(in, b, g, to.weights, heads, begin, end, std::make_integer_sequence<int64_t, L>());
    });
    in_parallel(in.cells, team, [&](int64_t begin, int64_t end) {
      join_heads(in, heads, static_cast<T*>(grad_value) + image, begin, end);
    });
  }
}

#endif
