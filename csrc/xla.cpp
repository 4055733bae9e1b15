// XLA's handlers on the CPU. XLA calls them from threads of its own, without the GIL.
#include "xla.h"

#include "cpu/by_grid.h"

namespace bilateral_ops {
namespace xla {
namespace {

struct Host {
  using Table = Kernels;
  explicit Host(Frame*) {}
  template <class Args>
  void run(void (*Table::*kernel)(const Args&), const Args& args, const char*) const {
    run_on_host(kernel, args);
  }
};

}  // namespace

const std::vector<Handler>& handlers() { return handlers_of<Host>(); }

}  // namespace xla
}  // namespace bilateral_ops
