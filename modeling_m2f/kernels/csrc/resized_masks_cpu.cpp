// Mask logits of one image on a CPU: resized, compared and counted, a tile of pixels at a time. What is computed is
// defined in plain PyTorch by image_processing/post_processing.py and instance_masks.py.
//
// The two bilinear steps and the crop between them are linear, and treat rows and columns apart: a pixel is a sum over
// 3 x 3 cells of the logits, with weights that resized_masks.py prepares. A tile's cells are spread over its columns
// first, once for each row of cells, and then over its rows. Nothing of size (N,H,W) is stored but binary masks.
//
// A pixel lies between the smallest and the largest logit of the cells that its tile reads. Where these bounds tell
// the winner of a tile, or that a mask covers all of it or nothing, no pixel is computed.
//
// No result depends on the number of threads: they add integers, or write what is theirs.

#include "cpu_common.h"

#include <algorithm>
#include <mutex>

namespace {

constexpr int64_t TILE = 32, PIXELS = TILE * TILE;  // rows and columns of pixels; 4 KiB of logits
constexpr int64_t TAPS = 3;
// The bounds are widened by what rounding can make of a sum of 9 products: less than 12 * 2^-24 of the largest logit.
constexpr float ROUNDING = 1e-6f;
// From here on 1 / (1 + exp(-x)) is 1 in float32.
constexpr float SATURATED = 17.5f;

// One direction. Pixel i is the sum over k of weight(k, i) * map[cell(k, i)].
struct Axis {
  int64_t source, target, tiles;
  const int32_t* cells;  // (TAPS, tiles * TILE), ascending; beyond the target as at its end
  const float* weights;  // (TAPS, tiles * TILE)

  Axis(int64_t source_, int64_t target_, const void* cells_, const void* weights_)
      : source(source_), target(target_), tiles((target_ + TILE - 1) / TILE),
        cells(static_cast<const int32_t*>(cells_)), weights(static_cast<const float*>(weights_)) {}
  const int32_t* cell(int64_t k, int64_t i) const { return cells + k * tiles * TILE + i; }
  const float* weight(int64_t k, int64_t i) const { return weights + k * tiles * TILE + i; }
};

// Of the maps (.., h, w) those that `chosen` lists.
struct Maps {
  Axis rows, columns;
  const float* logits;
  const int64_t* chosen;
  int64_t count;

  int64_t tiles() const { return rows.tiles * columns.tiles; }
  const float* map(int64_t n) const { return logits + chosen[n] * rows.source * columns.source; }
};

// The pixels of a tile, cut off at `last_row`, and the cells that they read.
struct Tile {
  int64_t top, left, height, width, first_row, last_row, first_column, last_column;

  Tile(const Maps& in, int64_t top_, int64_t bottom, int64_t column) : top(top_), left(column * TILE) {
    height = bottom - top;
    width = std::min(TILE, in.columns.target - left);
    first_row = *in.rows.cell(0, top);
    last_row = *in.rows.cell(TAPS - 1, bottom - 1);
    first_column = *in.columns.cell(0, left);
    last_column = *in.columns.cell(TAPS - 1, left + width - 1);
  }
  Tile(const Maps& in, int64_t row, int64_t column)
      : Tile(in, row * TILE, std::min((row + 1) * TILE, in.rows.target), column) {}
  int64_t area() const { return height * width; }
};

// Room for one thread's work on a tile.
struct Room {
  std::vector<float> spread;  // (cells' rows, TILE)
  alignas(64) float pixels[PIXELS];

  explicit Room(const Maps& in) : spread(in.rows.source * TILE) {}
};

// Rows [first_row, last_row] of `map` spread over the tile's columns, then over its rows. Columns beyond the tile are
// computed too. Never inlined, so that every caller gets the same bits.
#if defined(__GNUC__)
__attribute__((noinline))
#endif
void resize(const Maps& in, const float* map, const Tile& tile, Room& room) {
  const int32_t *c0 = in.columns.cell(0, tile.left), *c1 = in.columns.cell(1, tile.left);
  const int32_t* c2 = in.columns.cell(2, tile.left);
  const float *w0 = in.columns.weight(0, tile.left), *w1 = in.columns.weight(1, tile.left);
  const float* w2 = in.columns.weight(2, tile.left);
  for (int64_t row = tile.first_row; row <= tile.last_row; ++row) {
    const float* from = map + row * in.columns.source;
    float* to = room.spread.data() + (row - tile.first_row) * TILE;
    for (int64_t i = 0; i < TILE; ++i) to[i] = w0[i] * from[c0[i]] + w1[i] * from[c1[i]] + w2[i] * from[c2[i]];
  }
  for (int64_t y = 0; y < tile.height; ++y) {
    const float* from[TAPS];
    float weight[TAPS];
    for (int64_t k = 0; k < TAPS; ++k) {
      from[k] = room.spread.data() + (*in.rows.cell(k, tile.top + y) - tile.first_row) * TILE;
      weight[k] = *in.rows.weight(k, tile.top + y);
    }
    float* to = room.pixels + y * TILE;
    for (int64_t i = 0; i < TILE; ++i) to[i] = weight[0] * from[0][i] + weight[1] * from[1][i] + weight[2] * from[2][i];
  }
}

inline float sigmoid(float x) {
  const float power = exp_nonpositive(x < 0 ? x : -x), share = 1.0f / (1.0f + power);
  return x < 0 ? power * share : share;
}

// Bounds of a mask in a tile, widened by rounding.
struct Bounds {
  float low, high;

  Bounds(const float* bounds, int64_t count, int64_t tile, int64_t n) {
    low = bounds[2 * tile * count + n];
    high = bounds[(2 * tile + 1) * count + n];
    const float margin = ROUNDING * std::max(std::fabs(low), std::fabs(high));
    low -= margin;
    high += margin;
  }
};

// Bounds of map n in every tile, (tiles, 2, count); whether all cells read are finite.
bool bound_map(const Maps& in, int64_t n, std::vector<float>& rows, float* bounds) {
  const int64_t width = in.columns.source;
  float *low = rows.data(), *high = low + width;
  uint32_t odd = 0;
  for (int64_t r = 0; r < in.rows.tiles; ++r) {
    const Tile band(in, r, 0);
    for (int64_t row = band.first_row; row <= band.last_row; ++row) {
      const float* from = in.map(n) + row * width;
      const bool first = row == band.first_row;
      for (int64_t i = 0; i < width; ++i) {
        uint32_t bits;
        std::memcpy(&bits, from + i, sizeof bits);
        odd |= (bits & 0x7f800000u) == 0x7f800000u;
        low[i] = first || from[i] < low[i] ? from[i] : low[i];
        high[i] = first || from[i] > high[i] ? from[i] : high[i];
      }
    }
    for (int64_t c = 0; c < in.columns.tiles; ++c) {
      const Tile tile(in, r, c);
      float smallest = low[tile.first_column], largest = high[tile.first_column];
      for (int64_t i = tile.first_column; i <= tile.last_column; ++i) {
        smallest = low[i] < smallest ? low[i] : smallest;
        largest = high[i] > largest ? high[i] : largest;
      }
      float* to = bounds + 2 * (r * in.columns.tiles + c) * in.count + n;
      to[0] = smallest;
      to[in.count] = largest;
    }
  }
  return !odd;
}

struct Counts {
  std::vector<int64_t> won, mask, visible;

  explicit Counts(int64_t count) : won(count), mask(count), visible(count) {}
};

// Which map wins each pixel, with weights: the codes of resized_masks.py.
struct Merge {
  const Maps& in;
  const float *bounds, *scores;
  float threshold;
  int32_t* codes;  // (H, W)

  struct Space {
    Room room;
    Counts counts;
    std::vector<float> highest;
    std::vector<int64_t> candidates;
    alignas(64) float best[PIXELS];
    alignas(64) int32_t winner[PIXELS];  // n + 1, negative where the winner's mask does not reach the threshold

    explicit Space(const Maps& in) : room(in), counts(in.count), highest(in.count) {}
  };

  // The maps that may win a pixel of the tile: those whose best is not below another's worst.
  void find_candidates(int64_t tile, Space& at) const {
    float certain = 0;
    for (int64_t n = 0; n < in.count; ++n) {
      const Bounds bound(bounds, in.count, tile, n);
      const float lowest = scores[n] * sigmoid(bound.low) * (1 - ROUNDING);
      at.highest[n] = scores[n] * sigmoid(bound.high) * (1 + ROUNDING);
      certain = lowest > certain ? lowest : certain;
    }
    at.candidates.clear();
    for (int64_t n = 0; n < in.count; ++n)
      if (at.highest[n] >= certain) at.candidates.push_back(n);
  }

  void count_inside(const Tile& tile, int64_t n, Space& at) const {
    int32_t inside = 0;
    for (int64_t y = 0; y < tile.height; ++y)
      for (int64_t x = 0; x < tile.width; ++x) inside += at.room.pixels[y * TILE + x] >= threshold;
    at.counts.mask[n] += inside;
  }

  void compare(int64_t n, Space& at) const {
    const int32_t inside = static_cast<int32_t>(n) + 1, outside = -inside;
    const float score = scores[n], limit = threshold;
    for (int64_t i = 0; i < PIXELS; ++i) {
      const float weighted = score * sigmoid(at.room.pixels[i]);
      const int32_t code = at.room.pixels[i] >= limit ? inside : outside;
      const bool better = weighted > at.best[i];
      at.best[i] = better ? weighted : at.best[i];
      at.winner[i] = better ? code : at.winner[i];
    }
  }

  void finish(const Tile& tile, Space& at) const {
    for (int64_t y = 0; y < tile.height; ++y) {
      int32_t* to = codes + (tile.top + y) * in.columns.target + tile.left;
      for (int64_t x = 0; x < tile.width; ++x) {
        const int32_t winner = at.winner[y * TILE + x];
        ++at.counts.won[std::abs(winner) - 1];
        if (winner > 0) ++at.counts.visible[winner - 1];
        to[x] = winner > 0 ? winner : 0;
      }
    }
  }

  void fill(const Tile& tile, int64_t n, bool inside, Space& at) const {
    at.counts.won[n] += tile.area();
    at.counts.visible[n] += inside ? tile.area() : 0;
    for (int64_t y = 0; y < tile.height; ++y) {
      int32_t* to = codes + (tile.top + y) * in.columns.target + tile.left;
      std::fill(to, to + tile.width, inside ? static_cast<int32_t>(n) + 1 : 0);
    }
  }

  void work(int64_t index, Space& at) const {
    const Tile tile(in, index / in.columns.tiles, index % in.columns.tiles);
    find_candidates(index, at);
    const bool contested = at.candidates.size() > 1;
    if (contested) std::fill(at.best, at.best + PIXELS, -1.0f);
    bool compared = false;
    auto candidate = at.candidates.begin();
    for (int64_t n = 0; n < in.count; ++n) {
      const Bounds bound(bounds, in.count, index, n);
      const bool full = bound.low >= threshold, partial = !full && bound.high >= threshold;
      const bool wins = candidate != at.candidates.end() && *candidate == n;
      candidate += wins;
      if (full) at.counts.mask[n] += tile.area();
      if (wins && !contested && !partial) fill(tile, n, full, at);
      if (!partial && !(wins && contested)) continue;
      resize(in, in.map(n), tile, at.room);
      if (partial) count_inside(tile, n, at);
      if (!wins) continue;
      if (!contested) std::fill(at.best, at.best + PIXELS, -1.0f);
      compare(n, at);
      compared = true;
    }
    if (compared) finish(tile, at);
  }
};

// Number of pixels above the threshold in a row of tiles, and the sum of their probabilities.
void measure(const Maps& in, const float* bounds, float threshold, int64_t n, int64_t row, Room& room, int64_t* area,
             double* sum) {
  *area = 0;
  *sum = 0;
  for (int64_t c = 0; c < in.columns.tiles; ++c) {
    const int64_t index = row * in.columns.tiles + c;
    const Tile tile(in, row, c);
    const Bounds bound(bounds, in.count, index, n);
    if (!(bound.high > threshold)) continue;
    if (bound.low > threshold && bound.low > SATURATED) {
      *area += tile.area();
      *sum += static_cast<double>(tile.area());
      continue;
    }
    resize(in, in.map(n), tile, room);
    for (int64_t y = 0; y < tile.height; ++y) {
      int32_t inside = 0;
      float total = 0;
      for (int64_t x = 0; x < tile.width; ++x) {
        const float logit = room.pixels[y * TILE + x];
        inside += logit > threshold;
        total += logit > threshold ? sigmoid(logit) : 0.0f;
      }
      *area += inside;
      *sum += total;
    }
  }
}

// A row of tiles of the binary mask n; `mask` (H, W) holds zeros.
void write(const Maps& in, const float* bounds, float threshold, int64_t n, int64_t row, Room& room, uint8_t* mask) {
  for (int64_t c = 0; c < in.columns.tiles; ++c) {
    const Tile tile(in, row, c);
    const Bounds bound(bounds, in.count, row * in.columns.tiles + c, n);
    if (!(bound.high > threshold)) continue;
    const bool full = bound.low > threshold;
    if (!full) resize(in, in.map(n), tile, room);
    for (int64_t y = 0; y < tile.height; ++y) {
      uint8_t* to = mask + (tile.top + y) * in.columns.target + tile.left;
      if (full) std::fill(to, to + tile.width, uint8_t(1));
      else
        for (int64_t x = 0; x < tile.width; ++x) to[x] = room.pixels[y * TILE + x] > threshold;
    }
  }
}

// sizes: number of chosen maps; height and width of the maps; height and width of the target.
Maps maps_of(const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes) {
  const Axis rows(sizes[1], sizes[3], tables[0], tables[1]), columns(sizes[2], sizes[4], tables[2], tables[3]);
  return Maps{rows, columns, static_cast<const float*>(logits), static_cast<const int64_t*>(chosen), sizes[0]};
}

}  // namespace

// In every entry: logits (.., h, w) float32; chosen (N) int64; tables: cells and weights of the rows, cells and weights
// of the columns; sizes as above. bounds: (tiles, 2, N) float32.

// Returns whether all cells read are finite.
extern "C" int64_t m2f_bound_masks(
    const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes, void* bounds,
    int64_t threads, void* gomp_parallel) {
  const Maps in = maps_of(logits, chosen, tables, sizes);
  std::atomic<bool> finite{true};
  in_parallel(in.count, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    std::vector<float> rows(2 * in.columns.source);
    for (int64_t n = begin; n < end; ++n)
      if (!bound_map(in, n, rows, static_cast<float*>(bounds))) finite = false;
  });
  return finite;
}

// codes: (H, W) int32, counts: (3, N) int64 of zeros, for the pixels won, of the mask, and both.
extern "C" void m2f_merge_masks(
    const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes, const void* bounds,
    const void* scores, float threshold, void* codes, void* counts, int64_t threads, void* gomp_parallel) {
  const Maps in = maps_of(logits, chosen, tables, sizes);
  const Merge merge{in, static_cast<const float*>(bounds), static_cast<const float*>(scores), threshold,
                    static_cast<int32_t*>(codes)};
  std::mutex lock;
  in_parallel(in.tiles(), team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    Merge::Space at(in);
    for (int64_t tile = begin; tile < end; ++tile) merge.work(tile, at);
    const std::lock_guard<std::mutex> guard(lock);
    int64_t* to = static_cast<int64_t*>(counts);
    for (const std::vector<int64_t>* from : {&at.counts.won, &at.counts.mask, &at.counts.visible})
      for (const int64_t value : *from) *to++ += value;
  });
}

// areas (N, rows of tiles) int64, sums of the same shape, float64.
extern "C" void m2f_measure_masks(
    const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes, const void* bounds,
    float threshold, void* areas, void* sums, int64_t threads, void* gomp_parallel) {
  const Maps in = maps_of(logits, chosen, tables, sizes);
  in_parallel(in.count * in.rows.tiles, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    Room room(in);
    for (int64_t unit = begin; unit < end; ++unit)
      measure(in, static_cast<const float*>(bounds), threshold, unit / in.rows.tiles, unit % in.rows.tiles, room,
              static_cast<int64_t*>(areas) + unit, static_cast<double*>(sums) + unit);
  });
}

// masks (M, H, W) uint8 of zeros; mask m is that of map which[m] of the chosen ones.
extern "C" void m2f_write_masks(
    const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes, const void* bounds,
    float threshold, const void* which, int64_t count, void* masks, int64_t threads, void* gomp_parallel) {
  const Maps in = maps_of(logits, chosen, tables, sizes);
  const int64_t* index = static_cast<const int64_t*>(which);
  in_parallel(count * in.rows.tiles, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    Room room(in);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t mask = unit / in.rows.tiles, pixels = in.rows.target * in.columns.target;
      write(in, static_cast<const float*>(bounds), threshold, index[mask], unit % in.rows.tiles, room,
            static_cast<uint8_t*>(masks) + mask * pixels);
    }
  });
}
