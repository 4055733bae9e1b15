// A question that the test asks and its answer: one line of output.
//
// Nothing here is compiled into the files of one instruction set: they call test_kernels.cpp.
#pragma once

struct Question {
  // subject: the instruction set
  Question(const char* subject, const char* text);
  ~Question();  // prints the answer
  Question(const Question&) = delete;
  Question& operator=(const Question&) = delete;

  // One comparison; the first that fails is printed.
  void expect(bool right, const char* where, double got, double wanted);
  // With --break, true once per question: the caller must then make its result wrong.
  bool to_be_broken();

  const char *subject, *text;
  char first[200] = "";
  long long asked = 0, wrong = 0;
  double worst = 0.0;  // the largest error relative to its tolerance
  bool broken = false;
};

// The checks of one instruction set's vector wrapper. `edge` is the end of readable memory.
typedef void LaneChecks(char* edge);
