// One mistake per kernel, and beside it the correct code. `out` has an element for each of 2 × 64 threads.
#define KERNEL extern "C" __global__ void

KERNEL beyond_the_end(float* out) { out[blockIdx.x * 64 + threadIdx.x + 1] = 1.0f; }
KERNEL before_the_start(float* out) { out[static_cast<int>(blockIdx.x * 64 + threadIdx.x) - 1] = 1.0f; }
KERNEL reads_what_nobody_wrote(float* out) { out[blockIdx.x * 64 + threadIdx.x] += 1.0f; }
KERNEL misaligned(float* out) { *reinterpret_cast<float2*>(out + 1) = make_float2(threadIdx.x, 0.0f); }

KERNEL shared_beyond_the_end(float* out) {
  __shared__ float s[64];
  s[threadIdx.x + 1] = 1.0f;
  out[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x + 1];
}
KERNEL dynamic_beyond_the_end(float* out) {
  extern __shared__ float dynamic[];
  dynamic[threadIdx.x] = 1.0f;
  out[blockIdx.x * 64 + threadIdx.x] = dynamic[threadIdx.x];
}
KERNEL shared_not_written(float* out) {
  __shared__ float s[64];
  if (threadIdx.x < 63) s[threadIdx.x] = 1.0f;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x];
}
KERNEL no_barrier(float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  out[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x ^ 32];
}
KERNEL with_barrier(float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x ^ 32];
}
KERNEL no_second_barrier(float* out) {
  __shared__ float s[64];
  for (int i = 0; i < 2; ++i) {
    s[threadIdx.x] = threadIdx.x + i;
    __syncthreads();
    out[blockIdx.x * 64 + threadIdx.x] = s[63 - threadIdx.x];
  }
}
KERNEL no_warp_barrier(float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  out[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x ^ 1];
}
KERNEL with_warp_barrier(float* out) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  __syncwarp();
  out[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x ^ 1];
}
KERNEL sum_without_atomics(float* out) {
  if (threadIdx.x == 0) *out = 1.0f;
  if (threadIdx.x == 1 && blockIdx.x == 1) *out = 2.0f;
}
KERNEL sum_between_blocks(float* out) {
  if (threadIdx.x == 0) *out = 1.0f;
}
KERNEL sum_with_atomics(float* out) { atomicAdd(out, 1.0f); }
KERNEL maximum_seen_early(float* out) {
  unsigned* const most = reinterpret_cast<unsigned*>(out);
  if (threadIdx.x > *static_cast<volatile unsigned*>(most)) atomicMax(most, threadIdx.x);
}
KERNEL maximum_read_beside(float* out) {
  unsigned* const most = reinterpret_cast<unsigned*>(out);
  if (threadIdx.x > *most) atomicMax(most, threadIdx.x);
}
KERNEL store_seen_early(float* out) {
  if (threadIdx.x == 5) out[0] = 1.0f;
  if (threadIdx.x == 6) out[1] = *static_cast<volatile float*>(out);
}
KERNEL neighbours_in_one_block(float* out) {
  float* const mine = out + blockIdx.x * 64;
  mine[threadIdx.x] = 1.0f;
  __syncthreads();
  mine[threadIdx.x ^ 1] = 2.0f;
}
KERNEL neighbours_without_barrier(float* out) {
  float* const mine = out + blockIdx.x * 64;
  mine[threadIdx.x] = 1.0f;
  if (mine[(threadIdx.x + 32) % 64] > 0.0f) mine[threadIdx.x] = 2.0f;
}
KERNEL divergent_barrier(float* out) {
  if (threadIdx.x < 40) __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = 1.0f;
}
KERNEL barrier_after_exit(float* out) {
  if (threadIdx.x == 63) return;
  __syncthreads();
  out[blockIdx.x * 64 + threadIdx.x] = 1.0f;
}
KERNEL mask_of_all_in_a_branch(float* out) {
  float v = threadIdx.x;
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(0xffffffffu, v, 1);
  out[blockIdx.x * 64 + threadIdx.x] = v;
}
KERNEL own_lane_not_in_mask(float* out) {
  float v = threadIdx.x;
  if (threadIdx.x % 32 < 16) v = __shfl_xor_sync(0x00000ff0u | (threadIdx.x < 4 ? 0u : 0xfu), v, 1);
  out[blockIdx.x * 64 + threadIdx.x] = v;
}
KERNEL shuffle_from_outside(float* out) {
  float v = threadIdx.x;
  if (threadIdx.x % 32 < 16) v = __shfl_sync(0x0000ffffu, v, 20);
  out[blockIdx.x * 64 + threadIdx.x] = v;
}
KERNEL endless(float* out) {
  volatile float* const p = out;
  *p = 0.0f;
  while (*p < 1.0f) {
  }
}
KERNEL traps(float* out) {
  if (threadIdx.x == 5) __trap();
  out[0] = 1.0f;
}
