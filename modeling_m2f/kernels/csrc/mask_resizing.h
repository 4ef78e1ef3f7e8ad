// Mask logits resized a tile of pixels at a time: what the kernels of post-processing share.
//
// The two bilinear steps and the crop between them are linear, and treat rows and columns apart: a pixel is a sum over
// 3 x 3 cells of the logits, with weights that resized_masks.py prepares. A tile's cells are spread over its columns
// first, once for each row of cells, and then over its rows.

#include "cpu_common.h"

#include <algorithm>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

constexpr int64_t TILE = 32, PIXELS = TILE * TILE;  // rows and columns of pixels at most; 4 KiB of logits
constexpr int64_t TAPS = 3;

// One direction. Pixel i is the sum over k of weight(k, i) * map[cell(k, i)].
struct Axis {
  int64_t source, target, tiles;
  const int32_t* cells;  // (TAPS, target + TILE), ascending; beyond the target as at its end
  const float* weights;  // (TAPS, target + TILE)

  Axis(int64_t source_, int64_t target_, const void* cells_, const void* weights_)
      : source(source_), target(target_), tiles((target_ + TILE - 1) / TILE),
        cells(static_cast<const int32_t*>(cells_)), weights(static_cast<const float*>(weights_)) {}
  const int32_t* cell(int64_t k, int64_t i) const { return cells + k * (target + TILE) + i; }
  const float* weight(int64_t k, int64_t i) const { return weights + k * (target + TILE) + i; }
};

// Where a map lies, or the part of it that is there: its cell (r, c) is cells[(r - row) * width + c - column].
struct Grid {
  const float* cells;
  int64_t width, row, column;
};

// At most TILE x TILE pixels, and the cells that they read.
struct Tile {
  int64_t top, left, height, width, first_row, last_row, first_column, last_column;

  Tile(const Axis& rows, const Axis& columns, int64_t top_, int64_t bottom, int64_t left_, int64_t right)
      : top(top_), left(left_), height(bottom - top_), width(right - left_), first_row(*rows.cell(0, top_)),
        last_row(*rows.cell(TAPS - 1, bottom - 1)), first_column(*columns.cell(0, left_)),
        last_column(*columns.cell(TAPS - 1, right - 1)) {}
  int64_t area() const { return height * width; }
  int64_t pixels() const { return height * TILE; }  // in the buffers, those beyond the width included
};

// Room for one thread's work on a tile.
struct Room {
  std::vector<float> spread;  // (rows of cells, TILE)
  alignas(64) float pixels[PIXELS];

  explicit Room(int64_t cell_rows) : spread(cell_rows * TILE), pixels{} {}
};

// The columns of a tile: each of its rows of cells to TILE numbers.
void spread_anyhow(const Axis& columns, const Grid& from, const Tile& tile, float* to) {
  const int32_t *c0 = columns.cell(0, tile.left), *c1 = columns.cell(1, tile.left), *c2 = columns.cell(2, tile.left);
  const float *w0 = columns.weight(0, tile.left), *w1 = columns.weight(1, tile.left);
  const float* w2 = columns.weight(2, tile.left);
  const int64_t last = tile.last_column;  // columns beyond the tile may read cells that are not there
  for (int64_t row = tile.first_row; row <= tile.last_row; ++row, to += TILE) {
    const float* cells = from.cells + (row - from.row) * from.width - from.column;
    for (int64_t i = 0; i < TILE; ++i)
      to[i] = w0[i] * cells[std::min<int64_t>(c0[i], last)] + w1[i] * cells[std::min<int64_t>(c1[i], last)] +
              w2[i] * cells[std::min<int64_t>(c2[i], last)];
  }
}

// The same where the cells of neighbouring columns fit into one register, of which they are then picked: a gather
// takes a cycle and more for each number, which made spreading most of the work.
#if defined(__AVX512F__)
using Register = __m512;
using Indices = __m512i;
inline Register read(const float* from) { return _mm512_loadu_ps(from); }
inline void write(float* to, Register x) { _mm512_storeu_ps(to, x); }
inline Register pick(Register from, Indices at) { return _mm512_permutexvar_ps(at, from); }
inline Indices indices(const int32_t* cells, int32_t first) {
  return _mm512_sub_epi32(_mm512_loadu_si512(cells), _mm512_set1_epi32(first));
}
#elif defined(__AVX2__)
using Register = __m256;
using Indices = __m256i;
inline Register read(const float* from) { return _mm256_loadu_ps(from); }
inline void write(float* to, Register x) { _mm256_storeu_ps(to, x); }
inline Register pick(Register from, Indices at) { return _mm256_permutevar8x32_ps(from, at); }
inline Indices indices(const int32_t* cells, int32_t first) {
  return _mm256_sub_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(cells)), _mm256_set1_epi32(first));
}
#endif

#if defined(__AVX512F__) || defined(__AVX2__)
constexpr int64_t LANES = sizeof(Register) / sizeof(float);

bool fit_registers(const Axis& columns, const Grid& from, const Tile& tile) {
  bool fit = from.width >= LANES;
  for (int64_t left = tile.left; left < tile.left + tile.width; left += LANES)
    fit &= *columns.cell(TAPS - 1, left + LANES - 1) - *columns.cell(0, left) < LANES;
  return fit;
}

void spread(const Axis& columns, const Grid& from, const Tile& tile, float* to) {
  if (!fit_registers(columns, from, tile)) return spread_anyhow(columns, from, tile, to);
  for (int64_t i = 0; i < tile.width; i += LANES) {
    const int64_t left = tile.left + i;
    // Not beyond the end of the row, which may be the end of the buffer.
    const int32_t first = std::min<int64_t>(*columns.cell(0, left), from.column + from.width - LANES);
    Indices at[TAPS];
    Register weight[TAPS];
    for (int64_t k = 0; k < TAPS; ++k) {
      at[k] = indices(columns.cell(k, left), first);
      weight[k] = read(columns.weight(k, left));
    }
    const float* row = from.cells + (tile.first_row - from.row) * from.width + first - from.column;
    for (int64_t r = 0; r <= tile.last_row - tile.first_row; ++r, row += from.width) {
      const Register cells = read(row);
      write(to + r * TILE + i,
            weight[0] * pick(cells, at[0]) + weight[1] * pick(cells, at[1]) + weight[2] * pick(cells, at[2]));
    }
  }
}
#else
void spread(const Axis& columns, const Grid& from, const Tile& tile, float* to) {
  spread_anyhow(columns, from, tile, to);
}
#endif

// The tile's pixels: cells spread over its columns, then over its rows. Columns beyond the tile are filled with what
// is not meant to be used. Never inlined, so that every caller gets the same bits.
#if defined(__GNUC__)
__attribute__((noinline))
#endif
void resize(const Axis& rows, const Axis& columns, const Grid& from, const Tile& tile, Room& room) {
  spread(columns, from, tile, room.spread.data());
  for (int64_t y = 0; y < tile.height; ++y) {
    const float* cells[TAPS];
    float weight[TAPS];
    for (int64_t k = 0; k < TAPS; ++k) {
      cells[k] = room.spread.data() + (*rows.cell(k, tile.top + y) - tile.first_row) * TILE;
      weight[k] = *rows.weight(k, tile.top + y);
    }
    float* to = room.pixels + y * TILE;
    for (int64_t i = 0; i < TILE; ++i)
      to[i] = weight[0] * cells[0][i] + weight[1] * cells[1][i] + weight[2] * cells[2][i];
  }
}

inline float sigmoid(float x) {
  const float power = exp_nonpositive(x < 0 ? x : -x), share = 1.0f / (1.0f + power);
  return x < 0 ? power * share : share;
}

}  // namespace
