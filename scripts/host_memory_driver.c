// Copyright 2026 The vlm_perception authors
// SPDX-License-Identifier: Apache-2.0
//
// A libcuda.so.1 whose device is the host's memory: an address is an address, a copy is a copy, and
// work is done at once unless its stream is recorded. The real pycuda and the real cuda-python run on
// it, so that each call of engines/cuda.py meets their conversion of arguments. It has what these
// calls need and no kernels.

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"

#define API __attribute__((visibility("default")))
#define NEED_CONTEXT \
  if (depth == 0) return CUDA_ERROR_INVALID_CONTEXT
#define TOTAL ((size_t)1 << 30)
#define MOST_COPIES 64

struct CUstream_st {
  int priority;
  struct CUgraph_st *recording;
};

struct CUgraph_st {
  int count;
  CUDA_MEMCPY2D copies[MOST_COPIES];
};

// Contexts that this thread has pushed; there is one device, and one context.
static __thread int depth;
static size_t taken;

static size_t *header(void *memory) { return (size_t *)((char *)memory - 64); }

static void *take(size_t size) {
  if (size > TOTAL - taken) return NULL;
  void *memory = (char *)aligned_alloc(64, (size + 127) / 64 * 64) + 64;
  *header(memory) = size;
  taken += size;
  return memory;
}

static void give_back(void *memory) {
  taken -= *header(memory);
  free(header(memory));
}

static CUresult copy(const CUDA_MEMCPY2D *what, CUstream stream) {
  NEED_CONTEXT;
  if (stream->recording != NULL) {
    struct CUgraph_st *graph = stream->recording;
    if (graph->count == MOST_COPIES) return CUDA_ERROR_OUT_OF_MEMORY;
    graph->copies[graph->count++] = *what;
    return CUDA_SUCCESS;
  }
  int from_host = what->srcMemoryType == CU_MEMORYTYPE_HOST;
  int to_host = what->dstMemoryType == CU_MEMORYTYPE_HOST;
  for (size_t row = 0; row < what->Height; ++row) {
    const char *source = from_host ? what->srcHost : (const char *)what->srcDevice;
    char *target = to_host ? what->dstHost : (char *)what->dstDevice;
    memcpy(target + row * what->dstPitch, source + row * what->srcPitch, what->WidthInBytes);
  }
  return CUDA_SUCCESS;
}

API CUresult cuInit(unsigned int flags) { return CUDA_SUCCESS; }

API CUresult cuDriverGetVersion(int *version) {
  *version = CUDA_VERSION;
  return CUDA_SUCCESS;
}

API CUresult cuGetErrorString(CUresult error, const char **text) {
  *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "invalid device context";
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetCount(int *count) {
  *count = 1;
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  *device = ordinal;
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  strncpy(name, "host memory", length);
  return CUDA_SUCCESS;
}

API CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
  *major = 8;
  *minor = 7;
  return CUDA_SUCCESS;
}

API CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device) {
  *value = which == CU_DEVICE_ATTRIBUTE_INTEGRATED;
  return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
  *context = (CUcontext)&taken;
  return CUDA_SUCCESS;
}

API CUresult cuDevicePrimaryCtxRelease(CUdevice device) { return CUDA_SUCCESS; }

// pycuda's farewell.
API CUresult cuCtxDetach(CUcontext context) { return CUDA_SUCCESS; }

API CUresult cuCtxPushCurrent(CUcontext context) {
  ++depth;
  return CUDA_SUCCESS;
}

API CUresult cuCtxPopCurrent(CUcontext *context) {
  NEED_CONTEXT;
  --depth;
  *context = (CUcontext)&taken;
  return CUDA_SUCCESS;
}

API CUresult cuCtxSynchronize(void) {
  NEED_CONTEXT;
  return CUDA_SUCCESS;
}

API CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
  NEED_CONTEXT;
  *least = 0;
  *greatest = -5;
  return CUDA_SUCCESS;
}

API CUresult cuMemGetInfo(size_t *free_bytes, size_t *total) {
  NEED_CONTEXT;
  *free_bytes = TOTAL - taken;
  *total = TOTAL;
  return CUDA_SUCCESS;
}

API CUresult cuMemAlloc(CUdeviceptr *address, size_t size) {
  NEED_CONTEXT;
  void *memory = take(size);
  *address = (CUdeviceptr)memory;
  return memory == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

API CUresult cuMemFree(CUdeviceptr address) {
  NEED_CONTEXT;
  give_back((void *)address);
  return CUDA_SUCCESS;
}

API CUresult cuMemHostAlloc(void **memory, size_t size, unsigned int flags) {
  NEED_CONTEXT;
  *memory = take(size);
  return *memory == NULL ? CUDA_ERROR_OUT_OF_MEMORY : CUDA_SUCCESS;
}

API CUresult cuMemFreeHost(void *memory) {
  NEED_CONTEXT;
  give_back(memory);
  return CUDA_SUCCESS;
}

API CUresult cuMemsetD8(CUdeviceptr address, unsigned char value, size_t count) {
  NEED_CONTEXT;
  memset((void *)address, value, count);
  return CUDA_SUCCESS;
}

API CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void *source, size_t size, CUstream stream) {
  CUDA_MEMCPY2D what = {.srcMemoryType = CU_MEMORYTYPE_HOST,
                        .srcHost = source,
                        .dstMemoryType = CU_MEMORYTYPE_DEVICE,
                        .dstDevice = target,
                        .WidthInBytes = size,
                        .Height = 1};
  return copy(&what, stream);
}

API CUresult cuMemcpyDtoHAsync(void *target, CUdeviceptr source, size_t size, CUstream stream) {
  CUDA_MEMCPY2D what = {.srcMemoryType = CU_MEMORYTYPE_DEVICE,
                        .srcDevice = source,
                        .dstMemoryType = CU_MEMORYTYPE_HOST,
                        .dstHost = target,
                        .WidthInBytes = size,
                        .Height = 1};
  return copy(&what, stream);
}

API CUresult cuMemcpy2DAsync(const CUDA_MEMCPY2D *what, CUstream stream) {
  return copy(what, stream);
}

API CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned int flags, int priority) {
  NEED_CONTEXT;
  *stream = calloc(1, sizeof(struct CUstream_st));
  (*stream)->priority = priority;
  taken += sizeof(struct CUstream_st);
  return CUDA_SUCCESS;
}

API CUresult cuStreamCreate(CUstream *stream, unsigned int flags) {
  return cuStreamCreateWithPriority(stream, flags, 0);
}

API CUresult cuStreamDestroy(CUstream stream) {
  taken -= sizeof(struct CUstream_st);
  free(stream);
  return CUDA_SUCCESS;
}

API CUresult cuStreamSynchronize(CUstream stream) {
  NEED_CONTEXT;
  return CUDA_SUCCESS;
}

API CUresult cuStreamGetPriority(CUstream stream, int *priority) {
  *priority = stream->priority;
  return CUDA_SUCCESS;
}

API CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  NEED_CONTEXT;
  stream->recording = calloc(1, sizeof(struct CUgraph_st));
  return CUDA_SUCCESS;
}

API CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
  *graph = stream->recording;
  stream->recording = NULL;
  return CUDA_SUCCESS;
}

API CUresult cuGraphInstantiate(CUgraphExec *ready, CUgraph graph, unsigned long long flags) {
  *ready = malloc(sizeof(struct CUgraph_st));
  memcpy(*ready, graph, sizeof(struct CUgraph_st));
  taken += sizeof(struct CUgraph_st);
  return CUDA_SUCCESS;
}

API CUresult cuGraphDestroy(CUgraph graph) {
  free(graph);
  return CUDA_SUCCESS;
}

API CUresult cuGraphExecDestroy(CUgraphExec ready) {
  taken -= sizeof(struct CUgraph_st);
  free(ready);
  return CUDA_SUCCESS;
}

API CUresult cuGraphLaunch(CUgraphExec ready, CUstream stream) {
  const struct CUgraph_st *graph = (const struct CUgraph_st *)ready;
  for (int i = 0; i < graph->count; ++i) {
    CUresult result = copy(&graph->copies[i], stream);
    if (result != CUDA_SUCCESS) return result;
  }
  return CUDA_SUCCESS;
}

// cuda-python asks here for each function by its plain name.
API CUresult cuGetProcAddress(const char *name, void **function, int version, cuuint64_t flags,
                              CUdriverProcAddressQueryResult *status) {
  static const char *const versions[] = {"_v2", ""};
  char symbol[128];
  *function = NULL;
  for (int i = 0; i < 2 && *function == NULL && strlen(name) < 100; ++i)
    *function = dlsym(RTLD_DEFAULT, strcat(strcpy(symbol, name), versions[i]));
  return *function == NULL ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}
