// The transforms of a Winograd convolution F(4x4, 3x3) around its 36 matrix products, on a CPU; formulas and shapes in
// kernels/winograd.py. A tile is 6 x 6 cells of the input, four further than its neighbour's, for 4 x 4 of the output.

#include "cpu_common.h"

#include <algorithm>

namespace {

constexpr int64_t IN = 6, OUT = 4, PRODUCTS = IN * IN;
constexpr int64_t LANES = 16;  // channels at a time, of which a vector or a few hold all

constexpr float B_T[IN][IN] = {{1, -1.5f, -2, 1.5f, 1, 0}, {0, -1, 0.5f, 2.5f, 1, 0},   {0, 1, -2.5f, 0.5f, 1, 0},
                               {0, -2, -1, 2, 1, 0},       {0, 0.5f, -1, -0.5f, 1, 0}, {0, 1, -1.5f, -2, 1.5f, 1}};
constexpr float A_T[OUT][IN] = {
    {1, 1, 1, 1, 1, 0}, {0, 1, -1, 0.5f, -2, 0}, {0, 1, 1, 0.25f, 4, 0}, {0, 1, -1, 0.125f, -8, 1}};

typedef float Lanes[LANES];

// The part of a map whose tiles are transformed: `rows` rows of tiles from `first` on.
struct Part {
  int64_t height, width, channels, first, rows;

  int64_t columns() const { return (width + OUT - 1) / OUT; }
  int64_t tiles() const { return rows * columns(); }
};

// to[i * step] = sum over j of factors[i][j] * from[j * step], of a matrix whose zeros cost nothing
template <int64_t ROWS> inline void combine(const float (&factors)[ROWS][IN], const Lanes* from, Lanes* to, int64_t step) {
#pragma GCC unroll 6
  for (int64_t i = 0; i < ROWS; ++i) {
    Lanes sum = {};
#pragma GCC unroll 6
    for (int64_t j = 0; j < IN; ++j)
      if (factors[i][j] != 0)
        for (int64_t c = 0; c < LANES; ++c) sum[c] += factors[i][j] * from[j * step][c];
    std::memcpy(to[i * step], sum, sizeof sum);
  }
}

// to = factors in factors^T, row-major; both IN numbers wide
template <int64_t ROWS> inline void transform(const float (&factors)[ROWS][IN], const Lanes* in, Lanes* to) {
  Lanes half[ROWS * IN];
  for (int64_t j = 0; j < IN; ++j) combine(factors, in + j, half + j, IN);
  for (int64_t i = 0; i < ROWS; ++i) combine(factors, half + i * IN, to + i * IN, 1);
}

inline void copy(const float* from, int64_t count, float* to) {
  if (count == LANES) return void(std::memcpy(to, from, sizeof(Lanes)));
  for (int64_t c = 0; c < count; ++c) to[c] = from[c];
}

void split_tile(const Part& part, const float* map, float* const* to, int64_t tile) {
  const int64_t top = OUT * (part.first + tile / part.columns()) - 1, left = OUT * (tile % part.columns()) - 1;
  for (int64_t channel = 0; channel < part.channels; channel += LANES) {
    const int64_t count = std::min(LANES, part.channels - channel);
    Lanes in[PRODUCTS], out[PRODUCTS];
    for (int64_t k = 0; k < PRODUCTS; ++k) {
      const int64_t y = top + k / IN, x = left + k % IN;
      const bool is_inside = y >= 0 && y < part.height && x >= 0 && x < part.width;
      if (!is_inside || count < LANES) std::memset(in[k], 0, sizeof in[k]);
      if (is_inside) copy(map + (y * part.width + x) * part.channels + channel, count, in[k]);
    }
    transform(B_T, in, out);
    for (int64_t k = 0; k < PRODUCTS; ++k) copy(out[k], count, to[k] + tile * part.channels + channel);
  }
}

void join_tile(const Part& part, const float* const* from, float* map, int64_t tile) {
  const int64_t top = OUT * (part.first + tile / part.columns()), left = OUT * (tile % part.columns());
  for (int64_t channel = 0; channel < part.channels; channel += LANES) {
    const int64_t count = std::min(LANES, part.channels - channel);
    Lanes in[PRODUCTS] = {}, out[OUT * IN];
    for (int64_t k = 0; k < PRODUCTS; ++k) copy(from[k] + tile * part.channels + channel, count, in[k]);
    transform(A_T, in, out);
    for (int64_t i = 0; i < OUT && top + i < part.height; ++i)
      for (int64_t j = 0; j < OUT && left + j < part.width; ++j)
        copy(out[i * IN + j], count, map + ((top + i) * part.width + left + j) * part.channels + channel);
  }
}

Part part_of(const int64_t* sizes) { return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4]}; }

}  // namespace

// sizes: height, width and channels of the map, first row of tiles, rows of tiles.
M2F_EXPORT void m2f_winograd_split(const void* map, float* const* to, const int64_t* sizes, int64_t threads,
                                   void* gomp_parallel) {
  const Part part = part_of(sizes);
  in_parallel(part.tiles(), team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) split_tile(part, static_cast<const float*>(map), to, tile);
  });
}

M2F_EXPORT void m2f_winograd_join(const float* const* from, void* map, const int64_t* sizes, int64_t threads,
                                  void* gomp_parallel) {
  const Part part = part_of(sizes);
  in_parallel(part.tiles(), team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; ++tile) join_tile(part, from, static_cast<float*>(map), tile);
  });
}
