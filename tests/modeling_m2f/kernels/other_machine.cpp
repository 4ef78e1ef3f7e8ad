// Calls functions of kernels' libraries for kernels_elsewhere.py, which writes calls to this program's input and reads
// from its output what they gave. It is built for the libraries' machine and runs there, or in an emulator of it.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#include <windows.h>
#else
#include <dlfcn.h>
#endif

constexpr int64_t WORDS = 16, NO_REAL = -1, GUARD = 64;  // arguments of a call; bytes around memory
enum Kind { INTEGER, ADDRESS, REAL_32, REAL_64 };  // WORD, FLOAT and DOUBLE are types of Windows
enum Reply { DONE, NO_LIBRARY, NO_FUNCTION, WROTE_BEYOND };

// Memory of a call, between guards that show whether the function wrote beyond it.
struct Region {
  char *block, *start;
  int64_t bytes;
};

void read_bytes(void* to, int64_t bytes) {
  if (bytes && fread(to, 1, bytes, stdin) != static_cast<size_t>(bytes)) exit(0);  // the other side has ended
}

int64_t read_word() {
  int64_t word;
  read_bytes(&word, sizeof word);
  return word;
}

void write_word(int64_t word) { fwrite(&word, sizeof word, 1, stdout); }

void* load(const char* file) {
#if defined(_WIN32)
  return reinterpret_cast<void*>(LoadLibraryA(file));
#else
  return dlopen(file, RTLD_NOW);
#endif
}

void* find(void* library, const char* name) {
#if defined(_WIN32)
  return reinterpret_cast<void*>(GetProcAddress(reinterpret_cast<HMODULE>(library), name));
#else
  return dlsym(library, name);
#endif
}

// At the same distance from a line of the cache as in the other process.
Region read_region() {
  const int64_t bytes = read_word(), distance = read_word();
  char* const block = static_cast<char*>(malloc(bytes + 4 * GUARD));
  if (!block) abort();
  memset(block, 0xA5, bytes + 4 * GUARD);
  char* const start = block + 2 * GUARD - reinterpret_cast<uintptr_t>(block) % GUARD + distance;
  read_bytes(start, bytes);
  return {block, start, bytes};
}

bool is_whole(const Region& region) {
  for (int64_t i = 1; i <= GUARD; ++i) {
    const bool before = region.start[-i] == '\xA5', after = region.start[region.bytes + i - 1] == '\xA5';
    if (!before || !after) return false;
  }
  return true;
}

template <size_t I> using WordAt = int64_t;

// Words before and after a number of type T: calling conventions put both kinds into different places.
template <typename T, size_t... Before, size_t... After>
int64_t call_with(void* function, const int64_t* words, double real, std::index_sequence<Before...>,
                  std::index_sequence<After...>) {
  const auto call = reinterpret_cast<int64_t (*)(WordAt<Before>..., T, WordAt<After>...)>(function);
  return call(words[Before]..., static_cast<T>(real), words[sizeof...(Before) + 1 + After]...);
}

template <typename T, size_t Place = 0>
int64_t call_at(int64_t place, void* function, const int64_t* words, double real) {
  if constexpr (Place < WORDS) {
    if (place != Place) return call_at<T, Place + 1>(place, function, words, real);
    return call_with<T>(function, words, real, std::make_index_sequence<Place>(),
                        std::make_index_sequence<WORDS - 1 - Place>());
  }
  abort();
}

template <size_t... I> int64_t call_words(void* function, const int64_t* words, std::index_sequence<I...>) {
  return reinterpret_cast<int64_t (*)(WordAt<I>...)>(function)(words[I]...);
}

char* read_text() {
  const int64_t bytes = read_word();
  char* const text = static_cast<char*>(calloc(bytes + 1, 1));
  read_bytes(text, bytes);
  return text;
}

void answer_call() {
  char *const file = read_text(), *const name = read_text();
  const int64_t count = read_word();
  Region* const regions = static_cast<Region*>(calloc(count + 1, sizeof(Region)));
  for (int64_t i = 0; i < count; ++i) regions[i] = read_region();
  // Addresses within memory.
  for (int64_t left = read_word(); left > 0; --left) {
    char* const at = regions[read_word()].start + read_word();
    char* const to = regions[read_word()].start + read_word();
    memcpy(at, &to, sizeof to);
  }
  int64_t words[WORDS] = {}, place = NO_REAL, kind = INTEGER;
  double real = 0;
  const int64_t arguments = read_word();
  if (arguments > WORDS) abort();
  for (int64_t i = 0; i < arguments; ++i) {
    const int64_t what = read_word(), first = read_word(), second = read_word();
    if (what == INTEGER) words[i] = first;
    if (what == ADDRESS) words[i] = reinterpret_cast<int64_t>(regions[first].start + second);
    if (what < REAL_32) continue;
    if (place != NO_REAL) abort();  // no function has two
    place = i, kind = what;
    memcpy(&real, &first, sizeof real);
  }
  void* const library = load(file);
  void* const function = library ? find(library, name) : nullptr;
  int64_t result = 0;
  if (function && kind == INTEGER) result = call_words(function, words, std::make_index_sequence<WORDS>());
  if (function && kind == REAL_32) result = call_at<float>(place, function, words, real);
  if (function && kind == REAL_64) result = call_at<double>(place, function, words, real);
  Reply reply = function ? DONE : library ? NO_FUNCTION : NO_LIBRARY;
  for (int64_t i = 0; i < count; ++i) {
    if (!is_whole(regions[i])) reply = WROTE_BEYOND;
  }
  write_word(reply);
  write_word(result);
  for (int64_t i = 0; i < count; ++i) {
    fwrite(regions[i].start, 1, regions[i].bytes, stdout);
    free(regions[i].block);
  }
  fflush(stdout);
  free(regions), free(file), free(name);
}

int main() {
#if defined(_WIN32)
  _setmode(_fileno(stdin), _O_BINARY);
  _setmode(_fileno(stdout), _O_BINARY);
#endif
  for (;;) answer_call();
}
