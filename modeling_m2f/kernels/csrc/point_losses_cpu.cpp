// Mask losses and their gradient on a CPU, a mask at a time; what is computed is defined in plain PyTorch by
// mask_losses.py and `uncertain_points` in point_sampling.py.
//
// A mask's map of logits stays in the second cache while all its points are read, and takes the gradient in the end.
// Nothing larger than a mask's points is stored for it. Sums are in double precision.
//
// No result depends on the number of threads: a mask is one thread's, and its points have one order.

#include "points_common.h"

#include <algorithm>

namespace {

struct float16 {
  uint16_t bits;
};

// Of a finite number that is not negative: a target's.
inline float load(float16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 13;
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out * 0x1p112f;
}
inline float load(uint8_t x) { return x; }

// The arguments of a call; all buffers are contiguous.
struct Problem {
  int64_t masks, drawn, candidates, uncertain;
  Frame frame;                                // of the logits
  int64_t height, width;                      // of the targets
  int64_t canvas_height, canvas_width;        // in pixels of the targets
  int64_t valid_height, valid_width;          // beyond them no point counts
  float* logits;                              // (masks, frame.height, frame.width); takes the gradient
  const float* points;                        // (masks, drawn, 2); `candidates` first, of which `uncertain` are kept
  const void* pixels;                         // the targets
  const int64_t* first;                       // (masks,), the first pixel of each mask's target
  const int64_t* values;                      // (masks,), what its pixels have in an index map
  const uint8_t* ignored;                     // (height, width), 1 where a pixel does not count; may be null
  double mask_coefficient, dice_coefficient;  // of the losses in the total
  bool learns;                                // whether the gradient is wanted
  float* losses;                              // (2, masks)

  int64_t kept() const { return uncertain + drawn - candidates; }
};

// Room for a mask, one for each range of masks.
struct Scratch {
  std::vector<float> framed, dx, dy, probability, target, weight;
  std::vector<uint32_t> key;  // of each candidate
  std::vector<int32_t> chosen, cell, counts;
  std::vector<uint64_t> border;

  explicit Scratch(const Problem& in)
      : framed(in.frame.cells()), dx(in.kept()), dy(in.kept()), probability(in.kept()), target(in.kept()),
        weight(in.kept()), key(in.candidates), chosen(std::max(in.kept(), in.candidates) + 1), cell(in.kept()) {}
};

// Whether all points count.
bool all_count(const Problem& in) {
  return !in.ignored && in.valid_height >= in.canvas_height && in.valid_width >= in.canvas_width;
}

// 1 where the pixel under a point counts.
inline float weight_at(const Problem& in, float x, float y) {
  const float last_column = static_cast<float>(in.canvas_width - 1);
  const float last_row = static_cast<float>(in.canvas_height - 1);
  // Rounding may lift a coordinate just below 1 to the canvas's end.
  const float right = x * static_cast<float>(in.canvas_width), down = y * static_cast<float>(in.canvas_height);
  const int32_t column = static_cast<int32_t>(right > 0 ? (right < last_column ? right : last_column) : 0.0f);
  const int32_t row = static_cast<int32_t>(down > 0 ? (down < last_row ? down : last_row) : 0.0f);
  const bool valid = (row < in.valid_height) & (column < in.valid_width);
  if (!in.ignored) return valid ? 1.0f : 0.0f;
  const bool inside = (row < in.height) & (column < in.width);
  const bool ignored = in.ignored[inside ? row * in.width + column : 0] & inside;
  return valid & !ignored ? 1.0f : 0.0f;
}

// Keys order as distances from 0 do: the bits of a float that is not negative, infinity where a point does not count.
void rank_candidates(const Problem& in, const float* points, Scratch& room) {
  const float* framed = room.framed.data();
  const int64_t stride = in.frame.stride();
  uint32_t* key = room.key.data();
  for (int64_t first = 0; first < in.candidates; first += BLOCK) {
    const int64_t count = std::min(BLOCK, in.candidates - first);
    Place at[BLOCK];
    float distance[BLOCK];
    for (int64_t i = 0; i < count; ++i) at[i] = place(in.frame, points[2 * (first + i)], points[2 * (first + i) + 1]);
    for (int64_t i = 0; i < count; ++i)
      distance[i] = std::fabs(sample(framed, stride, at[i].cell, at[i].dx, at[i].dy));
    std::memcpy(key + first, distance, count * sizeof(float));
  }
  if (all_count(in)) return;
  for (int64_t i = 0; i < in.candidates; ++i)
    key[i] = weight_at(in, points[2 * i], points[2 * i + 1]) != 0 ? key[i] : 0x7f800000u;
}

// The `uncertain` candidates with the smallest keys, of equal ones the first, to the start of `chosen`: all those below
// a digit, found by counting, and the smallest of those that have it.
void choose(const Problem& in, Scratch& room) {
  constexpr int64_t DIGITS = 2048, COPIES = 4;  // several counters of a digit, so that none waits for the one before
  constexpr int SHIFT = 20;
  if (!in.uncertain) return;
  room.counts.assign(COPIES * DIGITS, 0);
  int32_t* counts = room.counts.data();
  for (int64_t i = 0; i < in.candidates; ++i) ++counts[i % COPIES * DIGITS + (room.key[i] >> SHIFT)];
  uint32_t digit = 0;
  int64_t below = 0;
  for (;; ++digit) {
    int64_t here = 0;
    for (int64_t copy = 0; copy < COPIES; ++copy) here += counts[copy * DIGITS + digit];
    if (below + here >= in.uncertain) break;
    below += here;
  }
  int64_t found = 0;
  int32_t* chosen = room.chosen.data();
  room.border.clear();
  for (int64_t i = 0; i < in.candidates; ++i) {
    const uint32_t own = room.key[i] >> SHIFT;
    chosen[found] = static_cast<int32_t>(i);
    found += own < digit;
    if (own == digit) room.border.push_back(static_cast<uint64_t>(room.key[i]) << 32 | static_cast<uint64_t>(i));
  }
  const auto end = room.border.begin() + (in.uncertain - below);
  if (end != room.border.end()) std::nth_element(room.border.begin(), end, room.border.end());
  // In the order of the candidates, on which sums depend.
  std::sort(room.border.begin(), end, [](uint64_t a, uint64_t b) { return uint32_t(a) < uint32_t(b); });
  for (auto key = room.border.begin(); key != end; ++key) chosen[found++] = static_cast<int32_t>(uint32_t(*key));
}

// Two neighbouring pixels along one axis, with their shares; a pixel beyond the borders is replaced by the nearest one,
// with share 0.
struct Neighbours {
  int32_t first, second;
  float first_share, second_share;
};

inline Neighbours neighbours(float coordinate, float length, float canvas_length) {
  const float position = coordinate * canvas_length - 0.5f, before = whole_cells(position, canvas_length);
  const float share = position - before, last = length - 1;
  const float first = before > 0 ? (before < last ? before : last) : 0.0f, second = before < last ? before + 1 : last;
  return {static_cast<int32_t>(first), static_cast<int32_t>(second), before == first ? 1 - share : 0.0f,
          before < last ? share : 0.0f};
}

// Targets, and whether a point counts, at the chosen points of mask n. Pixel: what is stored; value: what it counts.
template <typename Pixel, typename Value>
void read_targets(const Problem& in, int64_t n, const float* points, const Value& value, Scratch& room) {
  const Pixel* pixels = static_cast<const Pixel*>(in.pixels) + in.first[n];
  const int32_t stride = static_cast<int32_t>(in.width);
  const float width = static_cast<float>(in.width), canvas_width = static_cast<float>(in.canvas_width);
  const float height = static_cast<float>(in.height), canvas_height = static_cast<float>(in.canvas_height);
  for (int64_t first = 0; first < in.kept(); first += BLOCK) {
    const int64_t count = std::min(BLOCK, in.kept() - first);
    const int32_t* chosen = room.chosen.data() + first;
    float *target = room.target.data() + first, *weight = room.weight.data() + first;
    float x[BLOCK], y[BLOCK], share[4][BLOCK];
    int32_t cell[4][BLOCK];
    for (int64_t i = 0; i < count; ++i) {
      x[i] = points[2 * chosen[i]];
      y[i] = points[2 * chosen[i] + 1];
    }
    for (int64_t i = 0; i < count; ++i) {
      const Neighbours column = neighbours(x[i], width, canvas_width), row = neighbours(y[i], height, canvas_height);
      cell[0][i] = row.first * stride + column.first;
      cell[1][i] = row.first * stride + column.second;
      cell[2][i] = row.second * stride + column.first;
      cell[3][i] = row.second * stride + column.second;
      share[0][i] = row.first_share * column.first_share;
      share[1][i] = row.first_share * column.second_share;
      share[2][i] = row.second_share * column.first_share;
      share[3][i] = row.second_share * column.second_share;
    }
    for (int64_t i = 0; i < count; ++i)
      target[i] = share[0][i] * value(pixels[cell[0][i]]) + share[1][i] * value(pixels[cell[1][i]]) +
                  share[2][i] * value(pixels[cell[2][i]]) + share[3][i] * value(pixels[cell[3][i]]);
    if (all_count(in)) std::fill_n(weight, count, 1.0f);
    else
      for (int64_t i = 0; i < count; ++i) weight[i] = weight_at(in, x[i], y[i]);
  }
}

template <typename Pixel> float plain(Pixel pixel) { return static_cast<float>(load(pixel)); }

// M2F_PIXELS of a call: the type of the targets' pixels.
void read_targets(const Problem& in, int64_t type, int64_t n, const float* points, Scratch& room) {
  const int32_t own = static_cast<int32_t>(in.values[n]);
  switch (type) {
    case 0: return read_targets<int32_t>(in, n, points, [own](int32_t id) { return id == own ? 1.0f : 0.0f; }, room);
    case 1: return read_targets<uint8_t>(in, n, points, plain<uint8_t>, room);
    case 2: return read_targets<float>(in, n, points, plain<float>, room);
    case 3: return read_targets<double>(in, n, points, plain<double>, room);
    case 4: return read_targets<bfloat16>(in, n, points, plain<bfloat16>, room);
    default: return read_targets<float16>(in, n, points, plain<float16>, room);
  }
}

struct Sums {
  double weight = 0, loss = 0, probability = 0, target = 0, overlap = 0;
};

// Probabilities and sums at the chosen points.
Sums compare(const Problem& in, const float* points, Scratch& room) {
  const float* framed = room.framed.data();
  const int64_t stride = in.frame.stride();
  Sums sums;
  for (int64_t first = 0; first < in.kept(); first += BLOCK) {
    const int64_t count = std::min(BLOCK, in.kept() - first);
    const int32_t* chosen = room.chosen.data() + first;
    const float *target = room.target.data() + first, *weight = room.weight.data() + first;
    int32_t* cell = room.cell.data() + first;
    float *dx = room.dx.data() + first, *dy = room.dy.data() + first, *probability = room.probability.data() + first;
    float logits[BLOCK];
    for (int64_t i = 0; i < count; ++i) {
      const Place at = place(in.frame, points[2 * chosen[i]], points[2 * chosen[i] + 1]);
      cell[i] = at.cell;
      dx[i] = at.dx;
      dy[i] = at.dy;
    }
    for (int64_t i = 0; i < count; ++i) logits[i] = sample(framed, stride, cell[i], dx[i], dy[i]);
    Sums block;
    for (int64_t i = 0; i < count; ++i) {
      const Logistic at = logistic(logits[i]);
      const float w = weight[i], t = target[i], p = at.probability;
      probability[i] = p;
      block.weight += w;
      block.loss += w * (at.softplus - t * logits[i]);
      block.probability += w * p;
      block.target += w * t;
      block.overlap += w * p * t;
    }
    sums.weight += block.weight;
    sums.loss += block.loss;
    sums.probability += block.probability;
    sums.target += block.target;
    sums.overlap += block.overlap;
  }
  return sums;
}

// With W the sum of weights, I that of w p t, S those of w p and w t:
//   d mask loss / d x = w (p - t) / W
//   d dice loss / d x = w p (1 - p) ((2 I + 1) / (S + 1)^2 - 2 t / (S + 1))
// spread over each point's four cells.
void add_gradient(const Problem& in, const Sums& sums, Scratch& room) {
  const double size = sums.probability + sums.target + 1;
  const float mask = static_cast<float>(in.mask_coefficient / std::max(sums.weight, 1.0));
  const float both = static_cast<float>(in.dice_coefficient * (2 * sums.overlap + 1) / (size * size));
  const float hit = static_cast<float>(in.dice_coefficient * 2 / size);
  const int64_t stride = in.frame.stride();
  std::fill(room.framed.begin(), room.framed.end(), 0.0f);
  for (int64_t i = 0; i < in.kept(); ++i) {
    const float p = room.probability[i], t = room.target[i], dx = room.dx[i], dy = room.dy[i];
    const float g = room.weight[i] * (mask * (p - t) + p * (1 - p) * (both - hit * t));
    float* cell = room.framed.data() + room.cell[i];
    const float below = dy * g, above = g - below;
    cell[0] += above - dx * above;
    cell[1] += dx * above;
    cell[stride] += below - dx * below;
    cell[stride + 1] += dx * below;
  }
}

void compare_mask(const Problem& in, int64_t type, int64_t n, Scratch& room) {
  float* logits = in.logits + n * in.frame.height * in.frame.width;
  const float* points = in.points + n * in.drawn * 2;
  std::fill(room.framed.begin(), room.framed.end(), 0.0f);
  in.frame.put(logits, room.framed.data());
  rank_candidates(in, points, room);
  choose(in, room);
  for (int64_t i = in.uncertain; i < in.kept(); ++i)
    room.chosen[i] = static_cast<int32_t>(in.candidates + i - in.uncertain);
  read_targets(in, type, n, points, room);
  const Sums sums = compare(in, points, room);
  in.losses[n] = static_cast<float>(sums.loss / std::max(sums.weight, 1.0));
  in.losses[in.masks + n] = static_cast<float>(1 - (2 * sums.overlap + 1) / (sums.probability + sums.target + 1));
  if (!in.learns) return;
  add_gradient(in, sums, room);
  in.frame.take(room.framed.data(), logits);
}

}  // namespace

// sizes: the first eleven numbers of `Problem` in its order, the type of the pixels (as in `read_targets`), and whether
// the gradient is wanted. coefficients: of mask loss and dice loss.
M2F_EXPORT void m2f_mask_losses(
    float* logits, const float* points, const void* pixels, const int64_t* first, const int64_t* values,
    const uint8_t* ignored, const float* coefficients, float* losses, const int64_t* sizes, int64_t threads,
    void* gomp_parallel) {
  Problem in{};
  in.masks = sizes[0];
  in.drawn = sizes[1];
  in.candidates = sizes[2];
  in.uncertain = sizes[3];
  in.frame = {sizes[4], sizes[5]};
  in.height = sizes[6];
  in.width = sizes[7];
  in.canvas_height = sizes[8];
  in.canvas_width = sizes[9];
  in.valid_height = sizes[10];
  in.valid_width = sizes[11];
  in.learns = sizes[13];
  in.logits = logits;
  in.points = points;
  in.pixels = pixels;
  in.first = first;
  in.values = values;
  in.ignored = ignored;
  in.mask_coefficient = coefficients[0];
  in.dice_coefficient = coefficients[1];
  in.losses = losses;
  in_parallel(in.masks, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    Scratch room(in);
    for (int64_t n = begin; n < end; ++n) compare_mask(in, sizes[12], n, room);
  });
}
