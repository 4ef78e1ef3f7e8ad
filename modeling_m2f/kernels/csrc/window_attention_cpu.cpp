// Attention within the windows of a feature map (Liu et al., Swin Transformer, ICCV 2021, section 3.2) on a CPU; formula
// and shapes in window_attention.py.
//
// Compiled once for each combination of M2F_DTYPE (float, double, bfloat16), M2F_HEAD_DIM and M2F_WINDOW.
//
// The map is never padded, rolled or cut into windows: each window gathers its rows from where they are. The weights of
// a window exist a few rows at a time in the forward pass, and for one window and head in the backward pass, which
// computes them again.
//
// No result depends on the number or kind of threads: every output element is written by one thread, and the gradients
// that are sums over windows are summed in parts that do not depend on the threads either.

#include "cpu_common.h"

#include <memory>

namespace {

using T = M2F_DTYPE;             // storage
using A = Arithmetic<T>::type;   // arithmetic
constexpr int64_t WINDOW = M2F_WINDOW, N = WINDOW * WINDOW, D = M2F_HEAD_DIM;
constexpr int64_t PARTS = 16;  // of the sums over windows

#include "attention_products.h"

// The arguments of a call; all buffers are contiguous.
struct Problem {
  int64_t batch, height, width, heads, shift;
  A scale;
  const T* qkv;      // (B, H * W, 3, M, D)
  const T* padding;  // (3, M, D): what stands in the cells that fill up the last windows
  const A* bias;     // (M, N, TOKENS), far below 0 in the columns that fill up

  int64_t rows() const { return (height + WINDOW - 1) / WINDOW; }
  int64_t columns() const { return (width + WINDOW - 1) / WINDOW; }
  int64_t windows() const { return batch * rows() * columns(); }
  const T* of(const T* cells, int64_t cell, int64_t which, int64_t m) const {
    return (cell < 0 ? padding : cells + cell * 3 * heads * D) + (which * heads + m) * D;
  }
};

// The cells of a window of the map shifted by `shift` up and to the left, row-major over the whole batch; -1 where the
// map was filled up. Cells of different regions were no neighbours before the shift, and see little of each other.
struct Window {
  int64_t cell[N];
  A region[TOKENS] = {};
  bool is_mixed = false;

  Window(const Problem& in, int64_t index) {
    const int64_t height = in.rows() * WINDOW, width = in.columns() * WINDOW;
    const int64_t image = index / (in.rows() * in.columns());
    const int64_t top = index / in.columns() % in.rows() * WINDOW, left = index % in.columns() * WINDOW;
    for (int64_t i = 0; i < N; ++i) {
      const int64_t y = top + i / WINDOW, x = left + i % WINDOW;
      const int64_t from_y = (y + in.shift) % height, from_x = (x + in.shift) % width;
      const bool is_inside = from_y < in.height && from_x < in.width;
      cell[i] = is_inside ? (image * in.height + from_y) * in.width + from_x : -1;
      if (in.shift) region[i] = static_cast<A>(3 * part(y, height, in.shift) + part(x, width, in.shift));
      is_mixed |= region[i] != region[0];
    }
  }

  static int64_t part(int64_t position, int64_t length, int64_t shift) {
    return (position >= length - WINDOW) + (position >= length - shift);
  }
};

// (N, D) numbers of the window's cells, as rows
inline void gather(const Problem& in, const T* cells, const Window& window, int64_t which, int64_t m, A scale, A* to) {
  for (int64_t i = 0; i < N; ++i) {
    const T* from = in.of(cells, window.cell[i], which, m);
    for (int64_t d = 0; d < D; ++d) to[i * CHANNELS + d] = scale * load(from[d]);
  }
}

// (N, CHANNELS) -> (D, TOKENS)
inline void transpose(const A* from, A* to) {
  for (int64_t d = 0; d < D; ++d)
    for (int64_t i = 0; i < N; ++i) to[d * TOKENS + i] = from[i * CHANNELS + d];
}

// Scores of row i to numerators of its softmax; returns the denominator.
inline A exponentials(const Window& window, const A* bias, int64_t i, A* scores) {
  A largest = A(-1e30), sum = 0;
  for (int64_t j = 0; j < TOKENS; ++j) scores[j] += bias[i * TOKENS + j];
  if (window.is_mixed)
    for (int64_t j = 0; j < TOKENS; ++j) scores[j] -= window.region[j] != window.region[i] ? A(100) : A(0);
  for (int64_t j = 0; j < TOKENS; ++j) largest = scores[j] > largest ? scores[j] : largest;
  for (int64_t j = 0; j < TOKENS; ++j) scores[j] = exp_nonpositive(scores[j] - largest);
  for (int64_t j = 0; j < TOKENS; ++j) sum += scores[j];
  return sum;
}

// What fills up rows and columns stays zero from window to window.
struct ForwardRoom {
  alignas(64) A query[ROWS * CHANNELS] = {};
  alignas(64) A key[ROWS * CHANNELS] = {};
  alignas(64) A key_columns[D * TOKENS] = {};
  alignas(64) A value[ROWS * CHANNELS] = {};
  alignas(64) A scores[ROWS * TOKENS] = {};
  alignas(64) A out[VALUE_ROWS * CHANNELS] = {};
};

void forward_windows(const Problem& in, T* out, int64_t begin, int64_t end) {
  const auto memory = std::make_unique<ForwardRoom>();  // too large for the stacks of some systems' threads
  ForwardRoom& room = *memory;
  A denominators[ROWS];
  for (int64_t index = begin; index < end; ++index) {
    const Window window(in, index);
    for (int64_t m = 0; m < in.heads; ++m) {
      gather(in, in.qkv, window, 0, m, in.scale, room.query);
      gather(in, in.qkv, window, 1, m, 1, room.key);
      gather(in, in.qkv, window, 2, m, 1, room.value);
      transpose(room.key, room.key_columns);
      for (int64_t first = 0; first < N; first += SCORE_ROWS) {
        multiply_channels(room.query + first * CHANNELS, room.key_columns, room.scores + first * TOKENS);
        for (int64_t i = first; i < first + SCORE_ROWS && i < N; ++i)
          denominators[i] = exponentials(window, in.bias + m * N * TOKENS, i, room.scores + i * TOKENS);
      }
      for (int64_t first = 0; first < N; first += VALUE_ROWS) {
        multiply_tokens(room.scores + first * TOKENS, TOKENS, 1, room.value, room.out);
        for (int64_t i = first; i < first + VALUE_ROWS && i < N; ++i) {
          if (window.cell[i] < 0) continue;
          T* to = out + (window.cell[i] * in.heads + m) * D;
          const A factor = 1 / denominators[i];
          for (int64_t d = 0; d < D; ++d) store(to + d, factor * room.out[(i - first) * CHANNELS + d]);
        }
      }
    }
  }
}

struct Gradients {
  const T* out;  // (B, H * W, M, D)
  T* qkv;        // (B, H * W, 3, M, D)
  A* padding;    // (PARTS, 3, M, D)
  A* bias;       // (PARTS, M, N, TOKENS)
};

struct BackwardRoom {
  alignas(64) A query[ROWS * CHANNELS] = {};
  alignas(64) A key[ROWS * CHANNELS] = {};
  alignas(64) A value[ROWS * CHANNELS] = {};
  alignas(64) A out[ROWS * CHANNELS] = {};
  alignas(64) A columns[D * TOKENS] = {};
  alignas(64) A weights[ROWS * TOKENS] = {};
  alignas(64) A scores[ROWS * TOKENS] = {};
  alignas(64) A product[VALUE_ROWS * CHANNELS] = {};
};

// Softmax weights, and the gradient of the scores from that of the weights.
void backward_scores(const Problem& in, const Window& window, int64_t m, BackwardRoom& room) {
  transpose(room.key, room.columns);
  for (int64_t first = 0; first < N; first += SCORE_ROWS)
    multiply_channels(room.query + first * CHANNELS, room.columns, room.weights + first * TOKENS);
  transpose(room.value, room.columns);
  for (int64_t first = 0; first < N; first += SCORE_ROWS)
    multiply_channels(room.out + first * CHANNELS, room.columns, room.scores + first * TOKENS);
  for (int64_t i = 0; i < N; ++i) {
    A *weights = room.weights + i * TOKENS, *scores = room.scores + i * TOKENS, sum = 0;
    const A factor = 1 / exponentials(window, in.bias + m * N * TOKENS, i, weights);
    for (int64_t j = 0; j < TOKENS; ++j) weights[j] *= factor;
    for (int64_t j = 0; j < TOKENS; ++j) sum += weights[j] * scores[j];
    for (int64_t j = 0; j < TOKENS; ++j) scores[j] = weights[j] * (scores[j] - sum);
  }
  // Rows beyond the last token would reach the sums over tokens.
  std::memset(room.weights + N * TOKENS, 0, (ROWS - N) * TOKENS * sizeof(A));
  std::memset(room.scores + N * TOKENS, 0, (ROWS - N) * TOKENS * sizeof(A));
}

// The rows of a product to the gradient of query, key or value (`which`).
void scatter(const Problem& in, const Gradients& to, const Window& window, int64_t which, int64_t m, int64_t part,
             const A* a, int64_t row, int64_t column, const A* b, A scale, A* product) {
  for (int64_t first = 0; first < N; first += VALUE_ROWS) {
    multiply_tokens(a + first * row, row, column, b, product);
    for (int64_t i = first; i < first + VALUE_ROWS && i < N; ++i) {
      const A* from = product + (i - first) * CHANNELS;
      const int64_t place = (which * in.heads + m) * D;
      if (window.cell[i] < 0) {
        A* sum = to.padding + part * 3 * in.heads * D + place;
        for (int64_t d = 0; d < D; ++d) sum[d] += scale * from[d];
      } else {
        T* cell = to.qkv + window.cell[i] * 3 * in.heads * D + place;
        for (int64_t d = 0; d < D; ++d) store(cell + d, scale * from[d]);
      }
    }
  }
}

// A unit is a head and a part of the windows.
void backward_units(const Problem& in, const Gradients& to, int64_t begin, int64_t end) {
  const auto memory = std::make_unique<BackwardRoom>();
  BackwardRoom& room = *memory;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t m = unit % in.heads, part = unit / in.heads, windows = in.windows();
    A* bias = to.bias + (part * in.heads + m) * N * TOKENS;
    for (int64_t index = windows * part / PARTS; index < windows * (part + 1) / PARTS; ++index) {
      const Window window(in, index);
      gather(in, in.qkv, window, 0, m, in.scale, room.query);
      gather(in, in.qkv, window, 1, m, 1, room.key);
      gather(in, in.qkv, window, 2, m, 1, room.value);
      for (int64_t i = 0; i < N; ++i) {
        const T* from = to.out + (window.cell[i] * in.heads + m) * D;
        for (int64_t d = 0; d < D; ++d) room.out[i * CHANNELS + d] = window.cell[i] < 0 ? A(0) : load(from[d]);
      }
      backward_scores(in, window, m, room);
      for (int64_t j = 0; j < N * TOKENS; ++j) bias[j] += room.scores[j];
      scatter(in, to, window, 0, m, part, room.scores, TOKENS, 1, room.key, in.scale, room.product);
      scatter(in, to, window, 1, m, part, room.scores, 1, TOKENS, room.query, 1, room.product);
      scatter(in, to, window, 2, m, part, room.weights, 1, TOKENS, room.out, 1, room.product);
    }
  }
}

// sizes: batch, height, width, heads, shift
Problem problem(const void* qkv, const void* padding, const void* bias, const int64_t* sizes) {
  Problem in{};
  in.batch = sizes[0];
  in.height = sizes[1];
  in.width = sizes[2];
  in.heads = sizes[3];
  in.shift = sizes[4];
  in.scale = 1 / std::sqrt(static_cast<A>(D));
  in.qkv = static_cast<const T*>(qkv);
  in.padding = static_cast<const T*>(padding);
  in.bias = static_cast<const A*>(bias);
  return in;
}

// (M, N, N) -> (M, N, TOKENS)
void widen(const A* bias, A* wide, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row)
    for (int64_t j = 0; j < TOKENS; ++j) wide[row * TOKENS + j] = j < N ? bias[row * N + j] : A(-1e30);
}

}  // namespace

// Numbers of the scratch memory for so many heads.
M2F_EXPORT int64_t m2f_wide_bias(int64_t heads) { return heads * N * TOKENS; }

M2F_EXPORT int64_t m2f_parts() { return PARTS; }

// wide: room for m2f_wide_bias(heads) numbers.
M2F_EXPORT void m2f_forward(const void* qkv, const void* padding, const void* bias, void* wide, void* out,
                            const int64_t* sizes, int64_t threads, void* gomp_parallel) {
  const Problem in = problem(qkv, padding, wide, sizes);
  const Team team = team_of(threads, gomp_parallel);
  prefer_huge_pages(out, in.batch * in.height * in.width * in.heads * D * sizeof(T));
  widen(static_cast<const A*>(bias), static_cast<A*>(wide), 0, in.heads * N);
  in_parallel(in.windows(), team, [&](int64_t begin, int64_t end) {
    forward_windows(in, static_cast<T*>(out), begin, end);
  });
}

// grad_padding: (PARTS, 3, M, D) zeros, grad_wide: PARTS * m2f_wide_bias(heads) zeros; their sums over the parts are
// written to the first.
M2F_EXPORT void m2f_backward(const void* grad_out, const void* qkv, const void* padding, const void* bias, void* wide,
                             void* grad_qkv, void* grad_padding, void* grad_wide, void* grad_bias,
                             const int64_t* sizes, int64_t threads, void* gomp_parallel) {
  const Problem in = problem(qkv, padding, wide, sizes);
  const Team team = team_of(threads, gomp_parallel);
  const Gradients to{static_cast<const T*>(grad_out), static_cast<T*>(grad_qkv), static_cast<A*>(grad_padding),
                     static_cast<A*>(grad_wide)};
  prefer_huge_pages(grad_qkv, in.batch * in.height * in.width * 3 * in.heads * D * sizeof(T));
  widen(static_cast<const A*>(bias), static_cast<A*>(wide), 0, in.heads * N);
  in_parallel(in.heads * PARTS, team, [&](int64_t begin, int64_t end) { backward_units(in, to, begin, end); });
  for (int64_t part = 1; part < PARTS; ++part) {
    for (int64_t j = 0; j < 3 * in.heads * D; ++j) to.padding[j] += to.padding[part * 3 * in.heads * D + j];
    for (int64_t j = 0; j < in.heads * N * TOKENS; ++j) to.bias[j] += to.bias[part * in.heads * N * TOKENS + j];
  }
  for (int64_t row = 0; row < in.heads * N; ++row)
    for (int64_t j = 0; j < N; ++j) static_cast<A*>(grad_bias)[row * N + j] = to.bias[row * TOKENS + j];
}
