// Runs the CPU kernel on buffers of exactly the size it may touch, under a sanitizer that stops the program at the
// first access outside them (address), undefined operation (undefined) or race between threads (thread).
// Offsets are random, far outside, not finite, and on the borders; the sizes cover full and partial groups of queries.

#include M2F_SOURCE

#include <limits>
#include <memory>
#include <random>

namespace {

std::mt19937 generator(0);

template <typename S> std::unique_ptr<S[]> buffer(int64_t count) { return std::unique_ptr<S[]>(new S[count]()); }

template <typename S> std::unique_ptr<S[]> random_numbers(int64_t count, float scale) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float special[] = {1e30f, -1e30f, infinity, -infinity, nan, -0.5f, 0.5f};
  auto numbers = buffer<S>(count);
  std::normal_distribution<float> normal(0, scale);
  for (int64_t i = 0; i < count; ++i) {
    const bool odd = scale > 1 && generator() % 8 == 0;
    store(&numbers[i], odd ? special[generator() % 7] : normal(generator));
  }
  return numbers;
}

void run(int64_t batch, int64_t heads, int64_t queries, int64_t reference_batch, int64_t largest, int64_t threads) {
  int64_t sizes[5 + 2 * L] = {batch, 0, heads, queries, reference_batch};
  for (int64_t l = 0; l < L; ++l) {
    sizes[5 + 2 * l] = 1 + generator() % largest;
    sizes[6 + 2 * l] = 1 + generator() % largest;
    sizes[1] += sizes[5 + 2 * l] * sizes[6 + 2 * l];
  }
  const int64_t cells = sizes[1], rows = batch * queries * heads;
  auto value = random_numbers<T>(batch * cells * heads * D, 1);
  auto offsets = random_numbers<T>(rows * SAMPLES * 2, 4);
  auto logits = random_numbers<T>(rows * SAMPLES, 1);
  auto reference = buffer<A>(reference_batch * queries * L * 2);
  for (int64_t i = 0; i < reference_batch * queries * L * 2; ++i) reference[i] = (generator() % 1001) / A(1000);
  auto by_head = buffer<A>(heads * cells * D);
#if M2F_ENTRY == 0
  auto out = buffer<T>(rows * D);
  m2f_forward(value.get(), reference.get(), offsets.get(), logits.get(), by_head.get(), out.get(), sizes, threads,
              nullptr);
#else
  auto grad_out = random_numbers<T>(rows * D, 1);
  auto weights = buffer<A>(heads * ((queries + LANES - 1) / LANES) * SAMPLES * LANES);
  auto grad_value = buffer<T>(batch * cells * heads * D);
  auto grad_reference = buffer<A>(batch * heads * queries * L * 2);
  auto grad_offsets = buffer<T>(rows * SAMPLES * 2);
  auto grad_logits = buffer<T>(rows * SAMPLES);
  for (const bool all : {true, false})
    m2f_backward(grad_out.get(), value.get(), reference.get(), offsets.get(), logits.get(), by_head.get(),
                 weights.get(), all ? grad_value.get() : nullptr, all ? grad_reference.get() : nullptr,
                 grad_offsets.get(), grad_logits.get(), sizes, threads, nullptr);
#endif
}

}  // namespace

int main() {
  for (int64_t queries = 1; queries <= 2 * LANES + 1; ++queries)
    for (const int64_t largest : {1, 2, 9}) run(1 + queries % 3, 1 + queries % 4, queries, 1, largest, 1 + queries % 4);
  run(2, 8, 131, 2, 30, 4);
}
