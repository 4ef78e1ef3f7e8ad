// Mask logits of one image on a CPU: resized, compared and counted, a tile of pixels at a time. What is computed is
// defined in plain PyTorch by image_processing/plain_masks.py. Nothing of size (N,H,W) is stored but binary masks.
//
// A pixel lies between the smallest and the largest logit of the cells that its tile reads. Where these bounds tell
// the winner of a tile, or that a mask covers all of it or nothing, no pixel is computed.
//
// No result depends on the number of threads: they add integers, or write what is theirs.

#include "mask_resizing.h"

namespace {

// The bounds are widened by what rounding can make of a sum of 9 products: less than 12 * 2^-24 of the largest logit.
constexpr float ROUNDING = 1e-6f;
// From here on 1 / (1 + exp(-x)) is 1 in float32.
constexpr float SATURATED = 17.5f;

// Of the maps (.., h, w) those that `chosen` lists.
struct Maps {
  Axis rows, columns;
  const float* logits;
  const int64_t* chosen;
  int64_t count;

  int64_t tiles() const { return rows.tiles * columns.tiles; }
  const float* map(int64_t n) const { return logits + chosen[n] * rows.source * columns.source; }
  Tile tile(int64_t row, int64_t column) const {
    return Tile(rows, columns, row * TILE, std::min((row + 1) * TILE, rows.target), column * TILE,
                std::min((column + 1) * TILE, columns.target));
  }
  void resize_map(int64_t n, const Tile& tile, Room& room) const {
    resize(rows, columns, Grid{map(n), columns.source, 0, 0}, tile, room);
  }
};

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
    const Tile band = in.tile(r, 0);
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
      const Tile tile = in.tile(r, c);
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

    explicit Space(const Maps& in) : room(in.rows.source), counts(in.count), highest(in.count) {}
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

  void compare(const Tile& tile, int64_t n, Space& at) const {
    const int32_t inside = static_cast<int32_t>(n) + 1, outside = -inside;
    const float score = scores[n], limit = threshold;
    for (int64_t i = 0; i < tile.pixels(); ++i) {
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
    const Tile tile = in.tile(index / in.columns.tiles, index % in.columns.tiles);
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
      in.resize_map(n, tile, at.room);
      if (partial) count_inside(tile, n, at);
      if (!wins) continue;
      if (!contested) std::fill(at.best, at.best + PIXELS, -1.0f);
      compare(tile, n, at);
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
    const Tile tile = in.tile(row, c);
    const Bounds bound(bounds, in.count, index, n);
    if (!(bound.high > threshold)) continue;
    if (bound.low > threshold && bound.low > SATURATED) {
      *area += tile.area();
      *sum += static_cast<double>(tile.area());
      continue;
    }
    in.resize_map(n, tile, room);
    for (int64_t y = 0; y < tile.height; ++y) {
      const float* from = room.pixels + y * TILE;
      const int32_t width = static_cast<int32_t>(tile.width);
      int32_t inside = 0;
      float total = 0;
      for (int32_t x = 0; x < TILE; ++x) {
        const bool counts = from[x] > threshold && x < width;
        const float probability = sigmoid(from[x]);
        inside += counts;
        total += counts ? probability : 0.0f;
      }
      *area += inside;
      *sum += total;
    }
  }
}

// A row of tiles of the binary mask n; `mask` (H, W) holds zeros.
void write_band(const Maps& in, const float* bounds, float threshold, int64_t n, int64_t row, Room& room,
                uint8_t* mask) {
  for (int64_t c = 0; c < in.columns.tiles; ++c) {
    const Tile tile = in.tile(row, c);
    const Bounds bound(bounds, in.count, row * in.columns.tiles + c, n);
    if (!(bound.high > threshold)) continue;
    const bool full = bound.low > threshold;
    if (!full) in.resize_map(n, tile, room);
    for (int64_t y = 0; y < tile.height; ++y) {
      uint8_t* to = mask + (tile.top + y) * in.columns.target + tile.left;
      if (full) std::fill(to, to + tile.width, uint8_t(1));
      else
        for (int64_t x = 0; x < tile.width; ++x) to[x] = room.pixels[y * TILE + x] > threshold;
    }
  }
}

// Masks on one map, the first on top; one of whose pixels less than a share is still free is left out. `owner` holds
// -1 where no mask is, and takes the index of a mask among those that are kept. Whether one is kept depends on those
// before it, so threads only find out where masks have pixels: a team that met twice for each mask would wait more
// than it worked.
struct Layers {
  static constexpr int64_t BLOCK = 1 << 13;  // pixels
  const uint8_t* masks;  // (count, pixels)
  int64_t pixels;
  int32_t* owner;
  std::vector<int32_t> areas;  // (count, blocks)

  Layers(const void* masks_, int64_t count, int64_t pixels_, void* owner_, const Team& team)
      : masks(static_cast<const uint8_t*>(masks_)), pixels(pixels_), owner(static_cast<int32_t*>(owner_)),
        areas(count * blocks()) {
    in_parallel(count * blocks(), team, [&](int64_t begin, int64_t end) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t n = unit / blocks(), block = unit % blocks();
        int32_t area = 0;
        for (int64_t i = first_of(block); i < first_of(block + 1); ++i) area += masks[n * pixels + i];
        areas[unit] = area;
      }
    });
  }
  int64_t blocks() const { return (pixels + BLOCK - 1) / BLOCK; }
  int64_t first_of(int64_t block) const { return std::min(pixels, block * BLOCK); }

  // Whether mask n is kept; it then gets `index`.
  bool lay(int64_t n, float share, int32_t index) const {
    const uint8_t* mask = masks + n * pixels;
    const int32_t* area = areas.data() + n * blocks();
    int64_t all = 0, visible = 0;
    for (int64_t block = 0; block < blocks(); ++block) {
      if (!area[block]) continue;
      int32_t here = 0;
      for (int64_t i = first_of(block); i < first_of(block + 1); ++i) here += mask[i] & (owner[i] < 0);
      all += area[block];
      visible += here;
    }
    if (!visible || !(static_cast<float>(visible) >= share * static_cast<float>(all))) return false;
    for (int64_t block = 0; block < blocks(); ++block)
      if (area[block])
        for (int64_t i = first_of(block); i < first_of(block + 1); ++i)
          owner[i] = mask[i] & (owner[i] < 0) ? index : owner[i];
    return true;
  }
};

// sizes: number of chosen maps; height and width of the maps; height and width of the target.
Maps maps_of(const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes) {
  const Axis rows(sizes[1], sizes[3], tables[0], tables[1]), columns(sizes[2], sizes[4], tables[2], tables[3]);
  return Maps{rows, columns, static_cast<const float*>(logits), static_cast<const int64_t*>(chosen), sizes[0]};
}

}  // namespace

// In most entries: logits (.., h, w) float32; chosen (N) int64; tables: cells and weights of the rows, cells and
// weights of the columns; sizes as above. bounds: (tiles, 2, N) float32.

// Returns whether all cells read are finite.
M2F_EXPORT int64_t m2f_bound_masks(
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
M2F_EXPORT void m2f_merge_masks(
    const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes, const void* bounds,
    const void* scores, float threshold, void* codes, void* counts, int64_t threads, void* gomp_parallel) {
  const Maps in = maps_of(logits, chosen, tables, sizes);
  const Merge merge{in, static_cast<const float*>(bounds), static_cast<const float*>(scores), threshold,
                    static_cast<int32_t*>(codes)};
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  in_parallel(in.tiles(), team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    Merge::Space at(in);
    for (int64_t tile = begin; tile < end; ++tile) merge.work(tile, at);
    pthread_mutex_lock(&lock);
    int64_t* to = static_cast<int64_t*>(counts);
    for (const std::vector<int64_t>* from : {&at.counts.won, &at.counts.mask, &at.counts.visible})
      for (const int64_t value : *from) *to++ += value;
    pthread_mutex_unlock(&lock);
  });
}

// areas (N, rows of tiles) int64, sums of the same shape, float64.
M2F_EXPORT void m2f_measure_masks(
    const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes, const void* bounds,
    float threshold, void* areas, void* sums, int64_t threads, void* gomp_parallel) {
  const Maps in = maps_of(logits, chosen, tables, sizes);
  in_parallel(in.count * in.rows.tiles, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    Room room(in.rows.source);
    for (int64_t unit = begin; unit < end; ++unit)
      measure(in, static_cast<const float*>(bounds), threshold, unit / in.rows.tiles, unit % in.rows.tiles, room,
              static_cast<int64_t*>(areas) + unit, static_cast<double*>(sums) + unit);
  });
}

// masks (M, H, W) uint8 of zeros; mask m is that of map which[m] of the chosen ones.
M2F_EXPORT void m2f_write_masks(
    const void* logits, const void* chosen, const void* const* tables, const int64_t* sizes, const void* bounds,
    float threshold, const void* which, int64_t count, void* masks, int64_t threads, void* gomp_parallel) {
  const Maps in = maps_of(logits, chosen, tables, sizes);
  const int64_t* index = static_cast<const int64_t*>(which);
  in_parallel(count * in.rows.tiles, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    Room room(in.rows.source);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t mask = unit / in.rows.tiles, pixels = in.rows.target * in.columns.target;
      write_band(in, static_cast<const float*>(bounds), threshold, index[mask], unit % in.rows.tiles, room,
            static_cast<uint8_t*>(masks) + mask * pixels);
    }
  });
}

// masks (count, pixels) uint8 of 0 and 1; owner (pixels) int32, all -1; kept (count) uint8.
M2F_EXPORT void m2f_lay_masks(const void* masks, int64_t count, int64_t pixels, float share, void* owner, void* kept,
                              int64_t threads, void* gomp_parallel) {
  const Layers layers(masks, count, pixels, owner, team_of(threads, gomp_parallel));
  int32_t index = 0;
  for (int64_t n = 0; n < count; ++n) {
    const bool keeps = layers.lay(n, share, index);
    static_cast<uint8_t*>(kept)[n] = keeps;
    index += keeps;
  }
}
