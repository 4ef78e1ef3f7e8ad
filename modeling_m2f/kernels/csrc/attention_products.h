// Matrix products of a block of attention, in registers. Whoever includes this has defined T (storage), A (arithmetic),
// N (tokens of a block) and D (channels of a head).

#if defined(__AVX512F__)
constexpr int64_t VECTOR_BYTES = 64, ACCUMULATORS = 24;
#elif defined(__AVX__)
constexpr int64_t VECTOR_BYTES = 32, ACCUMULATORS = 12;
#else
constexpr int64_t VECTOR_BYTES = 16, ACCUMULATORS = 24;
#endif
typedef A Vector __attribute__((vector_size(VECTOR_BYTES)));
constexpr int64_t LANES = VECTOR_BYTES / sizeof(A);

constexpr int64_t vectors(int64_t numbers) { return (numbers + LANES - 1) / LANES; }
constexpr int64_t block(int64_t width) { return width >= ACCUMULATORS ? 1 : ACCUMULATORS / width; }
constexpr int64_t rounded(int64_t rows, int64_t to) { return (rows + to - 1) / to * to; }

// Tokens and channels in vectors, filled up with zeros; rows that are computed together.
constexpr int64_t TOKEN_VECTORS = vectors(N), TOKENS = TOKEN_VECTORS * LANES;
constexpr int64_t CHANNEL_VECTORS = vectors(D), CHANNELS = CHANNEL_VECTORS * LANES;
constexpr int64_t SCORE_ROWS = block(TOKEN_VECTORS);
constexpr int64_t VALUE_ROWS = block(CHANNEL_VECTORS) < 8 ? block(CHANNEL_VECTORS) : 8;
constexpr int64_t ROWS = rounded(rounded(N, SCORE_ROWS), VALUE_ROWS) + SCORE_ROWS + VALUE_ROWS;

inline Vector load_vector(const A* from) {
  Vector out;
  std::memcpy(&out, from, sizeof out);
  return out;
}
inline void store_vector(A* to, const Vector& x) { std::memcpy(to, &x, sizeof x); }

// to (SCORE_ROWS, TOKENS) = a (SCORE_ROWS, CHANNELS) times b (D, TOKENS)
inline void multiply_channels(const A* a, const A* b, A* to) {
  Vector sum[SCORE_ROWS][TOKEN_VECTORS] = {};
  for (int64_t d = 0; d < D; ++d) {
#pragma GCC unroll 16
    for (int64_t j = 0; j < TOKEN_VECTORS; ++j) {
      const Vector x = load_vector(b + d * TOKENS + j * LANES);
#pragma GCC unroll 24
      for (int64_t i = 0; i < SCORE_ROWS; ++i) sum[i][j] += a[i * CHANNELS + d] * x;
    }
  }
#pragma GCC unroll 24
  for (int64_t i = 0; i < SCORE_ROWS; ++i)
#pragma GCC unroll 16
    for (int64_t j = 0; j < TOKEN_VECTORS; ++j) store_vector(to + i * TOKENS + j * LANES, sum[i][j]);
}

// to (VALUE_ROWS, CHANNELS) = a times b (N, CHANNELS), where a's element (i, s) is a[i * row + s * column]
inline void multiply_tokens(const A* a, int64_t row, int64_t column, const A* b, A* to) {
  Vector sum[VALUE_ROWS][CHANNEL_VECTORS] = {};
  for (int64_t s = 0; s < N; ++s) {
#pragma GCC unroll 16
    for (int64_t j = 0; j < CHANNEL_VECTORS; ++j) {
      const Vector x = load_vector(b + s * CHANNELS + j * LANES);
#pragma GCC unroll 8
      for (int64_t i = 0; i < VALUE_ROWS; ++i) sum[i][j] += a[i * row + s * column] * x;
    }
  }
#pragma GCC unroll 8
  for (int64_t i = 0; i < VALUE_ROWS; ++i)
#pragma GCC unroll 16
    for (int64_t j = 0; j < CHANNEL_VECTORS; ++j) store_vector(to + i * CHANNELS + j * LANES, sum[i][j]);
}
