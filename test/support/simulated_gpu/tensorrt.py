# Copyright 2026 The vlm_perception authors
# SPDX-License-Identifier: Apache-2.0
"""TensorRT's part on the GPU made of host memory: a plan is the graph, and ONNX Runtime runs it.

Only what our code uses is here. `make check-tensorrt` checks that code against NVIDIA's classes.
"""

import ctypes
import enum
import json
import os

import numpy as np
import onnx
import onnxruntime
from pycuda import driver

__version__ = os.environ.get("SIMULATED_TENSORRT", "10.3.0")
MAGIC = b"simulated plan\n"


class DataType(enum.Enum):
    FLOAT, HALF, INT64, INT32, UINT8, BOOL, INT8 = range(7)


TYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int64)": (DataType.INT64, np.int64),
    "tensor(uint8)": (DataType.UINT8, np.uint8),
}


class TensorIOMode(enum.Enum):
    INPUT, OUTPUT = range(2)


class ErrorCodeTRT(enum.Enum):
    INTERNAL_ERROR = 1


class NetworkDefinitionCreationFlag(enum.IntEnum):
    EXPLICIT_BATCH, STRONGLY_TYPED = range(2)


class BuilderFlag(enum.Enum):
    VERSION_COMPATIBLE = 13


class DeviceType(enum.Enum):
    GPU, DLA = range(2)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    JSON = 1


class HardwareCompatibilityLevel(enum.Enum):
    NONE, AMPERE_PLUS = range(2)


Dims = tuple


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class IErrorRecorder:
    pass


class IProgressMonitor:
    pass


class IProfiler:
    pass


IHostMemory = bytes


class Runtime:
    def __init__(self, logger):
        self.logger = logger
        if os.environ.get("SIMULATED_START") == "reports":
            # As the lean runtime does.
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")

    def deserialize_cuda_engine(self, content):
        driver.need_context()
        if content.startswith(b"crash"):
            os.abort()
        if not content.startswith(MAGIC):
            self.error_recorder.report_error(
                ErrorCodeTRT.INTERNAL_ERROR, "magic tag does not match"
            )
            return None
        return ICudaEngine(content[len(MAGIC) :], self.error_recorder)


class ICudaEngine:
    def __init__(self, content, recorder):
        header, _, graph = content.partition(b"\n")
        self.profiles = json.loads(header)
        self.graph, self.recorder = graph, recorder
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(
            graph, options, providers=["CPUExecutionProvider"]
        )
        self.arguments = {
            each.name: each for each in (*self.session.get_inputs(), *self.session.get_outputs())
        }
        self.inputs = [each.name for each in self.session.get_inputs()]

    @property
    def num_io_tensors(self):
        return len(self.arguments)

    @property
    def num_optimization_profiles(self):
        return max(len(self.profiles), 1)

    def get_tensor_name(self, index):
        return list(self.arguments)[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return TYPES[self.arguments[name].type][0]

    def get_tensor_shape(self, name):
        sizes = self.arguments[name].shape
        return tuple(size if isinstance(size, int) else -1 for size in sizes)

    def get_tensor_profile_shape(self, name, profile):
        shape = self.get_tensor_shape(name)
        if self.profiles:
            shape = tuple(self.profiles[profile].get(name, shape))
        return [shape] * 3

    def create_execution_context(self):
        return IExecutionContext(self)

    def create_engine_inspector(self):
        return EngineInspector(self)


class IExecutionContext:
    def __init__(self, engine):
        self.engine, self.shapes, self.addresses = engine, {}, {}
        self.profiler = None

    def set_optimization_profile_async(self, index, stream):
        self.profile = index
        return True

    def set_input_shape(self, name, shape):
        if tuple(shape) != tuple(self.engine.get_tensor_profile_shape(name, self.profile)[2]):
            return False
        self.shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name):
        if name not in self.shapes:
            model = onnx.load_from_string(self.engine.graph)
            for value in model.graph.input:
                for size, dim in zip(
                    self.shapes[value.name], value.type.tensor_type.shape.dim, strict=True
                ):
                    dim.dim_value = size
            for value in model.graph.output:
                value.type.tensor_type.ClearField("shape")
            del model.graph.value_info[:]
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
            for value in inferred.graph.output:
                dims = value.type.tensor_type.shape.dim
                self.shapes[value.name] = tuple(dim.dim_value for dim in dims)
        return self.shapes[name]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        driver.need_context()
        engine = self.engine
        if os.environ.get("SIMULATED_GPU_FAILS"):
            engine.recorder.report_error(ErrorCodeTRT.INTERNAL_ERROR, "layers.mlps.0/Gemm: failed")
            return True
        feed = {name: self._array(name).copy() for name in engine.inputs}
        names = [name for name in engine.arguments if name not in engine.inputs]
        for name, value in zip(names, engine.session.run(names, feed), strict=True):
            self._array(name)[...] = value
        if self.profiler is not None:
            self.profiler.report_layer_time("all of it", 0.25)
        return True

    def _array(self, name):
        dtype = np.dtype(TYPES[self.engine.arguments[name].type][1])
        shape = self.get_tensor_shape(name)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


class EngineInspector:
    def __init__(self, engine):
        self.engine = engine

    def get_engine_information(self, style):
        nodes = onnx.load_from_string(self.engine.graph).graph.node
        metadata = "\x1e".join(f"[ONNX Layer: {node.name}]" for node in nodes)
        layer = {
            "Name": "all of it",
            "LayerType": "kgen",
            "Inputs": [{"Name": "image", "Format/Datatype": "Half"}],
            "Outputs": [],
            "Metadata": metadata,
        }
        return json.dumps({"Layers": [layer], "Bindings": []})


class Builder:
    num_DLA_cores = 0  # noqa: N815 - TensorRT's name

    def __init__(self, logger):
        driver.need_context()
        if os.environ.get("SIMULATED_START") == "fails":
            # What pybind11 makes of a null pointer.
            raise TypeError("factory function returned nullptr")

    def create_network(self, flags):
        # As strongly typed: 1 << 1 here, 1 << 0 from version 11 on.
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        assert config.workspace > 0
        assert config.profiling_verbosity is ProfilingVerbosity.DETAILED
        config.progress_monitor.phase_start("Building Engine", None, 2)
        for step in range(2):
            if not config.progress_monitor.step_complete("Building Engine", step):
                return None
        config.progress_monitor.phase_finish("Building Engine")
        if os.environ.get("SIMULATED_BUILD") == "fails":
            self.error_recorder.report_error(ErrorCodeTRT.INTERNAL_ERROR, "could not find a kernel")
            return None
        if os.environ.get("SIMULATED_BUILD") == "crashing plan":
            return b"crash"
        profiles = [profile.shapes for profile in config.profiles]
        return MAGIC + json.dumps(profiles).encode() + b"\n" + network.model.SerializeToString()


class INetworkDefinition:
    model = None

    @property
    def num_inputs(self):
        return len(self.model.graph.input)

    def get_input(self, index):
        return ITensor(self.model.graph.input[index])


class ITensor:
    def __init__(self, value):
        dims = value.type.tensor_type.shape.dim
        self.shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, path):
        self.network.model = onnx.load(path)
        return True


class ITimingCache:
    def __init__(self, content):
        self.content = content

    def serialize(self):
        return self.content + b"."


class IOptimizationProfile:
    def __init__(self):
        self.shapes = {}

    def set_shape(self, name, least, usual, most):
        assert least == usual == most
        self.shapes[name] = most


class IBuilderConfig:
    def __init__(self):
        self.profiles, self.workspace = [], 0

    def set_memory_pool_limit(self, pool, size):
        assert pool is MemoryPoolType.WORKSPACE
        self.workspace = size

    def create_timing_cache(self, content):
        return None if content.startswith(b"damaged") else ITimingCache(content)

    def set_timing_cache(self, cache, ignore_mismatch):
        return not ignore_mismatch

    def set_flag(self, flag):
        assert flag in BuilderFlag

    def add_optimization_profile(self, profile):
        self.profiles.append(profile)
        return len(self.profiles) - 1
