// Are the kernels of every instruction set right, for all shapes, dtypes, strides and numbers of threads?
//
//   test_kernels          exits 0 if every answer is yes
//   test_kernels --break  makes one result of each question wrong, and exits 1 if every one was noticed
//
// The wanted answer is the scalar build's in float64. The tolerance follows from how the answer changes when arguments
// are perturbed a few times by a small share of themselves:
//
//   |result − wanted| ≤ kTolerance · unit roundoff · (max |wanted| + max |perturbed − wanted| / share)
//
// with the unit roundoff of the compute type, plus one unit in the last place of the stored dtype. Arguments keep a
// distance from kinks, where this does not hold.
#include <stdio.h>
#include <string.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "../../csrc/cpu/dispatch.h"
#include "../../csrc/cpu/parallel.h"
#include "question.h"
#include "random_calls.h"

namespace {
bool breaking = false;
int questions = 0, wrong_answers = 0;
}  // namespace

Question::Question(const char* subject_, const char* text_) : subject(subject_), text(text_) {}
Question::~Question() {
  ++questions;
  if (wrong || !asked) ++wrong_answers;
  printf("%-7s %-60s %s", subject, text, wrong || !asked ? "NO" : "yes");
  if (wrong) printf(", %lld of %lld: %s", wrong, asked, first);
  if (!wrong) printf(" (%lld", asked);
  if (!wrong && worst > 0.0) printf(", at most %.2f of the tolerance", worst);
  printf(wrong ? "\n" : ")\n");
  fflush(stdout);
}
void Question::expect(bool right, const char* where, double got, double wanted) {
  ++asked;
  if (!right && !wrong++) snprintf(first, sizeof first, "%s: got %.9g, not %.9g", where, got, wanted);
}
bool Question::to_be_broken() {
  const bool now = breaking && !broken;
  broken = broken || now;
  return now;
}

namespace bilateral_ops {

namespace scalar {
void check_lanes(char* edge);
}
#if defined(BO_BUILD_X86)
namespace avx2 {
void check_lanes(char* edge);
}
namespace avx512 {
void check_lanes(char* edge);
}
#elif defined(BO_BUILD_AARCH64)
namespace neon {
void check_lanes(char* edge);
}
#endif

namespace {

constexpr double kTolerance = 64.0;
constexpr double kShare = 0x1p-26;  // of an argument, by which it is perturbed

// ---------------------------------------------------------------------------------------------------------------------
// Answers

struct Answer {
  std::vector<Numbers> results;
  bool untouched_outside = true;
};
Answer evaluate(const Call& call, const Dtypes& dtypes, Layout layout, bool spoil_outside = false) {
  Generator random(1);
  std::vector<Vessel> vessels;
  Tensors tensors;
  for (const Array& array : call.arrays) {
    const DType dtype = dtype_of(array.role, dtypes);
    vessels.emplace_back(array.shape, dtype, layout, random);
    size_t i = 0;
    if (!array.is_result) vessels.back().for_elements([&](char* p) { put(p, dtype, array.numbers[i++]); });
    tensors.push_back(vessels.back().tensor());
  }
  call.run(kernels(), tensors);
  if (spoil_outside) vessels.back().spoil_outside();
  Answer answer;
  for (size_t a = 0; a < vessels.size(); ++a) {
    if (call.arrays[a].is_result) {
      const DType dtype = tensors[a].dtype;
      answer.results.emplace_back();
      vessels[a].for_elements([&](char* p) { answer.results.back().push_back(get(p, dtype)); });
    }
    answer.untouched_outside = answer.untouched_outside && vessels[a].untouched_outside();
  }
  return answer;
}

double largest(const Numbers& numbers) {
  double most = 0.0;
  for (const double v : numbers) most = std::max(most, std::fabs(v));
  return most;
}

// A call and its wanted results
struct Example {
  Dtypes dtypes;
  Layout layout;
  Call call;
  std::vector<Numbers> wanted, of_scalar;  // in float64; and of the scalar build with these dtypes
  Numbers scales;                          // a result's tolerance is kTolerance unit roundoffs of this
};
Example example(const Operation& operation, const Dtypes& dtypes, int number, Generator& random) {
  Draw draw{random, dtypes, number == 0, {}};
  operation.draw(draw);
  Example e{dtypes, layout(number), std::move(draw.call), {}, {}, {}};
  select_isa("scalar");
  e.wanted = evaluate(e.call, kExact, Layout::contiguous).results;
  e.of_scalar = evaluate(e.call, dtypes, e.layout).results;
  for (const Numbers& numbers : e.wanted) e.scales.push_back(largest(numbers));
  for (int repeat = 0; repeat < 3; ++repeat) {
    Call perturbed = e.call;
    for (Array& array : perturbed.arrays)
      for (double& v : array.numbers) v += v * kShare * (static_cast<double>(random() >> 11) * 0x1p-52 - 1.0);
    const std::vector<Numbers> moved = evaluate(perturbed, kExact, Layout::contiguous).results;
    for (size_t r = 0; r < moved.size(); ++r) {
      double most = 0.0;
      for (size_t i = 0; i < moved[r].size(); ++i) most = std::max(most, std::fabs(moved[r][i] - e.wanted[r][i]));
      e.scales[r] = std::max(e.scales[r], largest(e.wanted[r]) + most / kShare);
    }
  }
  return e;
}

void check_answer(Question& question, const Example& e, Answer answer) {
  if (question.to_be_broken()) answer.results[0].back() += 0.01;
  size_t r = 0;
  for (const Array& array : e.call.arrays) {
    if (!array.is_result) continue;
    const DType dtype = dtype_of(array.role, e.dtypes);
    const double roundoff = e.dtypes.values == DType::f64 ? 0x1p-53 : 0x1p-24;
    for (size_t i = 0; i < answer.results[r].size(); ++i) {
      double wanted = e.wanted[r][i];
      if (is_integer(dtype)) wanted = std::min(std::max(wanted, 0.0), 1.0);
      const double bound = kTolerance * roundoff * e.scales[r] + storage_unit(dtype, wanted);
      const double error = std::fabs(answer.results[r][i] - wanted);
      question.expect(error <= bound, e.dtypes.name, answer.results[r][i], wanted);
      if (dtype == DType::f32 || dtype == DType::f64) question.worst = std::max(question.worst, error / bound);
    }
    ++r;
  }
}
void compare_bits(Question& question, const Example& e, std::vector<Numbers> got, const std::vector<Numbers>& wanted) {
  if (question.to_be_broken()) got[0].back() += 1e-10;
  for (size_t r = 0; r < got.size(); ++r)
    for (size_t i = 0; i < got[r].size(); ++i)
      question.expect(memcmp(&got[r][i], &wanted[r][i], sizeof(double)) == 0, e.dtypes.name, got[r][i], wanted[r][i]);
}

void check_operation(const Operation& operation, int rounds) {
  Generator random(7);
  std::vector<Example> examples;
  for (int number = 0; number < rounds; ++number) {
    for (const Dtypes& dtypes : one_dtype) examples.push_back(example(operation, dtypes, number, random));
    if (!operation.has_image) continue;
    for (const Dtypes& dtypes : beside_float32) examples.push_back(example(operation, dtypes, number, random));
  }
  const std::string name = operation.name;
  for (const char* const* isa = available_isas(); *isa; ++isa) {
    select_isa(*isa);
    std::vector<Answer> answers;
    for (const Example& e : examples) answers.push_back(evaluate(e.call, e.dtypes, e.layout));
    const auto ask = [&](const char* what, auto&& check) {
      const std::string text = name + ": " + what;
      Question question(*isa, text.c_str());
      for (size_t i = 0; i < examples.size(); ++i) check(question, examples[i], answers[i]);
    };
    ask("near float64", check_answer);
    ask("nothing written beside the results", [](Question& question, const Example& e, const Answer& answer) {
      const bool untouched = question.to_be_broken() ? evaluate(e.call, e.dtypes, e.layout, true).untouched_outside
                                                     : answer.untouched_outside;
      question.expect(untouched, e.dtypes.name, untouched ? 0 : 1, 0);
    });
    ask("any strides, the same bits", [](Question& question, const Example& e, const Answer& answer) {
      for (int other = 0; other < kLayouts; ++other)
        if (layout(other) != e.layout)
          compare_bits(question, e, evaluate(e.call, e.dtypes, layout(other)).results, answer.results);
    });
    ask("3 threads, the same bits", [](Question& question, const Example& e, const Answer& answer) {
      set_num_threads(3);
      compare_bits(question, e, evaluate(e.call, e.dtypes, e.layout).results, answer.results);
      set_num_threads(1);
    });
    // Where the scalar build, too, fuses products and sums
    if (BO_HAS_FMA && operation.lanewise) {
      ask("bit for bit as scalar", [](Question& question, const Example& e, const Answer& answer) {
        compare_bits(question, e, answer.results, e.of_scalar);
      });
    }
  }
}

// ---------------------------------------------------------------------------------------------------------------------

// Do footprints cover every pixel once, however large the sizes?
void check_footprints() {
  Question question("formulas.h", "footprints cover all, and nothing twice");
  Generator random(3);
  for (int round = 0; round < 20000; ++round) {
    const int bits = 1 + round % 31;
    const auto size = [&] { return 1 + static_cast<int64_t>(random() & ((uint64_t(1) << bits) - 1)); };
    const int64_t count = size(), others = size(), i = static_cast<int64_t>(random() % static_cast<uint64_t>(count));
    const Footprint<int64_t> f = footprint(i, count, others);
    const int64_t whole = f.end - f.begin;
    int64_t length = whole == 1 ? f.head : f.head + (whole - 2) * count + f.tail;
    if (question.to_be_broken()) ++length;
    const bool inside =
        f.begin >= 0 && whole >= 1 && f.end <= others && f.head > 0 && f.head <= count && f.tail > 0 && f.tail <= count;
    question.expect(inside && length == others, "length", static_cast<double>(length), static_cast<double>(others));
    if (i + 1 == count) {
      question.expect(f.end == others, "end", static_cast<double>(f.end), static_cast<double>(others));
      continue;
    }
    // The next footprint begins where this one ends, in the same pixel unless all of that is covered.
    const Footprint<int64_t> next = footprint(i + 1, count, others);
    const int64_t end = whole == 1 ? i * others + f.head - f.begin * count : f.tail;
    const int64_t begin = (i + 1) * others - next.begin * count;
    const bool meet = end == count ? next.begin == f.end && begin == 0 : next.begin == f.end - 1 && begin == end;
    question.expect(meet, "begin", static_cast<double>(next.begin), static_cast<double>(f.end));
  }
}

// Does a kernel raise when an array has a dtype that its operation does not take?
void check_dtypes(const char* isa) {
  select_isa(isa);
  Question question(isa, "a dtype that an operation does not take raises");
  const auto raises = [](DType grid_dtype, DType guide_dtype) {
    Generator random(1);
    const Vessel grid({1, 1, 1, 1, 1, 1}, grid_dtype, Layout::contiguous, random);
    const Vessel guide({1, 1, 1}, guide_dtype, Layout::contiguous, random);
    const Vessel out({1, 1, 1, 1, 1}, grid_dtype, Layout::contiguous, random);
    SliceArgs a{};
    a.at.guide = guide.tensor();
    a.at.full_height = a.at.full_width = 1;
    a.out = out.tensor();
    a.grid = grid.tensor();
    try {
      kernels().slice_forward(a);
    } catch (const std::logic_error&) {
      return true;
    }
    return false;
  };
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32, DType::f64}) {
    const bool is_double = dtype == DType::f64;
    for (const DType guide : {DType::f16, DType::f32, DType::f64}) {
      const bool wanted = is_double != (guide == DType::f64), got = raises(dtype, guide) != question.to_be_broken();
      question.expect(got == wanted, "raises", got, wanted);
    }
  }
}

// The end of readable memory: a read beyond it crashes, where the system has mprotect.
char* readable_edge() {
#if defined(__unix__) || defined(__APPLE__)
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* const pages = mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0);
  if (pages != MAP_FAILED && mprotect(static_cast<char*>(pages) + page, page, PROT_NONE) == 0)
    return static_cast<char*>(pages) + page;
#endif
  static double numbers[512];
  return reinterpret_cast<char*>(numbers + 512);
}

void check_lanes_of(const std::string& isa, char* edge) {
  if (isa == "scalar") scalar::check_lanes(edge);
#if defined(BO_BUILD_X86)
  if (isa == "avx2") avx2::check_lanes(edge);
  if (isa == "avx512") avx512::check_lanes(edge);
#elif defined(BO_BUILD_AARCH64)
  if (isa == "neon") neon::check_lanes(edge);
#endif
}

}  // namespace
}  // namespace bilateral_ops

int main(int count, char** arguments) {
  using namespace bilateral_ops;
  breaking = count == 2 && strcmp(arguments[1], "--break") == 0;
  if (count > 1 && !breaking) {
    fprintf(stderr, "usage: %s [--break]\n", arguments[0]);
    return 2;
  }
  char* const edge = readable_edge();
  for (const char* const* isa = available_isas(); *isa; ++isa) check_lanes_of(*isa, edge);
  check_footprints();
  for (const char* const* isa = available_isas(); *isa; ++isa) check_dtypes(*isa);
  for (const Operation& operation : operations) check_operation(operation, breaking ? 1 : 12);
  if (!breaking) {
    printf("%d questions, %d answered no\n", questions, wrong_answers);
    return wrong_answers ? 1 : 0;
  }
  printf("%d questions with one result spoilt, %d noticed\n", questions, wrong_answers);
  return wrong_answers == questions ? 1 : 3;
}
