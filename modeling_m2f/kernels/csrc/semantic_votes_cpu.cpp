// The class of each pixel on a CPU: that with the largest sum over the queries of class probability * sigmoid(logit).
// Defined in plain PyTorch by semantic_scores in image_processing/post_processing.py.
//
// A tile of the target is made at once: the logits of all queries that it needs are resized, the scores of the classes
// summed, and where the scores are what is resized (the second pair of tables) resized. The smallest and the largest
// logit of a query in a tile bound the scores of the classes; those that cannot be the largest anywhere in the tile
// are not computed. Scores of (K,H,W) never exist.

#include "mask_resizing.h"

namespace {

// Rounding of sums of products; the bounds are widened by so much of themselves.
constexpr float ROUNDING = 1e-6f, SUM_ROUNDING = 3e-5f;
constexpr int64_t REGION = 2 * TILE;  // rows and columns of scores that a tile of the target may read
constexpr int64_t GROUP = 4;          // classes summed at once

struct Votes {
  Axis rows, columns;              // logits to scores
  Axis target_rows, target_columns;  // scores to the target
  bool resized;                    // whether the second pair is needed
  const float* logits;             // (Q, h, w)
  const float* weights;            // (Q, classes), the class probabilities
  int64_t queries, classes;
  int64_t height, width;           // of a tile of the target
  int64_t* labels;                 // (H, W)
  float *best, *total;             // (H, W)

  struct Space {
    Room room, target_room;
    std::vector<float> probs;         // (Q, PIXELS)
    std::vector<float> low, high;     // (classes)
    std::vector<int64_t> candidates;
    std::vector<float> sums;          // (Q), of the classes' probabilities
    std::vector<float> scores;        // (candidates + 1, REGION, REGION); the last is the sum of all classes
    alignas(64) float best[PIXELS];
    alignas(64) int32_t label[PIXELS];

    explicit Space(const Votes& in)
        : room(in.rows.source), target_room(REGION), probs(in.queries * PIXELS), low(in.classes), high(in.classes),
          sums(in.queries) {
      for (int64_t q = 0; q < in.queries; ++q)
        for (int64_t k = 0; k < in.classes; ++k) sums[q] += in.weights[q * in.classes + k];
    }
  };

  int64_t across() const { return (target_columns.target + width - 1) / width; }
  int64_t tiles() const { return across() * ((target_rows.target + height - 1) / height); }

  // Bounds of the scores of all classes in a tile of scores.
  void bound(const Tile& tile, Space& at) const {
    std::fill(at.low.begin(), at.low.end(), 0.0f);
    std::fill(at.high.begin(), at.high.end(), 0.0f);
    for (int64_t q = 0; q < queries; ++q) {
      const float* map = logits + q * rows.source * columns.source;
      float low = map[tile.first_row * columns.source + tile.first_column], high = low;
      for (int64_t y = tile.first_row; y <= tile.last_row; ++y)
        for (int64_t x = tile.first_column; x <= tile.last_column; ++x) {
          const float logit = map[y * columns.source + x];
          low = logit < low ? logit : low;
          high = logit > high ? logit : high;
        }
      const float margin = ROUNDING * std::max(std::fabs(low), std::fabs(high));
      const float least = sigmoid(low - margin), most = sigmoid(high + margin);
      for (int64_t k = 0; k < classes; ++k) {
        at.low[k] += weights[q * classes + k] * least;
        at.high[k] += weights[q * classes + k] * most;
      }
    }
  }

  void find_candidates(Space& at) const {
    float certain = 0;
    for (const float low : at.low) certain = std::max(certain, low * (1 - SUM_ROUNDING));
    at.candidates.clear();
    for (int64_t k = 0; k < classes; ++k)
      if (at.high[k] * (1 + SUM_ROUNDING) >= certain) at.candidates.push_back(k);
  }

  // Scores of the candidates at up to TILE x TILE places, into their part of the region.
  void score(const Tile& tile, int64_t row, int64_t column, Space& at) const {
    for (int64_t q = 0; q < queries; ++q) {
      const Grid map{logits + q * rows.source * columns.source, columns.source, 0, 0};
      resize(rows, columns, map, tile, at.room);
      float* to = at.probs.data() + q * PIXELS;
      for (int64_t i = 0; i < tile.pixels(); ++i) to[i] = sigmoid(at.room.pixels[i]);
    }
    const int64_t count = static_cast<int64_t>(at.candidates.size()) + 1;
    for (int64_t first = 0; first < count; first += GROUP) {
      const float* weight[GROUP];
      int64_t step[GROUP];
      for (int64_t g = 0; g < GROUP; ++g) {
        const int64_t index = std::min(first + g, count - 1);
        const bool is_sum = index == count - 1;
        weight[g] = is_sum ? at.sums.data() : weights + at.candidates[index];
        step[g] = is_sum ? 1 : classes;
      }
      for (int64_t y = 0; y < tile.height; ++y) {
        float sum[GROUP][TILE] = {};
        const float* probs = at.probs.data() + y * TILE;
        for (int64_t q = 0; q < queries; ++q)
          for (int64_t g = 0; g < GROUP; ++g) {
            const float factor = weight[g][q * step[g]];
            for (int64_t x = 0; x < TILE; ++x) sum[g][x] += factor * probs[q * PIXELS + x];
          }
        for (int64_t g = 0; g < GROUP && first + g < count; ++g)
          std::copy_n(sum[g], TILE, at.scores.data() + ((first + g) * REGION + row + y) * REGION + column);
      }
    }
  }

  // The scores of class `index` of the candidates at the tile's pixels.
  const float* pixels_of(int64_t index, const Tile& tile, Space& at) const {
    const float* region = at.scores.data() + index * REGION * REGION;
    if (resized) {
      resize(target_rows, target_columns, Grid{region, REGION, tile.first_row, tile.first_column}, tile,
             at.target_room);
    } else {
      for (int64_t y = 0; y < tile.height; ++y)
        std::copy_n(region + y * REGION, TILE, at.target_room.pixels + y * TILE);
    }
    return at.target_room.pixels;
  }

  void work(int64_t index, Space& at) const {
    const int64_t top = index / across() * height, left = index % across() * width;
    const int64_t bottom = std::min(top + height, target_rows.target);
    const int64_t right = std::min(left + width, target_columns.target);
    const Tile tile(target_rows, target_columns, top, bottom, left, right);
    const int64_t last_row = resized ? tile.last_row : bottom - 1;
    const int64_t last_column = resized ? tile.last_column : right - 1;
    const int64_t first_row = resized ? tile.first_row : top, first_column = resized ? tile.first_column : left;
    const Tile whole(rows, columns, first_row, last_row + 1, first_column, last_column + 1);
    bound(whole, at);
    find_candidates(at);
    at.scores.resize((at.candidates.size() + 1) * REGION * REGION);
    for (int64_t y = first_row; y <= last_row; y += TILE)
      for (int64_t x = first_column; x <= last_column; x += TILE)
        score(Tile(rows, columns, y, std::min(y + TILE, last_row + 1), x, std::min(x + TILE, last_column + 1)),
              y - first_row, x - first_column, at);
    vote(tile, at);
  }

  void vote(const Tile& tile, Space& at) const {
    const int64_t count = static_cast<int64_t>(at.candidates.size());
    std::fill(at.best, at.best + PIXELS, -1.0f);
    for (int64_t c = 0; c < count; ++c) {
      const float* scores = pixels_of(c, tile, at);
      const int32_t label = static_cast<int32_t>(at.candidates[c]);
      for (int64_t i = 0; i < tile.pixels(); ++i) {
        const bool better = scores[i] > at.best[i];
        at.best[i] = better ? scores[i] : at.best[i];
        at.label[i] = better ? label : at.label[i];
      }
    }
    const float* sums = pixels_of(count, tile, at);
    for (int64_t y = 0; y < tile.height; ++y) {
      const int64_t to = (tile.top + y) * target_columns.target + tile.left;
      std::copy_n(at.label + y * TILE, tile.width, labels + to);
      std::copy_n(at.best + y * TILE, tile.width, best + to);
      std::copy_n(sums + y * TILE, tile.width, total + to);
    }
  }
};

// Rows (or columns) of the target in a tile, so that the scores which they read fit into the region: at most 3 + those
// between the first and the last.
int64_t fitting(const Axis& axis) {
  const int64_t places = (REGION - TAPS - 1) * axis.target / axis.source;
  return std::max<int64_t>(1, std::min(TILE, places));
}

}  // namespace

// logits (Q, h, w), weights (Q, K) float32; tables: cells and weights of rows and columns from logits to scores, then
// of rows and columns from scores to the target; sizes: Q, K, h, w, height and width of the scores and of the target,
// whether the scores are resized. labels (H, W) int64, best and total (H, W) float32.
M2F_EXPORT void m2f_vote(const void* logits, const void* weights, const void* const* tables, const int64_t* sizes,
                         void* labels, void* best, void* total, int64_t threads, void* gomp_parallel) {
  const Axis rows(sizes[2], sizes[4], tables[0], tables[1]), columns(sizes[3], sizes[5], tables[2], tables[3]);
  const Axis target_rows(sizes[4], sizes[6], tables[4], tables[5]);
  const Axis target_columns(sizes[5], sizes[7], tables[6], tables[7]);
  const bool resized = sizes[8] != 0;
  const Votes votes{rows, columns, target_rows, target_columns, resized, static_cast<const float*>(logits),
                    static_cast<const float*>(weights), sizes[0], sizes[1],
                    resized ? fitting(target_rows) : TILE, resized ? fitting(target_columns) : TILE,
                    static_cast<int64_t*>(labels), static_cast<float*>(best), static_cast<float*>(total)};
  in_parallel(votes.tiles(), team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    Votes::Space at(votes);
    for (int64_t tile = begin; tile < end; ++tile) votes.work(tile, at);
  });
}
