// One feature of the instruction set a kernel. in_* are vectors, a thread takes one element; test_interpreter.py has
// the same in NumPy.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define KERNEL extern "C" __global__ void
#define INDEX const int i = blockIdx.x * blockDim.x + threadIdx.x

KERNEL floats(const float* a, const float* b, const float* c, float* out, int n) {
  INDEX;
  if (i >= n) return;
  const float x = a[i], y = b[i], z = c[i];
  const float results[] = {fmaf(x, y, z),   x * y,           x / y,    sqrtf(fabsf(x)), fminf(x, y),
                           fmaxf(x, z),     floorf(x),       rintf(y), truncf(z),       ceilf(x),
                           copysignf(x, y), __fadd_rd(x, y), -x,       __frcp_rn(y),    x < y ? x : z,
                           x != y ? z : x};
#pragma unroll
  for (int k = 0; k < 16; ++k) out[i * 16 + k] = results[k];
}
KERNEL doubles(const double* a, const double* b, const double* c, double* out, int n) {
  INDEX;
  if (i >= n) return;
  const double x = a[i], y = b[i], z = c[i];
  out[i * 6 + 0] = fma(x, y, z);
  out[i * 6 + 1] = x / y;
  out[i * 6 + 2] = sqrt(fabs(x));
  out[i * 6 + 3] = fmin(x, y) + z;
  out[i * 6 + 4] = floor(x) - rint(y);
  out[i * 6 + 5] = static_cast<double>(static_cast<float>(x)) + static_cast<double>(static_cast<int64_t>(y));
}
KERNEL integers(const int64_t* a, const int64_t* b, int64_t* out, int n) {
  INDEX;
  if (i >= n) return;
  const int64_t x = a[i], y = b[i];
  const int32_t p = static_cast<int32_t>(x), q = static_cast<int32_t>(y);
  const uint32_t u = static_cast<uint32_t>(x), v = static_cast<uint32_t>(y);
  const int64_t results[] = {x / y,
                             x % y,
                             static_cast<int64_t>(static_cast<uint64_t>(x) / static_cast<uint64_t>(y)),
                             __mul64hi(x, y),
                             static_cast<int64_t>(__umul64hi(x, y)),
                             __mulhi(p, q),
                             static_cast<int64_t>(static_cast<uint64_t>(u) * v),
                             x << (y & 63),
                             x >> (y & 63),
                             p / (q | 1),
                             __clzll(x),
                             __popcll(y),
                             static_cast<int64_t>(__brev(u)),
                             static_cast<int64_t>(__byte_perm(u, v, 0x7250)),
                             static_cast<int64_t>(__funnelshift_l(u, v, 13)),
                             x % 17,
                             min(p, q),
                             static_cast<int64_t>(static_cast<uint64_t>(x) % 1000003u),
                             __ffs(q),
                             static_cast<int64_t>((u >> 5) & 0x7ff)};
#pragma unroll
  for (int k = 0; k < 20; ++k) out[i * 20 + k] = results[k];
}
KERNEL halves(const float* a, float* out, uint16_t* bits, int n) {
  INDEX;
  if (i >= n) return;
  const __half h = __float2half_rn(a[i]);
  const __nv_bfloat16 b = __float2bfloat16_rn(a[i]);
  out[i * 2] = __half2float(h);
  out[i * 2 + 1] = __bfloat162float(b);
  bits[i * 2] = __half_as_ushort(h);
  bits[i * 2 + 1] = __bfloat16_as_ushort(b);
}
KERNEL to_integers(const float* a, int* out, int n) {
  INDEX;
  if (i >= n) return;
  out[i * 4] = __float2int_rn(a[i]);
  out[i * 4 + 1] = static_cast<int>(a[i]);
  out[i * 4 + 2] = static_cast<int>(__float2uint_rd(a[i]));
  out[i * 4 + 3] = static_cast<int>(__saturatef(a[i]) * 255.0f);
}
KERNEL approximations(const float* a, float* out, int n) {
  INDEX;
  if (i >= n) return;
  out[i * 5] = expf(a[i]);
  out[i * 5 + 1] = __expf(a[i]);
  out[i * 5 + 2] = rsqrtf(fabsf(a[i]));
  out[i * 5 + 3] = tanhf(a[i]);
  out[i * 5 + 4] = logf(fabsf(a[i]));
}
KERNEL lanes(const int* a, int* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x, v = a[i];
  const unsigned all = 0xffffffffu;
  const int results[] = {__shfl_up_sync(all, v, 3),      __shfl_down_sync(all, v, 5),
                         __shfl_xor_sync(all, v, 9),     __shfl_sync(all, v, v & 31),
                         __shfl_down_sync(all, v, 2, 8), static_cast<int>(__ballot_sync(all, v & 1)),
                         __any_sync(all, v > 90),        __all_sync(all, v >= 0)};
#pragma unroll
  for (int k = 0; k < 8; ++k) out[i * 8 + k] = results[k];
  (void)n;
}
KERNEL matches(const int* a, const int64_t* b, int* out, int n) {
  INDEX;
  out[i * 3] = static_cast<int>(__match_any_sync(0xffffffffu, a[i] & 3));
  out[i * 3 + 1] = static_cast<int>(__match_any_sync(0xffffffffu, b[i]));
  out[i * 3 + 2] = 0;
  if (threadIdx.x % 32 < 16) out[i * 3 + 2] = static_cast<int>(__match_any_sync(0x0000ffffu, a[i] & 7));
  (void)n;
}
// The lower half of each warp sums among itself, beside the upper one.
KERNEL half_warps(const int* a, int* out, int n) {
  INDEX;
  int v = a[i];
  if (threadIdx.x % 32 < 16) {
    for (int step = 8; step > 0; step /= 2) v += __shfl_xor_sync(0x0000ffffu, v, step);
  } else {
    for (int step = 8; step > 0; step /= 2) v = max(v, __shfl_xor_sync(0xffff0000u, v, step));
  }
  out[i] = v;
  (void)n;
}
KERNEL block_sum(const float* a, float* out, int n) {
  extern __shared__ float dynamic[];
  __shared__ double total[2];
  float sum = 0.0f;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += a[i];
  dynamic[threadIdx.x] = sum;
  __syncthreads();
  for (int step = blockDim.x / 2; step > 0; step /= 2) {
    if (threadIdx.x < step) dynamic[threadIdx.x] += dynamic[threadIdx.x + step];
    __syncthreads();
  }
  if (threadIdx.x == 0) total[1] = dynamic[0];
  __syncthreads();
  if (threadIdx.x == 1) out[blockIdx.x] = static_cast<float>(total[1]);
}
KERNEL histogram(const int* a, int* counts, float* sum, int n) {
  __shared__ int local[16];
  if (threadIdx.x < 16) local[threadIdx.x] = 0;
  __syncthreads();
  INDEX;
  if (i < n) {
    atomicAdd(&local[a[i] & 15], 1);
    atomicAdd(sum, 0.25f);
    atomicMax(&counts[16], a[i]);
  }
  __syncthreads();
  if (threadIdx.x < 16) atomicAdd(&counts[threadIdx.x], local[threadIdx.x]);
}
KERNEL turns(const int* a, int* counts, int* seen, int n) {
  INDEX;
  if (i < n) seen[i] = atomicAdd(&counts[a[i] & 15], 3);
}
KERNEL vectors(const float4* a, const uchar4* b, double2* out, uchar4* swapped, int n) {
  INDEX;
  if (i >= n) return;
  const float4 v = a[i];
  const uchar4 w = b[i];
  out[i] = make_double2(v.x + v.y, v.z * v.w);
  swapped[i] = make_uchar4(w.w, w.z, w.y, w.x);
}
// An array that is indexed by data lives in local memory.
KERNEL indexed(const int* a, int* out, int n) {
  INDEX;
  if (i >= n) return;
  int table[8];
#pragma unroll
  for (int k = 0; k < 8; ++k) table[k] = a[(i + k) % n] * k;
  int sum = 0;
  for (int k = 0; k < 4; ++k) sum += table[(a[i] + k) & 7];
  out[i] = sum;
}
__constant__ int kPrimes[8] = {2, 3, 5, 7, 11, 13, 17, 19};
struct Numbers {
  int n, values[6];
};
KERNEL paths(const int* a, int* out, const Numbers numbers) {
  INDEX;
  if (i >= numbers.n) return;
  int v = a[i], steps = 0;
  while (v != 1 && steps < 200) v = v % 2 ? 3 * v + 1 : v / 2, ++steps;
  switch (a[i] % 7) {
    case 0: v = kPrimes[steps & 7]; break;
    case 1: v = steps * 3; break;
    case 2: v = steps - 100; break;
    case 3: v = steps ^ 0x55; break;
    case 4: v = numbers.values[steps % 6]; break;
    case 5: v = -steps; break;
    default: v = 1000 + steps;
  }
  out[i] = v;
}
