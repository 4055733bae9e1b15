// A question that the test asks, and how it was answered: one line of output each.
//
// Nothing here is compiled into the files of one instruction set: they call test_kernels.cpp.
#pragma once

struct Question {
  // `subject` is an instruction set, alone or with what it is asked about.
  Question(const char* subject, const char* text);
  ~Question();  // prints the answer
  Question(const Question&) = delete;
  Question& operator=(const Question&) = delete;

  // One comparison; where it fails first is printed.
  void expect(bool right, const char* where, double got, double wanted);
  // True once a question, where the test was told to break every answer: the caller then makes its result wrong.
  bool to_be_broken();

  const char *subject, *text;
  char first[200] = "";
  long long asked = 0, wrong = 0;
  double worst = 0.0;  // the largest error as a share of its tolerance, where there is one
  bool broken = false;
};

// The checks of one instruction set's vector wrapper. `edge` is the end of readable memory.
typedef void LaneChecks(char* edge);
