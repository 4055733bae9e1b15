// The kernels as handlers of XLA's foreign function interface (FFI), by which JAX calls them: on the CPU (xla.cpp) and
// on CUDA devices (cuda/xla.cpp).
//
// A handler is given dense row-major arrays, in the order of its function in calls.h, and the attributes
//   operation      its name, for error sentences
//   arrays         one letter per array of that function, results | arguments: n if its axes begin with N, s if it has
//                  no such axis (parameters), - if it is absent
//   rank           axes of the first argument in the call as it was written. Additional axes, which come first, are
//                  those of jax.vmap; an array that does not depend on such an axis has size 1 there.
//   batched        whether there is an axis N in the call as it was written
//   top, left, full_height, full_width, pixel_corners, align_corners    where pixels are sampled
//   guide          curves, nn or luma, if there are parameters
//
// The interface consists of C structs that begin with their size and whose layouts are fixed within a major version.
// Those that are needed are declared here, because their headers are part of jaxlib, and building against one jaxlib
// would tie the package to it. Alternatives that were tried: jaxlib as a build requirement (a hundred megabytes in
// every build, for these declarations); the older convention without structs (deprecated by XLA on CPUs, without shapes
// and workspaces); jax-tvm-ffi (two more run-time dependencies, for fewer platforms and Python versions).
#pragma once

#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "calls.h"

namespace bilateral_ops {
namespace xla {

constexpr int kMajor = 0;  // version of the layouts below
constexpr int kMinor = 1;  // of the first jaxlibs with jax.ffi, which do not pass theirs when they query the handler's
enum Code : int { kInvalidArgument = 3, kResourceExhausted = 8, kInternal = 13 };
enum Stage : int { kExecute = 3 };
enum Type : int { kPred = 1, kS32 = 4, kS64 = 5, kU8 = 6, kU16 = 7, kF16 = 10, kF32 = 11, kF64 = 12, kBF16 = 16 };
enum AttributeType : int { kScalar = 3, kString = 4 };
constexpr int kBuffer = 1, kMetadata = 1;

struct Error;
struct Context;
struct Extension {
  size_t struct_size;
  int type;
  Extension* next;
};
struct Sized {  // what most of the structs below begin with
  size_t struct_size;
  Extension* extensions;
};
struct Version : Sized {
  int major, minor;
};
struct Metadata {
  size_t struct_size;
  Version version;
  uint32_t traits;
};
struct MetadataExtension {
  Extension base;
  Metadata* metadata;
};
struct ErrorArgs : Sized {
  const char* message;
  int code;
};
struct ErrorDestroyArgs : Sized {
  Error* error;
};
struct StreamArgs : Sized {
  Context* context;
  void* stream;  // out
};
struct AllocateArgs : Sized {
  Context* context;
  size_t size, alignment;
  void* data;  // out
};
struct FreeArgs : Sized {
  Context* context;
  size_t size;
  void* data;
};
using Unused = void (*)();
struct Api : Sized {
  Version version;
  const void* internal;
  Error* (*error_create)(ErrorArgs*);
  Unused error_message;
  void (*error_destroy)(ErrorDestroyArgs*);
  Unused handler_register;
  Error* (*stream)(StreamArgs*);
  Unused type_register, context_get, state_set, state_get;
  Error* (*allocate)(AllocateArgs*);
  Error* (*free)(FreeArgs*);
};
struct Buffer : Sized {
  int dtype;
  void* data;
  int64_t rank;
  int64_t* dims;
};
struct Span {
  const char* data;
  size_t size;
};
struct Scalar {
  int dtype;
  void* value;
};
struct Buffers : Sized {  // arguments, or results
  int64_t size;
  int* types;
  Buffer** buffers;
};
struct Attributes : Sized {
  int64_t size;
  int* types;
  Span** names;
  void** values;
};
struct Frame : Sized {
  const Api* api;
  Context* context;
  int stage;
  Buffers arguments, results;
  Attributes attributes;
};

struct Handler {
  const char* name;
  Error* (*function)(Frame*);
};

// The size of an element in bytes
constexpr int64_t size_of(int type) {
  switch (type) {
    case kPred:
    case kU8: return 1;
    case kS32:
    case kF32: return 4;
    case kS64:
    case kF64: return 8;
    default: return 2;
  }
}
inline DType dtype_of(int type) {
  switch (type) {
    case kF16: return DType::f16;
    case kBF16: return DType::bf16;
    case kF32: return DType::f32;
    case kF64: return DType::f64;
    case kU8: return DType::u8;
    case kU16: return DType::u16;
    default: throw std::invalid_argument("bilateral_ops: unsupported dtype, XLA's " + std::to_string(type));
  }
}

// One call by XLA. The axes of jax.vmap are merged with the batch axis where possible; the kernel is called once for
// each index on the other ones (a round). Backend has the kernels' Table and run(kernel, args, operation), and is
// constructed from a Frame.
template <class Backend>
class Call {
 public:
  struct Array {
    const Buffer* buffer;  // null: absent
    bool has_batch;
    int64_t batch_stride;  // in bytes, of the merged batch axis
    int64_t offset;        // in bytes, in this round
  };
  using Table = typename Backend::Table;

  explicit Call(Frame* frame) : attributes_(frame->attributes), backend_(frame) {
    operation_ = text("operation");
    const std::string arrays = text("arrays");
    const size_t bar = arrays.find('|');
    if (bar == std::string::npos) throw std::invalid_argument("bilateral_ops: attribute arrays without a bar");
    take(arrays.substr(0, bar), frame->results, results_);
    take(arrays.substr(bar + 1), frame->arguments, arguments_);
    if (frame->arguments.size < 1 || frame->results.size < 1) {
      throw std::invalid_argument("bilateral_ops: a call without arrays");
    }
    mapped_ = static_cast<int>(frame->arguments.buffers[0]->rank - number("rank"));
    batched_ = flag("batched");
    each([&](Array& a) {
      if (mapped_ < 0 || a.buffer->rank < mapped_ + (a.has_batch && batched_)) {
        throw std::invalid_argument("bilateral_ops: too few axes");
      }
    });
    const Buffer& result = *frame->results.buffers[0];
    sizes_.assign(result.dims, result.dims + mapped_);
    merge();
  }

  // Calls body() once for each index on the axes that are not merged.
  template <class Body>
  void rounds(const Body& body) {
    int64_t count = 1;
    for (int axis = 0; axis < unmerged_; ++axis) count *= sizes_[axis];
    for (int64_t round = 0; round < count; ++round) {
      each([&](Array& a) {
        int64_t stride = bytes(a, mapped_), rest = round;
        a.offset = 0;
        for (int axis = mapped_ - 1; axis >= 0; --axis) {
          const int64_t size = a.buffer->dims[axis];
          if (axis < unmerged_) {
            if (size > 1) a.offset += rest % sizes_[axis] * stride;
            rest /= sizes_[axis];
          }
          stride *= size;
        }
      });
      body();
    }
  }

  const std::string& operation() const { return operation_; }
  GuideKind guide() const { return guide_kind(text("guide")); }
  const std::vector<Array>& results() const { return results_; }
  const std::vector<Array>& arguments() const { return arguments_; }
  Window window() const {
    return {number("top"), number("left"), number("full_height"), number("full_width"), flag("pixel_corners")};
  }
  bool align_corners() const { return flag("align_corners"); }

  // --- The Call of calls.h
  bool given(const Array& a) const { return a.buffer; }
  int rank(const Array& a) const {
    return static_cast<int>(a.buffer->rank) - mapped_ + (a.has_batch && !batched_ && merged());
  }
  Tensor input(const Array& a, bool batched, int rank) const {
    Tensor t = view(a, batched, rank);
    if (t.data) t.dtype = dtype_of(a.buffer->dtype);
    return t;
  }
  Tensor output(const Array& a, bool batched, int rank) const { return input(a, batched, rank); }
  GridIndex index(const Array& a, bool batched) const {
    return grid_index(view(a, batched, 3), a.buffer && a.buffer->dtype == kS64);
  }
  template <class Kernel, class Args>
  void run(Kernel kernel, const Args& args) {
    backend_.run(kernel, args, operation_.c_str());
  }

 private:
  bool merged() const { return unmerged_ < mapped_; }

  // An array as a tensor without its dtype
  Tensor view(const Array& a, bool batched, int rank) const {
    Tensor t{};
    if (!a.buffer) return t;
    const bool joined = a.has_batch && (batched_ || merged());  // the first axis is the merged one
    const int first = mapped_ + (a.has_batch && batched_);      // the next one in the buffer
    set_axes(
        t, this->rank(a), batched, rank,
        [&](int axis) { return joined && axis == 0 ? batch_ : a.buffer->dims[first + axis - joined]; },
        [&](int axis) { return joined && axis == 0 ? a.batch_stride : bytes(a, first + axis - joined + 1); });
    // An empty array may have a null address, but is not absent.
    static char somewhere;
    t.data = a.buffer->data ? static_cast<char*>(a.buffer->data) + a.offset : &somewhere;
    return t;
  }

  template <class F>
  void each(const F& f) {
    for (Array& a : results_) {
      if (a.buffer) f(a);
    }
    for (Array& a : arguments_) {
      if (a.buffer) f(a);
    }
  }

  // The size in bytes of the axes from `axis` on
  static int64_t bytes(const Array& a, int axis) {
    int64_t count = size_of(a.buffer->dtype);
    for (int64_t i = axis; i < a.buffer->rank; ++i) count *= a.buffer->dims[i];
    return count;
  }

  static void take(const std::string& letters, const Buffers& from, std::vector<Array>& to) {
    int64_t next = 0;
    for (const char letter : letters) {
      Array a{};
      if (letter != '-') {
        if (next >= from.size || from.types[next] != kBuffer) {
          throw std::invalid_argument("bilateral_ops: fewer arrays than attribute arrays says");
        }
        a.buffer = from.buffers[next++];
        a.has_batch = letter == 'n';
      }
      to.push_back(a);
    }
    if (next != from.size) throw std::invalid_argument("bilateral_ops: more arrays than attribute arrays says");
  }

  // Merges the last axes of jax.vmap with the batch axis: as many as possible so that each array either has all of the
  // merged axes or depends on none. Parameters may depend on none.
  void merge() {
    each([&](Array& a) { a.batch_stride = 0; });
    batch_ = 1;
    if (batched_) {
      each([&](Array& a) {
        if (!a.has_batch) return;
        batch_ = a.buffer->dims[mapped_];
        if (batch_ != 1) a.batch_stride = bytes(a, mapped_ + 1);
      });
    }
    for (unmerged_ = mapped_; unmerged_ > 0; --unmerged_) {
      const int axis = unmerged_ - 1;
      const int64_t size = sizes_[axis];
      if (size == 1) continue;
      bool fits = true;
      each([&](Array& a) {
        const bool whole = a.buffer->dims[axis] == size;
        fits = fits && (a.has_batch ? batch_ == 1 || whole == (a.batch_stride != 0) : !whole);
      });
      if (!fits) return;
      each([&](Array& a) {
        if (a.has_batch && batch_ == 1 && a.buffer->dims[axis] == size) {
          a.batch_stride = bytes(a, mapped_ + batched_);
        }
      });
      batch_ *= size;
    }
  }

  // --- Attributes
  const void* attribute(const char* name, int type) const {
    for (int64_t i = 0; i < attributes_.size; ++i) {
      const Span& found = *attributes_.names[i];
      if (found.size == std::strlen(name) && !std::memcmp(found.data, name, found.size)) {
        if (attributes_.types[i] == type) return attributes_.values[i];
        break;
      }
    }
    throw std::invalid_argument(std::string("bilateral_ops: attribute ") + name + " is missing or of another type");
  }
  std::string text(const char* name) const {
    const Span& span = *static_cast<const Span*>(attribute(name, kString));
    return {span.data, span.size};
  }
  const void* scalar(const char* name, int dtype) const {
    const Scalar& scalar = *static_cast<const Scalar*>(attribute(name, kScalar));
    if (scalar.dtype != dtype) throw std::invalid_argument(std::string("bilateral_ops: unsupported dtype of ") + name);
    return scalar.value;
  }
  int64_t number(const char* name) const { return *static_cast<const int64_t*>(scalar(name, kS64)); }
  bool flag(const char* name) const { return *static_cast<const bool*>(scalar(name, kPred)); }

  const Attributes& attributes_;
  Backend backend_;
  std::string operation_;
  std::vector<Array> results_, arguments_;
  std::vector<int64_t> sizes_;  // of the axes of jax.vmap
  int mapped_ = 0;              // the number of these axes
  int unmerged_ = 0;            // the number of them that the rounds iterate over
  bool batched_ = false;
  int64_t batch_ = 1;  // size of the merged batch axis
};

inline Error* failed(Frame* frame, int code, const std::string& message) {
  ErrorArgs args{{sizeof(ErrorArgs), nullptr}, message.c_str(), code};
  return frame->api->error_create(&args);
}

// Makes the parameters of a function of calls.h from a frame, one after another.
template <class C>
class Taker {
 public:
  explicit Taker(C& call) : call_(call) {}

  template <class P>
  P next() {
    if constexpr (std::is_same_v<P, bool>) {
      return call_.align_corners();
    } else if constexpr (std::is_same_v<P, Window>) {
      return call_.window();
    } else if constexpr (std::is_same_v<P, In<C>> || std::is_same_v<P, InIndex<C>>) {
      return {*take(call_.arguments(), arguments_, 1)};
    } else if constexpr (std::is_same_v<P, Out<C>>) {
      return {*take(call_.results(), results_, 1)};
    } else if constexpr (std::is_same_v<P, Parameters<C>>) {
      return parameters(call_.arguments(), arguments_);
    } else {
      return P{parameters(call_.results(), results_)};
    }
  }
  void finish() const {
    if (arguments_ != call_.arguments().size() || results_ != call_.results().size()) fail();
  }

 private:
  using Arrays = std::vector<typename C::Array>;
  [[noreturn]] static void fail() { throw std::invalid_argument("bilateral_ops: wrong number of arrays"); }
  static const typename C::Array* take(const Arrays& arrays, size_t& next, int count) {
    if (arrays.size() - next < static_cast<size_t>(count)) fail();
    next += static_cast<size_t>(count);
    return arrays.data() + next - count;
  }
  Parameters<C> parameters(const Arrays& arrays, size_t& next) const {
    const GuideKind kind = call_.guide();
    const int count = parameter_count(kind);
    return {kind, count, take(arrays, next, count)};
  }

  C& call_;
  size_t results_ = 0, arguments_ = 0;  // taken so far
};
template <class C, class... P>
void call_from_frame(C& call, void (*function)(C&, P...)) {
  Taker<C> taker(call);
  const std::tuple<std::decay_t<P>...> given{taker.template next<std::decay_t<P>>()...};  // in order, as in braces
  taker.finish();
  std::apply([&](const auto&... parameters) { function(call, parameters...); }, given);
}

// The handler of a function of calls.h
template <class Backend, auto Function>
Error* handle(Frame* frame) {
  for (Extension* e = frame->extensions; e; e = e->next) {
    if (e->type != kMetadata) continue;
    // A query of the version that this handler was made for. Every minor version has what is used here.
    Version& version = reinterpret_cast<MetadataExtension*>(e)->metadata->version;
    version = {{sizeof(Version), nullptr}, kMajor, frame->api ? frame->api->version.minor : kMinor};
    reinterpret_cast<MetadataExtension*>(e)->metadata->traits = 0;
    return nullptr;
  }
  if (frame->stage != kExecute) return nullptr;
  std::string operation = "bilateral_ops";
  try {
    Call<Backend> call(frame);
    operation = call.operation();
    call.rounds([&] { call_from_frame(call, Function); });
    return nullptr;
  } catch (const std::bad_alloc&) {
    return failed(frame, kResourceExhausted,
                  operation + ": there must be memory for a few grid rows a thread, got none.");
  } catch (const std::invalid_argument& error) {
    return failed(frame, kInvalidArgument, error.what());
  } catch (const std::out_of_range& error) {
    return failed(frame, kInvalidArgument, operation + ": " + error.what());
  } catch (const std::exception& error) {
    return failed(frame, kInternal, error.what());
  }
}

// The handlers of all kernels
template <class Backend>
const std::vector<Handler>& handlers_of() {
#define BO_HANDLER(kernel, Args) {#kernel, handle<Backend, &kernel<Call<Backend>>>},
  static const std::vector<Handler> all = {BO_KERNELS(BO_HANDLER)};
#undef BO_HANDLER
  return all;
}

const std::vector<Handler>& handlers();       // xla.cpp
const std::vector<Handler>& cuda_handlers();  // cuda/xla.cpp

}  // namespace xla
}  // namespace bilateral_ops
