// Masked attention from queries to cells (Cheng et al. 2022, section 3.2.2) on a CPU; formula and shapes in
// kernels/masked_attention.py.
//
// Compiled once for each combination of M2F_DTYPE (float, double, bfloat16) and M2F_HEAD_DIM.
//
// The cells come in blocks, and with each the sums of the softmax are brought up to date (Milakov and Gimelshein 2018),
// so that no row of weights ever exists as a whole. A block of which some queries see nothing costs these nothing: masks
// of objects are small.
//
// No result depends on the number or kind of threads, nor on the other queries: a row's sums are made block by block.

#include "cpu_common.h"

#include <algorithm>
#include <memory>

namespace {

using T = M2F_DTYPE;            // storage
using A = Arithmetic<T>::type;  // arithmetic
constexpr int64_t N = 64, D = M2F_HEAD_DIM;
constexpr int64_t QUERIES = 128;  // of a unit of work, at most

#include "attention_products.h"

constexpr int64_t ROOM = QUERIES + SCORE_ROWS + VALUE_ROWS;
constexpr A LOWEST = A(-1e30);

// The arguments of a call; all buffers are contiguous.
struct Problem {
  int64_t batch, queries, cells, heads, parts;
  const T *query, *key, *value;  // (B, Q, M, D), (B, S, M, D) twice
  const uint8_t* keep;           // (B, Q, S), 1 where a query sees a cell
  T* out;                        // (B, Q, M, D)
};

// What fills up rows and columns stays zero from block to block.
struct Room {
  alignas(64) A query[ROOM * CHANNELS] = {};
  alignas(64) A key_columns[D * TOKENS] = {};
  alignas(64) A value[N * CHANNELS] = {};
  alignas(64) A scores[ROOM * TOKENS] = {};
  alignas(64) A product[VALUE_ROWS * CHANNELS] = {};
  alignas(64) A sums[ROOM * CHANNELS] = {};
  A largest[ROOM], denominators[ROOM];
  bool sees[ROOM] = {};
};

void read_queries(const Problem& in, int64_t b, int64_t m, int64_t first, int64_t rows, Room& room) {
  const A scale = 1 / std::sqrt(static_cast<A>(D));
  for (int64_t i = 0; i < rows; ++i) {
    const T* from = in.query + ((b * in.queries + first + i) * in.heads + m) * D;
    for (int64_t d = 0; d < D; ++d) room.query[i * CHANNELS + d] = scale * load(from[d]);
  }
  std::memset(room.sums, 0, sizeof room.sums);
  std::fill(room.largest, room.largest + rows, LOWEST);
  std::fill(room.denominators, room.denominators + rows, A(0));
}

// `count` cells from `start` on; places after the last keep what they had, and no query sees them.
void read_cells(const Problem& in, int64_t b, int64_t m, int64_t start, int64_t count, Room& room) {
  for (int64_t s = 0; s < count; ++s) {
    const int64_t cell = ((b * in.cells + start + s) * in.heads + m) * D;
    for (int64_t d = 0; d < D; ++d) room.key_columns[d * TOKENS + s] = load(in.key[cell + d]);
    for (int64_t d = 0; d < D; ++d) room.value[s * CHANNELS + d] = load(in.value[cell + d]);
  }
}

inline bool any(const uint8_t* keep, int64_t count) {
  uint8_t seen = 0;
  for (int64_t s = 0; s < count; ++s) seen |= keep[s];
  return seen;
}

// Scores of row i, which sees one of the cells at least, to numerators of its softmax relative to the largest score so
// far; brings its sums up to date.
inline void weigh(const uint8_t* keep, int64_t count, int64_t i, Room& room) {
  A* scores = room.scores + i * TOKENS;
  A kept[TOKENS] = {}, largest = room.largest[i], sum = 0;
  for (int64_t s = 0; s < count; ++s) kept[s] = keep[s];
  for (int64_t s = 0; s < TOKENS; ++s) scores[s] = kept[s] != 0 ? scores[s] : LOWEST;
  for (int64_t s = 0; s < TOKENS; ++s) largest = scores[s] > largest ? scores[s] : largest;
  if (largest > room.largest[i]) {
    const A factor = exp_nonpositive(room.largest[i] - largest);
    for (int64_t d = 0; d < CHANNELS; ++d) room.sums[i * CHANNELS + d] *= factor;
    room.denominators[i] *= factor;
    room.largest[i] = largest;
  }
  for (int64_t s = 0; s < TOKENS; ++s) scores[s] = exp_nonpositive(scores[s] - largest);
  for (int64_t s = 0; s < TOKENS; ++s) sum += scores[s];
  room.denominators[i] += sum;
}

void add_block(const Problem& in, const uint8_t* keep, int64_t rows, int64_t count, Room& room) {
  for (int64_t i = 0; i < rows; ++i) room.sees[i] = any(keep + i * in.cells, count);
  for (int64_t first = 0; first < rows; first += SCORE_ROWS) {
    const int64_t end = std::min(rows, first + SCORE_ROWS);
    if (std::any_of(room.sees + first, room.sees + end, [](bool sees) { return sees; }))
      multiply_channels(room.query + first * CHANNELS, room.key_columns, room.scores + first * TOKENS);
    for (int64_t i = first; i < end; ++i)
      if (room.sees[i])
        weigh(keep + i * in.cells, count, i, room);
      else
        std::memset(room.scores + i * TOKENS, 0, TOKENS * sizeof(A));
  }
  for (int64_t first = 0; first < rows; first += VALUE_ROWS) {
    const int64_t end = std::min(rows, first + VALUE_ROWS);
    if (std::none_of(room.sees + first, room.sees + end, [](bool sees) { return sees; })) continue;
    multiply_tokens(room.scores + first * TOKENS, TOKENS, 1, room.value, room.product);
    for (int64_t i = 0; i < (end - first) * CHANNELS; ++i) room.sums[first * CHANNELS + i] += room.product[i];
  }
}

// A unit is an image, a head and a part of the queries.
void attend(const Problem& in, int64_t begin, int64_t end) {
  const auto memory = std::make_unique<Room>();  // too large for the stacks of some systems' threads
  Room& room = *memory;
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t part = unit % in.parts, m = unit / in.parts % in.heads, b = unit / in.parts / in.heads;
    const int64_t first = in.queries * part / in.parts, rows = in.queries * (part + 1) / in.parts - first;
    read_queries(in, b, m, first, rows, room);
    for (int64_t start = 0; start < in.cells; start += N) {
      const int64_t count = std::min(N, in.cells - start);
      read_cells(in, b, m, start, count, room);
      add_block(in, in.keep + (b * in.queries + first) * in.cells + start, rows, count, room);
    }
    for (int64_t i = 0; i < rows; ++i) {
      T* to = in.out + ((b * in.queries + first + i) * in.heads + m) * D;
      const A factor = 1 / room.denominators[i];
      for (int64_t d = 0; d < D; ++d) store(to + d, factor * room.sums[i * CHANNELS + d]);
    }
  }
}

}  // namespace

// sizes: batch, queries, cells, heads
M2F_EXPORT void m2f_masked_attention(const void* query, const void* key, const void* value, const void* keep, void* out,
                                     const int64_t* sizes, int64_t threads, void* gomp_parallel) {
  Problem in{sizes[0], sizes[1], sizes[2], sizes[3], 1, static_cast<const T*>(query), static_cast<const T*>(key),
             static_cast<const T*>(value), static_cast<const uint8_t*>(keep), static_cast<T*>(out)};
  // Enough units for all threads, but each reads the keys and values of its head once more.
  const int64_t wanted = (2 * threads + in.batch * in.heads - 1) / (in.batch * in.heads);
  in.parts = std::max((in.queries + QUERIES - 1) / QUERIES, std::min(wanted, (in.queries + 15) / 16));
  in_parallel(in.batch * in.heads * in.parts, team_of(threads, gomp_parallel), [&](int64_t begin, int64_t end) {
    attend(in, begin, end);
  });
}
