#include "parallel.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <list>
#include <mutex>
#include <new>
#include <thread>

#include "../float_mode.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace bilateral_ops {
namespace {

// Polls done() for at most 50 µs, about what a wake-up costs, and yields between polls; returns whether it became true.
template <class Done>
bool await(const Done& done) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(50);
  while (!done()) {
    if (Clock::now() > end) return done();
    std::this_thread::yield();
  }
  return true;
}

struct Job {
  void (*body)(void*, int64_t);
  void* context;
  int64_t units;
  std::atomic<int64_t> next{0};
  std::atomic<int> helpers_inside{0};  // changed by who holds the pool's mutex
  int helpers_wanted;                  // this and the rest are guarded by it
  std::exception_ptr error;
  std::condition_variable left;

  // Returns the first exception of a unit; the units that nobody has begun are then dropped.
  std::exception_ptr work() {
    for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) {
      try {
        body(context, unit);
      } catch (...) {
        next.store(units, std::memory_order_relaxed);
        return std::current_exception();
      }
    }
    return nullptr;
  }
};

class Pool {
 public:
  void run(Job& job) {
    std::list<Job*>::iterator place;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (workers_ < job.helpers_wanted) {
        try {
          std::thread(&Pool::serve, this).detach();
        } catch (const std::exception&) {
          break;  // no more threads to be had: those there are, and the caller, do the work
        }
        ++workers_;
      }
      place = jobs_.insert(jobs_.end(), &job);
      ++news_;
    }
    wake_.notify_all();
    std::exception_ptr error = job.work();
    await([&] { return job.helpers_inside == 0; });
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.erase(place);
    job.left.wait(lock, [&] { return job.helpers_inside == 0; });
    if (!error) error = job.error;
    lock.unlock();
    if (error) std::rethrow_exception(error);
  }

  // Workers that are not wanted any more end.
  void retire() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      ++news_;
    }
    wake_.notify_all();
  }

 private:
  void serve() {
    const FloatMode mode;
    std::unique_lock<std::mutex> lock(mutex_);
    bool worked = false;  // since it last slept
    for (;;) {
      Job* job = nullptr;
      for (Job* candidate : jobs_) {
        if (candidate->helpers_wanted > 0 && candidate->next.load(std::memory_order_relaxed) < candidate->units) {
          job = candidate;
          break;
        }
      }
      if (!job) {
        if (workers_ >= num_threads()) {  // more than a call may use, beside its own thread
          --workers_;
          return;
        }
        const int64_t known = news_;
        if (worked) {
          lock.unlock();
          await([&] { return news_ != known; });
          lock.lock();
        }
        worked = false;
        if (news_ == known) wake_.wait(lock);
        continue;
      }
      worked = true;
      --job->helpers_wanted;
      ++job->helpers_inside;
      lock.unlock();
      std::exception_ptr error = job->work();
      lock.lock();
      if (error && !job->error) job->error = error;
      if (--job->helpers_inside == 0) job->left.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::list<Job*> jobs_;
  int workers_ = 0;
  std::atomic<int64_t> news_{0};  // counts what workers are woken for; changed by who holds the mutex
};

std::atomic<int> threads{1};

// Never destroyed: its threads sleep until the process ends. A forked child has none of them, and perhaps a mutex that
// somebody held, so it starts a pool of its own and leaves the parent's untouched.
std::atomic<Pool*> pool{nullptr};

Pool& shared_pool() {
  Pool* current = pool.load(std::memory_order_acquire);
  if (current) return *current;
#if !defined(_WIN32)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
  (void)registered;
#endif
  Pool* made = new Pool;
  if (pool.compare_exchange_strong(current, made, std::memory_order_acq_rel)) return *made;
  delete made;
  return *current;
}

}  // namespace

int num_threads() { return threads.load(std::memory_order_relaxed); }
void set_num_threads(int n) {
  threads.store(n, std::memory_order_relaxed);
  if (Pool* const current = pool.load(std::memory_order_acquire)) current->retire();
}

void parallel_for(int64_t units, void (*body)(void*, int64_t), void* context) {
  const int wanted = num_threads();
  if (units <= 1 || wanted <= 1) {
    for (int64_t unit = 0; unit < units; ++unit) body(context, unit);
    return;
  }
  Job job;
  job.body = body;
  job.context = context;
  job.units = units;
  job.helpers_wanted = static_cast<int>(units < wanted ? units : wanted) - 1;
  shared_pool().run(job);
}

#if defined(BO_SANITIZE)
// Ends where it ends, so that the sanitizer sees the first byte past it.
void* scratch_allocate(size_t bytes, bool zeroed) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, bytes ? bytes : 1)) throw std::bad_alloc();
  if (zeroed) std::memset(memory, 0, bytes);
  return memory;
}
void scratch_free(void* memory) { std::free(memory); }
#else
void* scratch_allocate(size_t bytes, bool zeroed) {
  // A cache line's alignment, with the block's own address in front: calloc gives zeros without touching the pages.
  const size_t line = 64, extra = line + sizeof(void*);
  if (bytes > SIZE_MAX - extra) throw std::bad_alloc();
  void* const block = zeroed ? std::calloc(bytes + extra, 1) : std::malloc(bytes + extra);
  if (!block) throw std::bad_alloc();
  const uintptr_t first = reinterpret_cast<uintptr_t>(block) + sizeof(void*);
  void* const memory = reinterpret_cast<void*>((first + line - 1) / line * line);
  static_cast<void**>(memory)[-1] = block;
  return memory;
}
void scratch_free(void* memory) { std::free(static_cast<void**>(memory)[-1]); }
#endif

}  // namespace bilateral_ops
