// The transforms of a Winograd convolution F(4x4, 3x3) and of its weight's gradient around their 36 matrix products, on a
// CPU; formulas and shapes in kernels/winograd.py. A tile is 6 x 6 cells of the input, four further than its neighbour's,
// for 4 x 4 of the output.

#include "cpu_common.h"

#include <algorithm>

namespace {

constexpr int64_t IN = 6, OUT = 4, PRODUCTS = IN * IN;
constexpr int64_t LANES = 16;  // channels at a time, of which a vector or a few hold all

constexpr float B_T[IN][IN] = {{1, -1.5f, -2, 1.5f, 1, 0}, {0, -1, 0.5f, 2.5f, 1, 0},   {0, 1, -2.5f, 0.5f, 1, 0},
                               {0, -2, -1, 2, 1, 0},       {0, 0.5f, -1, -0.5f, 1, 0}, {0, 1, -1.5f, -2, 1.5f, 1}};
constexpr float A_T[OUT][IN] = {
    {1, 1, 1, 1, 1, 0}, {0, 1, -1, 0.5f, -2, 0}, {0, 1, 1, 0.25f, 4, 0}, {0, 1, -1, 0.125f, -8, 1}};
constexpr float A[IN][OUT] = {{1, 0, 0, 0},           {1, 1, 1, 1},   {1, -1, 1, -1},
                              {1, 0.5f, 0.25f, 0.125f}, {1, -2, 4, -8}, {0, 0, 0, 1}};

typedef float Lanes[LANES];

// The part of a map whose tiles are transformed: `rows` rows of tiles from `first` on.
struct Part {
  int64_t height, width, channels, first, rows;

  int64_t columns() const { return (width + OUT - 1) / OUT; }
  int64_t tiles() const { return rows * columns(); }
};

// to[i * step_to] = sum over j of factors[i][j] * from[j * step], of a matrix whose zeros cost nothing
template <int64_t ROWS, int64_t COLUMNS>
inline void combine(const float (&factors)[ROWS][COLUMNS], const Lanes* from, int64_t step, Lanes* to, int64_t step_to) {
#pragma GCC unroll 6
  for (int64_t i = 0; i < ROWS; ++i) {
    Lanes sum = {};
#pragma GCC unroll 6
    for (int64_t j = 0; j < COLUMNS; ++j)
      if (factors[i][j] != 0)
        for (int64_t c = 0; c < LANES; ++c) sum[c] += factors[i][j] * from[j * step][c];
    std::memcpy(to[i * step_to], sum, sizeof sum);
  }
}

// to = factors in factors^T, row-major: (COLUMNS, COLUMNS) -> (ROWS, ROWS)
template <int64_t ROWS, int64_t COLUMNS>
inline void transform(const float (&factors)[ROWS][COLUMNS], const Lanes* in, Lanes* to) {
  Lanes half[ROWS * COLUMNS];
  for (int64_t j = 0; j < COLUMNS; ++j) combine(factors, in + j, COLUMNS, half + j, COLUMNS);
  for (int64_t i = 0; i < ROWS; ++i) combine(factors, half + i * COLUMNS, 1, to + i * ROWS, 1);
}

inline void copy(const float* from, int64_t count, float* to) {
  if (count == LANES) return void(std::memcpy(to, from, sizeof(Lanes)));
  for (int64_t c = 0; c < count; ++c) to[c] = from[c];
}

// Of the cells from (top, left) on, EDGE x EDGE of which those outside the map are 0: factors cells factors^T, an
// element of which goes to each of the 36 matrices.
template <int64_t EDGE>
void split_tile(const float (&factors)[IN][EDGE], const Part& part, const float* map, float* const* to, int64_t tile,
                int64_t top, int64_t left) {
  for (int64_t channel = 0; channel < part.channels; channel += LANES) {
    const int64_t count = std::min(LANES, part.channels - channel);
    Lanes in[EDGE * EDGE], out[PRODUCTS];
    for (int64_t k = 0; k < EDGE * EDGE; ++k) {
      const int64_t y = top + k / EDGE, x = left + k % EDGE;
      const bool is_inside = y >= 0 && y < part.height && x >= 0 && x < part.width;
      if (!is_inside || count < LANES) std::memset(in[k], 0, sizeof in[k]);
      if (is_inside) copy(map + (y * part.width + x) * part.channels + channel, count, in[k]);
    }
    transform(factors, in, out);
    for (int64_t k = 0; k < PRODUCTS; ++k) copy(out[k], count, to[k] + tile * part.channels + channel);
  }
}

void join_tile(const Part& part, const float* const* from, float* map, int64_t tile) {
  const int64_t top = OUT * (part.first + tile / part.columns()), left = OUT * (tile % part.columns());
  for (int64_t channel = 0; channel < part.channels; channel += LANES) {
    const int64_t count = std::min(LANES, part.channels - channel);
    Lanes in[PRODUCTS] = {}, out[OUT * OUT];
    for (int64_t k = 0; k < PRODUCTS; ++k) copy(from[k] + tile * part.channels + channel, count, in[k]);
    transform(A_T, in, out);
    for (int64_t i = 0; i < OUT && top + i < part.height; ++i)
      for (int64_t j = 0; j < OUT && left + j < part.width; ++j)
        copy(out[i * OUT + j], count, map + ((top + i) * part.width + left + j) * part.channels + channel);
  }
}

Part part_of(const int64_t* sizes) { return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}; }

// `around`: cells that a tile begins above and left of its output's.
template <int64_t EDGE>
void split(const float (&factors)[IN][EDGE], int64_t around, const void* map, float* const* to, const int64_t* sizes,
           int64_t threads, void* gomp_parallel) {
  const Part part = part_of(sizes);
  in_parallel(part.tiles(), team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile)
      split_tile(factors, part, static_cast<const float*>(map), to, tile,
                 OUT * (part.first + tile / part.columns()) - around, OUT * (tile % part.columns()) - around);
  });
}

}  // namespace

// sizes: height, width and channels of the map, first row of tiles, rows of tiles.
M2F_EXPORT void m2f_winograd_split(const void* map, float* const* to, const int64_t* sizes, int64_t threads,
                                   void* gomp_parallel) {
  split(B_T, 1, map, to, sizes, threads, gomp_parallel);
}

M2F_EXPORT void m2f_winograd_split_gradient(const void* map, float* const* to, const int64_t* sizes, int64_t threads,
                                            void* gomp_parallel) {
  split(A, 0, map, to, sizes, threads, gomp_parallel);
}

M2F_EXPORT void m2f_winograd_join(const float* const* from, void* map, const int64_t* sizes, int64_t threads,
                                  void* gomp_parallel) {
  const Part part = part_of(sizes);
  in_parallel(part.tiles(), team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) join_tile(part, from, static_cast<float*>(map), tile);
  });
}
